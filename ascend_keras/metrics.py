"""Metrics that count every real sample once: over padded tails, over ranks, and beyond 2**24 samples.

A metric keeps sums, never means. Samples are counted in int64, since precision modes of a device lower floats; Keras
counts in float32, where 2**24 + 1 is 2**24. Over ranks the sums are added, then divided once: see `reduce_over_ranks`.

Evaluation pads its last batch to the static shape and gives the padding `sample_weight` 0. Keras hands weights only to
metrics in `compile(weighted_metrics=[...])`: put these metrics there.
"""

import numpy as np

from ascend_keras import compat, losses
from ascend_keras.compat import tf

_TIES = ("in", "first")


class _WholeSum:
    """A sum of weights: the whole part of each in int64, exact; what is left of each in float32, as Keras has it."""

    def __init__(self, metric, name):
        self.whole = metric.add_weight(name=name, shape=(), dtype="int64", initializer="zeros")
        self.rest = metric.add_weight(name=name + "_rest", shape=(), dtype="float32", initializer="zeros")
        self.parts = (self.whole, self.rest)

    def add(self, chosen, weights):
        """Adds the weights (float32, or None for ones) of the samples that are chosen (bool of the same shape)."""
        if weights is None:
            return [self.whole.assign_add(tf.reduce_sum(tf.cast(chosen, tf.int64)))]
        whole = tf.floor(weights)
        return [
            self.whole.assign_add(tf.reduce_sum(tf.cast(whole, tf.int64) * tf.cast(chosen, tf.int64))),
            self.rest.assign_add(tf.reduce_sum((weights - whole) * tf.cast(chosen, tf.float32))),
        ]

    def value(self):
        """The sum as float32."""
        return tf.cast(tf.convert_to_tensor(self.whole), tf.float32) + tf.convert_to_tensor(self.rest)


class _FloatSum:
    """A sum of float32 numbers in two float32 variables, the second of which keeps what the first rounds away.

    Reference: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """

    def __init__(self, metric, name):
        self.high = metric.add_weight(name=name, shape=(), dtype="float32", initializer="zeros")
        self.low = metric.add_weight(name=name + "_low", shape=(), dtype="float32", initializer="zeros")
        self.parts = (self.high, self.low)

    def add(self, number):
        """Adds a float32 scalar."""
        before = tf.identity(tf.convert_to_tensor(self.high))
        after = before + number
        added = after - before
        lost = (before - (after - added)) + (number - added)
        return [self.high.assign(after), self.low.assign_add(lost)]

    def value(self):
        """The sum as float32."""
        return tf.convert_to_tensor(self.high) + tf.convert_to_tensor(self.low)


class _Ratio(compat.Metric):
    """total / count of what was seen since the last reset, 0 before anything was; a float32 scalar."""

    def result(self):
        """total / count; 0 before anything was counted."""
        return tf.math.divide_no_nan(self._total.value(), self._count.value())

    def sums(self):
        """The variables whose sums are the total, and those whose sums are the count."""
        return self._total.parts, self._count.parts


