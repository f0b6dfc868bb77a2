"""Weights of other trainings: what fits is loaded to the bit, and the report says what."""

import numpy as np
import pytest

from ascend_keras import compat, models, saving
from ascend_keras.callbacks import Checkpoint
from ascend_keras.compat import keras, tf

layers = keras.layers
QUICK = {} if compat.TF1 else dict(run_eagerly=True)


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def make_model(classes=3, names=("conv2d", "norm", "dense_2"), width=4):
    """A network with a head, under the names of the recipe."""
    inputs = keras.Input((5, 5, 1))
    x = layers.Conv2D(width, 3, name=names[0])(inputs)
    x = layers.BatchNormalization(name=names[1])(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes, name=names[2])(x), name="small")


def fill(model, start=0):
    """Gives a model weights that no initializer makes; returns them."""
    model.set_weights([np.arange(w.size).reshape(w.shape) / 8 + start for w in model.get_weights()])
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def in_a_graph_of_its_own(build):
    """On TF 1.15 the names of a saved model are the recipe's only if it is the first of its graph."""
    result = build()
    if compat.TF1:
        keras.backend.clear_session()
    return result


def saved(path, model_options=None, writer=saving.save):
    def build():
        model = make_model(**(model_options or {}))
        values = fill(model)
        writer(model, str(path))
        return values

    return in_a_graph_of_its_own(build)


def assert_layers(model, values, names):
    for name in names:
        for got, expected in zip(model.get_layer(name).get_weights(), values[name]):
            np.testing.assert_array_equal(got, expected.astype(np.float32))


def keras_file(folder):
    return folder / ("model.keras" if compat.KERAS3 or compat.NEW_OPTIMIZERS else "model.h5")


# --- what fits --------------------------------------------------------------------------------------------------------


def test_all_of_it(tmp_path):
    values = saved(tmp_path / "weights.npz")
    model = make_model()
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert_layers(model, values, values)
    assert report == (str(tmp_path / "weights.npz"), ("conv2d", "norm", "dense_2"), (), (), "name")
    assert str(report) == "restored from {}: 3 layers (conv2d, norm, dense_2)".format(tmp_path / "weights.npz")


@pytest.mark.parametrize("exclude", ["dense_2", ("dense_2",), ["dense_2"]])
@pytest.mark.parametrize("classes", [3, 10])
def test_excluded_head(tmp_path, classes, exclude):
    values = saved(tmp_path / "weights.npz")
    model = make_model(classes)
    head = model.get_layer("dense_2").get_weights()
    report = models.load_pretrained(model, str(tmp_path / "weights.npz"), exclude)
    assert_layers(model, values, ["conv2d", "norm"])
    assert_layers(model, {"dense_2": head}, ["dense_2"])
    assert str(report) == "restored from {}: 2 layers (conv2d, norm); not restored: dense_2: excluded".format(
        tmp_path / "weights.npz"
    )


def test_head_of_another_size_is_named(tmp_path):
    values = saved(tmp_path / "weights.npz")
    model = make_model(10)
    before = model.get_layer("dense_2").get_weights()
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert_layers(model, values, ["conv2d", "norm"])
    assert_layers(model, {"dense_2": before}, ["dense_2"])
    assert report.missing == ("dense_2: (36, 3), (3,) in the file, (36, 10), (10,) in the model",)


def test_layers_of_one_side_only(tmp_path):
    values = saved(tmp_path / "weights.npz", dict(names=("conv2d", "norm", "old_head")))
    inputs = keras.Input((5, 5, 1))
    x = layers.Conv2D(4, 3, name="conv2d")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="new_head")(layers.Flatten()(x)))
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert_layers(model, values, ["conv2d"])
    assert report.missing == ("new_head: not in the file",)
    assert report.unused == ("norm", "old_head")
    assert str(report).endswith(
        "1 layer (conv2d); not restored: new_head: not in the file; only in the file: norm, old_head"
    )


def test_same_model_under_other_names_is_matched_by_order(tmp_path):
    values = saved(tmp_path / "weights.npz", dict(names=("a", "b", "c")))
    model = make_model()
    report = models.load_pretrained(model, tmp_path / "weights.npz", ("dense_2",))
    assert (report.restored, report.matched_by) == (("conv2d", "norm"), "order")
    assert_layers(model, {"conv2d": values["a"], "norm": values["b"]}, ["conv2d", "norm"])
    assert str(report).endswith("2 layers (conv2d, norm), matched by their order; not restored: dense_2: excluded")


