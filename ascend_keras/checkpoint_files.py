"""Checkpoint files and the folder that holds them. No TensorFlow.

A checkpoint is one `.npz` file: arrays by name, and `meta`, a JSON text in UTF-8. It needs no pickle and no more than
NumPy to be read. A file that has its final name is whole: it was written aside, flushed to the disk, and renamed.
"""

import contextlib
import json
import os
import re
import struct
import zipfile

import numpy as np

from ascend_keras.log import logger

FORMAT = "ascend_keras checkpoint"
VERSION = 1

_NUMBERED = re.compile(r"ckpt-(\d{5,})\.npz$")
_ASIDE = re.compile(r"\.(ckpt-\d{5,}|best)\.npz\.\d+\.tmp$")


class DamagedFileError(ValueError):
    """A file is no whole checkpoint: cut off, changed, or something else altogether."""


def write(path, meta, arrays):
    """Writes a checkpoint, replacing `path` only when the new file is whole and on the disk.

    Args:
        path: the file, `*.npz`.
        meta: a dict of JSON values.
        arrays: pairs of a name and a NumPy array. They are taken one at a time, so that a generator needs the memory of
            the largest array only. 16-bit and narrower floats that NumPy does not know are stored as float32.
    """
    folder, name = os.path.split(os.path.abspath(path))
    aside = os.path.join(folder, ".{}.{}.tmp".format(name, os.getpid()))
    text = json.dumps(dict(meta, format=FORMAT, version=VERSION)).encode("utf-8")
    # A file of this name may be a second name of a checkpoint, left by a killed process with the same number.
    _remove(aside)
    try:
        with open(aside, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for key, array in arrays:
                    _write_array(archive, key, array)
                _write_array(archive, "meta", np.frombuffer(text, np.uint8))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync_folder(folder)
    finally:
        _remove(aside)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _write_array(archive, key, array):
    array = np.asarray(array)
    if array.dtype.kind == "V":  # bfloat16 and its like, whose values float32 has, too
        array = array.astype(np.float32)
    with archive.open(key + ".npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _sync_folder(folder):
    # A rename lasts only when the folder is on the disk, too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_meta(path):
    """The JSON values of a checkpoint; its arrays are not read.

    Raises:
        DamagedFileError: this is no whole checkpoint.
        ValueError: a later version of this library wrote it.
    """
    return _load(path, lambda key: key == "meta")[0]


def read(path):
    """The JSON values and the arrays, by name, of a checkpoint. Raises as `read_meta`, and for any damaged byte."""
    return _load(path, lambda key: True)


# What zipfile and NumPy raise for bytes that were changed or cut off.
_DAMAGE = (zipfile.BadZipFile, struct.error, EOFError, LookupError, MemoryError, OSError) + (
    RuntimeError,
    TypeError,
    ValueError,
)


def _load(path, wanted):
    with open(path, "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                names = [member[: -len(".npy")] for member in archive.namelist()]
                arrays = {name: _read_array(archive, name) for name in names if wanted(name)}
            meta = json.loads(arrays.pop("meta").tobytes().decode("utf-8"))
            if meta["format"] != FORMAT:
                raise ValueError("its format is {!r}".format(meta["format"]))
            version = int(meta["version"])
        except _DAMAGE as error:
            raise DamagedFileError(
                "This is no whole {}. Received: {!r} ({}: {}). Use another file.".format(
                    FORMAT, str(path), type(error).__name__, error
                )
            ) from error
    if version > VERSION:
        raise ValueError(
            "A later version of ascend_keras wrote this {}. Received: {!r} of version {}, where {} is the latest "
            "known. Upgrade ascend_keras.".format(FORMAT, str(path), version, VERSION)
        )
    return meta, arrays


def _read_array(archive, name):
    with archive.open(name + ".npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        # At the end of a member its checksum is tested; a changed shape may have read less than that.
        if member.read(1):
            raise ValueError("{!r} goes on behind its end".format(name))
    return array


class Folder:
    """The checkpoints of one training: `ckpt-00012.npz` after 12 epochs, and `best.npz`.

    Args:
        path: the folder.
        keep: how many of the newest stay; None keeps all.
    """

    def __init__(self, path, keep):
        self.path = os.fspath(path)
        self._keep = keep

    def numbered(self):
        """Pairs of epoch and path, the newest first; whether the files are whole is not looked at."""
        names = os.listdir(self.path) if os.path.isdir(self.path) else []
        found = [(match, name) for match, name in ((_NUMBERED.match(name), name) for name in names) if match]
        return sorted(((int(match.group(1)), os.path.join(self.path, name)) for match, name in found), reverse=True)

    def whole(self):
        """Triples of epoch, path and JSON values of the checkpoints that can be opened, the newest first."""
        for epoch, path in self.numbered():
            try:
                meta = read_meta(path)
            except DamagedFileError as error:
                logger.warning("passed over: %s", error)
            else:
                yield epoch, path, meta

    @property
    def best(self):
        """Path of the best checkpoint, whether it exists or not."""
        return os.path.join(self.path, "best.npz")

    def best_meta(self):
        """The JSON values of the best checkpoint; None without one."""
        try:
            return read_meta(self.best)
        except (FileNotFoundError, DamagedFileError):
            return None

    def numbered_path(self, epoch):
        """Path of the checkpoint after `epoch` epochs."""
        return os.path.join(self.path, "ckpt-{:05d}.npz".format(epoch))

    def make_best(self, path):
        """Lets `best.npz` be the checkpoint `path`, in one step. Where possible both share the space on the disk."""
        aside = os.path.join(self.path, ".best.npz.{}.tmp".format(os.getpid()))
        _remove(aside)
        try:
            try:
                os.link(path, aside)
            except OSError:  # a file system without links
                meta, arrays = read(path)
                write(self.best, meta, arrays.items())
                return
            os.replace(aside, self.best)
            _sync_folder(self.path)
        finally:
            _remove(aside)

    def open(self):
        """Makes the folder, and removes what a killed writer has left."""
        os.makedirs(self.path, exist_ok=True)
        for name in os.listdir(self.path):
            if _ASIDE.match(name):
                os.remove(os.path.join(self.path, name))

    def prune(self):
        """Removes all numbered checkpoints but the newest, the oldest first."""
        if self._keep is not None:
            for _, path in reversed(self.numbered()[self._keep :]):
                os.remove(path)
