"""The losses inside Keras: fit, evaluate, saved models, and the floor of a smoothed loss."""

import json

import numpy as np
import pytest
from losses_oracle import FORMS, cross_entropy, log_softmax, targets, value

from ascend_keras import compat, losses
from ascend_keras.compat import keras, tf

# Keras 3 compiles with XLA by default, which takes longer than these trainings.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


# --- in Keras ---------------------------------------------------------------------------------------------------------


def dense_model(units=3, inputs=4):
    place = keras.Input((inputs,))
    return keras.Model(place, keras.layers.Dense(units)(place))


def logits_of(model, x):
    return model.predict(x, verbose=0).astype(np.float64)


def test_evaluate_leaves_the_ignored_out():
    x, y = np.random.RandomState(0).randn(8, 4).astype(np.float32), np.array([0, -1, 2, 1, -1, -1, 0, 1])
    model = dense_model()
    model.compile("sgd", losses.SparseCategoricalCrossentropy(True, ignore_class=-1, label_smoothing=0.1), **QUICK)
    kept = y != -1
    expected = cross_entropy(targets(y[kept], 3, 0.1), logits_of(model, x)[kept]).mean()
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=8, verbose=0), expected, rtol=2e-6)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_fit_takes_the_step_of_the_formula(kind):
    x, y = np.random.RandomState(0).randn(6, 4).astype(np.float32), np.array([0, 1, 2, 2, 1, 0])
    model = dense_model()
    kernel, bias = model.get_weights()
    probabilities = np.exp(log_softmax(x.astype(np.float64).dot(kernel) + bias))
    slope = x.astype(np.float64).T.dot(probabilities - targets(y, 3, 0.1)) / 6
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1)
    given = y
    if kind == "dense":
        loss, given = losses.CategoricalCrossentropy(True, label_smoothing=0.1), np.eye(3, dtype=np.float32)[y]
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"], **QUICK)
    history = model.fit(x, given, batch_size=6, epochs=1, verbose=0).history
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.5 * slope, atol=1e-6)
    # The name "accuracy" must be resolved to the one for class numbers, or for one-hot labels.
    expected = (x.dot(kernel).argmax(-1) == y).mean()
    assert 0 < expected < 1
    assert abs(history[compat.accuracy_key(history)][0] - expected) < 1e-6


def test_labels_of_a_dataset():
    x, y = np.random.RandomState(0).randn(6, 4).astype(np.float32), np.array([0, 1, 2, 2, 1, 0])
    model = dense_model()
    model.compile("sgd", losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1), **QUICK)
    expected = cross_entropy(targets(y, 3, 0.1), logits_of(model, x)).mean()
    for labels in (y, y[:, np.newaxis]):
        dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(6)
        np.testing.assert_allclose(model.evaluate(dataset, steps=1, verbose=0), expected, rtol=2e-6)


def test_float16_model_has_a_float32_loss():
    x, y = np.ones((64, 4), np.float32), np.zeros(64, np.int64)
    with compat.dtype_policy("mixed_float16"):
        model = dense_model()
    model.set_weights([np.array([[-250, 250, 0]] * 4), np.zeros(3)])  # logits -1000, 1000, 0
    model.compile("sgd", losses.SparseCategoricalCrossentropy(True, reduction="sum", label_smoothing=0.1), **QUICK)
    expected = 64 * (2000 * (0.9 + 0.1 / 3) + 1000 * 0.1 / 3)
    assert expected > 65504
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=64, verbose=0), expected, rtol=1e-6)


@pytest.mark.skipif(not compat.KERAS3, reason="Only Keras 3 compiles with XLA on its own.")
def test_keras_3_with_xla():
    x, y = np.random.RandomState(0).randn(6, 4).astype(np.float32), np.array([0, 1, -1, 2, 1, 0])
    model = dense_model()
    loss = losses.SparseCategoricalCrossentropy(True, ignore_class=-1, label_smoothing=0.1)
    model.compile("sgd", loss, jit_compile=True)
    expected = cross_entropy(targets(y[y >= 0], 3, 0.1), logits_of(model, x)[y >= 0]).mean()
    history = model.fit(x, y, batch_size=6, epochs=1, verbose=0).history
    np.testing.assert_allclose(history["loss"], [expected], rtol=2e-6)


