"""The layers of the image recipes against NumPy."""

import alexnet_oracle as oracle
import numpy as np
import pytest
from alexnet_models import IMAGES, MEAN, STD

from ascend_keras import compat, models
from ascend_keras.compat import keras, tf


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def apply(layer, values):
    """What a layer makes of an array."""
    model = keras.Sequential([keras.Input(values.shape[1:], dtype=str(values.dtype)), layer])
    return model.predict(values)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(mean=MEAN, std=STD), lambda x: (x - MEAN) / STD),
        (dict(mean=MEAN), lambda x: x - MEAN),
        (dict(std=STD), lambda x: x / STD),
        (dict(), lambda x: x),
        (dict(mean=MEAN, std=STD, reverse_channels=True), lambda x: ((x - MEAN) / STD)[..., ::-1]),
    ],
)
def test_pixel_normalization(options, expected, dtype):
    got = apply(models.PixelNormalization(**options), IMAGES.astype(dtype))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(IMAGES.astype("f8")), rtol=1e-5, atol=1e-5)


def test_pixel_normalization_arguments():
    with pytest.raises(ValueError) as error:
        models.PixelNormalization(mean=(1, 2), std=(1, 0, 2))
    assert str(error.value) == (
        "mean and std need one number for each channel. Received: mean=(1.0, 2.0), std=(1.0, 0.0, 2.0).\n"
        "std must be above 0. Received: std=(1.0, 0.0, 2.0)."
    )


@pytest.mark.parametrize("channels", [3, 11, 48])
@pytest.mark.parametrize("options", [{}, dict(depth_radius=2, bias=1.0, alpha=0.02, beta=0.5)])
def test_local_response_normalization(channels, options):
    values = (20 * np.random.RandomState(1).randn(2, 4, 3, channels)).astype(np.float32)
    expected = oracle.lrn(values.astype("f8"), **{key.replace("depth_", ""): v for key, v in options.items()})
    got = apply(models.LocalResponseNormalization(**options), values)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    direct = tf.nn.local_response_normalization(values, **(options or dict(bias=2.0, alpha=1e-4, beta=0.75)))
    direct = keras.backend.get_value(direct) if compat.TF1 else direct.numpy()
    np.testing.assert_allclose(got, direct, rtol=1e-5)


def test_local_response_normalization_of_float16_does_not_overflow():
    values = np.full((1, 2, 2, 11), 400, np.float16)
    layer = models.LocalResponseNormalization()
    expected = oracle.lrn(values.astype("f8"))
    if compat.TF1:
        got = keras.backend.get_value(layer(tf.constant(values)))
    else:
        got = np.asarray(layer(tf.constant(values)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