def test_numbers_of_layers_that_are_shifted_are_matched_by_order(tmp_path):
    values = saved(tmp_path / "weights.npz", dict(names=("layer_1", "layer_2", "layer_3")))
    model = make_model(names=("layer_2", "layer_3", "layer_4"))
    assert models.load_pretrained(model, tmp_path / "weights.npz").matched_by == "order"
    assert_layers(model, {"layer_2": values["layer_1"], "layer_3": values["layer_2"]}, ["layer_2", "layer_3"])


def test_a_head_of_another_name_is_left_alone(tmp_path):
    saved(tmp_path / "weights.npz")
    model = make_model(names=("conv2d", "norm", "new_head"))
    before = model.get_layer("new_head").get_weights()
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert (report.restored, report.unused) == (("conv2d", "norm"), ("dense_2",))
    assert_layers(model, {"new_head": before}, ["new_head"])


def test_second_model_of_a_graph(tmp_path):
    make_model()
    second = make_model()
    values = fill(second)
    saving.save(second, str(tmp_path / "weights.npz"))
    third = make_model()
    assert len(models.load_pretrained(third, tmp_path / "weights.npz").restored) == 3
    assert_layers(third, values, values)


def test_layers_in_another_order_are_matched_by_name(tmp_path):
    values = saved(tmp_path / "weights.npz")
    inputs = keras.Input((36,))
    head = layers.Dense(3, name="dense_2")(inputs)
    image = layers.Reshape((5, 5, 1))(layers.Lambda(lambda x: x[:, :25])(inputs))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv2d")(image))
    model = keras.Model(inputs, [head, x])
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert (sorted(report.restored), report.matched_by) == (["conv2d", "dense_2", "norm"], "name")
    assert_layers(model, values, values)


@pytest.mark.parametrize("nested", [False, True])
def test_nested_models(tmp_path, nested):
    values = saved(tmp_path / "weights.npz")
    inner = make_model()
    inner = keras.Model(inner.inputs, inner.get_layer("norm").output)
    stack = [keras.Input((5, 5, 1)), inner, layers.Flatten(), layers.Dense(2, name="head")]
    model = keras.Sequential(stack) if nested else inner
    report = models.load_pretrained(model, tmp_path / "weights.npz")
    assert report.restored == ("conv2d", "norm")
    assert report.unused == ("dense_2",)
    assert_layers(inner, values, ["conv2d", "norm"])


def test_alexnet_with_a_new_head(tmp_path):
    def build():
        model = models.alexnet_two_tower(2, image_size=67)
        saving.save(model, str(tmp_path / "weights.npz"))
        return model.get_weights()

    values = in_a_graph_of_its_own(build)
    model = models.alexnet_two_tower(5, image_size=67, normalize=False)
    report = models.load_pretrained(model, tmp_path / "weights.npz", exclude=("dense_2",))
    assert report.missing == ("dense_2: excluded",)
    assert len(report.restored) == 12
    for got, expected in zip(model.get_weights()[:-2], values):
        np.testing.assert_array_equal(got, expected)


# --- other files ------------------------------------------------------------------------------------------------------


def test_checkpoint_of_a_training(tmp_path):
    def build():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **QUICK)
        x, y = np.ones((2, 5, 5, 1), np.float32), np.zeros((2, 3), np.float32)
        model.fit(x, y, verbose=0, callbacks=[Checkpoint(tmp_path)])
        return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}

    values = in_a_graph_of_its_own(build)
    model = make_model()
    report = models.load_pretrained(model, tmp_path / "ckpt-00001.npz")
    assert_layers(model, values, values)
    assert report.unused == ()


def test_model_of_keras(tmp_path):
    values = saved(keras_file(tmp_path))
    model = make_model(10)
    report = models.load_pretrained(model, keras_file(tmp_path), "dense_2")
    assert report.restored == ("conv2d", "norm")
    assert_layers(model, values, report.restored)


def test_saved_model_folder(tmp_path):
    if compat.KERAS3:
        pytest.skip("Keras 3 reads no SavedModel as a model")
    values = saved(tmp_path / "folder")
    model = make_model()
    assert len(models.load_pretrained(model, tmp_path / "folder").restored) == 3
    assert_layers(model, values, values)


