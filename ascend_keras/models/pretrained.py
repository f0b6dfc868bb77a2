"""Weights of another training for those layers of a model that they fit."""

import os
import re
from typing import Dict, List, NamedTuple

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.models import arguments as check

# What TensorFlow 1 keeps beside the weights: the optimizer's variables, by their last name.
_SLOTS = ("Momentum", "Adam", "Adam_1", "RMSProp", "RMSProp_1", "ExponentialMovingAverage")

# The order in which Keras has the weights of a layer, which a checkpoint of TensorFlow does not keep.
_ORDER = ("depthwise_kernel", "pointwise_kernel", "kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance")


class PretrainedReport(NamedTuple):
    """What `load_pretrained` did.

    Attributes:
        path: the file.
        restored: names of the layers that have the weights of the file, a tuple.
        missing: names of those that have not, each with the reason, a tuple of texts.
        unused: names of the layers that only the file has, a tuple.
        matched_by: "name" or "order".
    """

    path: str
    restored: tuple
    missing: tuple
    unused: tuple
    matched_by: str

    def __str__(self):
        text = "restored from {}: {} ({})".format(self.path, _count(self.restored), ", ".join(self.restored))
        text += ", matched by their order" if self.matched_by == "order" else ""
        text += "; not restored: {}".format("; ".join(self.missing)) if self.missing else ""
        return text + ("; only in the file: {}".format(", ".join(self.unused)) if self.unused else "")


def load_pretrained(model, path, exclude=()):
    """Gives the layers of a model the weights of a file, where they fit: each layer as a whole or not at all.

    Layers are matched by name. A file with other names, but with as many arrays as the model, is matched by their
    order: Keras numbers layers through a process, and TF 1.15 the weights of a second model of the same names.

    Args:
        model: a Keras model with weights, compiled or not.
        path: an `.npz` of `NPUTrainer.save` or `callbacks.Checkpoint`; a whole model that Keras reads on this stack
            (`.keras`, `.h5`, a SavedModel); or the prefix of a checkpoint of TensorFlow 1 ("model.ckpt-187650"), such
            as ModelZoo's recipes write, whose optimizer is left out.
        exclude: names of layers that keep what they have, such as ("dense_2",), the head of the AlexNets.

    Returns:
        A `PretrainedReport`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing in the file fits (no variable was changed then), the file cannot be read, the model has no
            weights, or no layer with weights is called as `exclude` says.
    """
    path = os.fspath(path)
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    present = _layers_of(model) if model.built else {}
    check.raise_all(*_problems(model, present, exclude))
    named = _read(path)
    in_order = _is_renamed([name for name, _ in named], present, exclude)
    saved = _by_order(named, present) if in_order else _by_name(named)
    misfits = {name: _misfit(name, variables, saved, exclude) for name, variables in present.items()}
    report = PretrainedReport(
        path,
        restored=tuple(name for name in present if misfits[name] is None),
        missing=tuple("{}: {}".format(name, misfit) for name, misfit in misfits.items() if misfit),
        unused=tuple(name for name in saved if name not in present),
        matched_by="order" if in_order else "name",
    )
    if not report.restored:
        raise ValueError(
            "Nothing in this file fits the model {!r}. Received: path={!r}.\n  {}".format(
                model.name, path, "\n  ".join(report.missing + _only_in_the_file(report.unused))
            )
        )
    _assign([pair for name in report.restored for pair in zip(present[name], saved[name])])
    return report


# --- the model --------------------------------------------------------------------------------------------------------


def _layers_of(model):
    """Lists of variables by the names of the layers that hold them, at any depth, in the order of `model.weights`."""
    owners = {}
    # A layer's weights count those of the layers in it; the innermost has the fewest.
    for layer in sorted(compat.all_layers(model), key=lambda layer: -len(layer.weights)):
        owners.update((id(variable), layer.name) for variable in layer.weights)
    found: Dict[str, list] = {}
    for variable in model.weights:
        found.setdefault(owners.get(id(variable), model.name), []).append(variable)
    return found


