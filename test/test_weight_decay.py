"""Coupled L2 against float64 sums and gradients, on every stack."""

import logging

import numpy as np
import pytest

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras, tf
from ascend_keras.log import logger

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


# --- the function -------------------------------------------------------------------------------------------------


def test_value():
    model = small()
    expected = 1e-4 * half_squares(model.get_weights())
    np.testing.assert_allclose(number(optimizers.l2_loss(model.trainable_variables, 1e-4)), expected, rtol=1e-6)


def test_value_of_float16_is_computed_in_float32():
    layer = layers.Dense(300, dtype="float16", input_shape=(300,), kernel_initializer="ones", use_bias=False)
    model = keras.Sequential([layer])
    # 90,000 / 2 squares: as a sum of float16 ones it would stick at 2048, and past 65504 be infinite.
    np.testing.assert_allclose(number(optimizers.l2_loss(model.trainable_variables, 4.0)), 180000.0, rtol=1e-6)


def test_value_of_nothing():
    assert number(optimizers.l2_loss([], 1e-4)) == 0.0


# --- which variables ------------------------------------------------------------------------------------------------


class Scaled(layers.Layer):
    """A layer as users write it: weights under names of their own, one in a list, one added without an attribute."""

    def build(self, input_shape):
        self.w = self.add_weight(name="w", shape=(int(input_shape[-1]),), initializer="ones")
        self.out_bias = self.add_weight(name="shift", shape=(1,), initializer="ones")
        self.parts = [self.add_weight(name="bias", shape=(2,), initializer="ones")]
        self.add_weight(name="count", shape=(), initializer="ones", trainable=False)
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.w + self.out_bias + tf.reduce_sum(self.parts[0])


def zoo():
    """A model of many layers, and its variables by role."""
    conv, batch_norm = layers.Conv2D(2, 3), layers.BatchNormalization()
    separable, layer_norm, prelu = layers.SeparableConv2D(3, 2), layers.LayerNormalization(), layers.PReLU()
    inner_dense = layers.Dense(4)
    inner = keras.Sequential([layers.Dense(6, input_shape=(48,), use_bias=False), layers.Reshape((2, 3)), inner_dense])
    timed, lstm, gru = layers.Dense(5), layers.LSTM(2, return_sequences=True), layers.GRU(3)
    scaled, cell, head = Scaled(), layers.LSTMCell(2), layers.Dense(2)
    image = keras.Input((6, 6, 1))
    x = prelu(layer_norm(separable(batch_norm(conv(image)))))
    x = inner(layers.Reshape((48,))(layers.Concatenate()([layers.Flatten()(x)] * 2)[:, :48]))
    x = layers.RNN(cell, return_sequences=True)(lstm(layers.TimeDistributed(timed)(x)))
    model = keras.Model(image, head(scaled(layers.Bidirectional(gru)(x))))
    roles = {"weight": [], "bias": [], "beta": [], "gamma": []}
    for layer in [conv, separable, inner_dense, timed, head]:
        roles["bias"].append(layer.bias)
    recurrent = [lstm.cell, cell] + [
        wrapper.cell
        for bidirectional in model.layers
        if isinstance(bidirectional, layers.Bidirectional)
        for wrapper in (bidirectional.forward_layer, bidirectional.backward_layer)
    ]
    roles["bias"] += [each.bias for each in recurrent] + [scaled.out_bias, scaled.parts[0]]
    roles["beta"] += [batch_norm.beta, layer_norm.beta]
    roles["gamma"] += [batch_norm.gamma, layer_norm.gamma]
    for layer in [conv, inner.layers[0], inner_dense, timed, head]:
        roles["weight"].append(layer.kernel)
    roles["weight"] += [weight for each in recurrent for weight in (each.kernel, each.recurrent_kernel)]
    roles["weight"] += [separable.depthwise_kernel, separable.pointwise_kernel, prelu.alpha, scaled.w]
    return model, roles


# From the smallest choice to the largest: each holds the one before.
CHOICES = [
    ("no_norm_no_bias", ["weight"]),
    ("weights", ["weight", "gamma"]),
    ("all", ["weight", "gamma", "bias", "beta"]),
]


