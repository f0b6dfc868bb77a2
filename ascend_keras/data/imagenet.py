"""ImageNet, or a set laid out like it: TFRecord files in the schema of TF-Slim, or class folders."""

import os
import re

from ascend_keras.data.image_folder import SPLITS, check_split, class_folders, scan_classes, scan_split
from ascend_keras.data.record_source import RecordSource, several_conversions

CLASSES = 1000


def imagenet(path, split="train", index_dir=None, classes=None):
    """ImageNet from what is there: TFRecord files train-*, validation-* in `path` or a folder of the split in it, or
    class folders path/train/n01440764/..., path/val/n01440764/...; for "train" also class folders in `path` itself.

    The TFRecord files win where both are there. Their images are counted exactly, once; the index is kept, see
    `records.index_records`. Labels are 1-based in the files. Missing shards are named in a warning. Class folders of
    validation are numbered as those of training are, see `image_folder`.

    Args:
        path: folder.
        split: "train" or "validation".
        index_dir: folder of the index of the TFRecord files.
        classes: number of classes of TFRecord files; None: as <split>.classes.txt beside them says, one a line, else
            1000. Class folders say it themselves.

    Returns:
        A RecordSource or a FileSource.

    Raises:
        ValueError: nothing of this is there, files are broken or of several conversions, `classes` is not the number of
            class folders, or validation has class folders that training does not have.
    """
    check_split(split)
    path = os.path.abspath(os.fspath(path))
    folders = [os.path.join(path, name) for name in SPLITS[split]]
    for folder in [path] + folders:
        files = record_files(folder, split)
        if files:
            _check_conversions(folder, files)
            names = _class_names(os.path.join(folder, split + ".classes.txt")) if classes is None else None
            classes = len(names) if names else classes or CLASSES
            name = "{} ({})".format(path, split)
            return RecordSource(files, classes, names, index_dir=index_dir, name=name)
    source = _from_folders(path, folders, split)
    if classes not in (None, source.classes):
        raise ValueError(
            "`classes` must be the number of class folders. Received: classes={}, {} folders in {}.".format(
                classes, source.classes, source.name
            )
        )
    return source


def record_files(folder, split):
    """Sorted paths of the TFRecord files of a split in a folder: train-00000-of-01024, train-0.tfrecord, ..."""
    if not os.path.isdir(folder):
        return []
    pattern = re.compile(re.escape(split) + r"-[^.]*(\.tfrecords?)?$")
    names = sorted(name for name in os.listdir(folder) if pattern.match(name))
    return [path for path in (os.path.join(folder, name) for name in names) if os.path.isfile(path)]


def _from_folders(path, folders, split):
    for folder in folders:
        if os.path.isdir(folder):
            return scan_split(folder, split)
    names = class_folders(path)
    # Without folders of splits, what lies there is for training: it must not be taken for validation as well.
    if split != "train" or not names or set(names) & {"train", "validation", "val"}:
        raise ValueError(
            "There is no ImageNet. Received: path={!r}, split={!r}. Looked for TFRecord files {}/{}-*, then for class "
            "folders in {}{}.".format(
                path, split, path, split, " and ".join(folders), ", then in the folder itself" * (split == "train")
            )
        )
    return scan_classes(path, names)


def _check_conversions(folder, files):
    several = several_conversions(files)
    if several:
        raise ValueError(
            "The TFRecord files are of several conversions, of which each has the images. Received: {} in {}. Remove "
            "all but those of one.".format(" and ".join(several), folder)
        )


def _class_names(path):
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return [line.split("\t")[0].strip() for line in stream if line.strip()]
