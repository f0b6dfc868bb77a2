"""Lists that come with a data set: names of classes, labels, bounding boxes. A line each, in UTF-8.

Names of files have any bytes but 0 and "/": those that are no UTF-8 are kept as Python keeps them (surrogateescape).
"""

import collections
import csv
import os
import re
from typing import Callable, Tuple

_NAMED = 10
_CLASS_AND_TEXT = re.compile(r"([^\t]+)\t(.*)$|(n\d{8}) +(.*)$")


def read_classes(path):
    """Reads a list of classes: their names, and what is said about them, or an empty list if nothing is."""
    names, texts = [], []
    for line in _lines(path):
        name, text = _class_of_line(line)
        names.append(name)
        texts.append(text)
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice or not names:
        what = "names classes twice: {}".format(", ".join(twice[:_NAMED])) if twice else "is empty"
        raise ValueError("The list of classes {}. Received: classes={!r}.".format(what, str(path)))
    return names, texts if any(texts) else []


def _class_of_line(line):
    """The name of a class and what is said about it."""
    match = _CLASS_AND_TEXT.match(line)
    groups = [group for group in match.groups() if group is not None] if match else [line, ""]
    return groups[0].strip(), groups[1].strip()


def class_line(name, text=""):
    """The line of a list of classes that `read_classes` reads back."""
    return name + "\t" + text if text or _CLASS_AND_TEXT.match(name) else name


def survives_a_list(name):
    """Whether a list of classes can hold the name: a line break, a tab, or a blank at an end would be lost."""
    return "\n" not in name and "\r" not in name and _class_of_line(class_line(name)) == (name, "")


def one_line(path):
    """A path with its line breaks and tabs as escapes, for a list with a path per line."""
    for character, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        path = path.replace(character, escape)
    return path


def match_names(given, files, received):
    """Finds the names under which a list knows the images.

    A name is the path below the source, with or without its ending. If no image has that path, it is the name of a
    file in any folder, with or without its ending.

    Args:
        given: names in the list.
        files: paths of the images below the source.
        received: the list, as it is named in the error.

    Returns:
        A dict from path to name, of the images that the list knows.

    Raises:
        ValueError: several images are meant by one name.
    """
    found, free = {}, set(given)
    for form in _FORMS:
        meant = collections.defaultdict(list)
        for file in files if free else ():
            name = form(file)
            if name in free:
                meant[name].append(file)
        several = sorted(name for name, paths in meant.items() if len(paths) > 1 and not found.keys() >= set(paths))
        if several:
            raise ValueError(
                "{:,} names are those of several images, such as {}: {}. Received: {}. Give paths below the "
                "source.".format(len(several), several[0], ", ".join(sorted(meant[several[0]])[:_NAMED]), received)
            )
        for name, paths in meant.items():
            found.setdefault(paths[0], name)
        free.difference_update(meant)
    return found


def _without_ending(path):
    return os.path.splitext(path)[0]


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


# The forms in which a list may name an image; what an earlier one has found is no longer looked for.
_FORMS: Tuple[Callable[[str], str], ...] = (str, _without_ending, os.path.basename, _stem)


def labels_from_file(path, files, table=None):
    """The names of the classes of files, from a list.

    Args:
        path: the list; see `plan.make`.
        files: paths below the source, sorted.
        table: names of the classes, or None if the labels are to tell.
    """
    rows = [_fields(line) for line in _lines(path)]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) > 2 or len(row) != len(rows[0])]
    if wrong or not rows:
        raise ValueError(
            "A line of the labels has a name and a label, or the label alone. Received: labels={!r}, {}.".format(
                str(path), "line {}".format(wrong[0]) if wrong else "an empty file"
            )
        )
    values = _class_names(path, [row[-1] for row in rows], table)
    if len(rows[0]) == 2:
        return _labels_by_name(path, [row[0] for row in rows], values, files)
    if len(values) != len(files):
        raise ValueError(
            "There must be a label for each image. Received: labels={!r} with {:,} lines, {:,} images.".format(
                str(path), len(values), len(files)
            )
        )
    return values


def _fields(line):
    """A name may have blanks: a tab or a comma parts it from the label, or else the last blank."""
    line = line.strip()
    fields = re.split(r"\t+" if "\t" in line else ",", line)
    return [field.strip() for field in fields] if len(fields) > 1 else line.rsplit(None, 1)


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


def _labels_by_name(path, names, values, files):
    received = "labels={!r}".format(str(path))
    label_of = dict(zip(names, values))
    twice = sorted({name for name, value in zip(names, values) if label_of[name] != value})
    if twice:
        raise ValueError(
            "{:,} names have two labels, such as {}. Received: {}. Leave one of them.".format(
                len(twice), twice[0], received
            )
        )
    known = match_names(label_of, files, received)
    missing = [file for file in files if file not in known]
    if missing:
        raise ValueError(
            "{:,} images have no label, such as {}. Received: {}.".format(len(missing), missing[0], received)
        )
    return [label_of[known[file]] for file in files]


def read_boxes(path):
    """Reads bounding boxes: a dict from file name to a list of (ymin, xmin, ymax, xmax)."""
    boxes = collections.defaultdict(list)
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
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
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\r\n") for line in file if line.strip()]
    if any("\0" in line for line in lines):
        raise ValueError("The file is no text in UTF-8. Received: {!r}.".format(str(path)))
    return lines