def test_choices_among_all_kinds_of_layers_add_up():
    model, roles = zoo()
    # Every weight its own number, so that a sum of squares tells which are in it.
    model.set_weights([np.full(w.shape, 0.5 + 0.0625 * i, "f4") for i, w in enumerate(model.get_weights())])
    assert sum(map(len, roles.values())) == len(model.trainable_variables)
    for apply_to, chosen_roles in CHOICES:
        expected = [variable for role in chosen_roles for variable in roles[role]]
        chosen = optimizers.decayed_variables(model, apply_to)
        assert len(chosen) == len(expected)
        assert {id(variable) for variable in chosen} == {id(variable) for variable in expected}
        optimizers.add_weight_decay(model, 0.125, apply_to)
        reference = 0.125 * half_squares(compat.get_values(expected))
        np.testing.assert_allclose(losses_of(model), reference, rtol=1e-6)
        np.testing.assert_allclose(optimizers.l2_term(model), reference, rtol=1e-6)


@pytest.mark.skipif(not hasattr(layers, "MultiHeadAttention"), reason="TF 1.15 has no MultiHeadAttention")
def test_attention():
    inputs = keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3)
    model = keras.Model(inputs, attention(inputs, inputs))
    assert len(optimizers.decayed_variables(model, "all")) == 8
    kernels = optimizers.decayed_variables(model, "no_norm_no_bias")
    assert sorted(tuple(variable.shape) for variable in kernels) == [(2, 3, 6), (6, 2, 3), (6, 2, 3), (6, 2, 3)]


@pytest.mark.skipif(not hasattr(layers, "RMSNormalization"), reason="RMSNormalization is a layer of Keras 3 only")
def test_root_mean_square_normalisation_has_a_gamma_of_another_name():
    model = keras.Sequential([keras.Input((4,)), layers.RMSNormalization()])
    assert len(optimizers.decayed_variables(model, "weights")) == 1
    assert optimizers.decayed_variables(model, "no_norm_no_bias") == []


def test_embedding_is_a_weight():
    model = (
        keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(5, 2)])
        if compat.KERAS3
        else (keras.Sequential([layers.Embedding(5, 2, input_length=3)]))
    )
    assert len(optimizers.decayed_variables(model, "no_norm_no_bias")) == 1


class Tied(layers.Layer):
    """Multiplies by the transposed kernel of another layer."""

    def __init__(self, other):
        super().__init__()
        self.other = other
        self.kernel = other.kernel

    def call(self, inputs):
        return tf.matmul(inputs, tf.convert_to_tensor(self.kernel), transpose_b=True)


def shared_and_tied():
    """A layer called twice, and its kernel used by another layer, all in one model."""
    inputs = keras.Input((4,))
    dense = layers.Dense(4, bias_initializer="ones")
    twice = dense(dense(inputs))
    return inputs, dense, keras.Model(inputs, Tied(dense)(twice))


def test_shared_and_tied_weights_count_once():
    _, dense, model = shared_and_tied()
    optimizers.add_weight_decay(model, 0.5)
    reference = 0.5 * half_squares(dense.get_weights()[:2])
    np.testing.assert_allclose(optimizers.l2_term(model), reference, rtol=1e-6)
    np.testing.assert_allclose(losses_of(model), reference, rtol=1e-6)


def test_weights_shared_with_a_nested_model_count_once():
    inputs, dense, inner = shared_and_tied()
    model = keras.Model(inputs, inner(inner(dense(inputs))))
    optimizers.add_weight_decay(model, 0.5)
    reference = 0.5 * half_squares(dense.get_weights()[:2])
    np.testing.assert_allclose(optimizers.l2_term(model), reference, rtol=1e-6)
    np.testing.assert_allclose(losses_of(model), reference, rtol=1e-6)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(3), layers.Dense(2)

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_subclassed_model():
    model = Subclassed()
    model(tf.zeros((1, 4)))
    compat.get_session() if compat.TF1 else None
    optimizers.add_weight_decay(model, 0.5, "weights")
    reference = 0.5 * half_squares(model.get_weights()[::2])
    np.testing.assert_allclose(losses_of(model), reference, rtol=1e-6)


