"""Dropout on the device: swapped in graphs, on TF 2.6.2 and later 2.6 only (behaviour 26)."""

import fake_ascend_ops
import tensorflow as tf
import tensorflow.compat.v2 as tf2
from tensorflow.python.eager import context
from tensorflow.python.ops import nn_ops


def _converted(genuine):
    def dropout(x, rate, noise_shape=None, seed=None, name=None):
        if context.executing_eagerly() or noise_shape is not None:
            return genuine(x, rate=rate, noise_shape=noise_shape, seed=seed, name=name)
        return fake_ascend_ops.dropout(x, 1.0 - rate, None, seed, name)

    return dropout


def dropout_api_convert():
    if tuple(int(part) for part in tf.__version__.split(".")) >= (2, 6, 2):
        tf.nn.dropout = _converted(tf.nn.dropout)
        tf2.nn.dropout = _converted(tf2.nn.dropout)
        nn_ops.dropout_v2 = _converted(nn_ops.dropout_v2)
