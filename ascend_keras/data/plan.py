"""What goes into which TFRecord shard: the images of a folder, their classes, and a fixed order.

A plan is made from the source and the settings alone, so that a run that was broken off and one that goes on agree on
every byte, or notice that the source is no longer what it was.
"""

import collections
import hashlib
import os

import numpy as np

from ascend_keras.data.image_folder import ENDINGS
from ascend_keras.data.name_lists import labels_from_file, read_classes, survives_a_list

FORMAT = "ascend_keras to-tfrecord plan"
VERSION = 2
# Shards of this size are read at full speed from any disk, and 8 ranks with 8 readers each have one apiece in ImageNet.
_SHARD_BYTES = 128 * 2**20
_MOST_SHARDS = 1024
_NAMED = 10
# Size and time of a link that leads nowhere; the writer counts it among the bad images.
DANGLING = (0, 0)

File = collections.namedtuple("File", "path size mtime_ns label")
File.__doc__ = "An image: path below the source, size in bytes, time of change in ns, label from 0 on."


def make(source, split="train", shards=None, seed=0, classes=None, labels=None, boxes=None, on_bad_image="skip"):
    """Plans the shards of a folder of images.

    Args:
        source: a folder with a folder per class (images may lie deeper), or with a folder `train`, `validation` or
            `val` that has them; with `labels` the images may lie anywhere in it.
        split: "train", "validation" or another name; files are called after it.
        shards: number of files; None makes them of about 128 MB each, at most 1024.
        seed: of the order.
        classes: file with the name of a class per line, the first being label 1; words about it may follow, after a
            tab, or after a space where the name is a synset like n01440764. None takes the sorted names.
        labels: file with "name label" per line, the label being the name of a class, or with the label alone, line by
            line for the sorted file names. With `classes`, a number counts the lines of that file from 0 on. Name and
            label are parted by a tab or a comma, or else by the last blank. See `name_lists.match_names` for the names.
        boxes: CSV file of lines "name,xmin,ymin,xmax,ymax" in fractions of width and height.
        on_bad_image: what the run does with an image that cannot be decoded, "skip" or "error".

    Returns:
        A dict of JSON values; see `shard_of` for its use.

    Raises:
        ValueError: the source has no images, or an argument does not fit it; names everything that is wrong.
    """
    root = split_folder(source, split)
    found = scan(root)
    table, texts = read_classes(classes) if classes else (None, [])
    if labels:
        names = labels_from_file(labels, [path for path, _, _ in found], table)
    else:
        names = [_class_of(path) for path, _, _ in found]
    table = table or sorted(set(names) if labels else set(names) | set(_folders(root)))
    _check(root, found, names, table, may_be_empty=bool(classes))
    position = {name: index for index, name in enumerate(table)}
    files = [File(path, size, mtime, position[name]) for (path, size, mtime), name in zip(found, names)]
    order = np.random.RandomState(seed).permutation(len(files))
    return {
        "format": FORMAT,
        "version": VERSION,
        "split": split,
        "seed": seed,
        "shards": _shard_count(shards, files),
        "classes": table,
        "texts": texts,
        "boxes": hash_file(boxes) if boxes else None,
        "on_bad_image": on_bad_image,
        "files": [list(files[index]) for index in order],
    }


