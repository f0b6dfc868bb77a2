"""What Checkpoint restores: to the bit what fits, and nothing of what does not."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from checkpoint_models import (
    QUICK,
    Counter,
    X,
    Y,
    assert_same_bits,
    fit,
    known_value,
    make_model,
    state_of,
    variables_of,
)

from ascend_keras import compat, optimizers, saving
from ascend_keras.callbacks.checkpoint import Checkpoint
from ascend_keras.compat import keras, tf

layers = keras.layers


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, and a large one is slow.
        keras.backend.clear_session()


@pytest.fixture
def model():
    return make_model(norm=False)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "checkpoints")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with the checkpoints of three epochs, with a Counter, and the weights after them."""
    path = str(tmp_path_factory.mktemp("template") / "checkpoints")
    model = make_model(norm=False)
    fit(model, Counter(), Checkpoint(path))
    return path, model.get_weights()


@pytest.fixture
def trained(template, folder):
    """The weights after the three epochs whose checkpoints are in `folder`."""
    path, weights = template
    shutil.copytree(path, folder)
    return weights


# --- going on as if nothing had happened ----------------------------------------------------------------------------


def make_optimizers():
    found = keras.optimizers
    cases = {
        "momentum": lambda: found.SGD(0.1, momentum=0.9, nesterov=True),
        "rmsprop": lambda: found.RMSprop(0.01, momentum=0.5, centered=True),
        "schedule": lambda: found.Adam(found.schedules.ExponentialDecay(0.1, 2, 0.7)),
        "dynamic scale": lambda: optimizers.scale_loss(found.SGD(0.1, momentum=0.9), "dynamic"),
        "fixed scale": lambda: optimizers.scale_loss(found.Adam(0.01), 128.0),
    }
    if compat.NEW_OPTIMIZERS:
        cases["legacy"] = lambda: found.legacy.Adam(0.01)
        cases["legacy scaled"] = lambda: optimizers.scale_loss(found.legacy.SGD(0.1, momentum=0.9), "dynamic")
        cases["ema"] = lambda: found.Adam(0.01, use_ema=True, ema_overwrite_frequency=5)
    if compat.KERAS3:
        cases["accumulation"] = lambda: found.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    return cases


@pytest.mark.parametrize("name", sorted(make_optimizers()))
def test_restored_training_has_the_bits_of_an_uninterrupted_one(name, folder):
    make = make_optimizers()[name]
    model = make_model(make())
    fit(model, Checkpoint(folder), batch_size=12)
    restored = make_model(make())
    report = Checkpoint(folder).restore(restored, os.path.join(folder, "ckpt-00002.npz"))
    assert (report.epoch, report.missing) == (2, ())
    fit(restored, initial_epoch=2, batch_size=12)
    assert_same_bits(state_of(restored), state_of(model))


def test_learning_rate_that_a_callback_changed_is_restored(model, folder):
    class Rate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            compat.set_learning_rate(self.model.optimizer, 0.5 ** (epoch + 2))

    fit(model, Rate(), Checkpoint(folder))
    compat.set_learning_rate(model.optimizer, 0.75)
    Checkpoint(folder).restore(model)
    assert compat.get_learning_rate(model.optimizer) == 0.5**4


def test_loss_scale_and_the_count_of_skipped_steps_are_restored(folder):
    def make():
        return make_model(optimizers.scale_loss(keras.optimizers.SGD(0.1), "dynamic"), norm=False)

    class Overflow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            compat.set_values(self.model.weights[:1], [np.full((3, 4), np.inf if epoch == 1 else 1.0, np.float32)])

    model = make()
    fit(model, Overflow(), Checkpoint(folder), epochs=2, batch_size=12)
    assert optimizers.skipped_steps(model.optimizer) == 2
    restored = make()
    Checkpoint(folder).restore(restored)
    assert optimizers.skipped_steps(restored.optimizer) == 2
    assert optimizers.current_loss_scale(restored.optimizer) == 2.0**13
    assert int(compat.get_values([restored.optimizer.iterations])[0]) == 4


@pytest.fixture
def restorable_random_numbers():
    if compat.KERAS3:
        yield
        return
    experimental = getattr(keras.backend, "experimental", None)
    if not hasattr(experimental, "enable_tf_random_generator"):
        pytest.skip("Keras keeps the state of dropout inside the operations on this stack.")
    experimental.enable_tf_random_generator()
    yield
    experimental.disable_tf_random_generator()


