"""What a batch-norm re-estimation leaves alone, what data it takes, and its graphs."""

import numpy as np
import pytest
from batch_norm_oracle import check_population, data, model_of, statistics

from ascend_keras import compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.batch_norm import Batches, BatchNormPass, reestimate_batch_norm
from ascend_keras.compat import keras, tf

layers = keras.layers


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, which some of them finalize.
        keras.backend.clear_session()


# --- nothing else changes -----------------------------------------------------------------------------------------


def everything(model):
    """All variables but the moving statistics, those of the optimizer among them."""
    found = batch_norm.batch_norm_layers(model)
    moving = {id(v) for layer in found for v in (layer.moving_mean, layer.moving_variance)}
    variables = list(model.weights) + compat.optimizer_variables(model.optimizer)
    return compat.get_values([v for v in variables if id(v) not in moving])


def trained_model(optimizer):
    norms = [layers.BatchNormalization(), layers.BatchNormalization()]
    model = model_of((3,), layers.Dense(4), norms[0], layers.Dropout(0.5), layers.Dense(2), norms[1])
    model.compile(optimizer, "mse", metrics=["mae"])
    model.fit(data((40, 3), 0.0), np.ones((40, 2), np.float32), epochs=2, verbose=0)
    return model


@pytest.mark.parametrize(
    "name, options", [("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {})]
)
def test_weights_and_optimizer_stay_bit_for_bit(name, options):
    model = trained_model(getattr(keras.optimizers, name)(**options))
    before = everything(model)
    reestimate_batch_norm(model, data((40, 3), 0.0), batch_size=16)
    after = everything(model)
    assert len(before) > 8
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(not compat.KERAS3, reason="only Keras 3 keeps the state of dropout in variables of the model")
def test_seeds_stay_bit_for_bit():
    model = trained_model("sgd")
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    before = compat.get_values(seeds)
    assert seeds
    reestimate_batch_norm(model, data((40, 3), 0.0), batch_size=16)
    for old, new in zip(before, compat.get_values(seeds)):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("rate", [0.5])
def test_dropout_acts_or_not(rate):
    x = data((4000, 3), offset=2.0).astype(np.float64)
    model = model_of((3,), layers.Dropout(rate), layers.BatchNormalization())
    reestimate_batch_norm(model, x, batch_size=4000, dropout=False)
    check_population(model, x.astype(np.float32))
    assert model.layers[1].rate == rate
    reestimate_batch_norm(model, x, batch_size=4000)
    # Inputs become x / (1 - p) or 0: the second moment grows by 1 / (1 - p). Standard error of 4,000 points: 4 %.
    second = (x**2).mean(axis=0) / (1 - rate)
    np.testing.assert_allclose(statistics(model)[0][1], second - x.mean(axis=0) ** 2, rtol=0.2)


@pytest.mark.parametrize("wrong", ["crash", "nan", "empty"])
def test_failure_leaves_the_model_as_it_was(wrong):
    model = trained_model("sgd")
    before = model.get_weights()

    def batches():
        yield data((16, 3))
        if wrong == "crash":
            raise KeyError("disk")
        yield np.full((16, 3), np.nan, np.float32)

    source = np.zeros((0, 3), np.float32) if wrong == "empty" else batches()
    error, message = {
        "crash": (KeyError, "disk"),
        "nan": (ValueError, "not finite.*Received: NaN or infinity in layers batch_norm"),
        "empty": (ValueError, "Received: 0 batches"),
    }[wrong]
    with pytest.raises(error, match=message):
        reestimate_batch_norm(model, source, steps=2)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


# --- data ---------------------------------------------------------------------------------------------------------


class Pairs(keras.utils.Sequence):
    """Three batches with labels."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.x[index * 16 : (index + 1) * 16], np.zeros(16)


@pytest.mark.parametrize("kind", ["x", "xy", "xyw", "dataset", "endless", "sequence", "generator"])
def test_every_form_of_data(kind):
    x, y = data((48, 3)), np.zeros(48)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    source, steps = {
        "x": (x, None),
        "xy": ((x, y), None),
        "xyw": ((x, y, y), None),
        "dataset": (dataset, None),
        "endless": (dataset.repeat(), 3),
        "sequence": (Pairs(x), None),
        "generator": ((batch for batch in Pairs(x)), 3),
    }[kind]
    model = model_of((3,), layers.BatchNormalization())
    assert reestimate_batch_norm(model, source, steps, batch_size=16)[2:] == (3, 48)
    check_population(model, x)


def test_steps_limit_the_pass():
    x = data((48, 3))
    model = model_of((3,), layers.BatchNormalization())
    assert reestimate_batch_norm(model, Pairs(x), steps=2)[2:] == (2, 32)
    check_population(model, x[:32])


def test_sorted_arrays_are_shuffled_the_same_way_each_time():
    batches = Batches((np.arange(1000), np.zeros(1000)), batch_size=300)
    first, second = list(batches), list(batches)
    assert [len(batch) for batch in first] == [300, 300, 300, 100]
    assert sorted(np.concatenate(first)) == list(range(1000))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    # The mean of 300 of 0..999 drawn without order: 499.5 with a standard error of 14.
    assert abs(first[0].mean() - 499.5) < 70


@pytest.mark.parametrize(
    "source, steps, message",
    [
        (
            lambda: tf.data.Dataset.from_tensors(np.ones((4, 3))).repeat(),
            None,
            "goes on for ever.*steps=None",
        ),
        (lambda: iter([np.ones((4, 3))]), None, "no known end.*steps=None"),
        (lambda: "images", None, "must be a dataset, a Sequence.*Received: data of type str"),
        (lambda: [np.ones((4, 3)), np.ones((5, 3))], None, r"lengths \[4, 5\]"),
        (lambda: np.ones((4, 3)), 0, "must be at least 1. Received: steps=0"),
    ],
)
def test_data_that_will_not_do(source, steps, message):
    model = model_of((3,), layers.BatchNormalization())
    with pytest.raises(ValueError, match=message):
        reestimate_batch_norm(model, source(), steps)


# --- ranks and graphs ---------------------------------------------------------------------------------------------


def test_two_ranks_give_what_one_gives():
    x = data((48, 3))
    model = model_of((3,), layers.BatchNormalization())
    vectors = []

    def remember(vector):
        vectors.append(vector.copy())
        return vector

    reestimate_batch_norm(model, x[32:], batch_size=16, reduce=remember)
    reestimate_batch_norm(model, x[:32], batch_size=16, reduce=lambda vector: vector + vectors[0])
    check_population(model, x)
    assert [vector.shape for vector in vectors] == [(1 + 2 * 3,)]
    assert vectors[0][0] == 16


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 in graph mode has no tf.function in a model")
def test_layer_in_a_function_of_its_own_is_refused_with_the_remedy():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()

        @tf.function
        def inner(self, inputs):
            return self.norm(inputs, training=True)

        def call(self, inputs, training=None):
            return self.inner(inputs)

    model, x = Model(), data((40, 3))
    model(x[:16])
    before = model.get_weights()
    # Traced before the pass, and traced by it. Keras 3 traces it to find the output's shape, when nothing is updated.
    for rows in (8,) if compat.KERAS3 else (16, 8):
        with pytest.raises(RuntimeError, match=r"(?s)tf.function of its own.*run_functions_eagerly\(True\)"):
            reestimate_batch_norm(model, x[:rows], batch_size=rows)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    tf.config.run_functions_eagerly(True)
    try:
        reestimate_batch_norm(model, x, batch_size=16)
    finally:
        tf.config.run_functions_eagerly(False)
    check_population(model, x)


@pytest.mark.skipif(not compat.TF1, reason="TF 2 has no graph that grows")
def test_graph_is_complete_after_build():
    x = data((48, 3))
    model = model_of((3,), layers.BatchNormalization())
    batch_pass = BatchNormPass(model)
    batches = Batches(tf.data.Dataset.from_tensor_slices(x).batch(16))
    batch_pass.build()
    keras.backend.get_session().graph.finalize()
    for _ in range(2):
        assert batch_pass.run(batches)[2:] == (3, 48)
    check_population(model, x)
