"""The models of the recipes at small sizes: what they compute, and how they begin."""

import alexnet_oracle as oracle
import numpy as np
import pytest
from alexnet_models import IMAGES, MEAN, STD, named_weights, small, towers

from ascend_keras import compat
from ascend_keras.compat import keras, tf

layers = keras.layers


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def weights_of(model):
    return [weight.astype("f8") for weight in model.get_weights()]


# --- what the models compute ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant, normalize", [(None, True), (None, "mean"), (None, False), ("modelzoo", True)])
def test_logits_of_the_single_tower(variant, normalize):
    model = small(variant, normalize=normalize, classes=50)
    images = IMAGES[:, :63, :63]
    x = oracle.imagenet(images, bool(normalize), normalize is True)
    logits, _ = oracle.forward(x, weights_of(model))
    expected = oracle.relu(logits) if variant else logits
    got = model.predict(images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    assert (logits < 0).any(), "else a ReLU would not be seen"


@pytest.mark.parametrize(
    "variant, normalize", [(None, None), (None, True), (None, False), ("modelzoo", None), ("modelzoo", "mean")]
)
def test_logits_of_two_towers(variant, normalize):
    model = towers(variant, normalize=normalize)
    modelzoo = variant == "modelzoo"
    # Weights far from the small ones it begins with, for the response normalization to matter.
    random = np.random.RandomState(3)
    model.set_weights([random.randn(*w.shape) * (0.05 if w.ndim > 1 else 1) for w in model.get_weights()])
    assumed = normalize if normalize is not None else (False if modelzoo else "mean")
    x = oracle.imagenet(IMAGES, bool(assumed), assumed is True)
    x = x[..., ::-1] if modelzoo else x
    expected = oracle.two_towers(x, named_weights(model), modelzoo)
    other = oracle.two_towers(x, named_weights(model), not modelzoo)
    np.testing.assert_allclose(model.predict(IMAGES), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected - other).max() > 1e-3 * np.abs(expected).max(), "else the order would not be seen"


def test_images_may_be_uint8_or_float_in_arrays_and_datasets():
    model = towers()
    expected = model.predict(IMAGES.astype(np.float32))
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(model.predict(IMAGES), expected)
    dataset = tf.data.Dataset.from_tensor_slices(IMAGES).batch(2)
    np.testing.assert_array_equal(model.predict(dataset, steps=1), expected)


def test_trains_on_a_dataset_of_uint8():
    model = towers()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001), loss, **({} if not compat.KERAS3 else dict(jit_compile=False)))
    before = model.get_weights()
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.array([0, 1], np.int32))).batch(2).repeat()
    history = model.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all((a != b).any() for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize(
    "variant, dropout, expected",
    [
        (None, None, ["dense", 0.35, "dense_1", 0.35]),
        ("modelzoo", None, ["dense", 0.35, "dense_1", 0.35]),
        ("torchvision", None, [0.5, "dense", 0.5, "dense_1"]),
        ("torchvision", 0.1, [0.1, "dense", 0.1, "dense_1"]),
    ],
)
def test_place_of_dropout(variant, dropout, expected):
    model = small(variant, dropout=dropout)
    behind = model.layers[[layer.name for layer in model.layers].index("flatten") + 1 : -2]
    assert [layer.rate if isinstance(layer, layers.Dropout) else layer.name for layer in behind] == expected
    assert [layer.name for layer in model.layers[-2:]] == ["dense_2", "logits"]


def test_widths_of_torchvision():
    kernels = [weight.shape for weight in small("torchvision").get_weights() if weight.ndim == 4]
    assert kernels == [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]


@pytest.mark.parametrize(
    "build, policy", [(small, "mixed_float16"), (towers, "mixed_float16"), (towers, "mixed_bfloat16")]
)
def test_mixed_precision_ends_in_float32(build, policy):
    if policy == "mixed_bfloat16" and not compat.HAS_BFLOAT16:
        pytest.skip("no bfloat16 convolution on this TensorFlow's CPU")
    with compat.dtype_policy(policy):
        model = build()
    assert tf.as_dtype(model.outputs[0].dtype) == tf.float32
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype(np.float32)}
    size = model.input_shape[1]
    logits = model.predict(IMAGES[:, :size, :size])
    assert logits.dtype == np.float32
    wide = build()
    wide.set_weights(model.get_weights())
    expected = wide.predict(IMAGES[:, :size, :size])
    # 2^-8 for each rounding to bfloat16, through eight layers.
    tolerance = (0.01 if policy == "mixed_float16" else 0.08) * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=tolerance)
    assert (logits != expected).any(), "else nothing was computed in 16 bits"


def test_normalization_is_exact_in_mixed_precision():
    with compat.dtype_policy("mixed_float16"):
        model = towers(normalize=True)
    images = IMAGES + np.float32(0.03)  # between two numbers of float16
    seen = keras.Model(model.inputs, model.get_layer("normalization").output).predict(images)
    np.testing.assert_allclose(seen, (images.astype("f8") - MEAN) / STD, rtol=1e-5, atol=1e-6)


# --- how they begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, limit",
    [
        ("he_uniform", lambda fan_in, fan_out: np.sqrt(6 / fan_in)),
        ("xavier", lambda fan_in, fan_out: np.sqrt(6 / (fan_in + fan_out))),
        ("he_uniform_custom", lambda fan_in, fan_out: np.sqrt(1 / fan_in)),
    ],
)
def test_versions(version, limit):
    model = small(version=version, classes=7)
    assert model.output_shape == (None, 7), "the recipe has 1000 in he_uniform_custom whatever is asked for"
    for weight in model.get_weights():
        if weight.ndim == 1:
            assert not weight.any()
            continue
        receptive = np.prod(weight.shape[:-2])
        expected = limit(receptive * weight.shape[-2], receptive * weight.shape[-1])
        assert np.abs(weight).max() <= expected * (1 + 1e-6)
        # Of n uniform numbers: mean square L^2 / 3, with a standard error of L^2 sqrt(4 / 45 / n).
        error = 5 * np.sqrt(4 / 45 / weight.size)
        assert (weight.astype("f8") ** 2).mean() == pytest.approx(expected**2 / 3, abs=error * expected**2)


def streams(model):
    """The first numbers of each kernel, as shares of its largest possible value."""
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    return [kernel.ravel()[:50] / np.sqrt(6 / np.prod(kernel.shape[:-1])) for kernel in kernels]


def test_modelzoo_begins_every_kernel_with_the_same_numbers():
    first, *others = streams(small("modelzoo"))
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_every_layer_begins_with_numbers_of_its_own():
    found = streams(small())
    for index, one in enumerate(found):
        assert not any(np.allclose(one, other, atol=1e-3) for other in found[:index])


def test_both_towers_begin_with_numbers_of_their_own():
    named = named_weights(towers())
    for number in "12345":
        assert (named["conv{}_a".format(number)][0] != named["conv{}_b".format(number)][0]).mean() > 0.99


def test_two_towers_begin_as_the_paper_has_it():
    for name, arrays in named_weights(towers()).items():
        for array in arrays:
            if array.ndim > 1:
                # The standard error of a standard deviation of n numbers is sigma / sqrt(2 n); five of them.
                assert array.std() == pytest.approx(0.01, rel=5 / np.sqrt(2 * array.size))
            else:
                assert set(array) == {0.0 if name[:5] in ("conv1", "conv3") else 1.0}
