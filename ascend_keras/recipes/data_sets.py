"""Which data set a path looks like, and which recipe is for it."""

import difflib
import os
import re
import zipfile

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = {
    name: os.path.join(CHECKOUT, "examples", name + ".py")
    for name in ("alexnet_cats_vs_dogs", "alexnet_imagenet", "swa_blobs")
}
# Enough to know a data set by; ImageNet's folders have more entries than one wants to list.
LISTED = 5000
# Description, names by which it is known, and how many of them are enough.
_DATA_SETS = [
    ("ImageNet TFRecords", r"(train|validation)-\d{5}(-of-\d{5})?$", 1),
    ("ImageNet class folders", r"n\d{8}$", 1),
    ("cats-vs-dogs files", r"(?i)(cat|dog)\.\d+\.jpe?g$", 1),
    ("cats-vs-dogs folders", r"(?i)(cat|dog)s?$", 2),
    ("TFRecords", r"(?i).*\.tfrecords?$", 1),
]
_CLASS_FOLDERS = "class folders of images"
_ZIP = "cats-vs-dogs zip"
_ZIP_NAME = r"(?i)(dogs[-_]vs[-_]cats|cats[-_]vs[-_]dogs|kagglecatsanddogs|petimages).*\.zip$"
# In a zip, where paths are listed instead of names.
_ZIPPED = r"(?i)(.*/)?((cat|dog)\.\d+|(cat|dog)s?/[^/]+)\.jpe?g$"
RECIPE_OF = {
    "ImageNet TFRecords": "alexnet_imagenet",
    "ImageNet class folders": "alexnet_imagenet",
    _CLASS_FOLDERS: "alexnet_imagenet",
    "cats-vs-dogs files": "alexnet_cats_vs_dogs",
    "cats-vs-dogs folders": "alexnet_cats_vs_dogs",
    _ZIP: "alexnet_cats_vs_dogs",
}
_WHAT = {
    "alexnet_imagenet": "AlexNet for ImageNet",
    "alexnet_cats_vs_dogs": "AlexNet for cats and dogs",
    "swa_blobs": "stochastic weight averaging on generated blobs",
}


class UsageError(Exception):
    """A command line that cannot be carried out; the message says why and what to do."""


def recognise(data_path):
    """Says what data set a folder, or a zip, looks like.

    Returns:
        A description, such as "ImageNet TFRecords (train-00000-of-01024)", or None for anything that is no image set.
    """
    kind, example = _recognise(data_path)
    return kind and "{} ({})".format(kind, example)


def _recognise(data_path):
    """Kind of the data set, and what it was known by; two times None for none."""
    if os.path.isfile(data_path):
        return _recognise_zip(data_path)
    for folder in [data_path] + [os.path.join(data_path, name) for name in ("train", "PetImages", "val")]:
        names = _listing(folder)
        for described, pattern, least in _DATA_SETS:
            found = [name for name in names if re.match(pattern, name)]
            if len(found) >= least:
                return described, os.path.relpath(os.path.join(folder, found[0]), data_path)
    zips = [name for name in _listing(data_path) if re.match(_ZIP_NAME, name)]
    return (_ZIP, zips[0]) if zips else _class_folders(data_path)


def _recognise_zip(path):
    if re.match(_ZIP_NAME, os.path.basename(path)):
        return _ZIP, os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:LISTED]
    except (OSError, zipfile.BadZipFile):
        return None, None
    found = [name for name in names if re.match(_ZIPPED, name)]
    return (_ZIP, found[0]) if found else (None, None)


def _class_folders(data_path):
    """Folders of images, whatever the classes are called: below `train`, where validation may stand beside it."""
    train = os.path.join(data_path, "train")
    for name in _listing(train):
        if any(re.search(r"(?i)\.(jpe?g|png)$", image) for image in _listing(os.path.join(train, name))):
            return _CLASS_FOLDERS, os.path.join("train", name)
    return None, None


def _listing(folder):
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= LISTED:
                    break
    except OSError:
        return []
    return sorted(names)


def choose(request, data_path):
    """Turns `--recipe` into the name of a recipe and the reason for it, as one line.

    Raises:
        UsageError: there is no such recipe, or none for the data in `data_path`.
    """
    if request != "auto":
        if request not in SCRIPTS:
            raise UsageError(
                "Unknown recipe.{} Received: --recipe={}. Known are auto, {}.".format(
                    near(request, ["auto"] + sorted(SCRIPTS)), request, ", ".join(sorted(SCRIPTS))
                )
            )
        return request, "recipe {}: asked for by --recipe".format(request)
    if not os.path.exists(data_path):
        raise UsageError(
            "There is no such folder. Received: --data_path={}. Give an existing one, or --recipe=swa_blobs, which "
            "makes its own data.".format(data_path)
        )
    kind, example = _recognise(data_path)
    if kind is None:
        text = "recipe swa_blobs: {}, as {} holds no image data set (--recipe=auto)"
        return "swa_blobs", text.format(_WHAT["swa_blobs"], data_path)
    if kind not in RECIPE_OF:
        raise UsageError(
            "The data looks like {} ({}), and there is no recipe for it. Received: --data_path={}. Give "
            "--recipe=alexnet_imagenet for records named train-* and validation-*, or --recipe=swa_blobs to train on "
            "generated blobs without reading the data.".format(kind, example, data_path)
        )
    recipe = RECIPE_OF[kind]
    text = "recipe {}: {}, as {} looks like {} ({}) (--recipe=auto)"
    return recipe, text.format(recipe, _WHAT[recipe], data_path, kind, example)


def near(name, known):
    """ " Did you mean ...?" for the known name that is most like `name`; "" where none is."""
    found = difflib.get_close_matches(name, known, n=1)
    return " Did you mean {}?".format(found[0]) if found else ""
