"""Files that load where ascend_keras is not installed, written aside and renamed."""

import contextlib
import os
import shutil
import tempfile

import numpy as np

from ascend_keras import compat


def save(model, path):
    """Writes a model or its weights, replacing `path` only when the new file is whole.

    Args:
        model: a Keras model.
        path: `*.npz`: the arrays of `model.get_weights()` in their order, with `names`; `*.weights.h5`: weights in
            Keras' own format; anything else: `model.save`, with the optimizer as Keras itself has it. A whole model
            compiled with a schedule, loss, metric or optimizer of ascend_keras needs that module imported to be loaded
            as it was compiled, and loads with `compile=False` anywhere.

    Raises:
        ValueError: `path` is a folder with other files in it.
    """
    path = os.fspath(path).rstrip(os.sep)
    _refuse_foreign_folder(path)
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    # The name ends as before, since Keras reads the format from it.
    aside = os.path.join(folder, ".{}.{}".format(os.getpid(), name))
    try:
        _write(model, aside)
        _replace(aside, path)
    finally:
        _remove(aside)


def read_only(model, path):
    """Takes part in a `save` of rank 0, on a rank that writes nothing; all other ranks have to call it with the path.

    On TF 1.15 reading variables is a graph on the device, and every rank has to run the same ones: what `save` does is
    done, and thrown away. Elsewhere nothing is to be done.
    """
    if not compat.TF1:
        return
    with tempfile.TemporaryDirectory(prefix="ascend_keras_rank_") as folder:
        _write(model, os.path.join(folder, os.path.basename(os.fspath(path).rstrip(os.sep))))


def _write(model, path):
    if path.endswith(".npz"):
        arrays = model.get_weights()
        named = {"weight_{:05d}".format(index): array for index, array in enumerate(arrays)}
        np.savez(path, names=np.array([compat.weight_path(weight) for weight in model.weights]), **named)
    elif path.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        with plain_optimizer(model):
            model.save(path)


# What TensorFlow puts into the folder of a SavedModel.
_SAVED_MODEL = {"saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables", "assets"}


def _refuse_foreign_folder(path):
    """A folder that is written anew must hold nothing that would be lost with it."""
    foreign = sorted(set(os.listdir(path)) - _SAVED_MODEL) if os.path.isdir(path) else []
    if foreign:
        raise ValueError(
            "This folder holds more than a SavedModel, and all of it would be replaced. Received: {!r} with {}. Name a "
            "file in it, or a folder that does not exist.".format(path, ", ".join(map(repr, foreign[:5])))
        )


def load_weights(model, path):
    """Loads a `*.npz` of `save` into a model of the same layers, on any stack.

    Raises:
        ValueError: number or shapes of the arrays differ; all differences are listed.
    """
    with np.load(path) as file:
        if "names" not in file:
            raise ValueError(
                "This file holds no weights of NPUTrainer.save. Received: {!r} with {}.".format(path, file.files[:5])
            )
        names = file["names"].tolist()
        arrays = [file["weight_{:05d}".format(index)] for index in range(len(names))]
    present = model.get_weights()
    problems = []
    if len(arrays) != len(present):
        problems.append("the file holds {} arrays, the model {}".format(len(arrays), len(present)))
    for name, array, weight in zip(names, arrays, present):
        if array.shape != weight.shape:
            problems.append("{}: {} in the file, {} in the model".format(name, array.shape, weight.shape))
    if problems:
        raise ValueError(
            "These weights are of another model. Received: {!r}.\n  {}".format(path, "\n  ".join(problems))
        )
    model.set_weights(arrays)


@contextlib.contextmanager
def plain_optimizer(model):
    """Inside, `model.optimizer` is one that Keras can load by itself: a wrapper that it cannot load is left out."""
    wrapped = getattr(model, "optimizer", None)
    if wrapped is None or compat.loads_by_itself(wrapped):
        yield
        return
    model.optimizer = compat.inner_optimizer(wrapped)
    try:
        yield
    finally:
        model.optimizer = wrapped


def _replace(aside, path):
    if os.path.isdir(path):  # a SavedModel: a folder cannot be replaced in one step
        old = aside + ".old"
        os.rename(path, old)
        try:
            os.rename(aside, path)
        except OSError:
            os.rename(old, path)
            raise
        shutil.rmtree(old)
    else:
        os.replace(aside, path)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
