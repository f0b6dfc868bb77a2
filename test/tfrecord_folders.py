"""Folders of photographs to be written as TFRecords, and the reading of what was written."""

import os

import image_files

from ascend_keras import compat
from ascend_keras.compat import tf


def make_source(folder):
    """Makes three class folders of four JPEGs each; returns the folder, and a dict from path below it to the bytes."""
    paths, _ = image_files.make_photographs(folder, classes=3, per_class=4)
    return str(folder), {os.path.relpath(path, str(folder)): read(path) for path in paths}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def contents(folder):
    """All files of a folder but those of work in progress, by name."""
    return {name: read(os.path.join(folder, name)) for name in os.listdir(folder) if not name.startswith(".")}


def examples(folder, split="train"):
    """The features of all records of a folder, in the order of the files, read by TensorFlow."""
    found = []
    for name in sorted(os.listdir(folder)):
        if name.startswith(split + "-"):
            for record in compat.read_records(os.path.join(folder, name)):
                example = tf.train.Example.FromString(record).features.feature
                found.append(
                    {key: list(getattr(value, value.WhichOneof("kind")).value) for key, value in example.items()}
                )
    return found


def by_name(folder, split="train"):
    found = {example["image/filename"][0].decode(): example for example in examples(folder, split)}
    assert len(found) == len(examples(folder, split))
    return found


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)
