"""Whether a data set is whole: every record or image is read and decoded, and what is broken is named.

TFRecords: the checksums of every record, the features, labels, boxes, the image, missing files of a split, and the
SHA-256 of the files where `<split>.sha256` is beside them. Image folders: every file that has the ending of an image.
"""

import collections
import itertools
import os
import re

from ascend_keras import compat
from ascend_keras.data import image_check, parallel, pet_files, plan, progress, record_format
from ascend_keras.data.image_folder import SPLITS
from ascend_keras.data.record_source import missing_shards, several_conversions

__all__ = ["Finding", "as_json", "check", "is_whole", "text"]

Finding = collections.namedtuple("Finding", "kind split files images classes broken notes")
Finding.__doc__ = """What was found in a split.

kind: "TFRecords", "class folders" or "cats-vs-dogs". split: its name, or "all". files: number of files. images: number
of whole images. classes: dict from the name, or number, of a class to its whole images. broken: list of (name, reason).
notes: lines about what is no fault.
"""

_SHARD = re.compile(r"(?:(train|validation)-[^.]*|([^.].*)-\d{5}-of-\d{5})(?:\.tfrecords?)?$")
_CHUNK = 64


def check(path, split=None, workers=None, show=False):
    """Reads and decodes all of a data set.

    Args:
        path: folder of TFRecords, of class folders, or of cats and dogs, or the zip file of these. A zip file is
            unpacked into the cache, as for training; one that lies beside class folders is left alone.
        split: "train", "validation" or another name; None takes all there are.
        workers: number of threads; None takes one per CPU of this process.
        show: whether to show the progress on stderr.

    Returns:
        A list with a Finding per split.

    Raises:
        ValueError: there is no data set of a known form, or not that split.
    """
    if not os.path.exists(path):
        raise ValueError("There is no such file or folder. Received: path={!r}.".format(str(path)))
    pool = parallel.Pool(workers)
    checker = image_check.ImageChecker(pool.workers)
    shards = _shards_by_split(path)
    if shards:
        chosen = {name: shards[name] for name in _choose(split, sorted(shards), path)}
        return [_check_records(folder, name, names, pool, checker, show) for name, (folder, names) in chosen.items()]
    animals = pet_files.find(path, zips=os.path.isfile(path) or not _has_class_folders(path))
    if animals:
        return [_check_animals(animals, pool, checker, show)]
    folders = _folders_by_split(path)
    chosen = _choose(split, sorted(folders), path)
    findings = [_check_folder(name, folders[name], pool, checker, show) for name in chosen]
    return _compare_classes(findings)


def is_whole(findings):
    """Whether nothing is broken."""
    return not any(finding.broken for finding in findings)


def as_json(findings):
    """The findings as JSON values."""
    return [
        dict(finding._asdict(), broken=[{"name": name, "reason": reason} for name, reason in finding.broken])
        for finding in findings
    ]


def text(findings):
    """The findings as text, each broken image in a line of its own."""
    lines = []
    for finding in findings:
        counts = sorted(finding.classes.values()) or [0]
        lines.append(
            "{0.split}: {0.kind}, {0.images:,} images in {0.files:,} files, {1:,} classes of {2:,} to {3:,} images, "
            "{4:,} broken".format(finding, len(finding.classes), counts[0], counts[-1], len(finding.broken))
        )
        lines += ["  {}".format(note) for note in finding.notes]
        lines += ["  broken: {}: {}".format(name, reason) for name, reason in finding.broken]
    return "\n".join(lines)


def _choose(split, known, path):
    if split is not None and split not in known:
        raise ValueError(
            "The data set has no such split. Received: split={!r}, path={!r}, which has {}.".format(
                split, str(path), ", ".join(known)
            )
        )
    return known if split is None else [split]


# --- TFRecords -------------------------------------------------------------------------------------------------------


def _shards_by_split(path):
    """TFRecord files by split: the folder, and the names in it. Names are those that `imagenet` reads."""
    found = {}
    for below in ("", *sorted({name for names in SPLITS.values() for name in names})):
        folder = os.path.join(path, below)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            match = _SHARD.match(name)
            if match and os.path.isfile(os.path.join(folder, name)):
                split = match.group(1) or match.group(2)
                if found.setdefault(split, (folder, []))[0] == folder:
                    found[split][1].append(name)
    return found


