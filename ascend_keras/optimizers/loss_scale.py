"""Loss scaling, one rule on every stack: scale the loss, unscale the gradients, test them, apply or skip.

A skipped step leaves the weights and the optimizer's slots alone, advances `optimizer.iterations` (so that a schedule
sees the same step on every stack) and is counted. The dynamic scale halves on a skip, never below 1, and doubles after
`GROWTH_STEPS` good steps in a row. A fixed scale skips bad steps too and stays as it is.

TF 2 brings a LossScaleOptimizer, whose class is kept: a saved model then loads anywhere. What it lacks (the count, the
fixed scale that skips, and on Keras 3 the floor and the advancing step) is added to the one instance. TF 1.15 brings
none that can be saved; `loss_scale_tf1` has ours.

Reference: Micikevicius et al., Mixed Precision Training, 2018, section 3.2.
"""

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.optimizers.loss_scale_rule import GROWTH_STEPS, INITIAL_SCALE, check_loss_scale

# A fixed scale is a dynamic one that does not shrink, and grows after more good steps in a row than any run has.
_NEVER = 2**31 - 1

_COUNTER = "_ascend_keras_skipped_steps"


def scale_loss(optimizer, loss_scale, *, factory=None, float_status=None):
    """Returns `optimizer` with loss scaling around it.

    Args:
        optimizer: a Keras optimizer. One that scales the loss already is kept and adjusted; wrapping twice is a no-op.
        loss_scale: None (no scaling), "dynamic", or a number >= 1 that stays fixed.
        factory: TF 2 only: a class to use for Keras' LossScaleOptimizer, such as the adapter's.
        float_status: a `FloatStatus` for a TF 1.15 device in saturation mode; without it gradients are tested for
            Inf and NaN.

    Raises:
        ValueError: `loss_scale` is none of these.
    """
    problem = check_loss_scale(loss_scale)
    if problem or loss_scale == "auto":
        raise ValueError(problem or "loss_scale='auto' has to be decided before scale_loss is called.")
    if loss_scale is None:
        return optimizer
    fixed = None if loss_scale == "dynamic" else float(loss_scale)
    if compat.TF1:
        from ascend_keras.optimizers import loss_scale_tf1

        return loss_scale_tf1.wrap(optimizer, fixed, float_status)
    if not is_loss_scaled(optimizer):
        optimizer = _stock(optimizer, fixed, factory)
    if _COUNTER not in vars(optimizer):
        _extend(optimizer, fixed)
    return optimizer


def is_loss_scaled(optimizer):
    """Whether `optimizer` scales the loss already."""
    if compat.TF1:
        from ascend_keras.optimizers import loss_scale_tf1

        return isinstance(optimizer, loss_scale_tf1.LossScaleOptimizer)
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)


def unscaled(optimizer):
    """`optimizer` so that Keras adds no loss scaling of its own under a mixed_float16 policy: a scale of one."""
    if compat.TF1 or compat.KERAS3 or is_loss_scaled(optimizer):
        return optimizer
    return keras.mixed_precision.LossScaleOptimizer(optimizer, dynamic=False, initial_scale=1.0)


def skipped_steps(optimizer):
    """How many steps were skipped for an overflow since compile; 0 where nothing scales the loss."""
    counter = _variable(optimizer, _COUNTER, "skipped_steps")
    return 0 if counter is None else int(compat.get_values([counter])[0])


def current_loss_scale(optimizer):
    """The scale of the next step as a float; None where nothing scales the loss."""
    if not is_loss_scaled(optimizer):
        return None
    if compat.KERAS3:
        return float(optimizer.dynamic_scale) if optimizer.built else float(optimizer.initial_scale)
    if compat.TF1:
        return float(compat.get_values([optimizer.scale])[0])
    return float(optimizer.loss_scale)


def _variable(optimizer, tf2_name, tf1_name):
    if not is_loss_scaled(optimizer):
        return None
    return getattr(optimizer, tf1_name) if compat.TF1 else vars(optimizer).get(tf2_name)


def _stock(optimizer, fixed, factory):
    factory = factory or keras.mixed_precision.LossScaleOptimizer
    return factory(
        optimizer,
        initial_scale=INITIAL_SCALE if fixed is None else fixed,
        dynamic_growth_steps=GROWTH_STEPS if fixed is None else _NEVER,
    )


def _extend(optimizer, fixed):
    """Adds the count of skipped steps, and what a fixed scale needs, to one LossScaleOptimizer of TF 2."""
    skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped_steps")
    # Past __setattr__, so that Keras neither tracks nor saves the counter: the file stays that of the stock class.
    vars(optimizer)[_COUNTER] = skipped
    if compat.KERAS3:
        _extend_keras3(optimizer, fixed, skipped)
    else:
        _extend_keras2(optimizer, fixed, skipped)


def _extend_keras2(optimizer, fixed, skipped):
    apply_gradients = optimizer.apply_gradients

    def counting_apply_gradients(*args, **kwargs):
        before = tf.identity(optimizer.loss_scale)
        result = apply_gradients(*args, **kwargs)
        # The counter of good steps returns to zero when the scale grows and when a step is skipped.
        skip = tf.logical_and(tf.equal(optimizer.dynamic_counter, 0), optimizer.loss_scale <= before)
        skipped.assign_add(tf.cast(skip, tf.int64))
        if fixed is not None:
            compat.loss_scale_variable(optimizer).assign(fixed)
        return result

    optimizer.apply_gradients = counting_apply_gradients


def _extend_keras3(optimizer, fixed, skipped):
    def skip():
        optimizer.step_counter.assign(0)
        if fixed is None:
            optimizer.dynamic_scale.assign(tf.maximum(optimizer.dynamic_scale * 0.5, 1.0))
        optimizer.inner_optimizer.iterations.assign_add(1)
        skipped.assign_add(1)

    compat.replace_skip(optimizer, skip)
