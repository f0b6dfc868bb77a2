"""Statistics of batch-norm re-estimation, against NumPy in float64 on the same data or the same batches."""

import inspect

import numpy as np
import pytest
from batch_norm_oracle import check_population, data, model_of, statistics

from ascend_keras import compat
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.batch_norm import reestimate_batch_norm
from ascend_keras.compat import keras, tf

layers = keras.layers


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, which some of them finalize.
        keras.backend.clear_session()


# --- statistics of a layer on the input ---------------------------------------------------------------------------


def test_uneven_last_batch_is_weighted():
    x = data((70, 3))
    x[64:] += 50
    model = model_of((3,), layers.BatchNormalization())
    summary = reestimate_batch_norm(model, tf.data.Dataset.from_tensor_slices(x).batch(32))
    check_population(model, x)
    assert summary == (1, 0, 3, 70)
    assert str(summary) == "statistics of 1 batch normalization layer re-estimated from 70 samples in 3 batches"


def test_fused_layer_has_no_bessel_correction():
    x = data((6, 2, 2, 3))
    model = model_of((2, 2, 3), layers.BatchNormalization())
    reestimate_batch_norm(model, x, batch_size=2)
    # With the correction n / (n - 1) of batches of 8 values the variance would be 14 % too large.
    check_population(model, x, (0, 1, 2))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 1.0])
def test_momentum_does_not_matter(momentum):
    x = data((40, 3))
    model = model_of((3,), layers.BatchNormalization(momentum=momentum))
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x)
    assert model.layers[1].momentum == momentum


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"scale": False, "center": False}])
def test_without_scale_or_center(options):
    x = data((40, 3))
    model = model_of((3,), layers.BatchNormalization(**options))
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x)


def test_channels_in_the_middle():
    x = np.swapaxes(data((40, 5, 3)), 1, 2)
    model = model_of((3, 5), layers.BatchNormalization(axis=1))
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x, (0, 2))


def test_renorm():
    x = data((40, 3))
    try:
        layer = layers.BatchNormalization(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("{} has no batch renormalization".format(compat.stack_name()))
    model = model_of((3,), layer)
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x)


def test_virtual_batches():
    x = data((40, 3))
    try:
        layer = layers.BatchNormalization(virtual_batch_size=4)
    except (TypeError, ValueError):
        pytest.skip("{} has no virtual batches".format(compat.stack_name()))
    model = model_of((3,), layer)
    reestimate_batch_norm(model, x, batch_size=20)
    check_population(model, x)


def test_masked_steps_count_where_the_layer_takes_a_mask():
    if "mask" not in inspect.signature(layers.BatchNormalization.call).parameters:
        pytest.skip("batch normalization takes no mask on {}".format(compat.stack_name()))
    x = data((40, 4, 3))
    x[::3, 2:] = 0.0
    model = model_of((4, 3), layers.Masking(), layers.BatchNormalization())
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x[(x != 0).any(axis=-1)])


@pytest.mark.parametrize("build", ["experimental", "argument"])
def test_synchronised_layer(build):
    try:
        if build == "argument":
            layer = layers.BatchNormalization(synchronized=True)
        else:
            layer = layers.experimental.SyncBatchNormalization()
    except (AttributeError, TypeError, ValueError):
        pytest.skip("{} has no synchronised batch normalization by {}".format(compat.stack_name(), build))
    x = data((40, 3))
    model = model_of((3,), layer)
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_sixteen_bits(policy):
    # float16 holds the inputs with 11 bits; what the layer sees are the rounded ones.
    x = data((40, 3), offset=3.0)
    with compat.dtype_policy(policy):
        model = model_of((3,), layers.BatchNormalization())
    reestimate_batch_norm(model, x, batch_size=16)
    mean, variance = statistics(model)[0]
    seen = x.astype(np.float16).astype(np.float64)
    tolerance = 1e-3 if mean.dtype == np.float16 else 4e-6
    np.testing.assert_allclose(mean, seen.mean(axis=0), rtol=tolerance)
    np.testing.assert_allclose(variance, seen.var(axis=0), rtol=tolerance)


# --- layers at any depth ------------------------------------------------------------------------------------------


def normalised(x, epsilon=1e-3):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + epsilon)