def _check_records(path, split, names, pool, checker, show):
    shown = progress.Progress(sum(os.path.getsize(os.path.join(path, name)) for name in names), "bytes", show)
    classes_file = os.path.join(path, split + ".classes.txt")
    table = plan.read_classes(classes_file)[0] if os.path.exists(classes_file) else None

    def look(name):
        return _look_at_shard(os.path.join(path, name), table, checker, shown, pool)

    results = pool.map(look, names)
    shown.close()
    labels = sum((counts for counts, _ in results), collections.Counter())
    broken = [(name, "the file is missing") for name in missing_shards(names)]
    broken += [(name, "the folder has the files of several conversions") for name in several_conversions(names)]
    broken += [entry for _, found in results for entry in found] + _changed_files(path, split, names, pool)
    by_name = {table[label - 1] if table else str(label): labels[label] for label in sorted(labels)}
    return Finding("TFRecords", split, len(names), sum(labels.values()), by_name, broken, _empty_classes(labels, table))


def _empty_classes(labels, table):
    """A note on the classes without images, if there are any; a wrong label may make them many."""
    last = len(table) if table else max(labels, default=0)
    first = itertools.islice((label for label in range(1, last + 1) if label not in labels), 10)
    named = ", ".join(table[label - 1] if table else str(label) for label in first)
    return ["no images of {} of {} classes: {}".format(last - len(labels), last, named)] if named else []


def _changed_files(path, split, names, pool):
    """Compares the files with the list of their SHA-256: a file cut off between two records has no other fault."""
    sums = os.path.join(path, split + ".sha256")
    if not os.path.exists(sums):
        return []
    with open(sums, encoding="utf-8") as file:
        known = {name: digest for digest, name in (line.split(None, 1) for line in file.read().splitlines())}
    digests = pool.map(lambda name: plan.hash_file(os.path.join(path, name)), names)
    return [
        (name, "the SHA-256 is not that of {}.sha256".format(split))
        for name, digest in zip(names, digests)
        if known.get(name, digest) != digest
    ]


def _look_at_shard(path, table, checker, shown, pool):
    """Returns whole images by label, and a list of what is broken."""
    counts, broken = collections.Counter(), []
    for number, record, problem in _records(path):
        pool.check()
        name = "{}:{}".format(os.path.basename(path), number)
        if problem is None:
            shown.step(len(record))
            try:
                features = record_format.parse(record)
                name += _file_name(features)
                counts[_check_features(features, table, checker)] += 1
            except ValueError as error:
                problem = str(error)
        if problem is not None:
            broken.append((name, problem))
    return counts, broken


def _records(path):
    """As `record_format.walk`, but in C++ up to the first broken record."""
    number, offset = 0, 0
    try:
        for record in compat.read_records(path):
            yield number, record, None
            number += 1
            offset += record_format.HEADER + len(record) + record_format.FOOTER
    except compat.tf.errors.OpError:
        yield from record_format.walk(path, offset, number)


def _file_name(features):
    names = features.get("image/filename", [])
    return " ({})".format(names[0].decode("utf-8", "replace")) if names and isinstance(names[0], bytes) else ""


def _check_features(features, table, checker):
    """Returns the label; raises ValueError with all that is wrong with an example."""
    problems = []
    label = _single(features, "image/class/label", int, problems)
    if label is not None and not 1 <= label <= (len(table) if table else label):
        known = "from 1 to {}".format(len(table)) if table else "from 1 on"
        problems.append("image/class/label is {}, and labels count {}".format(label, known))
    problems += _box_problems(features)
    encoded = _single(features, "image/encoded", bytes, problems)
    if encoded is not None:
        problems += _image_problems(features, encoded, checker)
    if problems:
        raise ValueError("; ".join(problems))
    return label


def _single(features, name, kind, problems):
    values = features.get(name, [])
    if len(values) == 1 and isinstance(values[0], kind):
        return values[0]
    problems.append(
        "{} must be one {}, and is {}".format(
            name,
            {int: "whole number", bytes: "string"}[kind],
            "not there" if not values else "{} of {}".format(len(values), type(values[0]).__name__),
        )
    )
    return None


