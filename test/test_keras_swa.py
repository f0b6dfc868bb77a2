"""A callback of the package keras-swa given to NPUTrainer, and its results beside those of callbacks.SWA."""

import importlib
import shutil
import sys
import types
import warnings

import numpy as np
import pytest

from ascend_keras import NPUTrainer, callbacks, compat, optimizers
from ascend_keras.callbacks import batch_norm
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf
from ascend_keras.data import toy
from ascend_keras.models import mlp

peer = pytest.importorskip("swa.tfkeras", reason="keras-swa is not installed")
runs = pytest.mark.skipif(compat.KERAS3, reason="keras-swa does not run on Keras 3")

layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3) * (1 + np.arange(3))).astype(np.float32)
Y = random.randn(40, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
EPS = np.finfo(np.float32).eps


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """As if nothing had been warned of yet, and a graph of one's own."""
    monkeypatch.setattr(importlib.import_module("ascend_keras.callbacks.keras_swa"), "_WARNED", set())
    start(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def start(seed):
    """Lets the next model begin with the weights that belong to a seed."""
    if compat.TF1:
        keras.backend.clear_session()  # as each operation takes its seed from the number of those before it
    compat.set_seed(seed)


def make_model(norm=None):
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(inputs if norm is None else norm(inputs))))


def train(model, callback, *data, optimizer=None, loss_scale=None, **options):
    """Trains with NPUTrainer; returns the history and the warnings that name keras-swa."""
    options = dict(dict(epochs=4, batch_size=16, verbose=0), **options)
    with warnings.catch_warnings(record=True) as caught, NPUTrainer("host", loss_scale=loss_scale) as trainer:
        warnings.simplefilter("always")
        trainer.compile(model, optimizer or keras.optimizers.SGD(0.1), "mse", **QUICK)
        history = trainer.fit(model, *(data or (X, Y)), callbacks=callback, **options)
    return history, [str(warning.message) for warning in caught if "keras-swa" in str(warning.message)]


def statistics(layer):
    return compat.get_values([layer.moving_mean, layer.moving_variance])


def check_population(layer, x):
    found_mean, found_variance = (value.astype(np.float64) for value in statistics(layer))
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(found_mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found_variance, x.var(axis=0), rtol=4e-6)


# --- the warning ----------------------------------------------------------------------------------------------------


@runs
def test_warns_once_a_process_and_says_why():
    norm = layers.BatchNormalization()
    _, said = train(make_model(norm), [peer.SWA(2, batch_size=16)])
    (message,) = said
    assert "leaves the statistics of batch normalization at 1 - momentum^n of the data after n batches" in message
    assert "Use ascend_keras.callbacks.SWA" in message and "fit(..., repair_bn=True)" in message
    # It is true: keras-swa's last epoch has 3 batches, and the batches have the mean of all up to their noise.
    share = statistics(norm)[0] / X.mean(axis=0)
    np.testing.assert_allclose(share, 1 - 0.99**3, rtol=0.3)
    for callback in (peer.SWA(3, batch_size=16), [peer.SWA(2, "constant", batch_size=16)]):
        assert train(make_model(layers.BatchNormalization()), callback)[1] == []


@runs
def test_no_warning_without_batch_norm():
    assert train(make_model(), [peer.SWA(2)])[1] == []
    assert train(make_model(), [peer.SWA(2)], repair_bn=True)[1] == []


@runs
def test_no_warning_for_swa_of_this_library():
    norm = layers.BatchNormalization()
    assert train(make_model(norm), [SWA(2, batch_size=16)])[1] == []
    check_population(norm, X)


@pytest.mark.skipif(not compat.KERAS3, reason="keras-swa runs on Keras 2")
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("repair", [True, False])
def test_keras_3_is_refused_before_the_first_step(norm, repair):
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: steps.append(batch))
    with pytest.raises(RuntimeError, match=r"(?s)does not run on Keras 3. Received: .*Replace its import by"):
        train(
            make_model(layers.BatchNormalization() if norm else None),
            [count, peer.SWA(2, batch_size=16)],
            repair_bn=repair,
        )
    assert steps == []


# --- the repair -----------------------------------------------------------------------------------------------------


def nested(norm):
    inputs = keras.Input((3,))
    return make_model(keras.Model(inputs, norm(inputs)))


