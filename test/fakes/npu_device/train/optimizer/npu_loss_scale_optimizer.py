"""Loss scaling by the float status of the device."""

import tensorflow as tf
from tensorflow.python.framework import smart_cond
from tensorflow.python.keras.mixed_precision.loss_scale_optimizer import _op_in_graph_mode, _UnwrapPreventer

from npu_device.distribute.hccl import all_reduce
from npu_device.npu_device import gen_npu_ops, global_npu_ctx, is_inf_nan_enabled, npu_compat_function


@npu_compat_function
def _finite_after(grads):
    """Reads and clears the status once the gradients are there, and adds it up over the ranks."""
    with tf.control_dependencies([grad for grad in grads if grad is not None]):
        status = gen_npu_ops.npu_get_float_status_v2()
    with tf.control_dependencies([status]):
        cleared = gen_npu_ops.npu_clear_float_status_v2()
    if global_npu_ctx() and global_npu_ctx().workers_num > 1:
        status = all_reduce([status], "sum", fusion=0)[0]
    with tf.control_dependencies([cleared]):
        return tf.reduce_all(tf.equal(status, 0))


def _updated_scale(state, is_finite):
    """Doubles after the growth steps, halves on overflow down to 1."""

    def grow():
        has_room = tf.less(state.current_loss_scale, 3.4e38 / state.multiplier)
        scale = tf.cond(
            has_room,
            lambda: _op_in_graph_mode(state.current_loss_scale.assign(state.current_loss_scale * state.multiplier)),
            tf.no_op,
        )
        return tf.group(scale, state.counter.assign(0))

    def after_good_step():
        return tf.cond(
            state.counter + 1 >= state.growth_steps, grow, lambda: _op_in_graph_mode(state.counter.assign_add(1))
        )

    def after_bad_step():
        scale = tf.maximum(state.current_loss_scale / state.multiplier, 1)
        return tf.group(state.counter.assign(0), state.current_loss_scale.assign(scale))

    return tf.cond(is_finite, after_good_step, after_bad_step)


class NpuLossScaleOptimizer(tf.keras.mixed_precision.LossScaleOptimizer):
    """INF/NAN mode, or no NPU: the parent. Saturation mode: the float status decides."""

    _HAS_AGGREGATE_GRAD = True

    def __init__(self, inner_optimizer, dynamic=True, initial_scale=None, dynamic_growth_steps=None):
        super().__init__(inner_optimizer, dynamic, initial_scale, dynamic_growth_steps)
        self._last_step_finite = tf.Variable(False, name="npu_last_step_finite", trainable=False)

    @property
    def last_step_finite(self):
        return self._last_step_finite

    def apply_gradients(self, grads_and_vars, name=None):
        if global_npu_ctx() is None or is_inf_nan_enabled():
            return super().apply_gradients(grads_and_vars, name)
        grads_and_vars = tuple(grads_and_vars)
        grads = [grad for grad, _ in grads_and_vars]
        is_finite = _finite_after(grads)
        scale = _updated_scale(self._loss_scale, is_finite) if self.dynamic else tf.no_op()
        self._last_step_finite.assign(is_finite)

        def apply():
            return self._apply_gradients(grads, _UnwrapPreventer([var for _, var in grads_and_vars]), name)

        def skip():
            return self._optimizer.iterations.assign_add(1, read_value=False)

        return tf.group(smart_cond.smart_cond(is_finite, apply, skip), scale)


class NpuExperimentalLossScaleOptimizer:
    def __init__(self, optimizer, loss_scale):
        raise NotImplementedError("The fake does not reproduce NpuExperimentalLossScaleOptimizer.")
