"""What Keras does around a loss, and the state that its metrics keep."""

import functools
import types

from ascend_keras.compat.stack import KERAS3, TF1, TF_VERSION, keras, tf

# From Keras 2.10 on, a loss leaves out of its mean what the mask on the per-sample losses says.
_READS_MASK = KERAS3 or TF_VERSION >= (2, 10)

# The `where` that broadcasts; `tf.where` of TF 1.15 does not.
where = tf.compat.v2.where if TF1 else tf.where


def leave_out(losses, kept, mean):
    """Makes the reduction of a Keras loss leave samples out, which is to say out of the count of its mean.

    Args:
        losses: per-sample losses, zero where they are left out.
        kept: bool, of the same shape; may be False everywhere, which makes the mean zero.
        mean: whether the loss takes the mean of `losses`, not the sum and not nothing.

    Returns:
        The tensor that `call` of the loss has to return.
    """
    if _READS_MASK:
        # Keras 2 divides by the number of those that are kept; with none, any mask gives the mean of zeros.
        losses._keras_mask = tf.logical_or(kept, tf.logical_not(tf.reduce_any(kept)))
        return losses
    if not mean:
        return losses
    kept = tf.cast(kept, losses.dtype)
    return losses * (tf.cast(tf.size(kept), losses.dtype) / tf.maximum(tf.reduce_sum(kept), 1.0))


def softmax_logits(outputs):
    """The logits from which a softmax made `outputs`, where Keras or the graph still has them; None elsewhere."""
    logits = getattr(outputs, "_keras_logits", None)
    if logits is not None:
        return logits
    operation = getattr(outputs, "op", None)
    return operation.inputs[0] if operation is not None and operation.type == "Softmax" else None


class Metric(keras.metrics.Metric):
    """Base of metrics whose `update_state` returns `joined(...)` of its assignments.

    On TF 1.15 Keras would make a function of `update_state`, and so a function call of each update in the graph, which
    no list of what an NPU runs has.
    """

    def __new__(cls, *args, **kwargs):
        metric = super().__new__(cls)
        if TF1:
            from tensorflow.python.keras.utils import metrics_utils

            plain = metrics_utils.update_state_wrapper(functools.partial(cls.update_state, metric))
            metric.update_state = types.MethodType(plain, metric)
        return metric


def joined(assignments):
    """What an `update_state` returns: on TF 1.15 one operation, None elsewhere."""
    return tf.group(assignments) if TF1 else None


def named_metrics(metrics):
    """(name in the logs, metric) of a list such as `model.metrics`, in which Keras 3 hides some inside others.

    Those that Keras 3 has not built yet are missing.
    """
    found = []
    for metric in metrics:
        inside = getattr(metric, "metrics", None) if KERAS3 else None
        if inside is None:
            found.append((metric.name, metric))
        elif inside:
            found.extend(zip(metric.result(), inside))
    return found


def output_losses(model):
    """Names in the logs of the losses of single outputs whose counts may be batches: none but on Keras 3.

    There the count is the samples where the size of a batch is known to the graph, else the batches.
    """
    compiled = getattr(model, "_compile_loss", None) if KERAS3 else None
    return [metric.name for metric in compiled.metrics] if compiled is not None else []


def mean_state(metric):
    """The variables (total, count) of a Keras metric whose result is total / count, (total,) of a sum, else None."""
    for kind, names in ((keras.metrics.Mean, ("total", "count")), (keras.metrics.Sum, ("total",))):
        if isinstance(metric, kind) and type(metric).result is kind.result:
            return tuple(getattr(metric, name) for name in names)
    return None
