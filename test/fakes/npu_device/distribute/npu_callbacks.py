"""Broadcast of trainable variables, and a callback that never does it (behaviour 1)."""

import weakref

import fake_ascend
import tensorflow as tf
from tensorflow.python import keras

broadcast_registry = weakref.WeakValueDictionary()


def get_ranksize():
    return str(fake_ascend.rank_size())


def broadcast_helper(variables, root_rank=0):
    """Broadcasts, once each, the variables given. `root_rank` is dropped: the root is always rank 0."""
    from npu_device.distribute import hccl

    candidates = [
        variable
        for variable in variables
        if getattr(variable, "_cast_dtype", variable.dtype) == variable.dtype and id(variable) not in broadcast_registry
    ]
    if candidates:
        hccl.broadcast(candidates)
        for variable in candidates:
            broadcast_registry[id(variable)] = variable


def broadcast_keras_model(model, root_rank=0):
    """Trainable variables only: batch-norm statistics stay different on the ranks."""
    if isinstance(model, tf.keras.Model) and model.built:
        broadcast_helper(model.trainable_variables, root_rank)
    return model


class NPUBroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Its on_batch_begin is local to __init__ and bound to nothing."""

    def __init__(self, root_rank):
        super().__init__()
        self.root_rank = root_rank
        self.broadcast_done = False


def npu_broadcast_scope_wrapper(strategy):
    raise NotImplementedError("The fake does not reproduce npu_broadcast_scope_wrapper.")
