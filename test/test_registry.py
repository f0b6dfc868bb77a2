"""Models by name: their arguments, what they refuse, and their files."""

import numpy as np
import pytest
from alexnet_models import IMAGES, small, towers

from ascend_keras import compat, models, saving
from ascend_keras.compat import keras


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


# --- sizes and arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, side", [(94, 1), (95, 2)])
def test_other_sizes_of_the_single_tower(size, side):
    model = models.alexnet(3, image_size=size)
    assert model.get_layer("dense").get_weights()[0].shape == (side * side * 256, 4096)


@pytest.mark.parametrize("size, side", [(98, 1), (99, 2)])
def test_other_sizes_of_two_towers(size, side):
    model = models.alexnet_two_tower(3, image_size=size)
    assert model.get_layer("dense").get_weights()[0].shape == (side * side * 256, 4096)


def test_arguments_of_the_single_tower():
    with pytest.raises(ValueError) as error:
        models.alexnet(0, "he_unifrom", "torchvison", 62, 1, dropout=1.0)
    assert str(error.value).splitlines() == [
        "classes must be a whole number of at least 1. Received: classes=0.",
        "version must be one of 'xavier', 'he_uniform', 'he_uniform_custom'. Did you mean 'he_uniform'? "
        "Received: version='he_unifrom'.",
        "variant must be one of None, 'modelzoo', 'torchvision'. Did you mean 'torchvision'? "
        "Received: variant='torchvison'.",
        "image_size must be a whole number of at least 63, or nothing is left behind the last pooling. "
        "Received: image_size=62.",
        "normalize must be one of True, 'mean', False. Received: normalize=1.",
        "dropout must be a number in [0, 1). Received: dropout=1.0.",
    ]


def test_arguments_of_two_towers():
    with pytest.raises(ValueError) as error:
        models.alexnet_two_tower(True, "torchvision", 66.0, "std", None)
    assert str(error.value).splitlines() == [
        "classes must be a whole number of at least 1. Received: classes=True.",
        "variant must be one of None, 'modelzoo'. Received: variant='torchvision'.",
        "image_size must be a whole number of at least 67, or nothing is left behind the last pooling. "
        "Received: image_size=66.0.",
        "normalize must be one of None, True, 'mean', False. Received: normalize='std'.",
        "dropout must be a number in [0, 1). Received: dropout=None.",
    ]


# --- by name ----------------------------------------------------------------------------------------------------------


def test_registry():
    assert models.list() == ["alexnet", "alexnet_two_tower", "blobs_mlp", "digits_cnn"]
    for name in models.list():
        options = {"alexnet": dict(image_size=63), "alexnet_two_tower": dict(image_size=67)}.get(name, {})
        model = models.get(name, classes=4, **options)
        assert (model.name, model.output_shape) == (name, (None, 4))


def test_registry_names_a_near_match():
    with pytest.raises(ValueError) as error:
        models.get("alexnet_torchvision")
    assert str(error.value) == (
        "There is no model of this name. Did you mean 'alexnet'? Received: name='alexnet_torchvision'. Known are "
        "alexnet, alexnet_two_tower, blobs_mlp, digits_cnn."
    )


def test_registry_names_the_options():
    with pytest.raises(ValueError) as error:
        models.get("digits_cnn", clases=3, rate=1)
    assert str(error.value).splitlines() == [
        "digits_cnn has no option of this name. Did you mean 'classes'? Received: clases=3. Its options are classes.",
        "digits_cnn has no option of this name. Received: rate=1. Its options are classes.",
    ]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [None, "modelzoo"])
def test_whole_model_round_trip(variant, tmp_path):
    model = towers(variant, normalize=True)
    path = str(tmp_path / ("model.keras" if compat.KERAS3 or compat.NEW_OPTIMIZERS else "model.h5"))
    saving.save(model, path)
    again = keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(again.predict(IMAGES), model.predict(IMAGES))
    assert again.get_layer("normalization").get_config() == model.get_layer("normalization").get_config()


def test_config_round_trip():
    model = small()
    again = keras.Model.from_config(model.get_config())
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in model.layers]


def test_weights_round_trip(tmp_path):
    model = towers()
    saving.save(model, str(tmp_path / "weights.npz"))
    again = towers()
    assert (again.get_weights()[0] != model.get_weights()[0]).any()
    saving.load_weights(again, str(tmp_path / "weights.npz"))
    np.testing.assert_array_equal(again.predict(IMAGES), model.predict(IMAGES))
