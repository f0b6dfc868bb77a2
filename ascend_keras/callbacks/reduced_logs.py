"""Logs of a training and of an evaluation, turned from those of one rank into those of all."""

import numpy as np

from ascend_keras import compat, metrics
from ascend_keras.callbacks.rank_exchange import add_over_ranks
from ascend_keras.log import logger

# Named already, in this process.
_NAMED = set()


def reduce_evaluation(model, logs, add, weight=None):
    """The logs of an evaluation over all ranks, from the states in which the metrics of `model` are just then.

    A metric that sums up (means, accuracies, sums, all of `ascend_keras.metrics`, and the loss but on TF 1.15) is
    exact: the totals and the counts of all ranks are added, then divided once. The loss of TF 1.15 is the mean weighted
    by what Keras itself weighs by: samples for arrays, else steps. Any other metric, such as AUC, is the mean over the
    ranks weighted by samples, which is not what one rank would find; that is said once. So is one that is no single
    number, such as F1Score: element by element, in its shape. And so are the losses of single outputs on Keras 3, where
    their counts are batches. The states stay as they are.

    Args:
        model: the model.
        logs: what this rank has found: numbers and arrays by name, without "val_".
        add: a function of names and values that returns the sums of the values over the ranks, such as `Exchange.add`;
            it is called once.
        weight: TF 1.15: samples or steps of this rank; see `compat.evaluation_logs`.

    Returns:
        A dict with the names of `logs`, of Python floats and of arrays where there were some, the same bits on all
        ranks.
    """
    arrays = numeric(logs)
    numbers = _flat(arrays)
    known = metrics.additive_sums(model.metrics)
    samples = known["loss"][1] if len(known.get("loss", ())) == 2 else 1.0 if weight is None else weight
    uneven = {name for name in compat.output_losses(model) if known.get(name, (0.0, samples))[1] != samples}
    sums = {(name, 0): parts for name, parts in known.items() if (name, 0) in numbers and name not in uneven}
    sums = {key: parts for key, parts in sums.items() if arrays[key[0]].ndim == 0}
    others = sorted(set(numbers) - set(sums))
    _say_inexact(sorted({name for name, _ in others if name != "loss"}))
    sums.update((key, [numbers[key] * samples if samples else 0.0, samples]) for key in others)
    parts = [(key, part) for key in sorted(sums) for part in range(len(sums[key]))]
    names = ["{} {}".format(_word(key, arrays), ("total", "count")[part]) for key, part in parts]
    totals = iter(add(names, [sums[key][part] for key, part in parts]))
    reduced = {key: _ratio([float(next(totals)) for _ in sums[key]]) for key in sorted(sums)}
    return _shaped(reduced, arrays)


def reduce_training(logs, exchange):
    """The mean over the ranks of the logs of an epoch: all ranks have trained on as many samples.

    Args:
        logs: numbers and arrays by name.
        exchange: an `Exchange`.

    Returns:
        A dict of Python floats, and of arrays where there were some, the same bits on all ranks.

    Raises:
        ValueError: the ranks do not have the same names; on all of them.
    """
    arrays = numeric(logs)
    numbers = _flat(arrays)
    keys = sorted(numbers)
    rows = exchange.gather("logs of the epoch", [_word(key, arrays) for key in keys], [numbers[key] for key in keys])
    return _shaped(dict(zip(keys, (add_over_ranks(rows) / len(rows)).tolist())), arrays)


def numeric(logs):
    """The entries of logs that are numbers, as arrays."""
    arrays = {name: np.asarray(value) for name, value in (logs or {}).items() if value is not None}
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}


def _flat(arrays):
    return {(name, at): value for name, a in arrays.items() for at, value in enumerate(a.astype(np.float64).flat)}


def _word(key, arrays):
    name, at = key
    return name if arrays[name].ndim == 0 else "{}[{}]".format(name, at)


def _shaped(numbers, arrays):
    shaped = {}
    for name, array in arrays.items():
        values = [float(numbers[name, at]) for at in range(array.size)]
        dtype = array.dtype if array.dtype.kind == "f" else np.float64
        shaped[name] = np.array(values, dtype).reshape(array.shape) if array.ndim else values[0]
    return shaped


def _ratio(sums):
    total, count = sums if len(sums) == 2 else (sums[0], 1.0)
    return total / count if count else 0.0


def _say_inexact(names):
    new = [name for name in names if name not in _NAMED]
    _NAMED.update(new)
    if new:
        logger.info(
            "%s: the mean over the ranks, weighted by samples, which is not what one rank would find. A metric of "
            "ascend_keras.metrics, or one that is built on keras.metrics.Mean, is exact.",
            ", ".join(new),
        )
