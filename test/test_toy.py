"""The small data sets, against what scikit-learn and the recipe say about them, and the models made for them."""

import sys

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.data import toy
from ascend_keras.models import mlp

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")


def test_blobs_are_the_recipes_points():
    (x, y), _ = toy.blobs(held_out=10)
    expected_x, expected_y = datasets.make_blobs(131072, 2, centers=3, cluster_std=2, random_state=2)
    assert (x.shape, x.dtype, y.dtype) == ((131072, 2), np.float32, np.int32)
    np.testing.assert_array_equal(x, expected_x.astype(np.float32))
    np.testing.assert_array_equal(y, expected_y)


def test_blobs_held_out_points_are_new_and_from_the_same_clouds():
    (x, _), (x_test, y_test) = toy.blobs(samples=3000, held_out=200000)
    _, _, centers = datasets.make_blobs(3000, 2, centers=3, cluster_std=2, random_state=2, return_centers=True)
    assert x_test.shape == (200000, 2)
    assert not set(map(tuple, x)) & set(map(tuple, x_test))
    means = np.stack([x_test[y_test == k].mean(axis=0) for k in range(3)])
    # Standard error of a mean of 66,667 points is 2 / sqrt(66667) = 0.0077; five of them.
    np.testing.assert_allclose(means, centers, atol=0.039)


def test_blobs_best_possible_accuracy():
    _, (x_test, y_test) = toy.blobs()
    _, _, centers = datasets.make_blobs(131072, 2, centers=3, cluster_std=2, random_state=2, return_centers=True)
    distances = ((x_test[:, None, :] - centers) ** 2).sum(axis=-1)
    # The nearest centre is the best guess for equal round clouds. Standard error: sqrt(.82 * .18 / 200000) = 0.0009.
    assert np.mean(distances.argmin(axis=1) == y_test) == pytest.approx(0.8223, abs=0.0018)


def test_blobs_test_labels_are_not_sorted():
    _, (_, y_test) = toy.blobs(samples=30, held_out=3000)
    assert (np.diff(y_test) != 0).sum() > 1000


def test_digits_split_covers_every_image_once():
    (x, y), (x_test, y_test) = toy.digits(train_size=400)
    assert (x.shape, x_test.shape) == ((400, 8, 8, 1), (1397, 8, 8, 1))
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    whole = datasets.load_digits()
    everything = np.concatenate([x, x_test])[..., 0] * 16
    expected = sorted(map(tuple, np.c_[whole.images.reshape(-1, 64), whole.target]))
    got = sorted(map(tuple, np.c_[everything.reshape(-1, 64), np.concatenate([y, y_test])]))
    assert got == expected


def test_digits_noise_is_on_the_training_images_only():
    (clean, y), test = toy.digits(noise=0.0, seed=3)
    (noisy, noisy_y), noisy_test = toy.digits(noise=0.25, seed=3)
    difference = (noisy - clean).astype(np.float64)
    # 25,600 values: standard error of a standard deviation 0.25 / sqrt(2 * 25600) = 0.0011; five of them.
    assert difference.std() == pytest.approx(0.25, abs=0.0055)
    np.testing.assert_array_equal(noisy_y, y)
    np.testing.assert_array_equal(noisy_test[0], test[0])
    np.testing.assert_array_equal(noisy_test[1], test[1])


def test_digits_seed_decides_the_split():
    assert np.array_equal(toy.digits(seed=1)[0][1], toy.digits(seed=1)[0][1])
    assert not np.array_equal(toy.digits(seed=1)[0][1], toy.digits(seed=2)[0][1])


@pytest.mark.parametrize("train_size", [0, -1, 1797])
def test_digits_without_one_side_is_refused(train_size):
    with pytest.raises(ValueError, match=r"Received: train_size={}\. Give a number from 1 to 1796".format(train_size)):
        toy.digits(train_size=train_size)


def test_digits_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"Received: noise=-0.1\. Give 0 or more"):
        toy.digits(noise=-0.1)


@pytest.mark.parametrize("load", [toy.blobs, toy.digits])
def test_missing_sklearn_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'ascend_keras\[recipes\]'"):
        load()


def test_blobs_mlp_is_the_recipes_model():
    model = mlp.blobs_mlp()
    assert model.count_params() == 503
    assert sum(int(np.prod(v.shape)) for v in model.trainable_weights) == 403
    assert tuple(model.output_shape) == (None, 3)


def test_blobs_mlp_is_dense_relu_batch_norm_dense_softmax():
    model = mlp.blobs_mlp()
    x = np.linspace(-3, 3, 14, dtype=np.float32).reshape(7, 2)
    w1, b1, gamma, beta, mean, variance, w2, b2 = [v.astype(np.float64) for v in model.get_weights()]
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = (gamma * (hidden - mean) / np.sqrt(variance + 1e-3) + beta) @ w2 + b2
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)


@pytest.mark.parametrize("build, shape, classes", [(mlp.blobs_mlp, (4, 2), 5), (mlp.digits_cnn, (4, 8, 8, 1), 7)])
def test_models_give_probabilities_in_float32_under_a_mixed_policy(build, shape, classes):
    with compat.dtype_policy("mixed_float16"):
        model = build(classes=classes)
    probabilities = model.predict(np.ones(shape, np.float32))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), np.ones(4), rtol=1e-6)
    assert probabilities.shape == (4, classes)
