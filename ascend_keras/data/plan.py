"""What goes into which TFRecord shard: the images of a folder, their classes, and a fixed order.

A plan is made from the source and the settings alone, so that a run that was broken off and one that goes on agree on
every byte, or notice that the source is no longer what it was.
"""

import collections
import csv
import hashlib
import os
import re

import numpy as np

from ascend_keras.data.image_folder import ENDINGS

FORMAT = "ascend_keras to-tfrecord plan"
VERSION = 1
# Shards of this size are read at full speed from any disk, and 8 ranks with 8 readers each have one apiece in ImageNet.
_SHARD_BYTES = 128 * 2**20
_MOST_SHARDS = 1024
_NAMED = 10

File = collections.namedtuple("File", "path size mtime_ns label")
File.__doc__ = "An image: path below the source, size in bytes, time of change in ns, label from 0 on."


def make(source, split="train", shards=None, seed=0, classes=None, labels=None, boxes=None):
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
            line for the sorted file names. With `classes`, a number counts the lines of that file from 0 on.
        boxes: CSV file of lines "name,xmin,ymin,xmax,ymax" in fractions of width and height.

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
    return sorted((path, status.st_size, status.st_mtime_ns) for path, status in _images(root, os.stat))


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
    empty = sorted(set(table) - set(names))
    if found and empty and not may_be_empty:
        problems.append(
            "{} classes have no images: {}. Received: source={!r}. Add images, or delete the empty folders.".format(
                len(empty), ", ".join(empty[:_NAMED]), root
            )
        )
    unknown = sorted(set(names) - set(table) - {""})
    if unknown:
        problems.append(
            "{} classes of the images are not in the list of classes: {}. Add them to the file, or leave out "
            "--classes.".format(len(unknown), ", ".join(unknown[:_NAMED]))
        )
    if problems:
        raise ValueError("\n".join(problems))


# --- lists that come with a data set ---------------------------------------------------------------------------------


def read_classes(path):
    """Reads a list of classes: their names, and what is said about them, or an empty list if nothing is."""
    names, texts = [], []
    for line in _lines(path):
        match = re.match(r"([^\t]+)\t(.*)$|(n\d{8}) +(.*)$", line)
        groups = [group for group in match.groups() if group is not None] if match else [line, ""]
        names.append(groups[0].strip())
        texts.append(groups[1].strip())
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice or not names:
        what = "names classes twice: {}".format(", ".join(twice[:_NAMED])) if twice else "is empty"
        raise ValueError("The list of classes {}. Received: classes={!r}.".format(what, str(path)))
    return names, texts if any(texts) else []


def labels_from_file(path, files, table=None):
    """The names of the classes of files, from a list.

    Args:
        path: the list; see `make`.
        files: paths below the source, sorted.
        table: names of the classes, or None if the labels are to tell.
    """
    rows = [re.split(r"[,\s]+", line.strip()) for line in _lines(path)]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) > 2 or len(row) != len(rows[0])]
    if wrong or not rows:
        raise ValueError(
            "A line of the labels has a name and a label, or the label alone. Received: labels={!r}, {}.".format(
                str(path), "line {}".format(wrong[0]) if wrong else "an empty file"
            )
        )
    values = _class_names(path, [row[-1] for row in rows], table)
    if len(rows[0]) == 2:
        return _labels_by_name(path, dict(zip((row[0] for row in rows), values)), files)
    if len(values) != len(files):
        raise ValueError(
            "There must be a label for each image. Received: labels={!r} with {:,} lines, {:,} images.".format(
                str(path), len(values), len(files)
            )
        )
    return values


def _class_names(path, values, table):
    if not all(re.match(r"\d+$", value) for value in values) or (table and set(values) <= set(table)):
        return values
    if not table:
        raise ValueError(
            "The labels are numbers, and nothing says of what. Received: labels={!r}. Give the names of the classes in "
            "the order of the numbers, from 0 on, with --classes.".format(str(path))
        )
    outside = [value for value in values if int(value) >= len(table)]
    if outside:
        raise ValueError(
            "The labels count the {} classes from 0 on, and {} is too large. Received: labels={!r}.".format(
                len(table), outside[0], str(path)
            )
        )
    return [table[int(value)] for value in values]


def _labels_by_name(path, label_of, files):
    known = {}
    for file in files:
        base = os.path.basename(file)
        keys = [file, base, os.path.splitext(base)[0]]
        known[file] = next((label_of[key] for key in keys if key in label_of), None)
    missing = [file for file in files if known[file] is None]
    if missing:
        raise ValueError(
            "{:,} images have no label, such as {}. Received: labels={!r}.".format(len(missing), missing[0], str(path))
        )
    return [known[file] for file in files]


def read_boxes(path):
    """Reads bounding boxes: a dict from file name to a list of (ymin, xmin, ymax, xmax)."""
    boxes = collections.defaultdict(list)
    with open(path, newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                name, corners = row[0].strip(), [float(value) for value in row[1:]]
                xmin, ymin, xmax, ymax = corners
            except (IndexError, ValueError):
                if number == 1:
                    continue  # the names of the columns
                raise ValueError(
                    "A line of the boxes is name,xmin,ymin,xmax,ymax. Received: boxes={!r}, line {}: {}".format(
                        str(path), number, ",".join(row)
                    )
                ) from None
            if not (0 <= xmin <= xmax <= 1 and 0 <= ymin <= ymax <= 1):
                raise ValueError(
                    "A box is in fractions of width and height, the lower corner first. Received: boxes={!r}, "
                    "line {}: {}".format(str(path), number, ",".join(row))
                )
            boxes[name].append((ymin, xmin, ymax, xmax))
    return dict(boxes)


def _lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [line.rstrip("\r\n") for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError("The file is no text in UTF-8 ({}). Received: {!r}.".format(error, str(path))) from None


def hash_file(path):
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