class Late(layers.Layer):
    """Makes its batch normalization when it is built."""

    def build(self, input_shape):
        self.norm = layers.BatchNormalization()
        self.norm.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


REPAIRED = {
    "layer": lambda: make_model(layers.BatchNormalization()),
    "nested": lambda: nested(layers.BatchNormalization()),
    "late": lambda: keras.Sequential([Late(), layers.Dense(2)]),
}


@runs
@pytest.mark.parametrize("name", sorted(REPAIRED))
def test_repair_gives_the_population_and_leaves_the_weights(name):
    weights = []
    for repair in (False, True):
        start(4)
        model = REPAIRED[name]()
        _, said = train(model, [peer.SWA(2, batch_size=16)], shuffle=False, repair_bn=repair)
        assert len(said) == (0 if repair else 1)
        weights.append(compat.get_values(model.trainable_weights))
        (norm,) = batch_norm.batch_norm_layers(model)
        if repair:
            check_population(norm, X)
        else:
            assert abs(statistics(norm)[0] / X.mean(axis=0) - 1).max() > 0.5
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)


@runs
@pytest.mark.parametrize("kind", ["dataset", "endless", "split"])
def test_repair_with_other_data(kind):
    norm, seen = layers.BatchNormalization(), X
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    data, options = (dataset,), dict(batch_size=None)
    if kind == "endless":
        data, options = (dataset.repeat(),), dict(batch_size=None, steps_per_epoch=3)
    elif kind == "split":
        data, options, seen = (X, Y), dict(validation_split=0.4), X[:24]
    train(make_model(norm), [peer.SWA(2, batch_size=16)], *data, repair_bn=True, **options)
    check_population(norm, seen)


@runs
@pytest.mark.parametrize("repair", [True, False])
def test_frozen_layers_get_back_what_keras_swa_takes_from_them(repair):
    alive, frozen = layers.BatchNormalization(), layers.BatchNormalization(trainable=False)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(frozen(layers.Dense(3)(alive(inputs)))))
    written = [np.float32([0.5, 1.0, 2.0]), np.float32([3.0, 4.0, 5.0])]
    compat.set_values([frozen.moving_mean, frozen.moving_variance], written)
    train(model, [peer.SWA(2, batch_size=16)], repair_bn=repair)
    found = statistics(frozen)
    if repair:
        np.testing.assert_array_equal(found, written)
        check_population(alive, X)
    else:  # the loss that is warned of
        np.testing.assert_array_equal(found, [np.zeros(3), np.ones(3)])


@runs
def test_only_frozen_layers_are_warned_of_too():
    frozen = layers.BatchNormalization(trainable=False)
    _, said = train(make_model(frozen), [peer.SWA(2, batch_size=16)])
    assert len(said) == 1


