"""Optimizers of TF 1.15 as graphs are built; runs nothing over ranks."""

# ruff: noqa: F403, F405 (the star import is what users write)

import json
import os

import numpy as np
import tensorflow as tf
from npu_bridge.npu_init import *

K, keras = tf.keras.backend, tf.keras
seen = {}
ERRORS = (AttributeError, NameError, TypeError, ValueError, tf.errors.OpError)


def message(function):
    try:
        function()
    except ERRORS as error:
        return "{}: {}".format(type(error).__name__, error)
    return "no error"


def model(optimizer):
    net = keras.Sequential([keras.layers.Dense(1, input_shape=(2,), kernel_initializer="ones", use_bias=False)])
    net.compile(optimizer, "mse")
    return net


def fit(optimizer, callbacks=()):
    net = model(optimizer)
    net.fit(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), verbose=0, callbacks=list(callbacks))
    return net


def built(name="training"):
    return sum("Hcom" in op.name for op in tf.get_default_graph().get_operations())


schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5)
alone = npu_distributed_optimizer_wrapper(keras.optimizers.SGD(0.1))
fit(alone, [schedule])
seen["alone"] = [built(), float(K.get_value(alone.lr))]
seen["wrapper of a name"] = type(npu_distributed_optimizer_wrapper("sgd")).__name__
seen["keras wrapper and schedule"] = message(lambda: fit(npu_keras_optimizer(keras.optimizers.SGD(0.1)), [schedule]))
seen["keras wrapper of a name"] = message(lambda: npu_keras_optimizer("adam"))
seen["keras wrapper config"] = type(npu_keras_optimizer(keras.optimizers.SGD()).get_config()["optimizer"]).__name__
seen["scaler of a keras optimizer"] = message(
    lambda: fit(NPULossScaleOptimizer(keras.optimizers.SGD(0.1), FixedLossScaleManager(2.0)))
)
seen["scaler name"] = NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(0.1), FixedLossScaleManager(2.0))._name
seen["scaler with exponential manager"] = message(
    lambda: fit(
        NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(0.1), ExponentialUpdateLossScaleManager(8.0, 2))
    )
)
seen["scale below 1"] = message(lambda: FixedLossScaleManager(0.5))

os.environ.update(RANK_SIZE="2", RANK_ID="0")
seen["size was read when wrapping"] = [message(lambda: fit(alone)), built()]
seen["no job id"] = message(lambda: model(npu_distributed_optimizer_wrapper("sgd"))._make_train_function())
seen["float64"] = message(lambda: hccl_ops.allreduce(tf.constant([1.0], tf.float64), "sum"))
seen["reduction mean"] = message(lambda: hccl_ops.allreduce(tf.constant([1.0]), "mean"))
seen["broadcast of a tensor"] = message(lambda: hccl_ops.broadcast(tf.constant([1.0]), 0))
seen["gather of a scalar"] = message(lambda: hccl_ops.allgather(tf.constant(1.0), 2))
seen["dropout float64"] = message(lambda: npu_ops.dropout(tf.constant([1.0], tf.float64), 0.5))
seen["dropout keep 0"] = message(lambda: npu_ops.dropout(tf.constant([1.0]), 0.0))
print("RESULT " + json.dumps(seen))
