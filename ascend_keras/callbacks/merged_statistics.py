"""What layers gather while they train, batch normalization above all, made one over the ranks."""

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.batch_norm import batch_norm_layers
from ascend_keras.compat import tf
from ascend_keras.log import logger

# Named already, in this process.
_NAMED = set()


class MergedStatistics:
    """The state of a model that every rank gathers from its own part of the data: no gradient keeps it equal.

    Batch normalization, for the moving mean m_r and variance v_r of rank r of n, by the law of total variance:

        mean = sum_r(m_r) / n
        variance = sum_r(v_r) / n + sum_r(m_r^2) / n - mean^2

    in float64, rounded once. This is the moving mean that one rank would have that saw all batches of a step as one.
    The variance differs from that rank's in this: it has the spread of the moving means between the ranks, where that
    rank averages the spread of the batch means.

    Other state in floating point that layers keep (exponential averages, renormalization, vectors of a power iteration)
    is averaged; integers, such as counters, are left alone. Both are named once in the log. Weights of frozen layers do
    not change and are not sent, nor are the states of metrics and of random numbers.

    Args:
        model: a model that has its weights.
    """

    def __init__(self, model):
        pairs = {id(layer): (layer.moving_mean, layer.moving_variance) for layer in batch_norm_layers(model)}
        self._means = [mean for mean, _ in pairs.values()]
        self._variances = [variance for _, variance in pairs.values()]
        known = {id(v) for v in self._means + self._variances}
        rest = [v for v in compat.layer_state(model) if id(v) not in known]
        self._others = [v for v in rest if tf.as_dtype(v.dtype).is_floating]
        _name_once("averaged over the ranks", self._others)
        _name_once("left as each rank has it", [v for v in rest if not tf.as_dtype(v.dtype).is_floating])

    @property
    def variables(self):
        """All that is merged."""
        return self._means + self._variances + self._others

    @property
    def length(self):
        """How many numbers go over the ranks; 0 if there is nothing to merge, and no collective then."""
        if not self.variables:
            return 0
        return 1 + sum(_size(v) for v in self.variables) + sum(_size(v) for v in self._means)

    def prepare(self, reduce=None):
        """Builds what it needs, for TF 1.15, where the first assignment and the first sum add to the graph.

        Args:
            reduce: as for `merge`; with `prepare(length)`, that is called.
        """
        if self.variables and hasattr(reduce, "prepare"):
            reduce.prepare(self.length)
        if self.variables and compat.TF1:
            compat.set_values(self.variables, compat.get_values(self.variables))

    def merge(self, reduce):
        """Gives all ranks the same statistics, by one sum over the ranks; none where there is nothing to merge.

        Args:
            reduce: a function that returns the sum of a float64 vector over the ranks.
        """
        if not self.variables:
            return
        values = [np.asarray(value, np.float64).ravel() for value in compat.get_values(self.variables)]
        self._assign(merge_arrays(values, len(self._means), reduce))

    def _assign(self, arrays):
        shaped = [
            array.reshape([int(size) for size in v.shape]).astype(tf.as_dtype(v.dtype).as_numpy_dtype)
            for v, array in zip(self.variables, arrays)
        ]
        compat.set_values(self.variables, shaped)


def merge_arrays(values, count, reduce):
    """Merges the arrays of all ranks, as `MergedStatistics` says, by one sum over the ranks.

    Args:
        values: float64 vectors: `count` moving means, as many moving variances, and others, which are averaged.
        count: how many means there are.
        reduce: a function that returns the sum of a float64 vector over the ranks.

    Returns:
        A list of float64 vectors like `values`.
    """
    squares = [value**2 for value in values[:count]]
    sums = np.asarray(reduce(np.concatenate([[1.0]] + values + squares)), np.float64)
    with np.errstate(invalid="ignore"):
        parts = np.cumsum([len(part) for part in values + squares])[:-1]
        merged = np.split(sums[1:] / sums[0], parts)
        for index in range(count):
            between = merged[len(values) + index] - merged[index] ** 2
            merged[count + index] = merged[count + index] + np.maximum(between, 0.0)
    return merged[: len(values)]


def _size(variable):
    return int(np.prod([int(size) for size in variable.shape]))


def _name_once(what, variables):
    new = [compat.weight_path(v) for v in variables if (what, compat.weight_path(v)) not in _NAMED]
    _NAMED.update((what, name) for name in new)
    if new:
        logger.info("state that layers keep, %s at the end of each epoch: %s", what, ", ".join(new))