def shard_of(plan, number):
    """The images of a shard, as `File`s in their order."""
    count, shards = len(plan["files"]), plan["shards"]
    return [File(*row) for row in plan["files"][number * count // shards : (number + 1) * count // shards]]


def shard_name(plan, number):
    """The name of a shard, such as train-00000-of-01024."""
    return "{}-{:05d}-of-{:05d}".format(plan["split"], number, plan["shards"])


def _shard_count(shards, files):
    if shards is None:
        shards = min(_MOST_SHARDS, -(-sum(file.size for file in files) // _SHARD_BYTES))
    if shards > len(files):
        raise ValueError(
            "There cannot be more shards than images. Received: shards={}, images={}. Give fewer.".format(
                shards, len(files)
            )
        )
    return max(1, shards)


def differences(former, present):
    """What makes a plan another than the one that was begun with, as lines; empty if nothing does."""
    if former == present:
        return []
    lines = [
        "{}: was {}, is {}".format(key, former[key], present[key])
        for key in ("split", "seed", "shards", "boxes")
        if former[key] != present[key]
    ]
    # The other way round nothing is amiss: shards of a run that stops at a bad image have left out none.
    if (former["on_bad_image"], present["on_bad_image"]) == ("skip", "error"):
        lines.append("on_bad_image: was skip, is error")
    if (former["classes"], former["texts"]) != (present["classes"], present["texts"]):
        lines.append("classes: were {}, are {}".format(short(former["classes"]), short(present["classes"])))
    was, now = ({row[0]: row for row in plan["files"]} for plan in (former, present))
    changes = [("removed", path) for path in sorted(set(was) - set(now))]
    changes += [("added", path) for path in sorted(set(now) - set(was))]
    changes += [(_change(was[path], now[path]), path) for path in sorted(set(was) & set(now)) if was[path] != now[path]]
    lines += ["{}: {}".format(what, path) for what, path in changes[:_NAMED]]
    if len(changes) > _NAMED:
        lines.append("and {:,} more".format(len(changes) - _NAMED))
    return lines


def _change(was, now):
    was, now = File(*was), File(*now)
    if was.size != now.size:
        return "size was {:,} bytes, is {:,}".format(was.size, now.size)
    if was.label != now.label:
        return "label was {}, is {}".format(was.label + 1, now.label + 1)
    return "written anew" if was.mtime_ns != now.mtime_ns else "changed"


def short(names):
    """How many names there are, and the first of them."""
    return "{} ({}{})".format(len(names), ", ".join(names[:3]), ", ..." if len(names) > 3 else "")


# --- the folder ------------------------------------------------------------------------------------------------------


def split_folder(source, split):
    """The folder of a split: `source/<split>` (`val` for validation) if there is one, else `source` itself."""
    if not os.path.isdir(source):
        raise ValueError("There is no such folder. Received: source={!r}.".format(str(source)))
    for name in [split] + (["val"] if split == "validation" else []):
        if os.path.isdir(os.path.join(source, name)):
            return os.path.join(source, name)
    return str(source)


def scan(root):
    """All images below a folder as tuples of path below it, size and time of change, sorted by path."""
    return sorted((path,) + status for path, status in _images(root, _size_and_time))


def _size_and_time(entry):
    try:
        status = os.stat(entry)
    except FileNotFoundError:
        if not entry.is_symlink():
            raise
        return DANGLING
    return status.st_size, status.st_mtime_ns


def image_paths(root):
    """The paths, below a folder, of all images in it, sorted."""
    return sorted(path for path, _ in _images(root, str))


def _images(root, look):
    """Yields the paths of images below a folder, and what `look` makes of them."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(path)
                elif entry.name.lower().endswith(ENDINGS):
                    yield path, look(entry)


def _folders(root):
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _class_of(path):
    return path.partition(os.sep)[0] if os.sep in path else ""


def _check(root, found, names, table, may_be_empty):
    problems = []
    if not found:
        problems.append(
            "There are no images ({}). Received: source={!r}. Give a folder with a folder per class.".format(
                ", ".join(ENDINGS), root
            )
        )
    loose = [path for (path, _, _), name in zip(found, names) if not name]
    if loose:
        problems.append(
            "{:,} images are in no class folder, such as {}. Received: source={!r}. Put them into folders named after "
            "their classes, or say with --labels what they are.".format(len(loose), loose[0], root)
        )
    problems += _class_problems(root, found, names, table, may_be_empty)
    if problems:
        raise ValueError("\n".join(problems))


def _class_problems(root, found, names, table, may_be_empty):
    problems = []
    empty = sorted(set(table) - set(names))
    if found and empty and not may_be_empty:
        problems.append(
            "{} classes have no images: {}. Received: source={!r}. Add images, or delete the empty folders.".format(
                len(empty), ", ".join(empty[:_NAMED]), root
            )
        )
    unfit = [name for name in table if name and not survives_a_list(name)]
    if unfit:
        problems.append(
            "{} names of classes have line breaks, tabs, or blanks at their ends, which a list of classes cannot hold: "
            "{}. Received: source={!r}. Rename them.".format(len(unfit), ", ".join(map(repr, unfit[:_NAMED])), root)
        )
    unknown = sorted(set(names) - set(table) - {""})
    if unknown:
        problems.append(
            "{} classes of the images are not in the list of classes: {}. Add them to the file, or leave out "
            "--classes.".format(len(unknown), ", ".join(unknown[:_NAMED]))
        )
    return problems


def hash_file(path):
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
