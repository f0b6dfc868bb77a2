"""Data, models and the population values that the tests of batch normalization share."""

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.compat import keras


def data(shape, offset=100.0):
    random = np.random.RandomState(7)
    return (offset + random.randn(*shape) * (1 + np.arange(shape[-1]))).astype(np.float32)


def model_of(shape, *stack):
    inputs = keras.Input(shape)
    x = inputs
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def statistics(model):
    found = batch_norm.batch_norm_layers(model)
    values = compat.get_values([v for layer in found for v in (layer.moving_mean, layer.moving_variance)])
    return list(zip(values[::2], values[1::2]))


def check_population(model, x, axes=(0,), layer=0):
    mean, variance = statistics(model)[layer]
    x = np.asarray(x, np.float64)
    deviation = x.std(axes)
    # The last place of a float32 around 100 is 7.6e-6; the mean of a batch and the one stored are off by half of it.
    np.testing.assert_array_less(np.abs(mean.ravel() - x.mean(axes)), 8e-6 * deviation)
    np.testing.assert_allclose(variance.ravel(), x.var(axes), rtol=4e-6)