def _problems(model, present, exclude):
    if not present:
        yield "The model has no weights yet. Received: model={!r}. Call model.build(input_shape) first.".format(
            model.name
        )
        return
    for name in exclude:
        if name not in present:
            yield "exclude names no layer that has weights.{} Received: exclude={!r}. Those that have are {}.".format(
                check.near(name, list(present)), name, ", ".join(present)
            )


def _misfit(name, variables, saved, exclude):
    """Why a layer cannot have what the file holds for it; None where it can."""
    if name in exclude:
        return "excluded"
    if name not in saved:
        return "not in the file"
    shapes = [tuple(int(size) for size in variable.shape) for variable in variables]
    in_file = [array.shape for array in saved[name]]
    if shapes == in_file:
        return None
    return "{} in the file, {} in the model".format(*(", ".join(map(str, both)) for both in (in_file, shapes)))


def _assign(pairs):
    variables = [variable for variable, _ in pairs]
    dtypes = [tf.as_dtype(variable.dtype).as_numpy_dtype for variable in variables]
    compat.set_values(variables, [array.astype(dtype, copy=False) for (_, array), dtype in zip(pairs, dtypes)])


# --- the file ---------------------------------------------------------------------------------------------------------


def _is_renamed(names, present, exclude):
    """Whether a file has the layers of the model under other names, by the names that go with its arrays."""
    places = [name for name, variables in present.items() for _ in variables]
    complete = set(present) - set(exclude) <= set(names)
    # A name at its place says that the others differ on purpose: a new head, for instance.
    return not complete and len(names) == len(places) and not any(map(str.__eq__, names, places))


def _by_order(named, present):
    """Lists of arrays by the names of layers, from pairs of a name and an array."""
    arrays = iter([array for _, array in named])
    return {name: [next(arrays) for _ in variables] for name, variables in present.items()}


def _by_name(named):
    found: Dict[str, List[np.ndarray]] = {}
    for name, array in named:
        found.setdefault(name, []).append(array)
    return found


def _read(path):
    """Pairs of a layer's name and an array, in the order of the model that was saved."""
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    is_checkpoint = os.path.exists(prefix + ".index")
    if not (os.path.exists(path) or is_checkpoint):
        raise FileNotFoundError(
            "There is no such file. Received: path={!r}. Give an .npz of NPUTrainer.save, a checkpoint, or a model "
            "saved by Keras.".format(path)
        )
    if path.endswith(".weights.h5"):
        raise ValueError(
            "This file has no names of layers that are the same on every stack. Received: path={!r}. Load it into the "
            "model it was saved from (model.load_weights), and save that as .npz.".format(path)
        )
    try:
        if is_checkpoint:
            return _read_checkpoint(prefix)
        return _read_npz(path) if path.endswith(".npz") else _read_model(path)
    except Exception as error:
        # What NumPy, HDF5 and Keras raise for a damaged file is without end.
        raise ValueError(
            "The weights cannot be read. Received: path={!r} ({}: {}). Use another file.".format(
                path, type(error).__name__, error
            )
        ) from error


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        names = file["names"].tolist()
        return [(_layer(name), file["weight_{:05d}".format(index)]) for index, name in enumerate(names)]


def _read_model(path):
    saved = keras.models.load_model(path, compile=False)
    layers = _layers_of(saved)
    values = iter(compat.get_values([variable for variables in layers.values() for variable in variables]))
    return [(name, next(values)) for name, variables in layers.items() for _ in variables]


def _read_checkpoint(prefix):
    reader = tf.train.load_checkpoint(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if "/" in name and name.split("/")[-1] not in _SLOTS]
    return [(_layer(name), reader.get_tensor(name)) for name in sorted(names, key=_place)]


def _place(name):
    """To sort by: the layer, numbers in it by their value (dense_9 before dense_10), then as Keras has the weights."""
    last = name.split("/")[-1]
    layer = [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", _layer(name))]
    return layer, _ORDER.index(last) if last in _ORDER else len(_ORDER), last


def _layer(name):
    """The layer in the path of a weight: 'dense_2' in 'outer/dense_2/kernel'."""
    return name.split("/")[-2] if "/" in name else name


def _only_in_the_file(names):
    return ("only in the file: {}".format(", ".join(names)),) if names else ()


def _count(names):
    return "{} layer{}".format(len(names), "" if len(names) == 1 else "s")
