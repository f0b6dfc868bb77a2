"""What a callback may want to know of the `fit` that calls it, and Keras does not tell.

Keras hands a callback the model and a few numbers. The data and the other callbacks are arguments of the `fit` further
up on the call stack, which is the one place where all four stacks have them.
"""

import itertools
import sys
import types
from typing import Optional

from ascend_keras.compat.data import open_dataset
from ascend_keras.compat.stack import KERAS3, TF1, keras, tf

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
    return list(callback_list(callback) or [])


def callback_list(callback):
    """The list, itself, in which the running `fit` keeps its callbacks; None outside of it."""
    for _, variables in _frames():
        callbacks = getattr(variables.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and any(other is callback for other in callbacks):
            return callbacks
    return None


def is_callback_of_keras(callback, name, exactly=False):
    """Whether a callback is of the class of Keras with this name, or derives from it; False where Keras has none.

    Args:
        callback: the callback.
        name: name of the class.
        exactly: whether a class that derives from it does not count.
    """
    for rooms in (keras.callbacks, getattr(keras.callbacks, "experimental", None)):
        cls = getattr(rooms, name, None)
        if cls is not None:
            return type(callback) is cls if exactly else isinstance(callback, cls)
    return False


def put_before_progress_bar(callback):
    """Lets the progress bar of the running `fit` or `evaluate` see the logs after a callback that changes them.

    To be called by an event of that callback. Only Keras 2 puts its bar in front of the callbacks that it is given.
    """
    callbacks = callback_list(callback) or []
    place = next((index for index, other in enumerate(callbacks) if other is callback), 0)
    bars = [other for other in callbacks[:place] if isinstance(other, keras.callbacks.ProgbarLogger)]
    if bars:
        # In place, and all in front of the running loop over the list, so that it leaves none out and takes none twice.
        rest = [other for other in callbacks[:place] if not isinstance(other, keras.callbacks.ProgbarLogger)]
        callbacks[: place + 1] = rest + [callback] + bars


def evaluation_logs(model, logs):
    """What an evaluation that ends just now has found on this rank; to be called from `on_test_end`.

    Args:
        model: the model.
        logs: what `on_test_end` got, which is None on TF 1.15.

    Returns:
        A dict of the logs, and what Keras divides the sum of the losses by where it is no metric (TF 1.15): samples for
        arrays, steps for all else; None elsewhere.
    """
    if not TF1:
        return dict(logs or {}), None
    for name, variables in _frames():
        aggregator = variables.get("aggregator")
        if name == "model_iteration" and getattr(aggregator, "results", None):
            weight = aggregator.num_samples or aggregator.steps
            return dict(zip(model.metrics_names, aggregator.results)), float(weight)
    return {}, None


def flat_evaluation(model, logs):
    """The logs of an evaluation in the form in which `model.evaluate` returns them: a list, or its only entry."""
    if KERAS3:
        return model._flatten_metrics_in_order(logs)
    names = list(model.metrics_names)
    values = [logs[name] for name in names if name in logs]
    values += [logs[name] for name in sorted(logs) if name not in names]
    return values[0] if len(values) == 1 else values


class SecondEvaluation:
    """Evaluates a second time what the running `fit` has just validated on.

    To be made when training begins: on TF 1.15 it adds to the graph then, and not later.

    Args:
        model: the model.
        arguments: `fit_arguments(model)`.

    Attributes: `weight`, of the last evaluation: see `evaluation_logs`.
    """

    def __init__(self, model, arguments):
        self.weight = None
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
        stopped = self._model.stop_training
        values = self._evaluate_batches() if self._batches else self._evaluate_arrays()
        self._model.stop_training = stopped  # which TF 1.15 forgets when an evaluation begins
        return dict(zip(self._model.metrics_names, values if isinstance(values, list) else [values]))

    def _evaluate_arrays(self):
        data = self._arguments["validation_data"]
        x, y, weights = (list(data) + [None, None])[:3] if isinstance(data, (tuple, list)) else (data, None, None)
        steps = self._arguments.get("validation_steps")
        # Arrays alone take a size of batches.
        batch_size = None if y is None else self._arguments.get("batch_size")
        in_steps = y is None or steps
        self.weight = float(steps or len(x) if in_steps else len(tf.nest.flatten(x)[0]))
        return self._model.evaluate(x, y, sample_weight=weights, batch_size=batch_size, steps=steps, verbose=0)

    def _evaluate_batches(self):
        # evaluate() would add an iterator to the graph each time. As there, the loss is the mean over the batches, and
        # the metrics are those of all samples.
        self._model.reset_metrics()
        losses = []
        for batch in itertools.islice(self._batches(), self._arguments.get("validation_steps")):
            values = self._model.test_on_batch(*batch, reset_metrics=False)
            losses.append(values[0] if isinstance(values, list) else values)
        self.weight = float(len(losses))
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
