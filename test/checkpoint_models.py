"""Models, callbacks and comparisons for the tests of Checkpoint."""

import os

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras, tf

layers = keras.layers
X = np.random.RandomState(3).randn(24, 3).astype(np.float32)
Y = np.random.RandomState(4).randn(24, 2).astype(np.float32)
# Tracing takes longer than these trainings; test_resume.py has graphs.
QUICK = {} if compat.TF1 else dict(run_eagerly=True)


class Counter(keras.callbacks.Callback):
    """A callback with a state: the epochs seen, and the sum of the first bias after each of them."""

    def __init__(self, name="counter"):
        super().__init__()
        self.name, self.epochs, self.total = name, 0, np.zeros(2, np.float32)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.total = self.total + self.model.get_weights()[-1]

    def state_dict(self):
        return {"epochs": self.epochs, "total": self.total, "names": [self.name, None, 1.5]}

    def load_state_dict(self, state):
        if state["names"][0] != self.name:
            raise ValueError("This is the state of {!r}.".format(state["names"][0]))
        self.epochs, self.total = state["epochs"], state["total"]


class Other(Counter):
    """The same under another name."""


class Scores(keras.callbacks.Callback):
    """Puts a metric into the logs; where it is None, nothing."""

    def __init__(self, *scores, name="val_score"):
        super().__init__()
        self.scores, self.name = scores, name

    def on_epoch_end(self, epoch, logs=None):
        if self.scores[epoch] is not None:
            logs[self.name] = self.scores[epoch]


class Weights(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.get_weights())


def make_model(optimizer=None, width=4, norm=True, dropout=0.0, metrics=None, **options):
    inputs = keras.Input((3,))
    hidden = layers.Dense(width, "tanh", **options)(inputs)
    if norm:
        hidden = layers.BatchNormalization(**options)(hidden)
    if dropout:
        hidden = layers.Dropout(dropout)(hidden)
    model = keras.Model(inputs, layers.Dense(2, **options)(hidden))
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=metrics, **QUICK)
    return model


def fit(model, *callbacks, **options):
    options = dict(dict(epochs=3, batch_size=24, verbose=0, shuffle=False), **options)
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def variables_of(model):
    return model.weights + [variable for _, variable in compat.optimizer_state(model.optimizer)]


def state_of(model):
    return compat.get_values(variables_of(model))


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def known_value(index, variable):
    """Values for the variable number `index` of `variables_of`, exact in every dtype."""
    size = int(np.prod(variable.shape))
    values = ((np.arange(size) + index) / 8).reshape([int(length) for length in variable.shape])
    return values.astype(tf.as_dtype(variable.dtype).as_numpy_dtype)


def names_in(folder):
    return sorted(os.listdir(folder))
