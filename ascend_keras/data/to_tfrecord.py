"""Image folders into TFRecord shards, by several threads; a run that was killed goes on where it was.

OUTPUT gets `train-00000-of-00008` ..., `train.sha256` (for `sha256sum -c`), `train.classes.txt` (the name of a class
per line, the first being label 1) and, if images had to be left out, `train.skipped.txt`. `OUTPUT/.train.work` has the
plan and notes about finished shards. It may be deleted after the run; while it is there, the same command checks that
the source is the same and writes what is missing.

RGB and grey JPEGs are stored byte by byte. Whatever else there is (PNGs that are named .JPEG, CMYK and YCCK) is encoded
anew as RGB JPEG of quality 100 with all of its colour; the tool that came with slim did alike. EXIF is not looked at.
"""

import collections
import contextlib
import fcntl
import gzip
import json
import os

from ascend_keras.data import image_check, name_lists, parallel, plan, progress, tfrecord_writer

__all__ = ["Summary", "to_tfrecord"]

Summary = collections.namedtuple("Summary", "images classes shards written skipped")
Summary.__doc__ = "Images in the shards, classes, shards, shards written by this run, names and reasons left out."


def to_tfrecord(
    source,
    output,
    split="train",
    *,
    shards=None,
    workers=None,
    seed=0,
    classes=None,
    labels=None,
    boxes=None,
    on_bad_image="skip",
    restart=False,
    show=False,
):
    """Writes a folder of images as TFRecord files in the schema of slim's ImageNet.

    Args:
        source, split, shards, seed, classes, labels, boxes: see `ascend_keras.data.plan.make`.
        output: folder of the shards; is made if there is none.
        workers: number of threads; None takes one per CPU of this process.
        on_bad_image: "skip" leaves out images that cannot be decoded and lists them, "error" stops at the first.
            A run that began with "skip" does not go on with "error".
        restart: deletes what an earlier run has written, finished shards too, and begins anew.
        show: whether to show the progress on stderr.

    Returns:
        A Summary.

    Raises:
        ValueError: wrong arguments; the source has changed since the run began (says what); a bad image.
        OSError: a file cannot be read or written.
        RuntimeError: another process is at work in `output`.
    """
    _check_arguments(split, shards, workers, seed, on_bad_image)
    root = plan.split_folder(source, split)
    _check_output(root, output)
    planned = plan.make(source, split, shards, seed, classes, labels, boxes, on_bad_image)
    box_table = _read_boxes(boxes, planned)
    _compare_classes(planned, output)
    work = os.path.join(output, ".{}.work".format(split))
    os.makedirs(work, exist_ok=True)
    with _only_one(work):
        _agree(planned, output, work, restart)
        notes, written = _write_all(planned, root, output, work, box_table, workers, on_bad_image, show)
        skipped = _finish(planned, output, notes)
    return Summary(sum(note["images"] for note in notes), len(planned["classes"]), len(notes), written, skipped)


def _check_arguments(split, shards, workers, seed, on_bad_image):
    problems = []
    if not split or os.sep in split or split.startswith("."):
        problems.append("`split` is the beginning of file names. Received: split={!r}.".format(split))
    for name, value in (("shards", shards), ("workers", workers)):
        if value is not None and value < 1:
            problems.append("`{0}` must be 1 or more. Received: {0}={1!r}.".format(name, value))
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        problems.append(
            "`seed` must be a whole number from 0 to 4294967295. Received: seed={!r}. Give another.".format(seed)
        )
    if on_bad_image not in ("skip", "error"):
        problems.append('`on_bad_image` is "skip" or "error". Received: on_bad_image={!r}.'.format(on_bad_image))
    if problems:
        raise ValueError("\n".join(problems))


def _check_output(root, output):
    inside = os.path.commonpath([os.path.realpath(root), os.path.realpath(output)]) == os.path.realpath(root)
    if inside:
        raise ValueError(
            "The output must not lie among the images. Received: output={!r}, images in {!r}.".format(output, root)
        )


def _read_boxes(path, planned):
    if not path:
        return {}
    given = name_lists.read_boxes(path)
    names = name_lists.match_names(given, [row[0] for row in planned["files"]], "boxes={!r}".format(str(path)))
    if not names:
        raise ValueError(
            "No box is of any of the images. Received: boxes={!r}, which names {}; images such as {}.".format(
                str(path), next(iter(given), "none"), os.path.basename(planned["files"][0][0])
            )
        )
    return {file: given[name] for file, name in names.items()}