def test_dropout_goes_on_where_it_was(folder, restorable_random_numbers):
    model = make_model(dropout=0.5)
    assert len(compat.seed_variables(model)) == 1
    fit(model, Checkpoint(folder))
    restored = make_model(dropout=0.5)
    report = Checkpoint(folder).restore(restored, os.path.join(folder, "ckpt-00002.npz"))
    assert "1 seed state" in report.restored
    fit(restored, initial_epoch=2)
    assert_same_bits(state_of(restored), state_of(model))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_variables_of_any_dtype_keep_their_bits(dtype, folder):
    if dtype == "bfloat16" and not compat.HAS_BFLOAT16:
        pytest.skip("bfloat16 does not train on the CPU of this stack.")
    model = make_model(keras.optimizers.SGD(0.01, momentum=0.5), dtype=dtype)
    fit(model, Checkpoint(folder))
    restored = make_model(keras.optimizers.SGD(0.01, momentum=0.5), dtype=dtype)
    Checkpoint(folder).restore(restored)
    assert_same_bits(state_of(restored), state_of(model))


def test_mixed_precision(folder):
    def make():
        with compat.dtype_policy("mixed_float16"):
            return make_model(optimizers.scale_loss(keras.optimizers.SGD(0.1, momentum=0.9), "dynamic"))

    model = make()
    fit(model, Checkpoint(folder))
    restored = make()
    Checkpoint(folder).restore(restored, os.path.join(folder, "ckpt-00002.npz"))
    fit(restored, initial_epoch=2)
    assert {array.dtype for array in model.get_weights()} == {np.dtype("float32")}
    assert_same_bits(state_of(restored), state_of(model))


