"""Short texts of values, and of ranks: the same in every process that runs the same script. No TensorFlow."""

import enum
import functools
import inspect
import os
import re
import zlib
from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np

# Longer texts are cut, with a checksum of the whole.
LONGEST = 200
# What Keras writes into a configuration and numbers or draws by itself, per process.
_BY_PROCESS = {"name", "seed", "shared_object_id", "build_config", "node_def", "inbound_nodes", "layers"}
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{6,}")
# Packages whose classes everybody knows by their bare names.
_KNOWN = ("keras", "tf_keras", "tensorflow", "tensorflow_core", "builtins", "ascend_keras")
_NUMBER = re.compile(r"_\d+(?![A-Za-z0-9])")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def flatten(name: str, value: Any) -> Iterator[Tuple[str, str]]:
    """Pairs of a dotted name and a short text for all that `value` consists of.

    Args:
        name: name of the value.
        value: plain values, arrays, containers, classes, functions, and objects with `get_config()`. Of other objects
            the class alone is told. The order of dicts and sets, memory addresses and names given by Keras say nothing.
    """
    if isinstance(value, dict) and "class_name" in value and isinstance(value.get("config"), dict):
        yield from _flatten_serialized(name, value["class_name"], value["config"])
    elif isinstance(value, dict) and set(value) == {"value"} and isinstance(value["value"], (list, tuple)):
        yield name, "a lambda"  # as Keras 2.15 writes those of activations
    elif isinstance(value, dict):
        yield from _flatten_dict(name, value)
    elif hasattr(value, "get_config") and not isinstance(value, type):
        yield name, class_name(value)
        yield from flatten_config(name, config_of(value))
    elif isinstance(value, (list, tuple)) and not all(isinstance(item, _PLAIN) for item in value):
        yield name, "{} of {}".format(type(value).__name__, len(value))
        for index, item in enumerate(value):
            yield from flatten("{}[{}]".format(name, index), item)
    else:
        yield name, shorten(text_of(value))


def _flatten_dict(name, values):
    if not values:
        yield name, "{}"
    for key, value in sorted(values.items(), key=lambda item: text_of(item[0])):
        yield from flatten("{}.{}".format(name, key), value)


def _flatten_serialized(name, kind, config):
    """What Keras makes of an object inside a configuration, without where the class comes from."""
    if str(kind).endswith("Policy"):
        yield name, text_of(config.get("name"))
    elif kind == "__lambda__":  # compiled code, with the path of its file
        yield name, "a lambda"
    else:
        yield name, text_of(kind)
        yield from flatten_config(name, config)


def flatten_config(name: str, config: dict) -> Iterator[Tuple[str, str]]:
    """As `flatten`, for the configuration of a Keras object, without what Keras numbers or draws by itself."""
    for key in sorted(set(config) - _BY_PROCESS, key=str):
        yield from flatten("{}.{}".format(name, key), config[key])


def config_of(thing) -> dict:
    """The configuration of a Keras object; {} where it cannot tell."""
    try:
        config = thing.get_config()
    except Exception:  # noqa: BLE001 - code of the user; a run that needs no configuration must not end for want of one
        return {}
    return config if isinstance(config, dict) else {}


def text_of(value: Any) -> str:
    """One text of one value; see `flatten`."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, enum.Enum):
        return "{}.{}".format(type(value).__name__, value.name)
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, (list, tuple)):
        return "[{}]".format(", ".join(map(text_of, value)))
    if isinstance(value, (set, frozenset)):
        return "{{{}}}".format(", ".join(sorted(map(text_of, value))))
    if isinstance(value, dict):
        return "{{{}}}".format(", ".join(sorted("{}: {}".format(text_of(k), text_of(v)) for k, v in value.items())))
    if isinstance(value, type):
        return "{}.{}".format(value.__module__, value.__qualname__)
    return _text_of_object(value)


def _text_of_object(value):
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, functools.partial):
        return "partial({}, {}, {})".format(text_of(value.func), text_of(value.args), text_of(value.keywords))
    if inspect.isroutine(value):
        return "{}.{}".format(getattr(value, "__module__", None), getattr(value, "__qualname__", value.__name__))
    if isinstance(value, np.dtype) or hasattr(value, "as_datatype_enum"):
        return str(value.name)
    if hasattr(value, "as_list") and hasattr(value, "is_fully_defined"):
        return str(value)  # a TensorShape
    return class_name(value)


def _array(array):
    if array.dtype.kind == "O":
        return "array of {} objects".format(array.size)
    if array.size <= 16:
        return "{} array {}".format(array.dtype, array.tolist())
    checksum = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return "{} array {}, CRC-32 {:08x}".format(array.dtype, shape_text(array.shape), checksum)


def class_name(value) -> str:
    """Name of the class of an object, with the module where that is neither Keras nor TensorFlow."""
    kind = type(value)
    known = kind.__module__.split(".")[0] in _KNOWN
    return kind.__qualname__ if known else "{}.{}".format(kind.__module__, kind.__qualname__)


def shape_text(shape) -> str:
    """A shape of any kind as a tuple of numbers and None."""
    sizes: List[Any] = [getattr(size, "value", size) for size in shape]
    return str(tuple(None if size is None else int(size) for size in sizes))


def without_number(name: str) -> str:
    """A name without the numbers by which Keras tells layers apart: 'dense_12' is 'dense'."""
    return _NUMBER.sub("", name)


def shorten(text: str) -> str:
    """At most `LONGEST` characters that any terminal can print; what is cut is told by its length and checksum."""
    data = _ADDRESS.sub("at ...", text).encode("utf-8", "backslashreplace")
    text = data.decode("utf-8")
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    if len(text) <= LONGEST:
        return text
    return "{}... ({} characters, CRC-32 {:08x})".format(text[: LONGEST - 50], len(text), zlib.crc32(data))


def rank_list(ranks: Sequence[int]) -> str:
    """'rank 3', 'ranks 0, 2, 3', 'ranks 0, 2 to 7'."""
    runs: List[List[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    parts: List[str] = []
    for first, last in runs:
        if last - first < 3:
            parts += map(str, range(first, last + 1))
        else:
            parts.append("{} to {}".format(first, last))
    return "{} {}".format("rank" if len(ranks) == 1 else "ranks", ", ".join(parts))
