"""Finds files of cats and dogs: Kaggle's flat folder, Microsoft's PetImages, or the zip file of either. No TensorFlow.

They are looked for in `path` itself, `path/train`, `path/PetImages`, or a known zip file in `path`; a zip file in a zip
file (Kaggle's train.zip) is followed too. A zip file is unpacked once, into the cache directory, so that training reads
plain files: a folder that has its final name is whole, and of several processes one unpacks while the others wait.
"""

import fcntl
import hashlib
import os
import re
import shutil
import zipfile
import zlib

CLASSES = ["cat", "dog"]
_FLAT = re.compile(r"(cat|dog)s?\.(.+)\.jpe?g$", re.IGNORECASE)
_FOLDER = re.compile(r"(cat|dog)s?$", re.IGNORECASE)
_IMAGE = re.compile(r".+\.(jpe?g|png)$", re.IGNORECASE)
_ZIP = re.compile(
    r"(train|dogs[-_]vs[-_]cats.*|cats[-_]vs[-_]dogs.*|kagglecatsanddogs.*|petimages)\.zip$", re.IGNORECASE
)
_NO_CLASS = ("train", "val", "validation", "test", "__macosx")
# What `write_ten_crops` and the recipe's own tool write: nine digits for the photograph, one for the crop.
_CROP = re.compile(r"(\d{9})\d$")
_BELOW = ("train", "PetImages", "data", "data_preprocessed")


def photograph_of(name):
    """The photograph that a file shows, or is a crop of: its class and number.

    Args:
        name: of the file, such as cat.12.jpg, Cat/12.jpg, or cat.0000000123.jpg for crop 3 of photograph 12.
    """
    flat = _FLAT.match(os.path.basename(name))
    animal, number = flat.groups() if flat else os.path.splitext(name)[0].rsplit(os.sep, 2)[-2:]
    crop = _CROP.match(number) if flat else None
    number = crop.group(1) if crop else number
    return animal.lower()[:3], int(number) if number.isdigit() else -1, "" if number.isdigit() else number


# --- finding them ----------------------------------------------------------------------------------------------------


def find(path, cache_dir=None, zips=True):
    """Looks for cats and dogs.

    Args:
        path: folder or zip file.
        cache_dir: where to unpack a zip file.
        zips: whether zip files are followed that lie in the folder `path`, or below it.

    Returns:
        A list of (name below its folder, path, label), by class and number; None if there are none in `path`.
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        return find(unpack(path, cache_dir), cache_dir) if zipfile.is_zipfile(path) else None
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    animals = _flat(path, names) or _folders(path, names)
    if animals:
        return sorted(animals, key=lambda animal: (photograph_of(animal[0]), animal[0]))
    # The first that holds them: a zip file may lie beside the folder that was unpacked from it.
    folders = [name for name in _BELOW if name in names]
    for name in folders + [name for name in names if zips and _ZIP.match(name)]:
        found = find(os.path.join(path, name), cache_dir, zips)
        if found:
            return found
    return None


def _flat(path, names):
    found = [(name, _FLAT.match(name)) for name in names]
    return [(name, os.path.join(path, name), CLASSES.index(match.group(1).lower())) for name, match in found if match]


def _folders(path, names):
    """Images of the folders of cats and of dogs; none where there are folders of other classes, too."""
    below = [name for name in names if os.path.isdir(os.path.join(path, name)) and not name.startswith(".")]
    matches = [(name, _FOLDER.match(name)) for name in below if name.lower() not in _NO_CLASS]
    if not all(match for _, match in matches):
        return []
    folders = [(name, CLASSES.index(match.group(1).lower())) for name, match in matches]
    if {label for _, label in folders} != {0, 1}:
        return []
    return [
        (os.path.join(folder, name), os.path.join(path, folder, name), label)
        for folder, label in folders
        for name in os.listdir(os.path.join(path, folder))
        if _IMAGE.match(name) and not name.startswith(".")
    ]


# --- the zip file ----------------------------------------------------------------------------------------------------


def unpack(path, cache_dir=None):
    """Unpacks the images and zip files of a zip file into the cache, if they are not there yet.

    Returns:
        The folder. A zip file that has changed (path, size, time) gets another one.
    """
    status = os.stat(path)
    known = "{}\0{}\0{}".format(os.path.abspath(path), status.st_size, status.st_mtime_ns)
    mark = hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stem = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.join(_cache(cache_dir), "{}-{}".format(stem, mark))
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(folder):
            _unpack(path, folder)
    return folder


def _cache(cache_dir):
    if cache_dir is not None:
        return os.path.abspath(os.fspath(cache_dir))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "ascend_keras")


def _unpack(path, folder):
    aside = folder + ".part"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = os.path.basename(member.filename)
                # Kaggle's archive has more than the labelled images: test1.zip is as large.
                if _IMAGE.match(name) or _ZIP.match(name):
                    archive.extract(member, aside)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(
            "The zip file is damaged ({}). Received: path={!r}. Download it again.".format(error, str(path))
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    os.makedirs(aside, exist_ok=True)
    os.sync()
    os.replace(aside, folder)
