"""Pictures of what the first convolution has learnt."""

import difflib
import math
import os
import struct
import zlib

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras

_COLUMNS = 16
# Pixels of the picture for one of a kernel.
_ZOOM = 4


class FirstKernels(keras.callbacks.Callback):
    """Writes the kernels of the first convolution at the end of an epoch, as a picture and as an array.

    `result0001.png` (after one epoch) shows the kernels from left to right, 16 in a row, each from its lowest value
    (black) to its highest (white): in colour for three input channels, else the mean over the channels, in grey. One
    that has a single value, NaN or infinity is grey throughout.
    `result0001.npy` has their values, float32 (kernels, height, width, channels). The AlexNet in two towers has two
    first convolutions, whose 96 kernels are shown together; its modelzoo variant sees, and here shows, BGR. On several
    ranks the main one writes.

    Args:
        folder: where to write; it is made if it does not exist.
        layer: name of the convolution, or a list of names; None takes the first `Conv2D` of the model, and those that
            have kernels of the same height, width, channels and number beside it, as towers have.
        every: epochs from one picture to the next.

    Raises:
        ValueError: `every` is not a whole number above 0; at the begin of training, the model has no such convolution.
    """

    def __init__(self, folder, layer=None, every=1):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError("every must be a whole number of at least 1. Received: every={!r}.".format(every))
        self._folder = os.fspath(folder)
        self._names = [layer] if isinstance(layer, str) else layer
        self._every = every
        self._layers = []
        self._is_main = True

    def set_ranks(self, reduce, is_main):
        """Tells of several ranks; NPUTrainer does."""
        self._is_main = is_main

    def on_train_begin(self, logs=None):
        """Finds the convolution, where the model has its weights already."""
        self._layers = _choose(self.model, self._names) if compat.is_complete(self.model) else []

    def on_epoch_end(self, epoch, logs=None):
        """Writes the two files."""
        if (epoch + 1) % self._every:
            return
        self._layers = self._layers or _choose(self.model, self._names)
        # Reading is a graph on the device, which all ranks have to run.
        values = np.concatenate(compat.get_values([layer.kernel for layer in self._layers]), axis=-1)
        if not self._is_main:
            return
        os.makedirs(self._folder, exist_ok=True)
        kernels = np.transpose(values, (3, 0, 1, 2)).astype(np.float32)
        stem = os.path.join(self._folder, "result{:04d}".format(epoch + 1))
        np.save(stem + ".npy", kernels)
        with open(stem + ".png", "wb") as file:
            file.write(_png(_grid(kernels)))


def _choose(model, names):
    """The layers with the kernels: those of the names, or the first convolution and its like."""
    layers = list(_in_order(model)) + compat.all_layers(model)
    convolutions = {layer.name: layer for layer in layers if type(layer) is keras.layers.Conv2D}
    if names is None and convolutions:
        first = next(iter(convolutions.values()))
        return [layer for layer in convolutions.values() if tuple(layer.kernel.shape) == tuple(first.kernel.shape)]
    for name in names or ():
        if name not in convolutions:
            near = difflib.get_close_matches(str(name), convolutions, n=1)
            raise ValueError(
                "The model has no Conv2D of this name.{} Received: layer={!r}. It has {}.".format(
                    " Did you mean {!r}?".format(near[0]) if near else "", name, ", ".join(convolutions) or "none"
                )
            )
    if not names:
        raise ValueError("The model {!r} has no Conv2D, whose kernels could be shown.".format(model.name))
    return [convolutions[name] for name in names]


def _in_order(model):
    """The layers of a model and of those nested in it, in their order; `all_layers` has another one on Keras 3."""
    for layer in model.layers:
        yield from _in_order(layer) if isinstance(layer, keras.Model) else [layer]


def _grid(kernels):
    """Kernels (n, height, width, channels) to one picture, uint8 (height, width, 3), with black lines between."""
    if kernels.shape[-1] != 3:
        kernels = np.repeat(kernels.mean(axis=-1, keepdims=True), 3, axis=-1)
    low, high = (extreme(kernels, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(high - low) & (high > low)
        shares = np.where(seen, (kernels - low) / np.where(seen, high - low, 1), 0.5)
    tiles = np.round(255 * shares).astype(np.uint8)
    tiles = np.pad(tiles.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2), ((0, 0), (1, 0), (1, 0), (0, 0)), "constant")
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    blank = np.zeros((rows * columns - len(tiles),) + tiles.shape[1:], np.uint8)
    tiles = np.concatenate([tiles, blank]).reshape((rows, columns) + tiles.shape[1:])
    picture = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * tiles.shape[2], columns * tiles.shape[3], 3)
    return np.pad(picture, ((0, 1), (0, 1), (0, 0)), "constant")


def _png(picture):
    """A PNG file, in bytes, of uint8 (height, width, 3).

    Reference: Portable Network Graphics (PNG) Specification, second edition, 2003, sections 5, 9 and 11.
    """
    height, width, _ = picture.shape
    # Each row begins with the number of its filter; 0 is none.
    rows = np.pad(picture.reshape(height, -1), ((0, 0), (1, 0)), "constant")
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
