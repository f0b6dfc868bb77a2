"""Loss scaling for tf.train optimizers (behaviour 16)."""

import tensorflow as tf
from tensorflow.contrib.mixed_precision.python import loss_scale_optimizer as contrib
from tensorflow.python.training import optimizer

from npu_bridge.estimator.npu import npu_plugin
from npu_bridge.estimator.npu.npu_loss_scale_manager import FixedLossScaleManager
from npu_bridge.hccl import hccl_ops
from npu_bridge.helper import helper

gen_npu_ops = helper.get_gen_ops()


class NPULossScaleOptimizer(contrib.LossScaleOptimizer):
    """INF/NAN mode: the parent's finite test. Saturation mode: the float status, summed over ranks when distributed."""

    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        self._opt = opt
        self._is_distributed = is_distributed
        # The name is built from a module instead of from `opt`, as in the adapter.
        self._name = "NPULossScaleOptimizer{}".format(type(optimizer).__name__)
        super().__init__(opt=opt, loss_scale_manager=loss_scale_manager)

    def __getattr__(self, attr):
        return getattr(self._opt, attr)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        if npu_plugin.is_inf_nan_enabled():
            return super().apply_gradients(grads_and_vars, global_step, name)
        is_finite = self._is_finite([grad for grad, _ in grads_and_vars if grad is not None])
        update = tf.cond(is_finite, lambda: self._opt.apply_gradients(grads_and_vars, global_step, name), tf.no_op)
        return tf.group(update, self._loss_scale_manager.update_loss_scale(is_finite))

    def _is_finite(self, grads):
        manager = self._loss_scale_manager
        if isinstance(manager, FixedLossScaleManager) and not manager.get_enable_overflow_check():
            return tf.constant(True)
        with tf.name_scope(self._name):
            with tf.control_dependencies(grads):
                status = gen_npu_ops.npu_get_float_status_v2()
            with tf.control_dependencies([status]):
                cleared = gen_npu_ops.npu_clear_float_status_v2()
        if self._is_distributed:
            status = hccl_ops.allreduce([status], "sum", fusion=0)
        with tf.control_dependencies([cleared]):
            return tf.reduce_all(tf.equal(status, 0), name="overflow_status_reduce_all")