def test_no_operation_whose_shape_depends_on_values():
    loss = losses.SparseCategoricalCrossentropy(True, ignore_class=-1, label_smoothing=0.1, smoothing_over="others")
    graph = tf.Graph()
    with graph.as_default():
        placeholder = tf.placeholder if compat.TF1 else tf.compat.v1.placeholder
        loss(placeholder(tf.int32, (8, 5)), placeholder(tf.float32, (8, 5, 6)))
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"Where", "GatherNd", "GatherV2", "Gather", "DynamicPartition", "Unique", "OneHot"}, kinds
    assert "SparseSoftmaxCrossEntropyWithLogits" in kinds
    floats = [
        output.dtype for operation in graph.get_operations() for output in operation.outputs if output.dtype.is_floating
    ]
    assert set(floats) == {tf.float32}


def softmax_model(dtype=None):
    inputs = keras.Input((3,), dtype=dtype)
    return keras.Model(inputs, keras.layers.Activation("softmax", dtype=dtype)(inputs))


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_softmax_is_taken_back_to_its_logits(kind):
    logits = np.array([[0.0, 40.0, 0.0], [1.0, 2.0, 3.0]], np.float32)
    labels = np.array([0, 2])
    model = softmax_model()
    if kind == "sparse":
        loss = losses.SparseCategoricalCrossentropy(label_smoothing=0.1)
    else:
        loss, labels = losses.CategoricalCrossentropy(label_smoothing=0.1), np.eye(3, dtype=np.float32)[labels]
    model.compile("sgd", loss, **QUICK)
    expected = cross_entropy(targets(np.array([0, 2]), 3, 0.1), logits)
    assert expected[0] > 35
    np.testing.assert_allclose(model.evaluate(logits, labels, verbose=0), expected.mean(), rtol=1e-6)


# --- configuration ----------------------------------------------------------------------------------------------------


OPTIONS = [
    losses.SparseCategoricalCrossentropy(
        True, ignore_class=255, label_smoothing=0.1, smoothing_over="others", axis=1, reduction="sum", name="mine"
    ),
    losses.SparseCategoricalCrossentropy(),
    losses.CategoricalCrossentropy(True, label_smoothing=0.2, smoothing_over="others", reduction="none", name="mine"),
    losses.CategoricalCrossentropy(),
]


@pytest.mark.parametrize("loss", OPTIONS)
def test_configuration_comes_back(loss):
    config = loss.get_config()
    assert type(loss).from_config(json.loads(json.dumps(config))).get_config() == config
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is type(loss)
    assert again.get_config() == config


def test_configuration_has_every_argument():
    assert OPTIONS[0].get_config() == dict(
        from_logits=True,
        ignore_class=255,
        label_smoothing=0.1,
        smoothing_over="others",
        axis=1,
        reduction="sum",
        name="mine",
    )


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy"])
def test_the_losses_of_keras_keep_their_name(name):
    theirs = getattr(keras.losses, name)
    assert type(keras.losses.deserialize(keras.losses.serialize(theirs(from_logits=True)))) is theirs


def test_saved_model_comes_back_with_its_loss(tmp_path):
    model = dense_model()
    model.compile("sgd", losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1, ignore_class=-1), **QUICK)
    x, y = np.ones((2, 4), np.float32), np.array([0, 1])
    expected = model.evaluate(x, y, verbose=0)
    path = str(tmp_path / ("model.keras" if compat.TF_VERSION >= (2, 15) else "model.h5"))
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.evaluate(x, y, verbose=0) == expected


def test_numpy_numbers_are_numbers():
    loss = losses.SparseCategoricalCrossentropy(label_smoothing=np.float32(0.5), ignore_class=np.int64(3))
    assert json.loads(json.dumps(loss.get_config()))["label_smoothing"] == 0.5
    assert type(loss.get_config()["ignore_class"]) is int


# --- the floor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_floor_is_the_entropy_of_the_target(classes, smoothing, form):
    target = targets(np.array(1), classes, smoothing, form)
    entropy = -sum(mass * np.log(mass) for mass in target if mass > 0)
    np.testing.assert_allclose(losses.smoothing_floor(smoothing, classes, form), entropy, rtol=1e-12, atol=1e-15)
    if 0 < smoothing < 1:
        reached = losses.sparse_categorical_crossentropy(
            tf.constant([1]),
            tf.constant(np.log(target)[np.newaxis]),
            True,
            label_smoothing=smoothing,
            smoothing_over=form,
        )
        np.testing.assert_allclose(value(reached), [entropy], rtol=1e-12)


def test_floor_of_imagenet_by_hand():
    # on = 0.9001, off = 0.0001: 0.9001 ln(1 / 0.9001) + 999 * 0.0001 ln(10000)
    assert abs(losses.smoothing_floor(0.1, 1000) - (0.9001 * 0.105249420 + 0.0999 * 9.210340372)) < 1e-8
    with pytest.raises(ValueError, match="^Smoothing needs at least 2 classes. Received: classes=1.$"):
        losses.smoothing_floor(0.1, 1)