@runs
def test_accuracy_comes_back_on_blobs():
    (x, y), (x_test, y_test) = toy.blobs(samples=2048, held_out=20000)
    accuracy = []
    for repair in (False, True):
        start(1)
        model = mlp.blobs_mlp()
        with NPUTrainer("host") as trainer:
            trainer.compile(model, keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", ["accuracy"])
            swa = peer.SWA(8, "cyclic", 0.001, 0.003, 3, batch_size=256)
            trainer.fit(model, x, y, batch_size=256, epochs=12, verbose=0, callbacks=[swa], repair_bn=repair)
            accuracy.append(trainer.evaluate(model, x_test, y_test, batch_size=20000, verbose=0)[1])
    # The best possible is 0.823; keras-swa ends around 0.4 here. Standard error of 20,000 points: 0.003.
    assert accuracy[0] < 0.75 and accuracy[1] > 0.81


@runs
def test_failed_training_is_not_repaired():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    norm = layers.BatchNormalization()
    with pytest.raises(KeyboardInterrupt):
        train(make_model(norm), [peer.SWA(2, batch_size=16), Stop()], repair_bn=True)
    assert abs(statistics(norm)[0] / X.mean(axis=0) - 1).max() > 0.5


# --- who is meant ---------------------------------------------------------------------------------------------------


def class_of(module, name="SWA", base=keras.callbacks.Callback):
    return type(name, (base,), {"__module__": module})


@pytest.mark.parametrize("module", ["swa", "swa.tfkeras", "swa.callback", "swa.keras"])
def test_copies_are_recognised_by_their_module(module):
    assert callbacks.is_keras_swa(class_of(module)())


@pytest.mark.parametrize("module", ["__main__", "mine", "mine.swa", "swan", "swa_utils.callback", "ascend_keras.x"])
def test_classes_of_the_same_name_are_not(module):
    assert not callbacks.is_keras_swa(class_of(module)())


def test_the_objects_themselves():
    assert callbacks.is_keras_swa(peer.SWA(2))
    assert not callbacks.is_keras_swa(SWA(2))
    assert not callbacks.is_keras_swa(class_of("mine", base=SWA)(2))
    # A class derived from keras-swa's has its fault, whatever its own name is.
    assert callbacks.is_keras_swa(class_of("mine", "Verbose", peer.SWA)(2))


def test_other_callbacks_called_swa_are_left_alone():
    assert train(make_model(layers.BatchNormalization()), [class_of("mine")()])[1] == []


@runs
def test_vendored_copy(tmp_path, monkeypatch):
    """The folder `swa` beside the user's script, as in ModelZoo, in place of the package."""
    folder = peer.__file__.rpartition("/")[0]
    shutil.copytree(folder, str(tmp_path / "swa"), ignore=shutil.ignore_patterns("__pycache__"))
    for name in [name for name in sys.modules if name.split(".")[0] == "swa"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = importlib.import_module("swa.tfkeras")
    try:
        assert isinstance(copy, types.ModuleType) and copy.__file__.startswith(str(tmp_path))
        assert copy.SWA is not peer.SWA
        norm = layers.BatchNormalization()
        assert len(train(make_model(layers.BatchNormalization()), [copy.SWA(2, batch_size=16)])[1]) == 1
        train(make_model(norm), [copy.SWA(2, batch_size=16)], repair_bn=True)
        check_population(norm, X)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "swa"]:
            del sys.modules[name]


# --- loss scaling in between -----------------------------------------------------------------------------------------


class Rates(keras.callbacks.Callback):
    """The learning rate that the optimizer has in every step, and the weights after every step."""

    def on_train_begin(self, logs=None):
        self.seen, self.largest = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(compat.get_learning_rate(self.model.optimizer))

    def on_epoch_end(self, epoch, logs=None):
        self.largest = max([self.largest] + [abs(w).max() for w in self.model.get_weights()])


@runs
@pytest.mark.parametrize("loss_scale", ["dynamic", 1024])
def test_loss_scaling_in_between_changes_nothing(loss_scale):
    """Scales are powers of two and nothing overflows, so that all bits are those of a training without."""
    results = []
    for scale in (None, loss_scale):
        start(5)
        norm, rates = layers.BatchNormalization(), Rates()
        model = make_model(norm)
        swa = peer.SWA(4, "cyclic", 0.01, 0.05, 2, batch_size=16)
        history, _ = train(model, [swa, rates], loss_scale=scale, epochs=6, shuffle=False, repair_bn=True)
        assert optimizers.is_loss_scaled(model.optimizer) == (scale is not None)
        assert optimizers.skipped_steps(model.optimizer) == 0
        check_population(norm, X)
        results.append((model.get_weights(), rates.seen, history.history["lr"]))
    assert results[0][1:] == results[1][1:] and len(set(results[0][1])) > 3
    for one, other in zip(results[0][0], results[1][0]):
        np.testing.assert_array_equal(one, other)


# --- the same results -----------------------------------------------------------------------------------------------

PARITY = [
    dict(start_epoch=2),
    dict(start_epoch=2, swa_freq=3),
    dict(start_epoch=9, swa_freq=2),
    dict(start_epoch=2, lr_schedule="constant", swa_lr=0.1),
    dict(start_epoch=7, lr_schedule="constant", swa_lr=0.001, swa_freq=4),
    dict(start_epoch=10, lr_schedule="constant"),
    dict(start_epoch=2, lr_schedule="cyclic", swa_lr=0.02, swa_lr2=0.02, swa_freq=2),
    dict(start_epoch=5, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=None, swa_freq=4),
    dict(start_epoch=8, lr_schedule="cyclic", swa_freq=3),
    dict(start_epoch=3, lr_schedule="cyclic", swa_lr=0.005, swa_freq=5),
]


def both(options, make_optimizer, epochs=12):
    """Runs keras-swa and SWA from the same weights; yields weights, rates of all steps, the callback, the largest."""
    initial = None
    for make in (peer.SWA, lambda **given: SWA(sample_at="keras_swa", **given)):
        model, swa, rates = make_model(), make(**options), Rates()
        initial = initial or model.get_weights()
        model.set_weights(initial)
        model.compile(make_optimizer(), "mse", **QUICK)
        # An epoch of whole batches: on TF 1.15 keras-swa leaves out the last one otherwise when it counts them.
        model.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0, callbacks=[swa, rates])
        yield model.get_weights(), rates.seen, swa, rates.largest


