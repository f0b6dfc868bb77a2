"""Training with coupled L2 against float64 accounts, on every stack; `test_weight_decay.py` has what is decayed."""

import math

import numpy as np
import pytest

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras, tf
from ascend_keras.schedules import WarmupCosine

layers = keras.layers
NO_JIT = {"jit_compile": False} if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def number(tensor):
    return float(keras.backend.get_value(tensor) if compat.TF1 else tensor)


def half_squares(arrays):
    return sum((np.asarray(array, "f8") ** 2).sum() for array in arrays) / 2


def losses_of(model):
    return sum(number(loss) for loss in model.losses)


def compiled(model, optimizer=None, loss="mse", **arguments):
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss, **arguments, **NO_JIT)
    return model


def small(**first):
    return keras.Sequential([layers.Dense(4, activation="relu", input_shape=(5,), **first), layers.Dense(3)])


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cross_entropy(target, logits):
    """What docs/optimizers.md advises: the losses of the samples, as a metric."""
    return LOSS.call(target, logits)


class Account:
    """Softmax regression with a hidden layer, L2 and Nesterov momentum, in float64."""

    def __init__(self, weights, decay, decayed):
        self.weights = [weight.astype("f8") for weight in weights]
        self.sums = [np.zeros_like(weight) for weight in self.weights]
        self.decay, self.decayed = decay, decayed

    def step(self, x, labels, rate):
        """Returns cross entropy and L2 term before the step, and does it."""
        (w1, b1, w2, b2), count = self.weights, len(x)
        hidden = np.maximum(x @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        logits = logits - logits.max(1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -np.log(probabilities[np.arange(count), labels]).mean()
        term = self.decay * half_squares(w for w, is_decayed in zip(self.weights, self.decayed) if is_decayed)
        back = (probabilities - np.eye(probabilities.shape[1])[labels]) / count
        into = (back @ w2.T) * (hidden > 0)
        gradients = [x.T @ into, into.sum(0), hidden.T @ back, back.sum(0)]
        for index, gradient in enumerate(gradients):
            gradient = gradient + self.decay * self.decayed[index] * self.weights[index]
            self.sums[index] = 0.9 * self.sums[index] + gradient
            self.weights[index] = self.weights[index] - rate * (gradient + 0.9 * self.sums[index])
        return loss, term


def rate_of(step):
    return 0.5 * (step + 1) / 3 if step < 3 else 0.5 * math.sin(math.pi / 2 * (20 - step) / 17) ** 2


@pytest.mark.parametrize("apply_to, decayed", [("all", [1, 1, 1, 1]), ("weights", [1, 0, 1, 0])])
def test_fit_minimises_loss_plus_l2_and_shows_both(apply_to, decayed):
    model = small(bias_initializer="ones")
    optimizers.add_weight_decay(model, 0.0625, apply_to)
    optimizer = optimizers.Momentum(WarmupCosine(0.5, 20, 3), nesterov=True)
    compiled(model, optimizer, LOSS, metrics=[cross_entropy])
    account = Account(model.get_weights(), 0.0625, decayed)
    generator = np.random.RandomState(2)
    x, labels = generator.normal(size=(8, 5)).astype("f4"), generator.randint(3, size=8)
    logs = model.fit(x, labels, batch_size=8, epochs=6, shuffle=False, verbose=0).history
    for step in range(6):
        expected, term = account.step(x.astype("f8"), labels, rate_of(step))
        assert term > 0.01
        np.testing.assert_allclose(logs["cross_entropy"][step], expected, rtol=1e-5)
        np.testing.assert_allclose(logs["loss"][step], expected + term, rtol=1e-5)
    for weight, reference in zip(model.get_weights(), account.weights):
        np.testing.assert_allclose(weight, reference, rtol=1e-5, atol=1e-6)
    # With the weights after the last step: the validation loss holds the term as well.
    total, shown = model.evaluate(x, labels, batch_size=8, verbose=0)
    last, term = account.step(x.astype("f8"), labels, 0.0)
    np.testing.assert_allclose([total, shown], [last + term, last], rtol=1e-5)
    np.testing.assert_allclose(total - optimizers.l2_term(model), last, rtol=1e-5)


def no_data_gradient(target, output):
    return 0.0 * tf.reduce_sum(tf.cast(output, tf.float32), axis=-1)


def one_step(model):
    model.train_on_batch(np.ones((1, 5), "f4"), np.zeros((1, 3), "f4"))


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_gradient_is_weight_decay_times_weight(rate):
    model = small(bias_initializer="ones")
    optimizers.add_weight_decay(model, 0.125)
    before = model.get_weights()
    one_step(compiled(model, keras.optimizers.SGD(rate), no_data_gradient))
    for weight, start in zip(model.get_weights(), before):
        np.testing.assert_allclose(weight, start.astype("f8") * (1 - 0.125 * rate), rtol=1e-6)


@pytest.mark.parametrize("loss_scale", [None, "dynamic", 1024])
def test_small_gradients_survive_mixed_precision(loss_scale):
    """1e-5 times weights around 1e-4: nothing that float16 could hold, with or without a scale."""
    optimizer = optimizers.Momentum(1.0)
    with compat.dtype_policy("mixed_float16"):
        model = small()
        scaled = optimizers.scale_loss(optimizer, loss_scale)
        scaled = optimizers.unscaled(scaled) if loss_scale is None else scaled
        model.set_weights([1e-4 * (weight + 0.5) for weight in model.get_weights()])
        before = model.get_weights()
        optimizers.add_weight_decay(model, 1e-5)
        arguments = {"auto_scale_loss": False} if compat.KERAS3 else {}
        one_step(compiled(model, scaled, no_data_gradient, **arguments))
    reference = [1e-5 * weight.astype("f8") for weight in before]
    accumulated = compat.get_values(compat.optimizer_variables(optimizer)[-4:])
    for value, gradient in zip(accumulated, reference):
        np.testing.assert_allclose(value, gradient, rtol=1e-6)
    np.testing.assert_allclose(optimizers.l2_term(model), 1e-5 * half_squares(model.get_weights()), rtol=1e-6)


def test_frozen_variables_add_nothing_until_they_train():
    model = small(bias_initializer="ones")
    model.layers[0].trainable = False
    optimizers.add_weight_decay(model, 0.125)
    first, second = half_squares(model.get_weights()[:2]), half_squares(model.get_weights()[2:])
    data = np.ones((1, 5), "f4"), np.zeros((1, 3), "f4")
    for frozen, expected in [(True, second), (False, first + second), (True, second)]:
        model.layers[0].trainable = not frozen
        compiled(model, loss=no_data_gradient)
        np.testing.assert_allclose(model.evaluate(*data, verbose=0), 0.125 * expected, rtol=1e-6)
        np.testing.assert_allclose(optimizers.l2_term(model), 0.125 * expected, rtol=1e-6)
    model.trainable = False
    assert optimizers.l2_term(model) == 0.0
    assert optimizers.decayed_variables(model) == []


def test_term_follows_the_weights():
    model = small(kernel_initializer="ones")
    optimizers.add_weight_decay(model, 0.5)
    for factor in (1.0, 2.0, 0.0):
        model.set_weights([np.full(weight.shape, factor) for weight in model.get_weights()])
        assert optimizers.l2_term(model) == 0.5 * factor**2 * (5 * 4 + 4 + 4 * 3 + 3) / 2


def test_term_of_a_model_without_decay_is_zero():
    model = small()
    assert optimizers.l2_term(model) == 0.0
    optimizers.add_weight_decay(model, 0)
    assert optimizers.l2_term(model) == 0.0 and not model.losses


@pytest.mark.skipif(not compat.TF1, reason="only TF 1.15 has one graph for all")
def test_term_adds_nothing_to_the_graph():
    model = compiled(small())
    optimizers.add_weight_decay(model, 0.5)
    compat.get_session()
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    values = {optimizers.l2_term(model) for _ in range(3)}
    assert len(graph.get_operations()) == before and len(values) == 1


ENDINGS = [".h5"] if compat.TF1 else [".keras"] if compat.KERAS3 else [".h5", ""]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_holds_no_term_and_takes_it_again(ending, tmp_path):
    model = small(bias_initializer="ones")
    optimizers.add_weight_decay(model, 0.125)
    loss = keras.losses.MeanSquaredError()
    compiled(model, optimizers.Momentum(0.25), loss)
    one_step(model)
    path = str(tmp_path / "model") + ending
    model.save(path)
    again = keras.models.load_model(path)
    assert losses_of(again) == 0.0 and optimizers.l2_term(again) == 0.0
    optimizers.add_weight_decay(again, 0.125)
    compiled(again, again.optimizer, loss)
    data = np.ones((1, 5), "f4"), np.zeros((1, 3), "f4")
    np.testing.assert_array_equal(again.evaluate(*data, verbose=0), model.evaluate(*data, verbose=0))
    if ending:  # a SavedModel brings back no slots
        one_step(model)
        one_step(again)
        for mine, theirs in zip(again.get_weights(), model.get_weights()):
            np.testing.assert_array_equal(mine, theirs)
