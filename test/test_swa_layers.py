"""SWA in whole trainings of models with batch normalization wherever a layer can be."""

import os

import numpy as np
import pytest
from swa_trainings import (
    QUICK,
    Late,
    Record,
    X,
    Y,
    alternate,
    check_average,
    check_population,
    fit,
    functional,
    moving,
    synchronised,
)
from test_swa_modes import mean

from ascend_keras import compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf

pytestmark = pytest.mark.usefixtures("fresh_graph")
layers = keras.layers
HERE = os.path.dirname(os.path.abspath(__file__))


# --- layers ---------------------------------------------------------------------------------------------------------


class Inside(layers.Wrapper):
    """A wrapper of the user's: runs the layer on the inputs and adds them."""

    def call(self, inputs, training=None):
        return inputs + self.layer(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


def nested(norm):
    return functional(functional(functional(norm)), layers.Dense(2))


STACKS = {
    "layer": lambda norm: functional(norm, layers.Dense(4, "tanh"), layers.Dense(2)),
    "nested": nested,
    "wrapper": lambda norm: functional(Inside(norm), layers.Dense(2)),
    "sequential in a layer": lambda norm: functional(Inside(keras.Sequential([norm])), layers.Dense(2)),
    "two of them": lambda norm: functional(norm, layers.Dense(4, use_bias=False), layers.BatchNormalization()),
}


@pytest.mark.parametrize("name, how", alternate(STACKS))
def test_layer_at_any_depth(name, how):
    norm, swa = layers.BatchNormalization(), SWA(2)
    y = np.ones((40, 4), np.float32) if name == "two of them" else Y
    model, record = fit(how, lambda: STACKS[name](norm), swa, X, y)
    assert swa.bn_summary[2:] == (3, 40) and swa.bn_summary.kept == 0
    check_average(model, record, swa)
    check_population(norm, X)


class Normalising(layers.SimpleRNN):
    """A recurrent layer that normalises its inputs."""

    def __init__(self, units, **options):
        super().__init__(units, **options)
        self.norm = layers.BatchNormalization()

    def call(self, sequences, initial_state=None, mask=None, training=None):
        sequences = self.norm(sequences, training=training)
        return super().call(sequences, initial_state=initial_state, mask=mask, training=training)


@pytest.mark.parametrize("inside", ["itself", "in a layer", "in a model"])
def test_time_distributed(inside):
    x = np.concatenate([X.reshape(20, 2, 3), 7 + X.reshape(20, 2, 3)], axis=1)
    norm, swa = layers.BatchNormalization(), SWA(2)
    inner = {"itself": lambda: norm, "in a layer": Late, "in a model": lambda: functional(norm)}[inside]
    stack = (layers.TimeDistributed(inner()), layers.Flatten(), layers.Dense(2))
    model, record = fit("plain", lambda: functional(*stack, shape=(4, 3)), swa, x, Y[:20])
    check_average(model, record, swa)
    check_population(batch_norm.batch_norm_layers(model)[0], x)


@pytest.mark.parametrize("unroll", [True, False])
def test_both_directions_of_a_layer_with_batch_norm(unroll):
    """The wrapper makes a layer for each direction; both normalise their inputs, outside of the loop over time."""
    x, swa = X.reshape(20, 2, 3), SWA(2)
    recurrent = Normalising(2, return_sequences=True, unroll=unroll)
    with keras.utils.custom_object_scope({"Normalising": Normalising}):
        stack = (layers.Bidirectional(recurrent), layers.Flatten(), layers.Dense(2))
    model, record = fit("plain", lambda: functional(*stack, shape=(2, 3)), swa, x, Y[:20], batch_size=8)
    assert swa.bn_summary == (2, 0, 3, 20)
    check_average(model, record, swa)
    for norm in batch_norm.batch_norm_layers(model):
        check_population(norm, x)


@pytest.mark.parametrize("how", ["plain", "trainer"])
def test_frozen_layer_keeps_its_statistics(how):
    alive, frozen = layers.BatchNormalization(), layers.BatchNormalization(trainable=False)
    written = [np.full(4, 0.25, np.float32), np.full(4, 3.0, np.float32)]

    def make():
        model = functional(alive, layers.Dense(4), frozen, layers.Dense(2))
        compat.set_values(moving(frozen), written)
        return model

    swa = SWA(2)
    model, record = fit(how, make, swa, X, Y)
    assert swa.bn_summary == (1, 1, 3, 40)
    check_average(model, record, swa)
    check_population(alive, X)
    for value, expected in zip(compat.get_values(moving(frozen)), written):
        np.testing.assert_array_equal(value, expected)


def test_all_layers_frozen_is_no_re_estimation():
    frozen = layers.BatchNormalization(trainable=False)
    swa = SWA(2)
    model, record = fit("plain", lambda: functional(frozen, layers.Dense(2)), swa, X, Y)
    assert swa.bn_summary is None
    check_average(model, record, swa)
    np.testing.assert_array_equal(compat.get_values(moving(frozen)), [np.zeros(3), np.ones(3)])


def test_synchronised_layer():
    norm, swa = synchronised(), SWA(2)
    model, record = fit("trainer", lambda: functional(norm, layers.Dense(2)), swa, X, Y)
    assert swa.bn_summary == (1, 0, 3, 40)
    check_average(model, record, swa)
    check_population(norm, X)


def test_batch_of_one_sample():
    norm, swa = layers.BatchNormalization(), SWA(2)
    model, record = fit("plain", lambda: functional(norm, layers.Dense(2)), swa, X[:33], Y[:33])
    assert swa.bn_summary == (1, 0, 3, 33)
    check_average(model, record, swa)
    check_population(norm, X[:33])


def test_every_batch_of_one_sample():
    images = X[:12].reshape(12, 1, 1, 3)
    norm, swa = layers.BatchNormalization(), SWA(2)
    stack = (norm, layers.Flatten(), layers.Dense(2))
    model, record = fit("plain", lambda: functional(*stack, shape=(1, 1, 3)), swa, images, Y[:12], batch_size=1)
    assert swa.bn_summary == (1, 0, 12, 12)
    check_average(model, record, swa)
    check_population(norm, images)


def test_layer_behind_averaged_weights_sees_what_they_make():
    """The statistics belong to the averaged weights: the whole model once more, in NumPy."""
    first, dense, second = layers.BatchNormalization(), layers.Dense(4, "relu"), layers.BatchNormalization()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    swa = SWA(2)
    model, record = fit("plain", lambda: functional(first, dense, second, layers.Dense(2)), swa, data)
    check_average(model, record, swa)
    averaged = dict(zip(map(id, model.trainable_weights), map(np.float64, mean(record.epochs[1:]))))
    hidden = []
    for start in (0, 16, 32):
        batch = X[start : start + 16].astype(np.float64)
        batch = (batch - batch.mean(axis=0)) / np.sqrt(batch.var(axis=0) + 1e-3)
        batch = batch * averaged[id(first.gamma)] + averaged[id(first.beta)]
        hidden.append(np.maximum(batch @ averaged[id(dense.kernel)] + averaged[id(dense.bias)], 0))
    check_population(first, X)
    check_population(second, np.concatenate(hidden), rtol=2e-5)


def test_layer_in_the_loop_of_a_cell_is_refused_before_the_first_step():
    if compat.TF1:
        pytest.skip("TF 1.15 cannot train batch normalization inside a loop")

    class Cell(layers.Layer):
        def __init__(self):
            super().__init__()
            self.state_size = self.output_size = 3
            self.norm = layers.BatchNormalization()
            self.norm.build((None, 3))

        def call(self, inputs, states, training=None):
            hidden = self.norm(inputs + states[0], training=training)
            return hidden, [hidden]

        def get_initial_state(self, inputs=None, batch_size=None, dtype=None):
            return [tf.zeros((tf.shape(inputs)[0] if batch_size is None else batch_size, 3))]

    model, steps = functional(layers.RNN(Cell()), layers.Dense(2), shape=(4, 3)), []
    model.compile("sgd", "mse", **QUICK)
    count = keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: steps.append(batch))
    with pytest.raises(RuntimeError, match="called inside a loop or a tf.function of its own"):
        model.fit(X.reshape(10, 4, 3), Y[:10], epochs=3, verbose=0, callbacks=[count, SWA(2)])
    assert steps == []


@pytest.mark.parametrize("storage", ["device", "host"])
def test_average_and_its_state_survive_a_pass_that_fails(storage):
    def batches():
        yield X[:16]
        raise KeyboardInterrupt

    norm, states = layers.BatchNormalization(), []
    swa = SWA(2, bn_data=batches(), bn_steps=2, storage=storage)
    record, model = Record(), functional(norm, layers.Dense(2))
    model.compile("sgd", "mse", **QUICK)
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: states.append(swa.state_dict()))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=4, batch_size=16, verbose=0, callbacks=[record, swa, keep])
    for value, last in zip(model.get_weights(), record.state):
        np.testing.assert_array_equal(value, last)
    # Either the sums, or none: the average itself in their place would be divided once more.
    state = swa.state_dict()
    for key in state:
        if key.startswith("sum_"):
            np.testing.assert_array_equal(state[key], states[-1][key])
    swa.use_average()
    for value, wanted in zip(compat.get_values(model.trainable_weights), mean(record.epochs[1:])):
        np.testing.assert_array_equal(value, wanted)
    swa.use_raw()
    for value, last in zip(model.get_weights(), record.state):
        np.testing.assert_array_equal(value, last)