@runs
@pytest.mark.parametrize("options", PARITY, ids=lambda o: "-".join(str(value) for value in o.values()))
def test_same_weights_and_rates_as_keras_swa(options):
    (wanted, wanted_rates, theirs, largest), (found, rates, ours, _) = both(options, lambda: keras.optimizers.SGD(0.1))
    assert len(rates) == len(wanted_rates) == 60
    # A rate is held in float32; keras-swa computes it in float32 with NumPy 2, which rounds some four times.
    np.testing.assert_allclose(rates, wanted_rates, rtol=4 * EPS)
    np.testing.assert_array_equal(np.float32(rates), np.float32(ours.lr_trace))
    if options.get("lr_schedule") == "cyclic":
        np.testing.assert_allclose(ours.lr_trace, theirs.lr_record, rtol=4 * EPS)
    elif "lr_schedule" in options:
        np.testing.assert_allclose(ours.lr_trace[::5], theirs.lr_record, rtol=4 * EPS)
    for value, expected in zip(found, wanted):
        np.testing.assert_allclose(value, expected, rtol=0, atol=4 * EPS * max(1.0, largest))


@runs
def test_same_with_other_optimizers():
    def optimizer():
        return keras.optimizers.Adam(0.01)

    options = dict(start_epoch=3, lr_schedule="cyclic", swa_lr=0.002, swa_lr2=0.005, swa_freq=2)
    (wanted, wanted_rates, _, largest), (found, rates, _, _) = both(options, optimizer, epochs=8)
    np.testing.assert_allclose(rates, wanted_rates, rtol=4 * EPS)
    for value, expected in zip(found, wanted):
        np.testing.assert_allclose(value, expected, rtol=0, atol=4 * EPS * max(1.0, largest))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(start_epoch=0),
        dict(start_epoch=-3),
        dict(start_epoch=2, lr_schedule="linear"),
        dict(start_epoch=2, lr_schedule="cyclic"),
        dict(start_epoch=2, lr_schedule="cyclic", swa_freq=1),
        dict(start_epoch=2, swa_lr2=0.1),
        dict(start_epoch=2, lr_schedule="cyclic", swa_freq=2, swa_lr=0.2, swa_lr2=0.1),
    ],
)
def test_the_same_arguments_are_refused(arguments):
    for kind in (peer.SWA, SWA):
        with pytest.raises(ValueError, match="."):
            kind(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [dict(start_epoch=4), dict(start_epoch=5, lr_schedule="constant"), dict(start_epoch=2, swa_lr=0.2)],
)
def test_the_same_trainings_are_refused(arguments):
    for kind in (SWA,) if compat.KERAS3 else (SWA, peer.SWA):
        with pytest.raises(ValueError, match="must be (below|lower)|must not be above"):
            train(make_model(), [kind(**arguments)])


def test_what_keras_swa_refuses_without_need():
    norm = layers.BatchNormalization()
    swa = SWA(1)  # keras-swa: not below 2, and a batch size where there is batch norm
    train(make_model(norm), [swa])
    assert swa.sampled_epochs == [1, 2, 3, 4]
    check_population(norm, X)


@runs
def test_first_seven_arguments_by_position():
    given = (3, "cyclic", 0.01, 0.05, 2, 16, 1)
    theirs, settings = peer.SWA(*given), SWA(*given).settings
    assert (theirs.start_epoch + 1, theirs.lr_schedule, theirs.swa_lr, theirs.swa_lr2) == settings[:4]
    assert (theirs.swa_freq, theirs.batch_size, theirs.verbose) == settings[4:7]
