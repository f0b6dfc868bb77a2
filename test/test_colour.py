"""Colour jitter and PCA noise: the factors they draw and the pixels they give, against NumPy."""

import image_files
import image_oracle as oracle
import numpy as np
import pytest

from ascend_keras.compat import tf
from ascend_keras.data import augment

SEED = np.array([3, 4])
COUNT = 1000


def middling_pixels(low=100, high=150):
    """An image that no factor of 0.6 ... 1.4 takes out of 0 ... 255."""
    return np.random.RandomState(0).randint(low, high, size=(12, 10, 3)).astype(np.uint8)


def jittered(pixels, strength, count=COUNT):
    return oracle.for_seeds(lambda seed: augment.color_jitter(tf.constant(pixels), strength, seed), count)


def factor(changed, pixels, other):
    """f [n] of changed = f * pixels + (1 - f) * other, by least squares, and the largest error of any pixel."""
    base = pixels - other
    factors = ((changed - other) * base).sum(axis=(1, 2, 3)) / (base**2).sum()
    error = np.abs(other + factors[:, None, None, None] * base - changed).max()
    return factors, error


OTHERS = {
    "brightness": lambda pixels: np.zeros_like(pixels),
    "contrast": lambda pixels: np.full_like(pixels, oracle.grey(pixels).mean()),
    "saturation": lambda pixels: oracle.grey(pixels) + np.zeros(3),
}


def factors_of(kind, pixels, strength=0.4):
    strengths = [strength if kind == name else 0 for name in OTHERS]
    pixels = pixels.astype(np.float64)
    return factor(jittered(pixels.astype(np.uint8), strengths), pixels, OTHERS[kind](pixels))


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_factors_are_uniform_around_one(kind):
    factors, error = factors_of(kind, middling_pixels())
    assert error < 1  # half a level of rounding, and that of the factor, estimated from rounded pixels
    uniform = np.random.RandomState(0).uniform(0.6, 1.4, size=50000)
    assert oracle.kolmogorov(factors, uniform) < oracle.kolmogorov_bound(COUNT, 50000)


def test_strengths_above_one_begin_at_zero():
    factors, _ = factors_of("contrast", middling_pixels(126, 130), strength=2.0)
    assert -0.02 < factors.min() < 0.02
    assert 2.95 < factors.max() < 3.02


def test_factors_are_independent():
    pixels = middling_pixels()
    table = np.corrcoef([factors_of(kind, pixels)[0] for kind in OTHERS])
    assert np.abs(table - np.eye(3)).max() < 3.5 / np.sqrt(COUNT)


def test_brightness_then_contrast_then_saturation_each_clipped():
    """The photograph has black and white, so that the order and the clipping show."""
    uniform = lambda seed: tf.random.stateless_uniform([3], augment._stream(seed, "color_jitter"))  # noqa: E731
    drawn = 0.6 + 0.8 * oracle.for_seeds(uniform, 100).astype(np.float64)
    pixels = np.asarray(image_files.photograph("astronaut").resize((40, 30)))
    clipped = 0
    for factors, changed in zip(drawn, jittered(pixels, 0.4, 100)):
        expected = pixels.astype(np.float64)
        for f, name in zip(factors, OTHERS):
            blended = f * expected + (1 - f) * OTHERS[name](expected)
            expected = np.clip(blended, 0, 255)
            clipped += (blended != expected).mean()
        assert np.abs(changed - expected).max() < 0.51
    assert clipped > 1


def test_no_strength_changes_nothing():
    pixels = middling_pixels()
    np.testing.assert_array_equal(jittered(pixels, 0, 3), np.stack([pixels] * 3))
    np.testing.assert_array_equal(jittered(pixels, (0.0, 0.0, 0.0), 3), np.stack([pixels] * 3))


@pytest.mark.parametrize("strength", [-0.1, (0.4, 0.4), (0.1, -1, 0.1), float("nan"), float("inf")])
def test_wrong_strengths(strength):
    with pytest.raises(ValueError) as error:
        augment.color_jitter(middling_pixels(), strength, SEED)
    assert str(error.value) == (
        "`strength` must be a number of at least 0, or three: brightness, contrast, saturation. "
        "Received: strength={}.".format(strength)
    )


def principal(pixels):
    """Deviation [3] of each channel; eigenvalues and vectors of the covariance of the standardised pixels."""
    flat = pixels.reshape(-1, 3).astype(np.float64)
    deviation = flat.std(axis=0)
    standard = (flat - flat.mean(axis=0)) / deviation
    values, vectors = np.linalg.eigh(np.cov(standard, rowvar=False, bias=True))
    return deviation, values, vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])


