"""Loss-scale managers. Their variables are unknown to Keras, which therefore never initialises them."""

from tensorflow.contrib.mixed_precision.python import loss_scale_manager as contrib
from tensorflow.python.framework import dtypes, ops
from tensorflow.python.ops import control_flow_ops, math_ops, state_ops


class FixedLossScaleManager(contrib.FixedLossScaleManager):
    """A constant scale of at least 1, held as a tensor of the graph that is the default at construction."""

    def __init__(self, loss_scale, enable_overflow_check=True):
        if loss_scale < 1:
            raise ValueError("loss scale must be at least 1.")
        super().__init__(loss_scale=loss_scale)
        self._loss_scale = ops.convert_to_tensor(loss_scale, dtype=dtypes.float32, name="loss_scale")
        self._enable_overflow_check = enable_overflow_check

    def get_enable_overflow_check(self):
        return self._enable_overflow_check


class ExponentialUpdateLossScaleManager(contrib.ExponentialUpdateLossScaleManager):
    """Grows after n good steps up to 3.4e38, shrinks by `decr_ratio` down to 1; a bad step zeroes the good count."""

    def __init__(self, init_loss_scale, incr_every_n_steps, decr_every_n_nan_or_inf=2, incr_ratio=2, decr_ratio=0.8):
        super().__init__(
            init_loss_scale=init_loss_scale,
            incr_every_n_steps=incr_every_n_steps,
            decr_every_n_nan_or_inf=decr_every_n_nan_or_inf,
            incr_ratio=incr_ratio,
            decr_ratio=decr_ratio,
        )

    def update_loss_scale(self, finite_grads):
        return control_flow_ops.cond(finite_grads, self._after_good_step, self._after_bad_step)

    def _assign_scale(self, value):
        return control_flow_ops.group(state_ops.assign(self._loss_scale, value), self._reset_stats())

    def _after_good_step(self):
        def grow():
            has_room = math_ops.less(self._loss_scale, 3.4e38 / self._incr_ratio)
            return self._assign_scale(
                control_flow_ops.cond(has_room, lambda: self._loss_scale * self._incr_ratio, lambda: self._loss_scale)
            )

        return control_flow_ops.cond(
            self._num_good_steps + 1 >= self._incr_every_n_steps,
            grow,
            lambda: state_ops.assign_add(self._num_good_steps, 1).op,
        )

    def _after_bad_step(self):
        def shrink():
            return self._assign_scale(math_ops.maximum(1.0, self._loss_scale * self._decr_ratio))

        def count():
            return control_flow_ops.group(
                state_ops.assign_add(self._num_bad_steps, 1), state_ops.assign(self._num_good_steps, 0)
            )

        return control_flow_ops.cond(self._num_bad_steps + 1 >= self._decr_every_n_nan_or_inf, shrink, count)
