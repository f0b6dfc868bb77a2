"""The AlexNets at full size, against the tables of the recipes. One large model at a time."""

import gc

import numpy as np
import pytest

from ascend_keras import compat, losses, models, optimizers
from ascend_keras.compat import keras

QUICK = {} if not compat.KERAS3 else dict(jit_compile=False)
# Layers with weights, and the shape behind them or behind their pooling, of the single tower.
ONE_TOWER = [
    ("conv2d", 34944, (55, 55, 96)),
    ("conv2d_1", 460992, (27, 27, 192)),
    ("conv2d_2", 663936, (13, 13, 384)),
    ("conv2d_3", 884992, (13, 13, 256)),
    ("conv2d_4", 590080, (13, 13, 256)),
    ("dense", 37752832, (4096,)),
    ("dense_1", 16781312, (4096,)),
    ("dense_2", 4097000, (1000,)),
]
ONE_TOWER_POOLS = [
    ("max_pooling2d", (27, 27, 96)),
    ("max_pooling2d_1", (13, 13, 192)),
    ("max_pooling2d_4", (6, 6, 256)),
]
# The same of both towers together.
TWO_TOWERS = [
    ("conv1", 34944, (55, 55, 48)),
    ("conv2", 307456, (27, 27, 128)),
    ("conv3", 885120, (13, 13, 192)),
    ("conv4", 663936, (13, 13, 192)),
    ("conv5", 442624, (13, 13, 128)),
    ("dense", 37752832, (4096,)),
    ("dense_1", 4097000, (1000,)),
    ("dense_2", 2002, (2,)),
]


def release():
    keras.backend.clear_session()
    gc.collect()


def built(*arguments, **options):
    compat.set_seed(0)
    return models.get(*arguments, **options)


@pytest.fixture(scope="module")
def modelzoo():
    yield built("alexnet", variant="modelzoo")
    release()


@pytest.fixture
def model(request):
    name, options = request.param
    yield built(name, **options)
    release()


def half_squares(arrays):
    flat = [array.ravel() for array in arrays]
    return sum(np.einsum("i,i->", values, values, dtype="f8") for values in flat) / 2


def shape_behind(layer):
    return tuple(int(size) for size in layer.output.shape[1:])


# --- the single tower; the module's model first, as later ones clear the graph of TF 1.15 -----------------------------


def test_layers_of_the_recipe(modelzoo):
    assert modelzoo.count_params() == 61266088
    with_weights = [layer for layer in modelzoo.layers if layer.weights]
    assert [(layer.name, layer.count_params(), shape_behind(layer)) for layer in with_weights] == ONE_TOWER
    pools = [layer for layer in modelzoo.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [(layer.name, shape_behind(layer)) for layer in pools] == ONE_TOWER_POOLS
    dropouts = [layer for layer in modelzoo.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in dropouts] == [0.35, 0.35]
    assert tuple(modelzoo.input_shape) == (None, 224, 224, 3)


def test_total_loss_at_the_start(modelzoo):
    optimizers.add_weight_decay(modelzoo, 1e-4, "all")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    modelzoo.compile(optimizers.Momentum(0.06, 0.9, nesterov=True), loss, **QUICK)
    images = np.random.RandomState(0).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    labels = np.array([3, 999])
    total = float(modelzoo.evaluate(images, labels, batch_size=2, verbose=0))
    logits = modelzoo.predict(images, batch_size=2).astype("f8")
    assert logits.min() == 0.0, "the recipe has a ReLU on its logits"
    assert logits.max() > 0.0
    smooth = 0.9 * np.eye(1000)[labels] + 0.1 / 1000
    plain = (np.log(np.exp(logits).sum(axis=1)) - (smooth * logits).sum(axis=1)).mean()
    assert total - plain == pytest.approx(1.0376, rel=0.01)
    expected = 1e-4 * half_squares(modelzoo.get_weights())
    assert optimizers.l2_term(modelzoo) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "model, expected, count",
    [
        (("alexnet", dict(version="xavier")), 0.6164, 61266088),
        (("alexnet", dict(version="he_uniform_custom", variant="torchvision")), None, 61100840),
        (("alexnet", dict(version="he_uniform_custom")), 0.1729, 61266088),
    ],
    indirect=["model"],
    ids=["xavier", "torchvision", "he_uniform_custom"],
)
def test_other_versions(model, expected, count):
    assert model.count_params() == count
    weights = model.get_weights()
    assert not any(bias.any() for bias in weights[1::2])
    if expected is None:
        # What PyTorch starts with: up to 1 / sqrt(fan in), whose mean square is a third of the square.
        kernels = weights[::2]
        expected = 1e-4 / 2 * sum(kernel.size / 3 / np.prod(kernel.shape[:-1]) for kernel in kernels)
    assert 1e-4 * half_squares(weights) == pytest.approx(expected, rel=0.01)


# --- two towers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [("alexnet_two_tower", dict(variant="modelzoo"))], indirect=True, ids=["modelzoo"])
def test_two_towers(model):
    assert model.count_params() == 44185914
    found = []
    for name, _, _ in TWO_TOWERS:
        parts = [layer for layer in model.layers if layer.weights and layer.name in (name, name + "_a", name + "_b")]
        found.append((name, sum(layer.count_params() for layer in parts), shape_behind(parts[0])))
    assert found == TWO_TOWERS
    assert shape_behind(model.get_layer("flatten")) == (9216,)
    assert tuple(model.input_shape) == (None, 227, 227, 3)
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    assert 5e-4 * half_squares(kernels) == pytest.approx(1.1045, rel=0.01)
    decayed = optimizers.decayed_variables(model, "weights")
    assert sum(int(np.prod(variable.shape)) for variable in decayed) == sum(kernel.size for kernel in kernels)