def coloured_pixels():
    """Values in 78 ... 178 whose three eigenvalues are far apart, and whose channels differ in deviation."""
    random = np.random.RandomState(0).normal(size=(80, 60, 3))
    mixed = random @ np.array([[1.0, 0.6, 0.3], [0.0, 0.7, -0.3], [0.0, 0.0, 0.5]]) * [14, 10, 18] + 128
    return np.clip(np.rint(mixed), 78, 178).astype(np.uint8)


def test_noise_along_the_principal_colours():
    """The shifts, measured, give back the a_i of the definition: independent and N(0, std), by NumPy's eigenvectors."""
    pixels, std = coloured_pixels(), 0.5
    deviation, values, vectors = principal(pixels)
    assert np.diff(values).min() > 0.3
    found = oracle.for_seeds(lambda seed: augment.pca_noise(tf.constant(pixels), std, seed), COUNT)
    shifts = (found.astype(np.float64) - pixels).reshape(COUNT, -1, 3)
    assert (shifts.max(axis=1) - shifts.min(axis=1)).max() == 0  # all pixels alike, nothing clipped
    alphas = (shifts[:, 0] / deviation) @ vectors / values
    normal = std * np.random.RandomState(1).normal(size=50000)
    for column in range(3):
        assert oracle.kolmogorov(alphas[:, column], normal) < oracle.kolmogorov_bound(COUNT, 50000) + 0.05
    expected = std * std * (vectors * values**2) @ vectors.T * np.outer(deviation, deviation)
    # Rounding to whole levels adds 1/12 to each variance; the rest is the error of 1000 draws.
    np.testing.assert_allclose(np.cov(shifts[:, 0], rowvar=False), expected + np.eye(3) / 12, rtol=0.2, atol=2.0)


def test_noise_of_one_seed_pixel_by_pixel():
    """A photograph, where the lightest and darkest pixels are clipped."""
    pixels = np.asarray(image_files.photograph("astronaut").resize((60, 50)))
    deviation, values, vectors = principal(pixels)
    stream = lambda seed: tf.random.stateless_normal([3], augment._stream(seed, "pca_noise"))  # noqa: E731
    found = oracle.for_seeds(lambda seed: augment.pca_noise(tf.constant(pixels), 0.3, seed), 20)
    clipped = 0
    for alpha, changed in zip(oracle.for_seeds(stream, 20), found):
        expected = pixels + deviation * (vectors @ (0.3 * alpha * values))
        clipped += ((expected < 0) | (expected > 255)).sum()
        assert np.abs(changed - np.clip(expected, 0, 255)).max() < 0.51
    assert clipped > 1000


@pytest.mark.parametrize(
    "pixels",
    [
        np.full([7, 5, 3], 200, np.uint8),
        np.zeros([7, 5, 3], np.uint8),
        np.array([[[1, 2, 3]]], np.uint8),
    ],
)
def test_constant_images_stay_as_they_are(pixels):
    found = oracle.evaluate(lambda: augment.pca_noise(tf.constant(pixels), 0.1, SEED))
    np.testing.assert_array_equal(found, pixels)


def test_a_constant_channel_stays_as_it_is():
    pixels = coloured_pixels()
    pixels[..., 1] = 90
    found = oracle.evaluate(lambda: augment.pca_noise(tf.constant(pixels), 1.0, SEED))
    np.testing.assert_array_equal(found[..., 1], pixels[..., 1])
    assert (found[..., 0] != pixels[..., 0]).any()


def test_grey_images_stay_grey():
    pixels = np.repeat(coloured_pixels()[..., :1], 3, axis=2)
    found = oracle.for_seeds(lambda seed: augment.pca_noise(tf.constant(pixels), 0.1, seed), 50)
    assert (found == found[..., :1]).all()
    assert (found != pixels).any()


def test_no_deviation_changes_nothing_and_wrong_ones_raise():
    pixels = coloured_pixels()
    np.testing.assert_array_equal(oracle.evaluate(lambda: augment.pca_noise(tf.constant(pixels), 0.0, SEED)), pixels)
    for std in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError) as error:
            augment.pca_noise(pixels, std, SEED)
        assert str(error.value) == "`std` must be a number of at least 0. Received: std={}.".format(std)