def test_layers_behind_layers_see_normalised_batches():
    x, kernel = data((70, 3)), np.random.RandomState(1).randn(3, 4).astype(np.float32)
    model = model_of(
        (3,), layers.BatchNormalization(), layers.Dense(4, "relu", use_bias=False), layers.BatchNormalization()
    )
    model.layers[2].set_weights([kernel])
    reestimate_batch_norm(model, tf.data.Dataset.from_tensor_slices(x).batch(32))
    parts = [x[start : start + 32].astype(np.float64) for start in (0, 32, 64)]
    hidden = np.concatenate([np.maximum(normalised(part) @ kernel, 0) for part in parts])
    mean, variance = statistics(model)[1]
    # Normalising float32 inputs of size 100 costs 4e-6 of a deviation.
    np.testing.assert_allclose(mean, hidden.mean(axis=0), rtol=2e-5)
    np.testing.assert_allclose(variance, hidden.var(axis=0), rtol=2e-5)


def test_nested_models_and_layers_of_layers():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.steps = [layers.BatchNormalization()]

        def call(self, inputs, training=None):
            return self.steps[0](inputs, training=training)

        def compute_output_shape(self, input_shape):
            return input_shape

    x = data((40, 3))
    inner = model_of((3,), Block())
    model = model_of((3,), model_of((3,), inner))
    assert reestimate_batch_norm(model, x, batch_size=16).layers == 1
    check_population(model, x)


def test_time_distributed():
    x = data((40, 5, 3))
    x += 10 * np.arange(5, dtype=np.float32)[:, None]
    model = model_of((5, 3), layers.TimeDistributed(layers.BatchNormalization()))
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, x, (0, 1))


def test_shared_layer_gets_the_population_of_all_its_uses():
    x = data((40, 3))
    shared, inputs = layers.BatchNormalization(), keras.Input((3,))
    doubled = layers.Lambda(lambda value: value * 2.0)(inputs)
    model = keras.Model(inputs, layers.Add()([shared(inputs), shared(doubled)]))
    reestimate_batch_norm(model, x, batch_size=16)
    check_population(model, np.concatenate([x, 2 * x]))


def test_several_inputs_by_list_and_by_name():
    first, second = data((40, 3)), data((40, 2), offset=-5.0)
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([layers.BatchNormalization()(a), layers.BatchNormalization()(b)])
    for inputs in ([first, second], {"a": first, "b": second}):
        model = keras.Model([a, b], joined)
        for layer in batch_norm.batch_norm_layers(model):
            compat.set_values([layer.moving_mean], [np.zeros(layer.moving_mean.shape, np.float32)])
        reestimate_batch_norm(model, (inputs, np.zeros(40)), batch_size=16)
        by_width = {len(mean): (mean, variance) for mean, variance in statistics(model)}
        np.testing.assert_allclose(by_width[3][0], first.mean(axis=0, dtype=np.float64), rtol=1e-6)
        np.testing.assert_allclose(by_width[2][0], second.mean(axis=0, dtype=np.float64), rtol=1e-6)


# --- layers that are left alone -----------------------------------------------------------------------------------


class Inference(layers.Layer):
    """A batch normalization that always runs in inference mode."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, inputs):
        return self.norm(inputs, training=False)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_frozen_layers_keep_their_statistics():
    frozen, alive, inference = layers.BatchNormalization(), layers.BatchNormalization(), Inference()
    frozen.trainable = False
    x = data((40, 3))
    model = model_of((3,), alive, frozen, inference)
    kept = [v for layer in (frozen, inference.norm) for v in (layer.moving_mean, layer.moving_variance)]
    written = [np.full(v.shape, 0.3, np.float32) for v in kept]
    compat.set_values(kept, written)
    summary = reestimate_batch_norm(model, x, batch_size=16)
    assert summary[:2] == (1, 2)
    assert str(summary).endswith(", 2 left alone, as training leaves them alone")
    for value, expected in zip(compat.get_values(kept), written):
        np.testing.assert_array_equal(value, expected)
    mean, _ = compat.get_values([alive.moving_mean, alive.moving_variance])
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_model_without_batch_norm_does_not_read_the_data():
    assert reestimate_batch_norm(model_of((3,), layers.Dense(2)), data=None) == (0, 0, 0, 0)


def test_unused_layer_is_left_alone():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = layers.BatchNormalization()
            self.unused = layers.BatchNormalization(scale=False, center=False)
            self.unused.build((None, 3))

        def call(self, inputs, training=None):
            return self.used(inputs, training=training)

    model = Model()
    model.compile("sgd", "mse")
    model.fit(data((8, 3)), np.zeros((8, 3)), verbose=0)
    assert reestimate_batch_norm(model, data((40, 3)), batch_size=16)[:2] == (1, 1)
    np.testing.assert_array_equal(compat.get_values([model.unused.moving_mean])[0], np.zeros(3))