def _compare_classes(planned, output):
    """A split that lacks a class would count the others differently, without anybody noticing in training."""
    ending = ".classes.txt"
    for name in sorted(os.listdir(output)) if os.path.isdir(output) else ():
        path = os.path.join(output, name)
        if name.endswith(ending) and name != planned["split"] + ending:
            classes = name_lists.read_classes(path)[0]
            if classes != planned["classes"]:
                raise ValueError(
                    "The splits do not have the same classes. Received: split={!r} with {}, and {} with {}. Give the "
                    "same to both with --classes={}.".format(
                        planned["split"], plan.short(planned["classes"]), name, plan.short(classes), path
                    )
                )


@contextlib.contextmanager
def _only_one(work):
    """Holds the folder for this process; the system lets go of it when the process ends, in whatever way."""
    with open(os.path.join(work, "lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                "Another process is writing there. Received: output={!r}. Wait for it, or end it.".format(
                    os.path.dirname(work)
                )
            ) from None
        yield


# --- the plan --------------------------------------------------------------------------------------------------------


def _agree(planned, output, work, restart):
    """Compares the plan with that of an earlier run, or keeps it for a later one."""
    path = os.path.join(work, "plan.json.gz")
    former = _read_plan(path)
    changed = plan.differences(former, planned) if former else []
    if changed and not restart:
        raise ValueError(
            "An earlier run was begun with another source or other settings:\n  {}\nReceived: output={!r}. Give the "
            "same as before to go on with it, another folder, or --restart to delete what it has written.".format(
                "\n  ".join(changed), output
            )
        )
    if restart:
        _clear(former, output, work)
    if former is None or restart:
        _refuse_foreign(planned, output)
    if former != planned or restart:
        _keep_plan(path, planned)


def _read_plan(path):
    if not os.path.exists(path):
        return None
    with gzip.open(path, "rt", encoding="utf-8") as file:
        former = json.load(file)
    if (former.get("format"), former.get("version")) != (plan.FORMAT, plan.VERSION):
        raise ValueError(
            "The plan of an earlier run is of another version. Received: {!r}. Delete its folder and the "
            "shards.".format(path)
        )
    return former


def _keep_plan(path, planned):
    aside = path + ".tmp"
    with open(aside, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=raw, mtime=0) as file:
            file.write(json.dumps(planned).encode("utf-8"))
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(aside, path)
    tfrecord_writer.sync(os.path.dirname(path))


def _clear(former, output, work):
    """Deletes the shards of a plan, then the plan: in this order, so that a plan covers all that is left."""
    for number in range(former["shards"] if former else 0):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(output, plan.shard_name(former, number)))
    for name in sorted(os.listdir(work), reverse=True):
        if name != "lock":
            os.remove(os.path.join(work, name))


def _refuse_foreign(planned, output):
    names = [name for name in sorted(os.listdir(output)) if name.startswith(planned["split"] + "-")]
    if names:
        raise ValueError(
            "There are files of that split already, and no plan that says what they are. Received: output={!r} with {} "
            "such files, {} among them. Delete them, or give another folder.".format(output, len(names), names[0])
        )


# --- the shards ------------------------------------------------------------------------------------------------------


def _write_all(planned, root, output, work, boxes, workers, on_bad_image, show):
    """Writes the shards that are missing; returns notes on all of them, and how many were written."""
    pool = parallel.Pool(workers)
    shown = progress.Progress(len(planned["files"]), show=show)

    def on_image():
        shown.step()
        pool.check()

    checker = image_check.ImageChecker(pool.workers)
    writer = tfrecord_writer.ShardWriter(root, output, work, planned, boxes, checker, on_bad_image, on_image)
    notes = [writer.finished(number) for number in range(planned["shards"])]
    missing = [number for number, note in enumerate(notes) if note is None]
    shown.skip(sum(len(plan.shard_of(planned, number)) for number, note in enumerate(notes) if note is not None))
    try:
        for number, note in zip(missing, pool.map(writer.write, missing)):
            notes[number] = note
    finally:
        shown.close()
    for name in os.listdir(work):
        if name.endswith((".part", ".tmp")):
            os.remove(os.path.join(work, name))
    return notes, len(missing)


def _finish(planned, output, notes):
    """Writes the lists that go with the shards; returns what was left out."""
    split = planned["split"]
    sums = ["{}  {}".format(note["sha256"], plan.shard_name(planned, number)) for number, note in enumerate(notes)]
    skipped = sorted(tuple(entry) for note in notes for entry in note["skipped"])
    texts = planned["texts"] or [""] * len(planned["classes"])
    lists = {
        "classes.txt": [name_lists.class_line(name, text) for name, text in zip(planned["classes"], texts)],
        "skipped.txt": ["{}\t{}".format(name_lists.one_line(path), reason) for path, reason in skipped],
        "sha256": sums,
    }
    for name, lines in lists.items():
        path = os.path.join(output, "{}.{}".format(split, name))
        if lines:
            tfrecord_writer.write_aside(path, "\n".join(lines) + "\n")
        elif os.path.exists(path):
            os.remove(path)
    return skipped
