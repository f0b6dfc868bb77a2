"""SWA in whole trainings of all sorts of models, precisions and state."""

import os
import subprocess
import sys

import numpy as np
import pytest
from swa_trainings import (
    QUICK,
    Late,
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
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf

pytestmark = pytest.mark.usefixtures("fresh_graph")
layers = keras.layers
HERE = os.path.dirname(os.path.abspath(__file__))


# --- models ---------------------------------------------------------------------------------------------------------


class Sub(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__()
        self.norm, self.dense = layers.BatchNormalization(), layers.Dense(2)

    def call(self, inputs, training=None):
        return self.dense(self.norm(inputs, training=training))


class LateSub(keras.Model):
    """A subclassed model that makes its layers when it is built."""

    def build(self, input_shape):
        self.norm, self.dense = layers.BatchNormalization(), layers.Dense(2)
        self.norm.build(input_shape)
        self.dense.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        return self.dense(self.norm(inputs, training=training))


UNBUILT = {
    "sequential": lambda: keras.Sequential([layers.BatchNormalization(), layers.Dense(2)]),
    "subclass": Sub,
    "late layer": lambda: keras.Sequential([Late(), layers.Dense(2)]),
    "late subclass": LateSub,
}


@pytest.mark.parametrize("name, how", alternate(UNBUILT))
def test_model_that_waits_for_its_first_batch(name, how):
    swa = SWA(2)
    model, record = fit(how, UNBUILT[name], swa, X, Y)
    assert swa.bn_summary == (1, 0, 3, 40)
    check_average(model, record, swa)
    check_population(batch_norm.batch_norm_layers(model)[0], X)
    # And once more, now that it is built.
    model.fit(2 * X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[swa])
    check_population(batch_norm.batch_norm_layers(model)[0], 2 * X)


@pytest.mark.parametrize("kind", ["lists", "names in a dataset"] + ["names"] * compat.TF1)
def test_several_inputs_and_outputs(kind):
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    norms = layers.BatchNormalization(), layers.BatchNormalization()
    joined = layers.Concatenate()([norms[0](first), norms[1](second)])
    outputs = [layers.Dense(2, name="one")(joined), layers.Dense(1, name="two")(joined)]
    other, targets = 3 - X[:, :2] ** 2, [Y, Y[:, :1]]
    if kind == "lists":
        data = ([X, other], targets)
    elif kind == "names":
        data = ({"second": other, "first": X}, {"one": Y, "two": Y[:, :1]})
    else:
        named = ({"second": other, "first": X}, {"one": Y, "two": Y[:, :1]})
        data = (tf.data.Dataset.from_tensor_slices(named).batch(16),)
    swa = SWA(2)
    model, record = fit(
        "trainer", lambda: keras.Model([first, second], outputs), swa, *data, loss={"one": "mse", "two": "mae"}
    )
    assert swa.bn_summary == (2, 0, 3, 40)
    check_average(model, record, swa)
    check_population(norms[0], X)
    check_population(norms[1], other)


def test_tied_weights():
    """A layer that is used twice, and a layer that uses the weight of another."""

    class Transposed(layers.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def call(self, inputs):
            return tf.matmul(inputs, tf.convert_to_tensor(self.other.kernel), transpose_b=True)

        def compute_output_shape(self, input_shape):
            return (None, 3)

    norm, tied, swa = layers.BatchNormalization(), layers.Dense(3, use_bias=False), SWA(2)
    model, record = fit("trainer", lambda: functional(norm, tied, tied, Transposed(tied), layers.Dense(2)), swa, X, Y)
    assert len(swa._average.variables) == len({id(v) for v in model.trainable_weights}) == 5
    check_average(model, record, swa)
    check_population(norm, X)


# Devices have to be configured before anything else, so this is a process of its own.
TWO_REPLICAS = """
import numpy as np
import tensorflow as tf
from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
import swa_trainings as here

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
swa, record = SWA(2), here.Record()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    plain, sync = here.layers.BatchNormalization(), here.synchronised()
    inputs = here.keras.Input((3,))
    joined = here.layers.Concatenate()([plain(inputs), sync(inputs)])
    model = here.keras.Model(inputs, here.layers.Dense(2)(joined))
    model.compile(here.keras.optimizers.SGD(0.05, momentum=0.9), "mse", **here.QUICK)
model.fit(here.X, here.Y, batch_size=16, epochs=3, verbose=0, callbacks=[record, swa])
assert model.distribute_strategy.num_replicas_in_sync == 2
assert swa.bn_summary == (2, 0, 3, 40), swa.bn_summary
here.check_average(model, record, swa)
here.check_population(plain, here.X)
here.check_population(sync, here.X)
for weight in model.weights:
    copies = (weight.value if compat.KERAS3 else weight).values
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())
swa.use_raw()
for value, last in zip(compat.get_values(model.weights), record.state):
    np.testing.assert_array_equal(value, last)
print("all is well")
"""


def test_two_replicas():
    if compat.TF1:
        pytest.skip("TF 1.15 has no logical devices on a CPU")
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([HERE, os.path.dirname(HERE)])),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "all is well" in done.stdout, done.stderr[-3000:]


# --- precision and state --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy, how", [("mixed_float16", "plain"), ("mixed_float16", "trainer"), ("mixed_bfloat16", "trainer")]
)
def test_mixed_precision(policy, how):
    if policy == "mixed_bfloat16" and not compat.HAS_BFLOAT16:
        pytest.skip("{} has no bfloat16 on a CPU".format(compat.stack_name()))
    norm, dtype = [], tf.float16 if policy == "mixed_float16" else tf.bfloat16

    def make():
        norm.append(layers.BatchNormalization())
        return functional(norm[0], layers.Dense(4), layers.Dense(2), layers.Activation("linear", dtype="float32"))

    swa = SWA(2)
    model, record = fit(how, make, swa, X, Y, precision=policy)
    assert {value.dtype for value in record.epochs[-1]} == {np.dtype("float32")}
    check_average(model, record, swa)
    # What reaches the layer is the data in 16 bits.
    seen = X.astype(np.float16) if compat.TF1 else tf.cast(tf.cast(X, dtype), tf.float32).numpy()
    check_population(norm[0], seen)


class Counter(layers.Layer):
    """Counts the steps of training in an integer."""

    def build(self, input_shape):
        self.number = self.add_weight(name="number", shape=(), dtype="int32", initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs, training=None):
        if compat.TF1:
            self.add_update(self.number.assign_add(1))
        elif training:
            self.number.assign_add(1)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def test_integer_state_counts_the_training_and_not_the_pass():
    norm, counter, swa = layers.BatchNormalization(), Counter(), SWA(2)
    model, record = fit("trainer", lambda: functional(counter, norm, layers.Dense(2)), swa, X, Y)
    assert compat.get_values([counter.number])[0] == 12
    check_average(model, record, swa)
    check_population(norm, X)
    if compat.TF1:  # a new compile makes a new training step, from all updates that the layers know of
        model.compile("sgd", "mse", **QUICK)
        model.fit(X, Y, batch_size=16, epochs=4, verbose=0, callbacks=[SWA(2)])
        assert compat.get_values([counter.number])[0] == 24


def test_string_state():
    class Labelled(layers.Layer):
        def build(self, input_shape):
            self.label = self.add_weight(
                name="label", shape=(), dtype="string", trainable=False, initializer=lambda *a, **k: tf.constant("abc")
            )
            super().build(input_shape)

        def call(self, inputs):
            return inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    norm, labelled, swa = layers.BatchNormalization(), Labelled(), SWA(2)
    model, record = fit("plain", lambda: functional(labelled, norm, layers.Dense(2)), swa, X, Y)
    check_average(model, record, swa)
    check_population(norm, X)
    labelled.label.load("new", compat.get_session()) if compat.TF1 else labelled.label.assign("new")
    for switch in (swa.use_raw, swa.use_average):
        switch()
        assert np.asarray(compat.get_values([labelled.label])[0]).item() == b"new"


def test_strings_as_inputs():
    if not hasattr(layers, "StringLookup"):
        pytest.skip("{} has no stable StringLookup".format(compat.stack_name()))
    words = np.array(["a", "b", "c", "a", "d"] * 8)[:, None]
    norm, swa = layers.BatchNormalization(), SWA(2)
    embedding = layers.Embedding(3, 3)

    def make():
        inputs = keras.Input((1,), dtype="string")
        x = layers.Flatten()(embedding(layers.StringLookup(vocabulary=["a", "b"])(inputs)))
        return keras.Model(inputs, layers.Dense(2)(norm(x)))

    model, record = fit("plain", make, swa, tf.constant(words), Y)
    check_average(model, record, swa)
    table = mean(record.epochs[1:])[0]
    check_population(norm, table[[{"a": 1, "b": 2}.get(word, 0) for word in words[:, 0]]], rtol=1e-5)


def test_seed_state_is_that_of_the_training():
    norm, swa = layers.BatchNormalization(), SWA(2)
    model, record = fit("trainer", lambda: functional(norm, layers.Dropout(0.5), layers.Dense(2)), swa, X, Y)
    seeds = compat.seed_variables(model)
    if not seeds:
        pytest.skip("{} keeps the state of dropout where nobody can read it".format(compat.stack_name()))
    check_average(model, record, swa)
    check_population(norm, X)
    last = record.state[len(model.weights) :]
    assert len(last) == len(seeds) >= 1 and np.any(last[0] != 0)


def test_state_of_a_recurrent_layer_is_that_of_the_training():
    recurrent, swa, kept = layers.LSTM(2, stateful=True), SWA(2), []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(compat.get_values(recurrent.states))

    inputs = keras.Input(batch_shape=(10, 4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization()(recurrent(inputs))))
    model.compile("sgd", "mse", **QUICK)
    x = np.tile(X, (3, 1)).reshape(30, 4, 3)
    model.fit(x, Y[:30], batch_size=10, epochs=3, shuffle=False, verbose=0, callbacks=[Keep(), swa])
    assert swa.bn_summary == (1, 0, 3, 30)
    for value, last in zip(compat.get_values(recurrent.states), kept[-1]):
        np.testing.assert_array_equal(value, last)
