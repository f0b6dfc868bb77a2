"""System operators and dropout."""

import fake_ascend_ops
from tensorflow.python.eager import context

from npu_bridge.helper import helper

gen_npu_ops = helper.get_gen_ops()


def _refuse_eager(what):
    if context.executing_eagerly():
        raise RuntimeError("{} is not compatible with eager execution.".format(what))


def initialize_system(name=None):
    """The operation that starts GE and HCCL; the rank API works while the session that ran it is open."""
    _refuse_eager("tf.NPUInit()")
    return gen_npu_ops.npu_init(name=name)


def shutdown_system(name=None):
    _refuse_eager("tf.NPUShutdown()")
    return gen_npu_ops.npu_shutdown(name=name)


NPUInit, NPUShutdown = initialize_system, shutdown_system


def dropout(x, keep_prob, noise_shape=None, seed=None, name=None):
    """Dropout by the probability to keep an element, not by the rate."""
    _refuse_eager("npu_ops.dropout()")
    return fake_ascend_ops.dropout(x, keep_prob, noise_shape, seed, name)