class Late(keras.Model):
    """A model that makes its weights for its first batch."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)

    def call(self, inputs, training=None):
        return self.last(self.norm(self.first(inputs), training=training))


@pytest.mark.parametrize("make", [Late, lambda: keras.Sequential([layers.Dense(4), layers.Dense(2)])])
def test_model_that_makes_its_weights_in_the_first_batch(make, folder):
    model, restored = make(), make()
    for one in (model, restored):
        one.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **QUICK)
    fit(model, Checkpoint(folder))
    with pytest.raises(ValueError, match="has no weights yet. Call it on a batch first, or model.build"):
        Checkpoint(folder).restore(restored)
    if compat.TF1:
        restored.build((None, 3))
        with pytest.raises(ValueError, match="has no inputs yet. Call model.train_on_batch on any batch first"):
            Checkpoint(folder).restore(restored)
        restored.train_on_batch(X, Y)
    else:
        restored(X)
    Checkpoint(folder).restore(restored, os.path.join(folder, "ckpt-00002.npz"))
    fit(restored, initial_epoch=2)
    assert_same_bits(state_of(restored), state_of(model))


def test_no_epoch_is_trained_after_the_last(model, folder, trained):
    checkpoint, counter = Checkpoint(folder), Counter()
    report = checkpoint.restore(model)
    before = state_of(model)
    fit(model, counter, checkpoint, initial_epoch=report.epoch, epochs=report.epoch)
    assert counter.epochs == 3
    assert_same_bits(state_of(model), before)
    assert_same_bits(model.get_weights(), trained)


def test_data_of_a_dataset(model, folder):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(12)
    model.fit(data, epochs=3, verbose=0, callbacks=[Checkpoint(folder)])
    end = state_of(model)
    Checkpoint(folder).restore(model, os.path.join(folder, "ckpt-00002.npz"))
    model.fit(data, epochs=3, initial_epoch=2, verbose=0)
    assert_same_bits(state_of(model), end)


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 refuses weights without a gradient")
def test_weights_without_a_gradient(folder):
    def make():
        inputs = keras.Input((3,))
        hidden = layers.Dense(4)(inputs)
        model = keras.Model(inputs, [layers.Dense(2)(hidden), layers.Dense(5)(hidden)])
        model.compile(keras.optimizers.Adam(0.01), ["mse", None], **QUICK)
        return model

    model = make()
    fit(model, Checkpoint(folder))
    restored = make()
    Checkpoint(folder).restore(restored, os.path.join(folder, "ckpt-00002.npz"))
    fit(restored, initial_epoch=2)
    assert_same_bits(state_of(restored), state_of(model))


@pytest.mark.skipif(not compat.TF1, reason="TF 2 has no graph that grows")
def test_nothing_is_added_to_the_graph_while_training(model, folder):
    class Finalize(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            compat.get_session().graph.finalize()

    checkpoint = Checkpoint(folder, monitor="loss")
    fit(model, Counter(), checkpoint, Finalize())
    assert checkpoint.latest().endswith("ckpt-00003.npz")


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_other_model_is_refused_whole(folder, trained):
    model = make_model(width=5, norm=False)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        Checkpoint(folder).restore(model)
    lines = str(error.value).split("\n")
    assert "This checkpoint is of another training. Received: " in lines[0]
    assert len([line for line in lines if line.startswith("  weights: ")]) == 3
    assert any("(3, 4) in the file, (3, 5) in the model" in line for line in lines)
    assert any(line.startswith("  optimizer variables: ") for line in lines)
    assert lines[-1] == "Give strict=False to restore only what fits."
    assert_same_bits(model.get_weights(), before)


def test_what_fits_is_restored_when_not_strict(folder, trained):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(7)(layers.Dense(4, "tanh")(inputs)))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **QUICK)
    head = model.get_weights()[-2:]
    report = Checkpoint(folder).restore(model, strict=False)
    assert report.restored == ("2 weights", "Counter (when training begins)")
    assert len(report.missing) == 4
    assert_same_bits(model.get_weights(), trained[:-2] + head)
    start = "restored from {}, after 3 epochs: 2 weights, Counter (when training begins); not restored: weights: "
    assert str(report).startswith(start.format(report.path))


def test_model_of_another_length_is_refused(folder, trained):
    model = keras.Sequential([layers.Dense(2, input_shape=(3,))])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **QUICK)
    with pytest.raises(ValueError, match="weights: 4 in the file, 2 in the model"):
        Checkpoint(folder).restore(model)


def test_other_optimizer_is_refused(folder, trained):
    model = make_model(keras.optimizers.Adam(0.01), norm=False)
    family = compat.optimizer_family(model.optimizer)
    expected = "optimizer variables: SGD of {0} in the file, Adam of {0} here".format(family)
    with pytest.raises(ValueError, match=expected):
        Checkpoint(folder).restore(model)
    report = Checkpoint(folder).restore(model, strict=False)
    assert report.restored[0] == "4 weights"
    assert report.missing == (expected,)
    assert_same_bits(model.get_weights(), trained)
    assert int(compat.get_values([model.optimizer.iterations])[0]) == 0


def test_optimizer_with_loss_scaling_is_another(folder, trained):
    model = make_model(optimizers.scale_loss(keras.optimizers.SGD(0.1, momentum=0.9), "dynamic"), norm=False)
    with pytest.raises(ValueError, match="SGD of .*, SGD of .* with loss scaling here"):
        Checkpoint(folder).restore(model)


@pytest.mark.skipif(not compat.NEW_OPTIMIZERS, reason="one family of optimizers only")
def test_optimizer_of_another_family_is_refused(folder):
    fit(make_model(keras.optimizers.legacy.SGD(0.1, momentum=0.9)), Checkpoint(folder))
    with pytest.raises(ValueError, match="SGD of OptimizerV2 in the file, SGD of Keras 2.11 here"):
        Checkpoint(folder).restore(make_model(keras.optimizers.SGD(0.1, momentum=0.9)))


@pytest.mark.parametrize("stack, family", [("tf115", "OptimizerV2"), ("keras3", "Keras 3")])
def test_file_of_another_stack_is_read(stack, family, folder):
    """The files in test/data were written there, with `known_value` in all variables."""
    path = str(pathlib.Path(__file__).resolve().parent / "data" / "checkpoint_{}.npz".format(stack))
    found = keras.optimizers
    classes = [found.SGD] + ([found.legacy.SGD] if compat.NEW_OPTIMIZERS else [])
    for make in classes:
        model = make_model(make(0.1, momentum=0.9))
        same = compat.optimizer_family(model.optimizer) == family
        if not same:
            with pytest.raises(ValueError, match="SGD of {} in the file, SGD of .* here".format(family)):
                Checkpoint(folder).restore(model, path)
        report = Checkpoint(folder).restore(model, path, strict=same)
        assert (report.epoch, len(report.missing)) == (2, 0 if same else 1)
        variables = variables_of(model) if same else model.weights
        expected = [known_value(index, variable) for index, variable in enumerate(variables)]
        assert_same_bits(compat.get_values(variables), expected)


def test_other_dtype_is_refused(folder):
    class Number(layers.Layer):
        def __init__(self, kind):
            super().__init__()
            self.kind = kind

        def build(self, input_shape):
            self.number = self.add_weight(
                name="number", shape=(), dtype=self.kind, initializer="zeros", trainable=False
            )
            super().build(input_shape)

        def call(self, inputs):
            return inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    def make(kind):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Dense(2)(Number(kind)(inputs)))
        model.compile(keras.optimizers.SGD(0.1), "mse", **QUICK)
        return model

    model = make("int32")
    compat.set_values([w for w in model.weights if "number" in w.name], [np.int32(7)])
    fit(model, Checkpoint(folder), epochs=1)
    restored = make("int32")
    Checkpoint(folder).restore(restored)
    assert [int(value) for value in compat.get_values(restored.weights) if value.shape == ()] == [7]
    with pytest.raises(ValueError, match="int32 in the file, float32 in the model"):
        Checkpoint(folder).restore(make("float32"))


def test_model_that_is_not_compiled_is_refused(folder, trained):
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="is not compiled. Compile it first. Received: model="):
        Checkpoint(folder).restore(keras.Model(inputs, layers.Dense(2)(inputs)))


def test_weights_load_without_the_rest(folder, trained):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(inputs)))
    saving.load_weights(model, os.path.join(folder, "ckpt-00003.npz"))
    assert_same_bits(model.get_weights(), trained)
