"""Distributed optimizers: the in-place wrapper, the Keras wrapper object, and the tf.train wrappers."""

import os

import tensorflow as tf
from tensorflow.python.keras import optimizers
from tensorflow.python.keras.optimizer_v2 import optimizer_v2

from npu_bridge.estimator.npu import util
from npu_bridge.estimator.npu.npu_common import NPUBasics
from npu_bridge.hccl import hccl_ops


def _mean(total, size, average):
    return tf.div(total, tf.cast(size, total.dtype)) if average else total


def allreduce(tensor, average=True):
    """Sum or mean over the ranks. IndexedSlices become two all-gathers, for values and for indices."""
    size = NPUBasics("").size()
    if isinstance(tensor, tf.IndexedSlices):
        values = hccl_ops.allgather(tensor.values, size)
        indices = hccl_ops.allgather(tensor.indices, size)
        return tf.IndexedSlices(_mean(values, size, average), indices, dense_shape=tensor.dense_shape)
    return _mean(hccl_ops.allreduce(tensor, "sum"), size, average)


def _reduce_gradients(grads, scope):
    with tf.name_scope(scope):
        return [None if grad is None else allreduce(grad, True) for grad in grads]


def _reduce_pairs(pairs, scope):
    grads = _reduce_gradients([grad for grad, _ in pairs], scope)
    return [(grad, variable) for grad, (_, variable) in zip(grads, pairs)]


def npu_distributed_optimizer_wrapper(optimizer):
    """Patches the gradient methods of `optimizer` in place and returns it. Wrapping twice reduces twice."""
    if isinstance(optimizer, str):
        optimizer = optimizers.get(optimizer)
    size = int(util.get_ranksize())
    plan = (
        ("compute_gradients", _reduce_pairs, "Npu_Distributed_optimizer_Allreduce"),
        ("get_gradients", _reduce_gradients, "Npu_Distributed_optimizer_get_grads_Allreduce"),
        ("_compute_gradients", _reduce_pairs, "Npu_Distributed_optimizer_compute_grads_Allreduce"),
    )
    for name, reducer, scope in plan:
        if hasattr(optimizer, name):
            setattr(optimizer, name, _reducing(getattr(optimizer, name), reducer, scope, size))
    return optimizer


def _reducing(original, reducer, scope, size):
    def patched(*args, **kwargs):
        gradients = original(*args, **kwargs)
        return gradients if size <= 1 else reducer(gradients, scope)

    return patched


class KerasDistributeOptimizer(optimizer_v2.OptimizerV2):
    """Wrapper object without learning rate and without weights of its own (behaviour 13)."""

    def __init__(self, optimizer, name="NpuKerasOptimizer", **kwargs):
        super().__init__(name, **kwargs)
        self._optimizer = optimizer
        original = optimizer.get_gradients

        def get_gradients(loss, params):
            grads = original(loss, params)
            return grads if int(util.get_ranksize()) <= 1 else _reduce_gradients(grads, name + "_Allreduce")

        optimizer.get_gradients = get_gradients

    def get_updates(self, loss, params):
        return self._optimizer.get_updates(loss, params)

    def apply_gradients(self, grads_and_vars, name=None):
        return self._optimizer.apply_gradients(grads_and_vars, name)

    def get_config(self):
        config = super().get_config()
        config["optimizer"] = self._optimizer
        return config

    def _compute_gradients(self, loss, var_list, grad_loss=None):
        pairs = self._optimizer._compute_gradients(loss, var_list, grad_loss)
        return pairs if int(util.get_ranksize()) <= 1 else _reduce_pairs(pairs, self._name + "_Allreduce")


class _TrainWrapper(tf.train.Optimizer):
    """Forwards slots and variables to the tf.train optimizer inside."""

    def get_slot(self, *args, **kwargs):
        return self._optimizer.get_slot(*args, **kwargs)

    def get_slot_names(self, *args, **kwargs):
        return self._optimizer.get_slot_names(*args, **kwargs)

    def variables(self, *args, **kwargs):
        return self._optimizer.variables(*args, **kwargs)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        return self._optimizer.apply_gradients(grads_and_vars, global_step, name)


class NPUDistributedOptimizer(_TrainWrapper):
    """tf.train only; weight-update sharding is not reproduced."""

    def __init__(self, tf_optimizer, is_weight_update_sharding=False, name=None):
        if is_weight_update_sharding:
            raise NotImplementedError("The fake does not reproduce weight-update sharding.")
        super().__init__(False, name or "Distributed" + type(tf_optimizer).__name__)
        self._optimizer = tf_optimizer

    def compute_gradients(self, *args, **kwargs):
        pairs = self._optimizer.compute_gradients(*args, **kwargs)
        # Only RANK_SIZE counts here: in CM mode this class does not reduce.
        return _reduce_pairs(pairs, self._name + "_Allreduce") if int(os.getenv("RANK_SIZE") or 1) > 1 else pairs


class NPUOptimizer(_TrainWrapper):
    """tf.train only; here without loss scale, for which NPULossScaleOptimizer is there."""

    def __init__(
        self,
        opt,
        loss_scale_manager=None,
        is_distributed=False,
        is_loss_scale=False,
        is_tailing_optimization=False,
        name=None,
    ):
        if is_loss_scale:
            raise NotImplementedError("The fake does not reproduce the loss scale of NPUOptimizer.")
        super().__init__(False, name or "NPUOptimizer" + type(opt).__name__)
        self._optimizer = opt
        self._is_distributed = is_distributed

    def compute_gradients(self, *args, **kwargs):
        pairs = self._optimizer.compute_gradients(*args, **kwargs)
        return _reduce_pairs(pairs, self._name + "_Allreduce") if self._is_distributed else pairs


def npu_allreduce(values, reduction="mean", fusion=1, fusion_id=-1, group="hccl_world_group"):
    """Reduces a tensor or each of a list, over RANK_SIZE ranks."""
    is_list = isinstance(values, (list, tuple))
    size = int(util.get_ranksize())
    reduced = []
    for value in values if is_list else [values]:
        if isinstance(value, tf.IndexedSlices):
            gathered = hccl_ops.allgather(value.values, size, group)
            indices = hccl_ops.allgather(value.indices, size, group)
            reduced.append(
                tf.IndexedSlices(_mean(gathered, size, reduction == "mean"), indices, dense_shape=value.dense_shape)
            )
        else:
            total = hccl_ops.allreduce(value, "sum" if reduction == "mean" else reduction, fusion, fusion_id, group)
            reduced.append(_mean(total, size, reduction == "mean"))
    return reduced if is_list else reduced[0]
