"""Whole trainings with SWA, checked in full: the average, the statistics, and what has to be left alone.

Every training is checked in full: trainable weights against the float32 sum of what a callback saw at the end of each
epoch (bit for bit), all other state against its last value, moving statistics against NumPy's population values.
"""

import os

import numpy as np
import pytest
from test_swa_modes import mean

from ascend_keras import NPUTrainer, compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.compat import keras

HERE = os.path.dirname(os.path.abspath(__file__))
layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3) * (1 + np.arange(3))).astype(np.float32)
Y = random.randn(40, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


class Record(keras.callbacks.Callback):
    """Trainable weights at the end of every step and epoch, and all state at the last one; put it before SWA."""

    def on_train_begin(self, logs=None):
        self.steps, self.epochs, self.per_step = [], [], False

    def on_train_batch_end(self, batch, logs=None):
        if self.per_step:
            self.steps.append(compat.get_values(self.model.trainable_weights))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(compat.get_values(self.model.trainable_weights))
        self.state = compat.get_values(state_of(self.model))


def state_of(model):
    return list(model.weights) + compat.seed_variables(model)


def fit(how, make, swa, *data, precision=None, **options):
    """Trains what `make` returns; with NPUTrainer on the host, or without. Returns model and record."""
    record, options = Record(), dict(dict(epochs=4, verbose=0), **options)
    arguments = dict(loss=options.pop("loss", "mse"), optimizer=options.pop("optimizer", None))
    arguments["optimizer"] = arguments["optimizer"] or keras.optimizers.SGD(0.05, momentum=0.9)
    compiled = dict(QUICK, **options.pop("compiled", {}))
    if len(data) == 2 and not hasattr(data[0], "__next__"):
        options.setdefault("batch_size", 16)
    if how == "trainer":
        with NPUTrainer("host", precision_mode_v2=precision) as trainer:
            with trainer.scope():
                model = make()
            trainer.compile(model, **arguments, **compiled)
            trainer.fit(model, *data, callbacks=[record, swa], **options)
        return model, record
    with compat.dtype_policy(precision):
        model = make()
    model.compile(**arguments, **compiled)
    model.fit(*data, callbacks=[record, swa], **options)
    return model, record


def moving(layer):
    return [layer.moving_mean, layer.moving_variance]


def check_average(model, record, swa, samples=None):
    """Averaged weights and raw weights, bit for bit, and all that is neither averaged nor re-estimated."""
    variables, found = state_of(model), compat.get_values(state_of(model))
    trainable = {id(v) for v in model.trainable_weights}
    estimated = {id(v) for layer in batch_norm.batch_norm_layers(model) if layer.trainable for v in moving(layer)}
    expected = mean(record.epochs[1:] if samples is None else samples)
    for value, wanted in zip(compat.get_values(model.trainable_weights), expected):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)
    for variable, value, last in zip(variables, found, record.state):
        if id(variable) not in trainable | estimated:
            np.testing.assert_array_equal(value, last)
    for value, last in zip(swa.raw_weights, record.state):
        np.testing.assert_array_equal(value, last)


def check_population(layer, x, rtol=4e-6):
    """The statistics of a layer against those of what reached it; channels are the last axis."""
    found_mean, found_variance = (value.astype(np.float64).ravel() for value in compat.get_values(moving(layer)))
    x = np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1])
    np.testing.assert_allclose(found_mean, x.mean(axis=0), rtol=0, atol=2 * rtol * x.std(axis=0).min())
    np.testing.assert_allclose(found_variance, x.var(axis=0), rtol=rtol)


def alternate(names):
    """Pairs of a name and a way to train, the one and the other by turns."""
    return [(name, ("plain", "trainer")[index % 2]) for index, name in enumerate(sorted(names))]


def functional(*stack, shape=(3,)):
    inputs = keras.Input(shape)
    x = inputs
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


class Late(layers.Layer):
    """A layer that makes its batch normalization when it is built, as Keras' guides have it."""

    def build(self, input_shape):
        self.norm = layers.BatchNormalization()
        self.norm.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


def synchronised():
    try:
        return layers.BatchNormalization(synchronized=True)
    except (TypeError, ValueError):
        if compat.TF1:
            pytest.skip("TF 1.15 has no synchronised batch normalization")
        return layers.experimental.SyncBatchNormalization()