def _image_problems(features, encoded, checker):
    try:
        height, width, _ = checker.examine(encoded)
    except image_check.BadImageError as error:
        return [str(error)]
    said = [(features.get("image/" + name) or [real])[0] for name, real in (("height", height), ("width", width))]
    if said != [height, width]:
        return ["the image has {} x {} pixels, and image/height, image/width say {} x {}".format(height, width, *said)]
    return []


def _box_problems(features):
    sides = [features.get("image/object/bbox/" + name, []) for name in record_format.BOX_KEYS]
    if len({len(side) for side in sides}) > 1:
        return ["the four lists of boxes have {} values".format(", ".join(str(len(side)) for side in sides))]
    wrong = [box for box in zip(*sides) if not (0 <= box[0] <= box[2] <= 1 and 0 <= box[1] <= box[3] <= 1)]
    if not wrong:
        return []
    return ["{} boxes are not within the image, such as ymin, xmin, ymax, xmax = {}".format(len(wrong), wrong[0])]


# --- files -----------------------------------------------------------------------------------------------------------


def _folders_by_split(path):
    """The folders that have class folders, by split; "all" if the data set has no splits."""
    if not os.path.isdir(path):
        raise ValueError("The file is no zip file of cats and dogs. Received: path={!r}.".format(str(path)))
    found = {}
    for split in ("train", "validation"):
        folder = plan.split_folder(path, split)
        if folder != str(path):
            found[split] = folder
    return found or {"all": str(path)}


def _has_class_folders(path):
    """Whether there is a split, or two folders with images: one may be what else came with a zip file."""
    folders = _folders_by_split(path)
    if "all" not in folders:
        return True
    below = (os.path.join(folders["all"], name) for name in sorted(_folders(folders["all"])))
    return len(list(itertools.islice((folder for folder in below if plan.image_paths(folder)), 2))) == 2


def _check_folder(split, folder, pool, checker, show):
    files = plan.image_paths(folder)
    loose = [path for path in files if os.sep not in path]
    if not files or len(loose) == len(files):
        raise ValueError(
            "There are no TFRecords (train-00000-of-00008), no class folders with images, and no cats and dogs. "
            "Received: path={!r}.".format(folder)
        )
    items = [(path, os.path.join(folder, path), path.partition(os.sep)[0]) for path in files if os.sep in path]
    counts, broken = _look_at_files(items, pool, checker, show)
    notes = ["{} images are in no class folder, such as {}".format(len(loose), loose[0])] if loose else []
    empty = sorted(set(_folders(folder)) - set(counts))
    broken += [(name, "the class has no whole image") for name in empty]
    return Finding("class folders", split, len(files), sum(counts.values()), counts, broken, notes)


def _folders(folder):
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _compare_classes(findings):
    """Adds, as broken, the classes that another split lacks."""
    known = set().union(*(_names(finding) for finding in findings))
    return [
        finding._replace(
            broken=finding.broken + [(name, "the split lacks this class") for name in sorted(known - _names(finding))]
        )
        for finding in findings
    ]


def _names(finding):
    return set(finding.classes) | {name for name, reason in finding.broken if reason == "the class has no whole image"}


def _check_animals(animals, pool, checker, show):
    items = [(name, path, pet_files.CLASSES[label]) for name, path, label in animals]
    counts, broken = _look_at_files(items, pool, checker, show)
    broken += [(name, "the class has no whole image") for name in pet_files.CLASSES if name not in counts]
    return Finding("cats-vs-dogs", "all", len(items), sum(counts.values()), counts, broken, [])


def _look_at_files(items, pool, checker, show):
    """Examines (name, path, class) of images; returns whole images by class, and a list of what is broken."""
    shown = progress.Progress(len(items), "images", show)

    def look(chunk):
        counts, broken = collections.Counter(), []
        for name, path, class_name in chunk:
            pool.check()
            try:
                with open(path, "rb") as file:
                    checker.examine(file.read())
                counts[class_name] += 1
            except image_check.BadImageError as error:
                broken.append((name, str(error)))
            except OSError as error:
                broken.append((name, "the file cannot be read ({})".format(error.strerror)))
            shown.step()
        return counts, broken

    results = pool.map(look, [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)])
    shown.close()
    counts = sum((found for found, _ in results), collections.Counter())
    return dict(sorted(counts.items())), [entry for _, found in results for entry in found]
