"""Data sets by name, for scripts that take the name as a flag."""

import difflib
import importlib

_SOURCES = {
    "arrays": ("ascend_keras.data.registry", "arrays"),
    "cats_vs_dogs": ("ascend_keras.data.cats_vs_dogs", "cats_vs_dogs"),
    "image_folder": ("ascend_keras.data.image_folder", "image_folder"),
    "imagenet": ("ascend_keras.data.imagenet", "imagenet"),
    "synthetic": ("ascend_keras.data.synthetic", "synthetic"),
    "tfds": ("ascend_keras.data.tfds", "tfds"),
}


def get(name):
    """The function that makes the source of that name, such as `data.imagenet` for "imagenet".

    Raises:
        ValueError: there is no data set of this name.
    """
    if name not in _SOURCES:
        near = difflib.get_close_matches(str(name), names(), 1)
        raise ValueError(
            "There is no data set of this name.{} Received: name={!r}. Known are {}.".format(
                " Did you mean {!r}?".format(near[0]) if near else "", name, ", ".join(names())
            )
        )
    module, function = _SOURCES[name]
    return getattr(importlib.import_module(module), function)


def names():
    """The names that `get` knows, in alphabetical order."""
    return sorted(_SOURCES)


def arrays(x, y, classes=None):
    """Images in memory: x uint8 [n, h, w, 3] or a list of encoded images, y n labels from 0; see `ArraySource`."""
    from ascend_keras.data.source import ArraySource

    return ArraySource(x, y, classes)
