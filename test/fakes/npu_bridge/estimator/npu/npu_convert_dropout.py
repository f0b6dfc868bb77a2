"""Importing this swaps the call of Keras' Dropout layer for the NPU kernel."""

from tensorflow.python.framework import smart_cond
from tensorflow.python.keras import backend
from tensorflow.python.keras.layers.core import Dropout
from tensorflow.python.ops import array_ops, nn

from npu_bridge.estimator import npu_ops


def dropout_call(self, inputs, training=None):
    training = backend.learning_phase() if training is None else training
    noise_shape = self._get_noise_shape(inputs)

    def dropped():
        if noise_shape:
            return nn.dropout(inputs, noise_shape=noise_shape, seed=self.seed, rate=self.rate)
        return npu_ops.dropout(inputs, noise_shape=noise_shape, seed=self.seed, keep_prob=1.0 - self.rate)

    return smart_cond.smart_cond(_as_predicate(training), dropped, lambda: array_ops.identity(inputs))


def _as_predicate(training):
    return bool(training) if isinstance(training, int) else training


Dropout.call = dropout_call