@pytest.mark.parametrize("ending", ["", ".index", ".meta"])
def test_checkpoint_of_tensorflow_1(tmp_path, ending):
    """As ModelZoo's recipes write it: names of tf.layers, slots of momentum, a step."""
    random = np.random.RandomState(0)
    shapes = {"conv2d/kernel": (3, 3, 1, 4), "conv2d/bias": (4,), "dense_2/kernel": (36, 7), "dense_2/bias": (7,)}
    norm = ["norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"]
    shapes.update((name, (4,)) for name in norm)
    values = {name: random.rand(*shape).astype(np.float32) for name, shape in shapes.items()}
    with tf.Graph().as_default():
        v1 = tf.compat.v1
        for name, value in values.items():
            v1.get_variable(name, initializer=value)
            v1.get_variable(name + "/Momentum", initializer=value + 1)
        v1.get_variable("global_step", initializer=np.int64(187650))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=187650)
    model = make_model()
    report = models.load_pretrained(model, str(tmp_path / "model.ckpt-187650") + ending, ("dense_2",))
    assert report.restored == ("conv2d", "norm")
    assert (report.missing, report.unused) == (("dense_2: excluded",), ())
    expected = {"conv2d": [values["conv2d/kernel"], values["conv2d/bias"]], "norm": [values[name] for name in norm]}
    assert_layers(model, expected, report.restored)


def test_numbers_of_layers_in_a_checkpoint_are_compared_by_value(tmp_path):
    """Ten dense layers of one shape: as text, dense_10 would be the second of them."""
    numbers = list(range(2, 12))
    with tf.Graph().as_default():
        v1 = tf.compat.v1
        for number in reversed(numbers):
            v1.get_variable("dense_{}/kernel".format(number), initializer=np.full((2, 2), number, np.float32))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    model = keras.Sequential(
        [keras.Input((2,))] + [layers.Dense(2, use_bias=False, name="own_%d" % k) for k in numbers]
    )
    model.build((None, 2))
    report = models.load_pretrained(model, tmp_path / "model.ckpt")
    assert report.matched_by == "order"
    assert [weight[0, 0] for weight in model.get_weights()] == numbers


# --- what does not fit ------------------------------------------------------------------------------------------------


def refused(error, *arguments):
    model = arguments[0]
    before = model.get_weights()
    with pytest.raises(error) as caught:
        models.load_pretrained(*arguments)
    for got, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(got, expected)
    return str(caught.value)


def test_nothing_fits(tmp_path):
    saved(tmp_path / "weights.npz")
    path = str(tmp_path / "weights.npz")
    assert refused(ValueError, models.digits_cnn(), path).startswith(
        "Nothing in this file fits the model 'digits_cnn'. Received: path={!r}.\n  ".format(path)
    )
    assert refused(ValueError, make_model(), path, ("conv2d", "norm", "dense_2")).splitlines()[1:] == [
        "  conv2d: excluded",
        "  norm: excluded",
        "  dense_2: excluded",
    ]


def test_unknown_names_to_exclude(tmp_path):
    saved(tmp_path / "weights.npz")
    message = refused(ValueError, make_model(), str(tmp_path / "weights.npz"), ("dense2", "nothing", "norm"))
    assert message.splitlines() == [
        "exclude names no layer that has weights. Did you mean 'dense_2'? Received: exclude='dense2'. Those that have "
        "are conv2d, norm, dense_2.",
        "exclude names no layer that has weights. Received: exclude='nothing'. Those that have are conv2d, norm, "
        "dense_2.",
    ]


def test_no_such_file(tmp_path):
    path = str(tmp_path / "weights.npz")
    assert refused(FileNotFoundError, make_model(), path) == (
        "There is no such file. Received: path={!r}. Give an .npz of NPUTrainer.save, a checkpoint, or a model saved "
        "by Keras.".format(path)
    )


def test_weights_of_keras_without_names(tmp_path):
    path = str(tmp_path / "model.weights.h5")
    make_model().save_weights(path)
    assert refused(ValueError, make_model(), path) == (
        "This file has no names of layers that are the same on every stack. Received: path={!r}. Load it into the "
        "model it was saved from (model.load_weights), and save that as .npz.".format(path)
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
@pytest.mark.parametrize("name", ["weights.npz", "model.h5"])
def test_damaged_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = refused(ValueError, make_model(), str(tmp_path / name))
    assert message.startswith("The weights cannot be read. Received: path={!r} (".format(str(tmp_path / name)))
    assert message.endswith("). Use another file.")


def test_file_of_other_arrays(tmp_path):
    np.savez(str(tmp_path / "data.npz"), x=np.zeros(3))
    assert "KeyError" in refused(ValueError, make_model(), str(tmp_path / "data.npz"))


def test_model_without_weights(tmp_path):
    saved(tmp_path / "weights.npz")
    model = keras.Sequential([layers.Dense(2)], name="waiting")
    with pytest.raises(ValueError) as error:
        models.load_pretrained(model, tmp_path / "weights.npz")
    assert str(error.value) == (
        "The model has no weights yet. Received: model='waiting'. Call model.build(input_shape) first."
    )
