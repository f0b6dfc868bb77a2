"""SWA in whole trainings of all sorts of models: the average, the statistics, and what has to be left alone.

Every training is checked in full: trainable weights against the float32 sum of what a callback saw at the end of each
epoch (bit for bit), all other state against its last value, moving statistics against NumPy's population values.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_swa_modes import mean

from ascend_keras import NPUTrainer, compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf

HERE = os.path.dirname(os.path.abspath(__file__))
layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3) * (1 + np.arange(3))).astype(np.float32)
Y = random.randn(40, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


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


# --- layers ---------------------------------------------------------------------------------------------------------


class Inside(layers.Wrapper):
    """A wrapper of the user's: runs the layer on the inputs and adds them."""

    def call(self, inputs, training=None):
        return inputs + self.layer(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


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


def synchronised():
    try:
        return layers.BatchNormalization(synchronized=True)
    except (TypeError, ValueError):
        if compat.TF1:
            pytest.skip("TF 1.15 has no synchronised batch normalization")
        return layers.experimental.SyncBatchNormalization()


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
import test_swa_models as here

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
