"""Cross-entropies with label smoothing, one rule on every stack.

With logits z over K classes, the label y and the smoothing e, the loss of a sample is

    (1 - e) * (logsumexp(z) - z[y]) + e * (logsumexp(z) - mean(z))

which is the cross-entropy against a target of 1 - e + e / K for the label and e / K for each other class, without ever
making that target. Both losses compute in float32 (float64 logits: in float64) and return that dtype, whatever the
dtype of the logits: in float16 a sum over a batch overflows at 65504.

Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, section 7.
"""

import math
import numbers
import warnings

from ascend_keras import compat
from ascend_keras.compat import keras, tf

_FORMS = ("all", "others")


@compat.register_in_module
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy between class numbers and logits or probabilities.

    Without smoothing it is Keras' own loss of that name, with `ignore_class` and `axis` on stacks where Keras has
    neither. `ascend_keras.losses` describes the smoothing and the dtypes.

    Labels: integers in [0, K) of any type, or floats that hold such, of the shape of the predictions without the class
    axis, or with an axis of one in its place. A label outside [0, K) is an error on a CPU; on any other device the loss
    of that sample becomes Inf or NaN. TF 1.15 hands labels on in the dtype of the model's output: end a float16 model
    with more than 2048 classes in float32.

    Predictions: ranks 2 and above. Probabilities that a softmax made are taken back to its logits where Keras still has
    them, others are clipped to [epsilon, 1 - epsilon] and scaled to a sum of one, as in Keras: their loss cannot exceed
    16.1, so train on logits.

    Args:
        from_logits: whether predictions are logits, not probabilities.
        ignore_class: a class, often -1 or 255, whose samples count in nothing: their loss is zero, smoothing included,
            and the mean is over the other samples: sum(weight * loss) / samples kept; zero with none kept.
        label_smoothing: the probability mass taken from the label, in [0, 1].
        smoothing_over: who gets that mass: "all" classes, the label among them (TensorFlow, Keras; off = e / K), or
            the "others" (MindSpore's models; on = 1 - e, off = e / (K - 1)).
        axis: the class axis of the predictions.
        reduction: "sum_over_batch_size", "sum", "none", or what else the Keras at hand knows.
        name: name of the loss.

    Raises:
        ValueError: an argument is out of range; all problems are listed. At the call: shapes do not fit.
    """

    def __init__(
        self,
        from_logits=False,
        *,
        ignore_class=None,
        label_smoothing=0.0,
        smoothing_over="all",
        axis=-1,
        reduction="sum_over_batch_size",
        name="sparse_categorical_crossentropy",
    ):
        _check(label_smoothing, smoothing_over, axis, ignore_class)
        super().__init__(from_logits=from_logits, reduction=_reduction(reduction), name=name)
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.label_smoothing = float(label_smoothing)
        self._options = dict(
            from_logits=from_logits, axis=axis, label_smoothing=self.label_smoothing, smoothing_over=smoothing_over
        )

    def call(self, y_true, y_pred):
        """Losses of the samples, of the shape of the predictions without the class axis, for Keras to reduce."""
        losses, kept = sparse_losses(y_true, y_pred, ignore_class=self.ignore_class, **self._options)
        if kept is None:
            return losses
        return compat.leave_out(losses, kept, mean=self.reduction in ("auto", "sum_over_batch_size"))

    def get_config(self):
        """The arguments of the constructor."""
        return dict(self._options, ignore_class=self.ignore_class, reduction=self.reduction, name=self.name)


@compat.register_in_module
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Cross-entropy between one-hot (or soft) labels and logits or probabilities.

    As Keras' own where that is right. TF 1.15 divides the smoothing by the length of axis 1, which is not the number of
    classes from rank 3 on; TF 1.15 and 2.6 fail on float16 logits with smoothing.

    Labels: any numeric type, of the shape of the predictions. Probabilities are scaled to a sum of one and clipped to
    [epsilon, 1 - epsilon], as in Keras, unless the logits of their softmax are found.

    Args, except `ignore_class`, and errors: as `SparseCategoricalCrossentropy`. Soft labels t become
    (1 - e) * t + e / K, with "others" (1 - e) * t + (1 - t) * e / (K - 1).
    """

    def __init__(
        self,
        from_logits=False,
        *,
        label_smoothing=0.0,
        smoothing_over="all",
        axis=-1,
        reduction="sum_over_batch_size",
        name="categorical_crossentropy",
    ):
        _check(label_smoothing, smoothing_over, axis)
        super().__init__(from_logits=from_logits, reduction=_reduction(reduction), name=name)
        self.label_smoothing = float(label_smoothing)
        self._options = dict(
            from_logits=from_logits, axis=axis, label_smoothing=self.label_smoothing, smoothing_over=smoothing_over
        )

    def call(self, y_true, y_pred):
        """Losses of the samples, of the shape of the predictions without the class axis."""
        return categorical_crossentropy(y_true, y_pred, **self._options)

    def get_config(self):
        """The arguments of the constructor."""
        return dict(self._options, reduction=self.reduction, name=self.name)


def sparse_categorical_crossentropy(y_true, y_pred, from_logits=False, **options):
    """Losses of the samples as `SparseCategoricalCrossentropy` has them before their reduction.

    Args:
        y_true: labels.
        y_pred: predictions.
        from_logits: whether predictions are logits, not probabilities.
        **options: `ignore_class`, `axis`, `label_smoothing`, `smoothing_over` of the class.

    Returns:
        float32 (float64 for float64 predictions), the shape of the predictions without the class axis.
    """
    return sparse_losses(y_true, y_pred, from_logits, **options)[0]


def sparse_losses(
    y_true, y_pred, from_logits=False, ignore_class=None, axis=-1, label_smoothing=0.0, smoothing_over="all"
):
    """`sparse_categorical_crossentropy`, and which samples `ignore_class` keeps: bool of that shape, None for all."""
    _check(label_smoothing, smoothing_over, axis, ignore_class)
    scores, are_logits = _scores(y_pred, from_logits, axis)
    if not are_logits:
        scores = tf.math.log(_clip(scores))
    labels = class_numbers(y_true, scores, axis)
    kept = None if ignore_class is None else tf.not_equal(labels, ignore_class)
    if kept is not None:
        # Also where logits are not finite, neither loss nor gradient of what is ignored may be felt.
        labels = labels * tf.cast(kept, labels.dtype)
        scores = compat.where(tf.expand_dims(kept, -1), scores, tf.zeros_like(scores))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
    if label_smoothing:
        share = _share(label_smoothing, smoothing_over, scores)
        losses = (1.0 - share) * losses - share * tf.reduce_mean(tf.nn.log_softmax(scores), axis=-1)
    # Exact for a label in range. Out of range, where no error is raised, the result must not look like a loss.
    losses = losses / tf.cast(in_range(labels, scores), losses.dtype)
    return (losses if kept is None else losses * tf.cast(kept, losses.dtype)), kept


def categorical_crossentropy(y_true, y_pred, from_logits=False, *, axis=-1, label_smoothing=0.0, smoothing_over="all"):
    """Losses of the samples as `CategoricalCrossentropy` has them before their reduction.

    Returns:
        float32 (float64 for float64 predictions), the shape of the predictions without the class axis.
    """
    _check(label_smoothing, smoothing_over, axis)
    scores, are_logits = _scores(y_pred, from_logits, axis)
    if are_logits:
        log_probabilities = tf.nn.log_softmax(scores)
    else:
        log_probabilities = tf.math.log(_clip(scores / tf.reduce_sum(scores, axis=-1, keepdims=True)))
    targets = _same_shape(_last(tf.cast(y_true, scores.dtype), axis), scores)
    losses = -tf.reduce_sum(targets * log_probabilities, axis=-1)
    if not label_smoothing:
        return losses
    share = _share(label_smoothing, smoothing_over, scores)
    return (1.0 - share) * losses - share * tf.reduce_mean(log_probabilities, axis=-1)


def smoothing_floor(label_smoothing, classes, smoothing_over="all"):
    """The smallest loss that smoothed labels allow, in nats: the entropy of the smoothed label.

    A reported training loss cannot fall below it, and a network that reaches it is perfect. Compare runs of different
    smoothing by `loss - smoothing_floor(...)`, and validate without smoothing.

    Args:
        label_smoothing: as the loss has it.
        classes: number of classes, at least 2.
        smoothing_over: as the loss has it.

    Raises:
        ValueError: an argument is out of range; all problems are listed.
    """
    _check(label_smoothing, smoothing_over, classes=classes)
    share = label_smoothing if smoothing_over == "all" else label_smoothing * classes / (classes - 1)
    off = share / classes
    on = 1.0 - off * (classes - 1)
    return -sum(times * mass * math.log(mass) for times, mass in ((1, on), (classes - 1, off)) if mass > 0.0)


def class_numbers(y_true, scores, axis=-1):
    """Labels as int32 of the shape of `scores`, whose last axis are the classes, without that axis.

    Raises:
        ValueError: the ranks do not fit.
    """
    labels = tf.cast(y_true, tf.int32)
    rank, expected = labels.shape.rank, scores.shape.rank
    if rank is None or expected is None:
        return tf.reshape(labels, tf.shape(scores)[:-1])
    if rank == expected - 1:
        return labels
    sizes = labels.shape.as_list()
    for wanted in (1, None) if rank == expected else ():
        for place in (axis, -1):
            if sizes[place] == wanted:
                return tf.squeeze(labels, axis=place)
    raise ValueError(
        "Labels must be class numbers, of the shape of the predictions without the class axis, or with an axis of one "
        "in its place. Received: labels of shape {}, predictions of shape {} (classes last). One-hot labels belong to "
        "CategoricalCrossentropy.".format(labels.shape, scores.shape)
    )


def in_range(labels, scores):
    """Which int32 `labels` name one of the classes that are the last axis of `scores`; bool."""
    return tf.logical_and(labels >= 0, labels < class_count(scores))


def class_count(scores):
    """Length of the last axis: an int where it is known, else an int32 tensor."""
    sizes = scores.shape.as_list() if scores.shape.rank is not None else [None]
    return tf.shape(scores)[-1] if sizes[-1] is None else sizes[-1]


def widened(tensor):
    """`tensor` as float32, or float64 if it is that."""
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def _scores(y_pred, from_logits, axis):
    """Predictions as float32 or float64 with the classes last, and whether they are logits."""
    logits = compat.softmax_logits(y_pred)
    if logits is None:
        return _last(widened(y_pred), axis), from_logits
    if from_logits:
        warnings.warn(
            "The loss has from_logits=True, but its input comes from a softmax. The logits before that softmax are "
            "used. Leave the softmax out of the model, or give the loss from_logits=False."
        )
    return _last(widened(logits), axis), True


def _last(tensor, axis):
    """`tensor` with `axis` moved to the end."""
    rank = tensor.shape.rank
    if axis == -1 or (rank is not None and axis == rank - 1):
        return tensor
    if rank is None or not -rank <= axis < rank:
        raise ValueError("axis must name an axis. Received: axis={}, a tensor of rank {}.".format(axis, rank))
    order = [place for place in range(rank) if place != axis % rank] + [axis % rank]
    return tf.transpose(tensor, order)


def _same_shape(targets, scores):
    """One-hot targets, of which nothing is broadcast to fit."""
    wanted, present = scores.shape, targets.shape
    if not wanted.is_compatible_with(present):
        raise ValueError(
            "Labels must be one-hot, of the shape of the predictions. Received: labels of shape {}, predictions of "
            "shape {} (classes last). Class numbers belong to SparseCategoricalCrossentropy.".format(present, wanted)
        )
    known = wanted.is_fully_defined() and present.is_fully_defined()
    return targets if known else tf.reshape(targets, tf.shape(scores))


def _clip(probabilities):
    epsilon = keras.backend.epsilon()
    return tf.clip_by_value(probabilities, epsilon, 1.0 - epsilon)


def _share(label_smoothing, smoothing_over, scores):
    """The e of the formula that spreads the smoothing over all classes."""
    if smoothing_over == "all":
        return label_smoothing
    classes = class_count(scores)
    if not tf.is_tensor(classes):
        _check(label_smoothing, smoothing_over, classes=classes)
        return label_smoothing * classes / (classes - 1)
    classes = tf.cast(classes, scores.dtype)
    return label_smoothing * classes / (classes - 1.0)


def _reduction(reduction):
    return "none" if reduction is None else reduction  # Keras 2 has no None


def _check(label_smoothing, smoothing_over, axis=-1, ignore_class=None, classes=2):
    problems = []
    if not isinstance(label_smoothing, numbers.Real) or not 0.0 <= float(label_smoothing) <= 1.0:
        problems.append(
            "label_smoothing must be a number in [0, 1]. Received: label_smoothing={!r}.".format(label_smoothing)
        )
    if smoothing_over not in _FORMS:
        problems.append(
            "smoothing_over must be 'all' or 'others'. Received: smoothing_over={!r}.".format(smoothing_over)
        )
    for name, value in (("axis", axis), ("ignore_class", -1 if ignore_class is None else ignore_class)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            problems.append("{0} must be an integer. Received: {0}={1!r}.".format(name, value))
    if classes < 2:
        problems.append("Smoothing needs at least 2 classes. Received: classes={!r}.".format(classes))
    if problems:
        raise ValueError("\n".join(problems))
