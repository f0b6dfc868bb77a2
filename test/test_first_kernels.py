"""The pictures of the first convolution, read with Pillow and compared with their arrays."""

import os

import numpy as np
import pytest

from ascend_keras import compat, models
from ascend_keras.callbacks import FirstKernels
from ascend_keras.compat import keras

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
layers = keras.layers
QUICK = {} if compat.TF1 else dict(run_eagerly=True)


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def convolutions(filters=96, size=11, channels=3, more=()):
    inputs = keras.Input((size + 1, size + 1, channels))
    x = layers.Conv2D(filters, size, name="first")(inputs)
    for name in more:
        x = layers.Conv2D(2, 1, name=name)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def fit(model, callback, epochs=1):
    model.compile(keras.optimizers.SGD(0.01), "mse", **QUICK)
    x = np.random.RandomState(0).rand(*((2,) + tuple(model.input_shape[1:]))).astype(np.float32)
    y = np.zeros((2, int(model.output_shape[-1])), np.float32)
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])


def first_kernel(model, name="first"):
    return model.get_layer(name).get_weights()[0]


def picture(path):
    with Image.open(str(path)) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def tile(image, row, column, size, zoom=4):
    """The pixels of one kernel, each of its values once; they must fill squares of `zoom` pixels."""
    step = size * zoom + 1
    inside = image[row * step + 1 : (row + 1) * step, column * step + 1 : (column + 1) * step]
    assert inside.shape == (size * zoom, size * zoom, 3)
    small = inside[::zoom, ::zoom]
    np.testing.assert_array_equal(small.repeat(zoom, 0).repeat(zoom, 1), inside)
    return small


def shades(kernel):
    kernel = kernel.astype("f8")
    return 255 * (kernel - kernel.min()) / (kernel.max() - kernel.min())


def test_96_kernels_in_a_grid_of_6_by_16(tmp_path):
    model = convolutions(more=["second"])
    fit(model, FirstKernels(tmp_path / "kernels"))
    assert sorted(os.listdir(str(tmp_path / "kernels"))) == ["result0001.npy", "result0001.png"]
    values = np.load(str(tmp_path / "kernels" / "result0001.npy"))
    assert (values.shape, values.dtype) == ((96, 11, 11, 3), np.float32)
    np.testing.assert_array_equal(values, first_kernel(model).transpose(3, 0, 1, 2))
    image = picture(tmp_path / "kernels" / "result0001.png")
    assert image.shape == (6 * 45 + 1, 16 * 45 + 1, 3)
    assert not image[::45].any(), "lines are black"
    assert not image[:, ::45].any(), "lines are black"
    for index, kernel in enumerate(values):
        got = tile(image, index // 16, index % 16, 11)
        np.testing.assert_allclose(got, shades(kernel), atol=0.501)
        assert (got.min(), got.max()) == (0, 255)


def test_towers_are_shown_together(tmp_path):
    model = models.alexnet_two_tower(image_size=67)
    fit(model, FirstKernels(tmp_path))
    both = np.concatenate([first_kernel(model, "conv1_" + tower) for tower in "ab"], axis=-1)
    np.testing.assert_array_equal(np.load(str(tmp_path / "result0001.npy")), both.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("channels", [1, 2])
def test_other_channels_are_grey_and_empty_places_black(tmp_path, channels):
    model = convolutions(filters=18, size=3, channels=channels)
    fit(model, FirstKernels(tmp_path))
    values = np.load(str(tmp_path / "result0001.npy"))
    image = picture(tmp_path / "result0001.png")
    assert image.shape == (2 * 13 + 1, 16 * 13 + 1, 3)
    for index, kernel in enumerate(values):
        grey = np.repeat(kernel.astype("f8").mean(axis=-1, keepdims=True), 3, axis=-1)
        np.testing.assert_allclose(tile(image, index // 16, index % 16, 3), shades(grey), atol=0.501)
    assert not image[14:, 2 * 13 + 1 :].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_kernels_without_a_range_are_grey(tmp_path, value):
    model = convolutions(filters=3, size=2)
    kernel = first_kernel(model)
    kernel[..., 0], kernel[0, 0, 0, 1] = 0.25, value
    model.get_layer("first").set_weights([kernel, np.zeros(3)])
    callback = FirstKernels(tmp_path)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0)
    image = picture(tmp_path / "result0001.png")
    assert set(tile(image, 0, 0, 2).ravel()) == {128}
    assert set(tile(image, 0, 1, 2).ravel()) == {128}
    np.testing.assert_allclose(tile(image, 0, 2, 2), shades(kernel[..., 2]), atol=0.501)


def test_layer_by_name_every_other_epoch(tmp_path):
    model = convolutions(more=["second", "third"])
    fit(model, FirstKernels(tmp_path, layer="third", every=2), epochs=5)
    assert sorted(os.listdir(str(tmp_path))) == [
        "result{:04d}.{}".format(n, kind) for n in (2, 4) for kind in ("npy", "png")
    ]
    assert np.load(str(tmp_path / "result0004.npy")).shape == (2, 1, 1, 2)


def test_layers_by_name_together(tmp_path):
    fit(convolutions(more=["second", "third"]), FirstKernels(tmp_path, layer=["second"]))
    assert np.load(str(tmp_path / "result0001.npy")).shape == (2, 1, 1, 96)


def test_first_convolution_of_a_nested_model(tmp_path):
    inner = convolutions(filters=8, size=4, more=["second"])
    inner = keras.Model(inner.inputs, inner.get_layer("second").output)
    outer = keras.Sequential([keras.Input((5, 5, 3)), inner, layers.Conv2D(2, 1), layers.Flatten()])
    fit(outer, FirstKernels(tmp_path))
    assert np.load(str(tmp_path / "result0001.npy")).shape == (8, 4, 4, 3)


def test_model_that_waits_for_its_first_batch(tmp_path):
    if compat.TF1:
        pytest.skip("TF 1.15 makes the weights before training begins")
    model = keras.Sequential([layers.Conv2D(4, 2), layers.GlobalAveragePooling2D()])
    model.compile(keras.optimizers.SGD(0.01), "mse", **QUICK)
    model.fit(np.ones((2, 3, 3, 3)), np.zeros((2, 4)), verbose=0, callbacks=[FirstKernels(tmp_path)])
    assert np.load(str(tmp_path / "result0001.npy")).shape == (4, 2, 2, 3)


def test_only_the_main_rank_writes(tmp_path):
    callback = FirstKernels(tmp_path / "kernels")
    callback.set_ranks(None, False)
    fit(convolutions(), callback)
    assert not (tmp_path / "kernels").exists()


def test_unknown_layer(tmp_path):
    with pytest.raises(ValueError) as error:
        fit(convolutions(more=["second"]), FirstKernels(tmp_path, layer="frist"))
    assert str(error.value) == (
        "The model has no Conv2D of this name. Did you mean 'first'? Received: layer='frist'. It has first, second."
    )


def test_model_without_convolutions(tmp_path):
    with pytest.raises(ValueError) as error:
        fit(models.blobs_mlp(), FirstKernels(tmp_path))
    assert str(error.value) == "The model 'blobs_mlp' has no Conv2D, whose kernels could be shown."


@pytest.mark.parametrize("every", [0, True, 1.0])
def test_every(every):
    with pytest.raises(ValueError) as error:
        FirstKernels("kernels", every=every)
    assert str(error.value) == "every must be a whole number of at least 1. Received: every={!r}.".format(every)
