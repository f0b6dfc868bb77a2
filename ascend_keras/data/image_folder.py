"""A folder with a folder per class."""

import os

from ascend_keras.data.source import FileSource
from ascend_keras.log import logger

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
SPLITS = {"train": ("train",), "validation": ("validation", "val")}


def image_folder(path, split=None):
    """Images of a folder with a folder per class; files may lie at any depth in it.

    Class k is the k-th of the sorted folder names; in the validation split, of those of the training split where that
    lies beside it, so that a class that validation has no folder of moves no label. Hidden files and folders are left
    out, and so are files that do not end as an image file does (they are counted in the log).

    Args:
        path: the folder; with a split, the folder above.
        split: None, or "train" or "validation": path/train, path/validation or path/val has the class folders.

    Returns:
        A FileSource.

    Raises:
        ValueError: no such folder or split, no class folders, classes without images, or classes of validation that
            training does not have; all are named.
    """
    if split is not None:
        return scan_split(os.path.abspath(split_folder(path, split)), split)
    root = os.path.abspath(os.fspath(path))
    names = class_folders(root)
    if set(names) & {"train", "validation", "val"}:
        raise ValueError(
            "The folder holds splits, not classes. Received: path={!r} with folders {}. "
            "Say which one with split='train' or split='validation'.".format(str(path), names[:5])
        )
    return scan_classes(root, names)


def split_folder(path, split):
    """The folder of a split below `path`.

    Raises:
        ValueError: there is none, or the split is not one of "train" and "validation".
    """
    check_split(split)
    found = [os.path.join(os.fspath(path), name) for name in SPLITS[split]]
    for folder in found:
        if os.path.isdir(folder):
            return folder
    raise ValueError(
        "There is no folder of this split. Received: path={!r}, split={!r}. Looked for: {}.".format(
            str(path), split, ", ".join(found)
        )
    )


def check_split(split):
    """Raises ValueError unless `split` is "train" or "validation"."""
    if split not in SPLITS:
        raise ValueError("`split` must be 'train' or 'validation'. Received: split={!r}.".format(split))


def class_folders(root):
    """Sorted names of the folders in `root` that are not hidden.

    Raises:
        ValueError: there is no folder `root`.
    """
    if not os.path.isdir(root):
        raise ValueError("There is no such folder. Received: path={!r}.".format(root))
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def scan_split(root, split):
    """A FileSource of the class folders of a split in `root`; validation has the classes of `train` beside it.

    Raises:
        ValueError: as `scan_classes`, or validation has classes that training does not have; they are named.
    """
    names = class_folders(root)
    train = os.path.join(os.path.dirname(root), SPLITS["train"][0])
    known = class_folders(train) if split == "validation" and os.path.isdir(train) else []
    if not names or not known:
        return scan_classes(root, names)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            "Validation must have no other classes than training. Received: {} of {} folders in {} that are not in {}: "
            "{}. Rename or remove them.".format(len(unknown), len(names), root, train, _first(unknown))
        )
    return scan_classes(root, known, absent=set(known) - set(names))


def scan_classes(root, names, absent=()):
    """A FileSource of the images in the class folders `names` of `root`, sorted by class and path.

    The classes `absent` have no folder there, and no images.
    """
    if absent:
        logger.info("%s: no images of %d of %d classes: %s", root, len(absent), len(names), _first(sorted(absent)))
    paths, labels, empty, others = [], [], [], 0
    for label, name in enumerate(names):
        if name in absent:
            continue
        found, left_out = _images_below(os.path.join(root, name))
        others += left_out
        paths += found
        labels += [label] * len(found)
        if not found:
            empty.append(name)
    if empty or not names:
        raise ValueError(
            "The folder must have a folder with images for each class. Received: path={!r}, {}. Image files end "
            "with {}.".format(root, _what(len(names) - len(absent), empty), ", ".join(ENDINGS))
        )
    if others:
        logger.info("%s: %d files that are no images by their name are left out", root, others)
    return FileSource(paths, labels, names, name=root, root=root)


def _what(folders, empty):
    if not folders:
        return "which has no folders"
    return "without images in {} of {} folders: {}".format(len(empty), folders, _first(empty))


def _first(names):
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _images_below(folder):
    """Sorted paths of the images below a folder, and how many other files there are."""
    found, others, open_ = [], 0, [folder]
    while open_:
        with os.scandir(open_.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    open_.append(entry.path)
                elif entry.name.lower().endswith(ENDINGS):
                    found.append(entry.path)
                else:
                    others += 1
    return sorted(found), others
