"""SWA in whole trainings under all sorts of optimizers and data."""

import os

import numpy as np
import pytest
from swa_trainings import (
    QUICK,
    Record,
    X,
    Y,
    alternate,
    check_average,
    check_population,
    fit,
    functional,
)
from test_swa_modes import mean

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf

pytestmark = pytest.mark.usefixtures("fresh_graph")
layers = keras.layers
HERE = os.path.dirname(os.path.abspath(__file__))


# --- optimizers -----------------------------------------------------------------------------------------------------


def made(name, **options):
    """An optimizer, or a skip that says what this Keras lacks."""
    places = [keras.optimizers, getattr(keras.optimizers, "experimental", None)]
    found = [getattr(place, name) for place in places if hasattr(place, name)]
    try:
        return found[0](**options)
    except (IndexError, TypeError, ValueError):
        pytest.skip("{} has no {}({})".format(compat.stack_name(), name, ", ".join(sorted(options))))


OPTIMIZERS = {
    "moving average": ("SGD", dict(learning_rate=0.05, use_ema=True, ema_momentum=0.9)),
    "moving average put in": ("Adam", dict(learning_rate=0.01, use_ema=True, ema_overwrite_frequency=2)),
    "decay": ("AdamW", dict(learning_rate=0.01, weight_decay=0.1)),
    "norm of each": ("SGD", dict(learning_rate=0.05, momentum=0.9, clipnorm=0.1)),
    "norm of all": ("Adam", dict(learning_rate=0.01, global_clipnorm=0.1)),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_do_not_move_the_average(name):
    kind, options = OPTIMIZERS[name]
    norm, swa = layers.BatchNormalization(), SWA(2)
    stopped = []

    class Slots(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            stopped.append(compat.get_values(compat.optimizer_variables(self.model.optimizer)))

    record, model = Record(), functional(norm, layers.Dense(2))
    model.compile(made(kind, **options), "mse", **QUICK)
    model.fit(X, Y, batch_size=16, epochs=4, verbose=0, callbacks=[record, Slots(), swa])
    for value, wanted in zip(compat.get_values(model.trainable_weights), mean(record.epochs[1:])):
        np.testing.assert_array_equal(value, wanted)
    check_population(norm, X)
    if "use_ema" not in options:  # Keras itself replaces the last weights when fit ends
        check_average(model, record, swa)
    after = compat.get_values(compat.optimizer_variables(model.optimizer))
    assert len(after) == len(stopped[-1]) > 0
    for value, last in zip(after, stopped[-1]):
        np.testing.assert_array_equal(value, last)


@pytest.mark.parametrize("compiled", [dict(run_eagerly=True), dict(jit_compile=True)])
def test_ways_to_run(compiled):
    if compat.TF1 or ("jit_compile" in compiled and compat.TF_VERSION < (2, 15)):
        pytest.skip("{} does not run a model with {}".format(compat.stack_name(), sorted(compiled)))
    norm, swa = layers.BatchNormalization(), SWA(2)
    model, record = fit("plain", lambda: functional(norm, layers.Dense(2)), swa, X[:32], Y[:32], compiled=compiled)
    check_average(model, record, swa)
    check_population(norm, X[:32])


# --- data -----------------------------------------------------------------------------------------------------------


class Pairs(keras.utils.Sequence):
    """Three batches, the last one smaller."""

    def __init__(self):
        super().__init__()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 16 : (index + 1) * 16], Y[index * 16 : (index + 1) * 16]


def endless():
    # All in each batch: where a generator stands after a training is up to Keras, which reads ahead.
    while True:
        yield X, Y


def unknown_length():
    shapes = (tf.TensorShape((None, 3)), tf.TensorShape((None, 2)))
    return tf.data.Dataset.from_generator(lambda: (Pairs()[i] for i in range(3)), (tf.float32, tf.float32), shapes)


DATA = {
    "arrays": lambda: ((X, Y), {}, (3, 40)),
    "dataset": lambda: ((tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(40).batch(16),), {}, (3, 40)),
    "unknown length": lambda: ((unknown_length(),), {}, (3, 40)),
    "endless": lambda: ((unknown_length().repeat(),), dict(steps_per_epoch=3), (3, 40)),
    "generator": lambda: ((endless(),), dict(steps_per_epoch=3), (3, 120)),
    "sequence": lambda: ((Pairs(),), {}, (3, 40)),
}


@pytest.mark.parametrize("kind, how", alternate(DATA))
def test_steps_of_every_kind_of_data(kind, how):
    data, options, seen = DATA[kind]()
    norm, swa = layers.BatchNormalization(), SWA(unit="step", start_step=5, swa_freq=3)
    swa.on_epoch_begin = (lambda begin: lambda e, logs=None: record_steps(swa) or begin(e, logs))(swa.on_epoch_begin)
    model, record = fit(how, lambda: functional(norm, layers.Dense(2)), swa, *data, **options)
    assert swa.sampled_steps == [5, 8, 11] and len(record.steps) == 12
    assert swa.bn_summary[2:] == seen
    check_average(model, record, swa, samples=[record.steps[step - 1] for step in swa.sampled_steps])
    check_population(norm, X)


def record_steps(swa):
    for callback in compat.running_callbacks(swa):
        if isinstance(callback, Record):
            callback.per_step = True


@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_weights_of_samples_do_not_touch_the_statistics(weights):
    norm, swa = layers.BatchNormalization(), SWA(2)
    labels = (np.arange(40) % 4 > 0).astype(np.float32)
    given = {"sample_weight": np.where(labels > 0, 0.0, 9.0), "class_weight": {0: 9.0, 1: 0.0}}[weights]
    stack = (norm, layers.Dense(1, "sigmoid"))
    model, record = fit(
        "plain", lambda: functional(*stack), swa, X, labels, loss="binary_crossentropy", **{weights: given}
    )
    check_average(model, record, swa)
    check_population(norm, X)


# --- no training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [dict(), dict(lr_schedule="constant", swa_lr=0.01), dict(storage="host")])
def test_all_epochs_done_already(options):
    model = functional(layers.BatchNormalization(), layers.Dense(2))
    model.compile(keras.optimizers.SGD(0.05), "mse", **QUICK)
    before, swa = model.get_weights(), SWA(2, **options)
    with pytest.warns(UserWarning, match="before a sample was taken: the model keeps its raw weights"):
        model.fit(X, Y, epochs=4, initial_epoch=4, verbose=0, callbacks=[swa])
    for value, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, expected)
    assert (swa.sampled_epochs, swa.lr_trace, swa.bn_summary) == ([], [], None)
    np.testing.assert_allclose(compat.get_learning_rate(model.optimizer), 0.05, rtol=1e-6)
    with pytest.raises(RuntimeError, match="no average. Received: 0 samples"):
        swa.use_average()
    # And the same object goes on to train.
    model.fit(X, Y, epochs=3, batch_size=16, verbose=0, callbacks=[swa])
    assert swa.sampled_epochs == [2, 3]
    check_population(model.layers[1], X)
