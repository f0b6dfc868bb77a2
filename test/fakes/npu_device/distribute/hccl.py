"""npu.distribute: all-reduce, broadcast, the optimizer wrapper, sharding."""

import tensorflow as tf
from absl import logging

from npu_device.distribute import hccl_ops
from npu_device.distribute.npu_callbacks import NPUBroadcastGlobalVariablesCallback
from npu_device.npu_device import global_npu_ctx, npu_compat_function
from npu_device.utils.scope import npu_gradients_scope, npu_optimizer_scope

_WORLD = "hccl_world_group"


def _is_alone():
    return global_npu_ctx() is None or not global_npu_ctx().is_cluster_worker()


def shard_and_rebatch_dataset(dataset, global_bs):
    """Returns (dataset, batch size of a worker): sharded, not batched."""
    handle = global_npu_ctx()
    if handle is None or handle.workers_num <= 1:
        return dataset, global_bs
    if global_bs % handle.workers_num:
        raise ValueError("Batch size must be divisible by num npus: {}".format(handle.workers_num))
    return dataset.shard(handle.workers_num, handle.worker_id), int(global_bs) // handle.workers_num


@npu_compat_function
def _all_reduce(values, reduction, fusion, fusion_id, group):
    workers = global_npu_ctx().workers_num
    reduced = []
    for value in values:
        total = hccl_ops.allreduce(value, "sum" if reduction == "mean" else reduction, fusion, fusion_id, group)
        if reduction != "mean":
            reduced.append(tf.identity(total))
        elif total.dtype.is_floating:
            reduced.append(total * tf.cast(1.0 / workers, total.dtype))
        else:
            reduced.append(tf.divide(total, tf.cast(workers, total.dtype)))
    return reduced


def all_reduce(values, reduction="mean", fusion=1, fusion_id=-1, group=_WORLD):
    """A tensor, or a list whose None entries stay. Outside of a cluster the input comes back."""
    if _is_alone():
        logging.info("Skip all reduce as current process is not npu cluster worker")
        return values
    is_list = isinstance(values, (list, tuple))
    entries = list(values) if is_list else [values]
    reduced = list(_all_reduce([value for value in entries if value is not None], reduction, fusion, fusion_id, group))
    results = [None if value is None else reduced.pop(0) for value in entries]
    return results if is_list else results[0]


@npu_compat_function
def _broadcast(variables, root_rank, fusion, fusion_id, group):
    for variable in variables:
        variable.assign(hccl_ops.broadcast([variable], root_rank, fusion, fusion_id, group)[0])


def broadcast(values, root_rank=0, fusion=2, fusion_id=0, group=_WORLD):
    """Assigns the root's values into the variables given; takes variables only."""
    if _is_alone():
        logging.info("Skip broadcast as current process is not npu cluster worker")
        return
    _broadcast(values if isinstance(values, (list, tuple)) else [values], root_rank, fusion, fusion_id, group)


def npu_distributed_keras_optimizer_wrapper(optimizer, reduce_reduction="mean", fusion=1, fusion_id=-1, group=_WORLD):
    """Patches `optimizer` in place: reduce, then apply. Wrapping twice reduces twice."""
    optimizer = tf.keras.optimizers.get(optimizer)
    apply_gradients = optimizer.apply_gradients
    get_gradients = optimizer.get_gradients
    compute_gradients = optimizer._compute_gradients

    def reduce_and_apply(grads_and_vars, *args, **kwargs):
        grads, variables = zip(*grads_and_vars)
        with npu_optimizer_scope():
            reduced = all_reduce(grads, reduce_reduction, fusion, fusion_id, group)
            return apply_gradients(zip(reduced, variables), *args, **kwargs)

    def marked(method):
        def call(*args, **kwargs):
            with npu_gradients_scope():
                return method(*args, **kwargs)

        return call

    optimizer.apply_gradients = reduce_and_apply
    # The adapter's own misspelling: the method that Keras calls in graph mode stays as it was.
    optimizer.get_gradient = marked(get_gradients)
    optimizer._compute_gradients = marked(compute_gradients)
    return optimizer


def npu_callbacks_append(callbacks_list=()):
    """Appends the callback that does nothing; anything but a list is thrown away."""
    callbacks_list = callbacks_list if isinstance(callbacks_list, list) else []
    callbacks_list.append(NPUBroadcastGlobalVariablesCallback(0))
    return callbacks_list