# --- more than once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["inner inner outer outer inner", "outer inner outer", "inner", "outer"])
def test_asking_again_changes_nothing(order):
    inner = small(bias_initializer="ones")
    outer = keras.Sequential([inner, layers.Dense(2)])
    outer.build((None, 5))
    models = {"inner": inner, "outer": outer}
    for name in order.split():
        optimizers.add_weight_decay(models[name], 0.5)
    decayed = models["outer" if "outer" in order else "inner"]
    reference = 0.5 * half_squares(decayed.get_weights())
    np.testing.assert_allclose(losses_of(outer), reference, rtol=1e-6)
    np.testing.assert_allclose(optimizers.l2_term(outer), reference, rtol=1e-6)
    if "inner" in order:
        np.testing.assert_allclose(losses_of(inner), 0.5 * half_squares(inner.get_weights()), rtol=1e-6)


def test_each_model_that_shares_layers_can_have_it():
    inputs = keras.Input((5,))
    trunk = layers.Dense(4)
    x = trunk(inputs)
    first, second = keras.Model(inputs, layers.Dense(3)(x)), keras.Model(inputs, layers.Dense(2)(x))
    for model in (first, second):
        optimizers.add_weight_decay(model, 0.5)
    for model in (first, second):
        np.testing.assert_allclose(losses_of(model), 0.5 * half_squares(model.get_weights()), rtol=1e-6)


def test_other_regularizers_are_refused_all_at_once():
    model = keras.Sequential(
        [
            layers.Dense(4, input_shape=(5,), kernel_regularizer="l2", name="first"),
            layers.Dense(3, bias_regularizer=keras.regularizers.l1(0.5), name="second"),
        ]
    )
    count = len(model.losses)
    with pytest.raises(ValueError) as error:
        optimizers.add_weight_decay(model, 1e-4)
    message = str(error.value)
    for words in ("kernel of layer 'first' is regularized already, by L", "bias of layer 'second' is regularized al"):
        assert words in message
    assert "Received: weight_decay=0.0001. Leave one of the two out." in message
    assert len(model.losses) == count, "nothing was added before the error"


def test_another_factor_is_refused():
    model = small()
    optimizers.add_weight_decay(model, 0.5, "weights")
    with pytest.raises(ValueError) as error:
        optimizers.add_weight_decay(model, 0.25)
    name = model.layers[0].name
    assert str(error.value).splitlines()[0] == (
        "kernel of layer {!r} is regularized already, by weight_decay=0.5. Received: weight_decay=0.25. Build the "
        "model anew to change it.".format(name)
    )
    assert len(str(error.value).splitlines()) == 2
    np.testing.assert_allclose(optimizers.l2_term(model), 0.5 * half_squares(model.get_weights()[::2]), rtol=1e-6)


# --- wrong arguments ------------------------------------------------------------------------------------------------


def test_all_problems_at_once():
    with pytest.raises(ValueError) as error:
        optimizers.add_weight_decay("model", "1e-4", "kernels")
    assert str(error.value) == (
        "weight_decay must be a number >= 0. Received: weight_decay='1e-4'.\n"
        "apply_to must be one of 'all', 'weights', 'no_norm_no_bias'. Received: apply_to='kernels'.\n"
        "model must be a Keras model. Received: model='model'."
    )
    with pytest.raises(ValueError, match="apply_to must be one of 'all', 'weights', 'no_norm_no_bias'. Received"):
        optimizers.decayed_variables(small(), None)


@pytest.mark.parametrize("value", [-1e-4, True, None, float("nan"), float("inf")])
def test_bad_factors(value):
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0. Received: weight_decay="):
        optimizers.add_weight_decay(small(), value)


def test_model_without_weights():
    with pytest.raises(ValueError, match=r"The model has no weights yet. Received: model=.*Call model.build\("):
        optimizers.add_weight_decay(keras.Sequential([layers.Dense(3)]), 1e-4)


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def test_a_compiled_model_is_warned_about():
    records = Records()
    logger.addHandler(records)
    try:
        model = small()
        optimizers.add_weight_decay(model, 1e-4)
        assert records.texts == []
        compiled(model)
        optimizers.add_weight_decay(model, 1e-4)
        assert records.texts == [], "nothing was added"
        again = compiled(small())
        optimizers.add_weight_decay(again, 1e-4)
    finally:
        logger.removeHandler(records)
    assert len(records.texts) == 1 and "is compiled already. Compile it again" in records.texts[0]
