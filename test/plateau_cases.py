"""Trainings and stand-ins that the tests of the plateau rule share."""

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.plateau import PlateauDecay
from ascend_keras.compat import keras

QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
X = np.ones((2, 1), "float32")
# Rises until epoch 12, then stands still: the decision in epoch 10 differs from those in epochs 20 and 30.
CURVE = [0.5 + 0.02 * min(epoch, 12) for epoch in range(35)]


class Script(keras.callbacks.Callback):
    """Puts numbers into the logs of an epoch, as a metric would; put it before what reads them."""

    def __init__(self, values, name="accuracy"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


class Rates(keras.callbacks.Callback):
    """The learning rate of each epoch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(compat.get_learning_rate(self.model.optimizer))


def make_model(rate=0.1, metrics=None, wrap=lambda optimizer: optimizer):
    model = keras.Sequential([keras.layers.Dense(1, "sigmoid", kernel_initializer="ones", input_shape=(1,))])
    model.compile(wrap(keras.optimizers.SGD(rate)), "binary_crossentropy", metrics=metrics, **QUICK)
    return model


def fit(plateau, values, model=None, name="accuracy", extra=(), **options):
    """The learning rates of the epochs of a training in which the metric has these values."""
    rates = Rates()
    options = dict(dict(epochs=len(values), verbose=0, batch_size=2), **options)
    (model or make_model()).fit(X, X, callbacks=[Script(values, name), rates, plateau] + list(extra), **options)
    return rates.seen


class Optimizer:
    """What the callback sees of a model, without Keras: faster, and on TF 1.15 its session is not that of threads."""

    def __init__(self, rate=1.0):
        self.optimizer, self.rate = self, rate


def use_plain_optimizer(monkeypatch):
    """Lets the callback work on an `Optimizer`."""
    monkeypatch.setattr(compat, "has_schedule", lambda optimizer: False)
    monkeypatch.setattr(compat, "get_learning_rate", lambda optimizer: optimizer.rate)
    monkeypatch.setattr(
        compat, "set_learning_rate", lambda optimizer, rate: setattr(optimizer, "rate", float(np.float32(rate)))
    )


def replay(plateau, values, first=0):
    """Calls what Keras calls in a training; returns the learning rates of the epochs."""
    rates = []
    plateau.on_train_begin()
    for epoch, value in enumerate(values, first):
        plateau.on_epoch_begin(epoch)
        rates.append(plateau.model.rate)
        plateau.on_epoch_end(epoch, {"accuracy": value})
    return rates


def make_plateau(rate=1.0, **options):
    plateau = PlateauDecay(**options)
    plateau.set_model(Optimizer(rate))
    return plateau


def recipe(accuracies, rate, threshold=2.0):
    """The rates of the epochs by the recipe's words: lists and indexes as it has them, percent, a division by 10."""
    so_far, rates = [], []
    for epoch, accuracy in enumerate(accuracies):
        rates.append(rate)
        so_far.append(100 * accuracy)
        if epoch % 10 == 0 and epoch != 0:
            before, last, gain = so_far[-10:-1], so_far[-1], 0
            for value in before:
                gain += (last - value) / len(before)
            if gain < threshold:
                rate = rate / 10
    return rates
