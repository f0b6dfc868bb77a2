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

# What we keep on an extended optimizer, past its __setattr__, so that Keras neither tracks nor saves it.
_COUNTER = "_ascend_keras_skipped_steps"
_REGIME = "_ascend_keras_loss_scale"


def scale_loss(optimizer, loss_scale, *, factory=None, float_status=None):
    """Returns `optimizer` with exactly this loss scaling around it.

    An optimizer that scales the loss otherwise is taken out of its wrapper and put into a new one; its weights, slots
    and learning rate stay, and so do the scale and the growth of one dynamic wrapper in the next. Asking for what is
    there already returns the same object.

    Args:
        optimizer: a Keras optimizer.
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
        return compat.take_out(optimizer) if is_loss_scaled(optimizer) else optimizer
    if compat.TF1:
        from ascend_keras.optimizers import loss_scale_tf1

        return loss_scale_tf1.wrap(optimizer, loss_scale, float_status)
    factory = factory or keras.mixed_precision.LossScaleOptimizer
    if vars(optimizer).get(_REGIME) == loss_scale and isinstance(optimizer, factory):
        return optimizer
    wrapped = factory(*_arguments(optimizer, loss_scale))
    _extend(wrapped, loss_scale)
    return wrapped


def _arguments(optimizer, loss_scale):
    """Inner optimizer, dynamic, initial scale and growth steps of a new LossScaleOptimizer."""
    initial_scale, growth_steps = INITIAL_SCALE, GROWTH_STEPS
    if loss_scale != "dynamic":
        initial_scale, growth_steps = float(loss_scale), _NEVER
    elif loss_scale_of(optimizer) == "dynamic":
        initial_scale, growth_steps = current_loss_scale(optimizer), optimizer.dynamic_growth_steps
    inner = compat.take_out(optimizer) if is_loss_scaled(optimizer) else optimizer
    return (inner, initial_scale, growth_steps) if compat.KERAS3 else (inner, True, initial_scale, growth_steps)


def loss_scale_of(optimizer):
    """The `loss_scale` argument that describes an optimizer: None, "dynamic", or the number that stays fixed."""
    if not is_loss_scaled(optimizer):
        return None
    if compat.TF1:
        return optimizer.loss_scale
    if _REGIME in vars(optimizer):
        return vars(optimizer)[_REGIME]
    static = not compat.KERAS3 and not optimizer.dynamic
    if static or optimizer.dynamic_growth_steps == _NEVER:  # the latter is our fixed one, loaded from a file
        return float(optimizer.initial_scale)
    return "dynamic"


def is_loss_scaled(optimizer):
    """Whether `optimizer` scales the loss already."""
    if compat.TF1:
        from ascend_keras.optimizers import loss_scale_tf1

        return isinstance(optimizer, loss_scale_tf1.LossScaleOptimizer)
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)


def unscaled(optimizer):
    """`optimizer` so that Keras adds no loss scaling of its own under a mixed_float16 policy: a scale of one."""
    if compat.TF1 or compat.KERAS3:
        return optimizer
    return keras.mixed_precision.LossScaleOptimizer(optimizer, dynamic=False, initial_scale=1.0)


def skipped_steps(optimizer):
    """How many steps were skipped for an overflow since compile; 0 where nothing scales the loss."""
    if not is_loss_scaled(optimizer):
        return 0
    counter = optimizer.skipped_steps if compat.TF1 else vars(optimizer).get(_COUNTER)
    return 0 if counter is None else int(compat.get_values([counter])[0])


def skip_mark(optimizer):
    """What `was_skipped` needs to know from before a step."""
    if not is_loss_scaled(optimizer):
        return None
    if compat.TF1 or _COUNTER in vars(optimizer):
        return skipped_steps(optimizer)
    if compat.KERAS3:
        return int(compat.get_values([optimizer.iterations])[0])
    return current_loss_scale(optimizer)


def was_skipped(optimizer, mark):
    """Whether the step since `skip_mark` was skipped; for any loss scaling, that of plain Keras included."""
    if mark is None:
        return False
    if compat.TF1 or _COUNTER in vars(optimizer):
        return skipped_steps(optimizer) > mark
    if compat.KERAS3:
        return int(compat.get_values([optimizer.iterations])[0]) == mark
    # Keras 2 tests the gradients of a dynamic scale only. Its counter of good steps returns to zero when the scale
    # grows, too.
    return bool(optimizer.dynamic) and int(optimizer.dynamic_counter) == 0 and current_loss_scale(optimizer) <= mark


def current_loss_scale(optimizer):
    """The scale of the next step as a float; None where nothing scales the loss."""
    if not is_loss_scaled(optimizer):
        return None
    if compat.KERAS3:
        return float(optimizer.dynamic_scale) if optimizer.built else float(optimizer.initial_scale)
    if compat.TF1:
        return float(compat.get_values([optimizer.scale])[0])
    return float(optimizer.loss_scale)


def _extend(optimizer, loss_scale):
    """Adds the count of skipped steps, and what a fixed scale needs, to one LossScaleOptimizer of TF 2."""
    skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped_steps")
    vars(optimizer).update({_COUNTER: skipped, _REGIME: loss_scale})
    fixed = None if loss_scale == "dynamic" else float(loss_scale)
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
