"""What a callback may want to know of the `fit` that calls it, and Keras does not tell.

Keras hands a callback the model and a few numbers. The data and the other callbacks are arguments of the `fit` further
up on the call stack, which is the one place where all four stacks have them.
"""

import itertools
import sys
import types
from typing import Optional

from ascend_keras.compat.data import open_dataset
from ascend_keras.compat.stack import TF1, tf

_DATA = {"fit": "x", "fit_generator": "generator"}
_WANTED = (
    "y",
    "sample_weight",
    "batch_size",
    "steps_per_epoch",
    "validation_split",
    "validation_data",
    "validation_steps",
)


def fit_arguments(model):
    """The arguments of the running `model.fit` that have to do with data, by name; {} outside of it.

    Where Keras has split validation data off, `x` and `y` are what is left for training.
    """
    for name, variables in _frames():
        if name in _DATA and variables.get("self") is model:
            arguments = dict({key: variables.get(key) for key in _WANTED}, x=variables[_DATA[name]])
            return _split(arguments) if TF1 else arguments
    return {}


def running_callbacks(callback):
    """The callbacks of the running `fit`, in the order in which they are called; [] outside of it."""
    for _, variables in _frames():
        callbacks = getattr(variables.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and any(other is callback for other in callbacks):
            return list(callbacks)
    return []


class SecondEvaluation:
    """Evaluates a second time what the running `fit` has just validated on.

    To be made when training begins: on TF 1.15 it adds to the graph then, and not later.

    Args:
        model: the model.
        arguments: `fit_arguments(model)`.
    """

    def __init__(self, model, arguments):
        self._model = model
        self._arguments = arguments
        data = arguments.get("validation_data")
        self._batches = open_dataset(data) if TF1 and isinstance(data, tf.data.Dataset) else None
        if self._batches:
            model._make_test_function()

    def __call__(self):
        """The logs of the evaluation, without 'val_'."""
        if not TF1:
            # Keras keeps the validation data from epoch to epoch under this flag, in all its versions.
            return dict(self._model.evaluate(verbose=0, return_dict=True, _use_cached_eval_dataset=True))
        values = self._evaluate_batches() if self._batches else self._evaluate_arrays()
        return dict(zip(self._model.metrics_names, values if isinstance(values, list) else [values]))

    def _evaluate_arrays(self):
        data = self._arguments["validation_data"]
        x, y, weights = (list(data) + [None, None])[:3] if isinstance(data, (tuple, list)) else (data, None, None)
        steps = self._arguments.get("validation_steps")
        # Arrays alone take a size of batches.
        batch_size = None if y is None else self._arguments.get("batch_size")
        return self._model.evaluate(x, y, sample_weight=weights, batch_size=batch_size, steps=steps, verbose=0)

    def _evaluate_batches(self):
        # evaluate() would add an iterator to the graph each time. As there, the loss is the mean over the batches, and
        # the metrics are those of all samples.
        self._model.reset_metrics()
        losses = []
        for batch in itertools.islice(self._batches(), self._arguments.get("validation_steps")):
            values = self._model.test_on_batch(*batch, reset_metrics=False)
            losses.append(values[0] if isinstance(values, list) else values)
        mean = sum(map(float, losses)) / len(losses)
        return [mean] + list(values[1:]) if isinstance(values, list) else mean


def _frames():
    """Name and local variables of the functions on the call stack, innermost first."""
    frame: Optional[types.FrameType] = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_name, frame.f_locals
        frame = frame.f_back


def _split(arguments):
    """TF 1.15 splits validation data off further inside: does the same to the arguments."""
    share = arguments.get("validation_split") or 0.0
    if not share or arguments.get("validation_data") is not None:
        return arguments
    x, y, weights = arguments["x"], arguments["y"], arguments.get("sample_weight")
    size = len(x[0] if isinstance(x, list) else next(iter(x.values())) if isinstance(x, dict) else x)
    cut = int(size * (1.0 - share))  # as Keras cuts

    def part(data, chosen):
        if isinstance(data, list):
            return [array[chosen] for array in data]
        if isinstance(data, dict):
            return {name: array[chosen] for name, array in data.items()}
        return None if data is None else data[chosen]

    first, rest = slice(0, cut), slice(cut, None)
    held_out = tuple(part(data, rest) for data in (x, y, weights))
    return dict(arguments, x=part(x, first), y=part(y, first), validation_data=held_out)