@compat.register_in_module
class TopK(_Ratio):
    """Share of samples whose label is among the k highest scores.

    A sample is correct if fewer than k classes score higher than its label, as in `tf.nn.in_top_k`. It is wrong if its
    label is outside [0, classes), or if any of its scores is Inf or NaN. With k or fewer classes every other sample is
    correct.

    Labels: class numbers, any numeric type, shape (batch,) or (batch, 1). Predictions: logits or probabilities of any
    float type, shape (batch, classes). Weights: shape (batch,) or (batch, 1), or one for all; 0 leaves a sample out.

    Args:
        k: how many scores count.
        name: name in the logs, "top<k>" by default.
        ties: classes that score exactly as the label does. "in" ignores them, as `tf.nn.in_top_k` does: a model that
            gives all classes one score is then always right, and in float16 or bfloat16, where scores often are equal,
            accuracy is too high. "first" ranks classes of one score by their number, as argmax, `tf.math.top_k` and
            Keras' "accuracy" do.
        dtype: for Keras; the state has its own.

    Raises:
        ValueError: an argument is out of range; all problems are listed. At the call: shapes do not fit.
    """

    def __init__(self, k=5, name=None, ties="in", dtype=None):
        problems = []
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            problems.append("k must be an integer of at least 1. Received: k={!r}.".format(k))
        if ties not in _TIES:
            problems.append("ties must be 'in' or 'first'. Received: ties={!r}.".format(ties))
        if problems:
            raise ValueError("\n".join(problems))
        super().__init__(name="top{}".format(k) if name is None else name, dtype=dtype)
        self.k = k
        self.ties = ties
        self._total = _WholeSum(self, "total")
        self._count = _WholeSum(self, "count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch."""
        scores = losses.widened(y_pred)
        if scores.shape.rank not in (2, None):
            raise ValueError(
                "TopK takes predictions of shape (batch, classes). Received: shape {}.".format(scores.shape)
            )
        correct = in_top_k(losses.class_numbers(y_true, scores), scores, self.k, self.ties)
        weights = _weights_like(correct, sample_weight)
        return compat.joined(self._total.add(correct, weights) + self._count.add(tf.ones_like(correct), weights))

    def get_config(self):
        """The arguments of the constructor."""
        return dict(super().get_config(), k=self.k, ties=self.ties)


@compat.register_in_module
class Top1(TopK):
    """`TopK` with k = 1."""

    def __init__(self, name="top1", ties="in", dtype=None):
        super().__init__(k=1, name=name, ties=ties, dtype=dtype)

    def get_config(self):
        """The arguments of the constructor."""
        config = super().get_config()
        del config["k"]
        return config


@compat.register_in_module
class Mean(_Ratio):
    """Weighted mean of numbers such as the losses of samples: sum(weight * value) / sum(weight).

    Each element of the values counts as one sample. A value whose weight is 0 may be Inf or NaN; any other such value
    makes the result NaN. Totals keep about 48 bits over batches; within a batch they are summed in float32.

    Args:
        name: name in the logs.
        dtype: for Keras; the state has its own.
    """

    def __init__(self, name="mean", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._total = _FloatSum(self, "total")
        self._count = _WholeSum(self, "count")

    def update_state(self, values, sample_weight=None):
        """Adds a batch: values of any shape, weights of that shape or of its first axes, or one for all."""
        values = tf.cast(values, tf.float32)
        weights = _weights_like(values, sample_weight)
        if weights is not None:
            values = compat.where(tf.not_equal(weights, 0.0), values, tf.zeros_like(values)) * weights
        counted = self._count.add(tf.ones_like(values, dtype=tf.bool), weights)
        return compat.joined(self._total.add(tf.reduce_sum(values)) + counted)


@compat.register_in_module
class SparseCategoricalCrossentropy(Mean):
    """Mean of the cross-entropy, by default without smoothing, whatever the training loss has.

    Keras' own "loss" of an evaluation weighs each batch alike or by its padded size; this one counts real samples.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        ignore_class: a class whose samples are left out.
        axis: the class axis of the predictions.
        name: name in the logs.
        dtype: for Keras; the state has its own.
        label_smoothing: as in the loss of that name, to see the loss that is trained.

    Labels, predictions and errors: see `losses.SparseCategoricalCrossentropy`. Weights: shape of the labels, or of
    their first axes.
    """

    def __init__(
        self,
        from_logits=False,
        ignore_class=None,
        axis=-1,
        name="sparse_categorical_crossentropy",
        dtype=None,
        label_smoothing=0.0,
    ):
        super().__init__(name=name, dtype=dtype)
        self._options = dict(
            from_logits=from_logits, ignore_class=ignore_class, axis=axis, label_smoothing=label_smoothing
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds the losses of a batch."""
        values, kept = losses.sparse_losses(y_true, y_pred, **self._options)
        weights = _weights_like(values, sample_weight)
        if kept is not None:
            kept = tf.cast(kept, tf.float32)
            weights = kept if weights is None else weights * kept
        return super().update_state(values, weights)

    def get_config(self):
        """The arguments of the constructor."""
        return dict(super().get_config(), **self._options)


def in_top_k(labels, scores, k, ties="in"):
    """Which samples have their label among the k highest scores: bool of shape (batch,).

    Args:
        labels: int32 of shape (batch,).
        scores: float32 or float64 of shape (batch, classes).
        k: how many scores count.
        ties: see `TopK`.
    """
    classes = tf.range(losses.class_count(scores))
    label = tf.expand_dims(labels, -1)
    own = tf.reduce_sum(compat.where(tf.equal(classes, label), scores, tf.zeros_like(scores)), axis=-1, keepdims=True)
    ahead = scores > own
    if ties == "first":
        ahead = tf.logical_or(ahead, tf.logical_and(tf.equal(scores, own), classes < label))
    among = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=-1) < k
    finite = tf.reduce_all(tf.math.is_finite(scores), axis=-1)
    return tf.logical_and(among, tf.logical_and(finite, losses.in_range(labels, scores)))


def reduce_over_ranks(metrics, reduce):
    """The values of metrics over all ranks, exact; the metrics themselves keep their local state.

    All ranks must call this at the same point with the same metrics, since `reduce` is a collective. It is called once.

    Args:
        metrics: metrics of this module, Keras' own `Mean`, `Sum` and what is built on `Mean` (accuracies, mean errors),
            or `model.metrics`.
        reduce: a function of a float64 NumPy vector that returns its sum over all ranks, as a float64 vector.

    Returns:
        A dict of Python floats: the name of each metric in the logs, and its total / count over all ranks, divided in
        float64; 0.0 where the count is 0.

    Raises:
        ValueError: a metric has a state that cannot be added, two have the same name, or `reduce` returned another
            shape.
    """
    named = compat.named_metrics(metrics)
    states = {name: _state(metric) for name, metric in named}
    _check_states(named, states)
    vector = _local_sums(states.values())
    reduced = np.asarray(reduce(vector), dtype=np.float64)
    if reduced.shape != vector.shape:
        raise ValueError(
            "reduce must return a vector of the shape that it gets. Received: shape {} for shape {}.".format(
                reduced.shape, vector.shape
            )
        )
    sums = iter(reduced.tolist())
    return {name: _ratio([next(sums) for _ in state]) for name, state in states.items()}


def additive_sums(metrics):
    """What metrics have summed up on this rank, for those whose result is a sum or a quotient of two.

    Args:
        metrics: metrics of this module and of Keras, or `model.metrics`.

    Returns:
        A dict of lists of Python floats: for the name of each such metric in the logs [total, count], or [total] of a
        plain sum. Metrics with any other state, and those that share a name, are left out.
    """
    named = compat.named_metrics(metrics)
    names = [name for name, _ in named]
    states = {name: _state(metric) for name, metric in named if names.count(name) == 1}
    states = {name: state for name, state in states.items() if state is not None}
    sums = iter(_local_sums(states.values()).tolist())
    return {name: [next(sums) for _ in state] for name, state in states.items()}


def _state(metric):
    """The variables behind the total and, unless the metric is a plain sum, behind the count; None if not additive."""
    if isinstance(metric, _Ratio):
        return metric.sums()
    variables = compat.mean_state(metric)
    return None if variables is None else tuple((variable,) for variable in variables)


def _local_sums(states):
    """One float64 for each part of each state, in one vector."""
    parts = [part for state in states for part in state]
    values = iter(compat.get_values([variable for part in parts for variable in part]))
    return np.array([sum(float(next(values)) for _ in part) for part in parts], dtype=np.float64)


def _check_states(named, states):
    problems = ["{} ({})".format(name, type(metric).__name__) for name, metric in named if _state(metric) is None]
    if problems:
        raise ValueError(
            "The result of these metrics is not total / count, so it cannot be had from sums over ranks. Received: "
            "{}. Use ascend_keras.metrics, or a metric of Keras that is built on keras.metrics.Mean.".format(
                ", ".join(problems)
            )
        )
    names = [name for name, _ in named]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError("Metrics need names of their own. Received: {} more than once.".format(", ".join(doubled)))


def _ratio(sums):
    total, count = sums if len(sums) == 2 else (sums[0], 1.0)
    return total / count if count else 0.0


def _weights_like(values, sample_weight):
    """Weights as float32 of the shape of `values`, or None: those of the first axes hold for all that is inside."""
    if sample_weight is None:
        return None
    weights = tf.cast(sample_weight, tf.float32)
    rank, wanted = weights.shape.rank, values.shape.rank
    if rank is None or wanted is None:
        return tf.reshape(weights, tf.shape(values))
    if rank == wanted + 1:
        weights = tf.squeeze(weights, axis=-1)
    for _ in range(wanted - rank if rank else 0):
        weights = tf.expand_dims(weights, -1)
    return weights * tf.ones_like(values, dtype=tf.float32)
