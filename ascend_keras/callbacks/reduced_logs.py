"""Logs of a training and of an evaluation, turned from those of one rank into those of all."""

import numpy as np

from ascend_keras import metrics
from ascend_keras.callbacks.rank_exchange import add_over_ranks
from ascend_keras.log import logger

# Named already, in this process.
_NAMED = set()


def reduce_evaluation(model, logs, add, weight=None):
    """The logs of an evaluation over all ranks, from the states in which the metrics of `model` are just then.

    A metric that sums up (means, accuracies, sums, all of `ascend_keras.metrics`, and the loss but on TF 1.15) is
    exact: the totals and the counts of all ranks are added, then divided once. The loss of TF 1.15 is the mean weighted
    by what Keras itself weighs by: samples for arrays, else steps. Any other metric, such as AUC, is the mean over the
    ranks weighted by samples, which is not what one rank would find; that is said once. The states stay as they are.

    Args:
        model: the model.
        logs: what this rank has found: numbers by name, without "val_".
        add: a function of names and values that returns the sums of the values over the ranks, such as `Exchange.add`;
            it is called once.
        weight: TF 1.15: samples or steps of this rank; see `compat.evaluation_logs`.

    Returns:
        A dict of Python floats with the names of `logs`, the same bits on all ranks.
    """
    numbers = scalars(logs)
    sums = {name: parts for name, parts in metrics.additive_sums(model.metrics).items() if name in numbers}
    samples = sums["loss"][1] if len(sums.get("loss", ())) == 2 else 1.0 if weight is None else weight
    others = sorted(set(numbers) - set(sums))
    _say_inexact([name for name in others if name != "loss"])
    sums.update((name, [numbers[name] * samples if samples else 0.0, samples]) for name in others)
    parts = [(name, part) for name in sorted(sums) for part in range(len(sums[name]))]
    names = ["{} {}".format(name, ("total", "count")[part]) for name, part in parts]
    totals = iter(add(names, [sums[name][part] for name, part in parts]))
    reduced = {name: _ratio([float(next(totals)) for _ in sums[name]]) for name in sorted(sums)}
    return {name: reduced[name] for name in numbers}


def reduce_training(logs, exchange):
    """The mean over the ranks of the logs of an epoch: all ranks have trained on as many samples.

    Args:
        logs: numbers by name.
        exchange: an `Exchange`.

    Returns:
        A dict of Python floats, the same bits on all ranks; without what is no single number.

    Raises:
        ValueError: the ranks do not have the same names; on all of them.
    """
    numbers = scalars(logs)
    names = sorted(numbers)
    rows = exchange.gather("logs of the epoch", names, [numbers[name] for name in names])
    return dict(zip(names, (add_over_ranks(rows) / len(rows)).tolist()))


def scalars(logs):
    """The entries of logs that are one number each, as Python floats."""
    arrays = {name: np.asarray(value) for name, value in (logs or {}).items() if value is not None}
    return {name: float(a.ravel()[0]) for name, a in arrays.items() if a.size == 1 and a.dtype.kind in "biuf"}


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
