"""SWA in whole trainings: batch normalization, refusals, log lines, and the results of keras-swa beside its own."""

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf
from ascend_keras.data import toy
from ascend_keras.models import mlp

layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3)).astype(np.float32)
Y = np.ones((40, 2), np.float32)
# Keras 3 compiles with XLA by default, which takes longer than these trainings.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, which some of them finalize.
        keras.backend.clear_session()


def make_model(optimizer=None, batch_norm=True):
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(inputs) if batch_norm else inputs
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(x)))
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **QUICK)
    return model


def fit(model, swa, *callbacks, **options):
    options = dict(dict(epochs=6, batch_size=16, verbose=0), **options)
    return model.fit(X, Y, callbacks=list(callbacks) + [swa], **options)


def moving(model):
    return compat.get_values([model.layers[1].moving_mean, model.layers[1].moving_variance])


def check_population(model):
    mean, variance = moving(model)
    np.testing.assert_allclose(mean, X.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, X.var(axis=0, dtype=np.float64), rtol=4e-6)


# --- batch normalization --------------------------------------------------------------------------------------------


class AtTheEnd(keras.callbacks.Callback):
    """Keeps the mean of the trainable weights over the epochs from the second, and the last optimizer state."""

    def on_train_begin(self, logs=None):
        self.samples = []

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 1:
            self.samples.append(compat.get_values(self.model.trainable_weights))
        self.raw = self.model.get_weights()
        self.state = compat.get_values(compat.optimizer_variables(self.model.optimizer))


@pytest.mark.parametrize(
    "name, options", [("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {})]
)
def test_pass_moves_neither_the_average_nor_the_optimizer(name, options):
    model, end = make_model(getattr(keras.optimizers, name)(0.01, **options)), AtTheEnd()
    swa = SWA(2, bn_data=(X, Y), batch_size=16)
    fit(model, swa, end)
    assert (swa.sampled_epochs, swa.bn_summary) == ([2, 3, 4, 5, 6], (1, 0, 3, 40))
    check_population(model)
    for index, weight in enumerate(compat.get_values(model.trainable_weights)):
        total = np.zeros_like(weight)
        for sample in end.samples:
            total += sample[index]
        np.testing.assert_array_equal(weight, total / np.float32(5))
    state = compat.get_values(compat.optimizer_variables(model.optimizer))
    assert len(state) == len(end.state) > 4
    for old, new in zip(end.state, state):
        np.testing.assert_array_equal(old, new)
    averaged = model.get_weights()
    for _ in range(2):
        swa.use_raw()
        for given, value, expected in zip(swa.raw_weights, model.get_weights(), end.raw):
            np.testing.assert_array_equal(given, expected)
            np.testing.assert_array_equal(value, expected)
        swa.use_average()
        for value, expected in zip(model.get_weights(), averaged):
            np.testing.assert_array_equal(value, expected)


class Pairs(keras.utils.Sequence):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 16 : (index + 1) * 16], Y[index * 16 : (index + 1) * 16]


def generator():
    # All in each batch: where a generator stands after a training is up to Keras, which reads ahead.
    while True:
        yield X, Y


@pytest.mark.parametrize("kind", ["arrays", "dataset", "endless", "sequence", "generator"])
def test_plain_fit_uses_its_own_data(kind):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(40).batch(16)
    data, options = {
        "arrays": ((X, Y), dict(batch_size=16)),
        "dataset": ((dataset,), {}),
        "endless": ((dataset.repeat(),), dict(steps_per_epoch=3)),
        "sequence": ((Pairs(),), {}),
        "generator": ((generator(),), dict(steps_per_epoch=3)),
    }[kind]
    model, swa = make_model(), SWA(2)
    for _ in range(2):
        history = model.fit(*data, epochs=4, verbose=0, callbacks=[swa], **options)
        assert swa.bn_summary == (1, 0, 3, 120 if kind == "generator" else 40)
        check_population(model)
        assert len(history.history["loss"]) == len(history.history["lr"]) == 4


def test_unknown_data_is_refused_before_the_first_step():
    # A training loop of one's own calls the events of callbacks, and no fit is on the stack.
    swa = SWA(2)
    swa.set_model(make_model())
    swa.set_params(dict(epochs=3, steps=2))
    with pytest.raises(ValueError, match=r"Received: bn='auto', bn_data=None. Give it as bn_data="):
        swa.on_train_begin()


@pytest.mark.parametrize("by_name", [False, True])
def test_validation_split_stays_out_of_the_statistics(by_name):
    model = make_model()
    x = {model.input_names[0]: X} if by_name and not compat.KERAS3 else X
    swa = SWA(2)
    model.fit(x, Y, epochs=4, batch_size=16, verbose=0, callbacks=[swa], validation_split=0.2)
    assert swa.bn_summary == (1, 0, 2, 32)
    np.testing.assert_allclose(moving(model)[0], X[:32].mean(axis=0, dtype=np.float64), atol=1e-6)


def test_bn_steps_limit_the_pass():
    swa = SWA(2, bn_data=tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), bn_steps=2)
    model = make_model()
    fit(model, swa)
    assert swa.bn_summary == (1, 0, 2, 16)
    np.testing.assert_allclose(moving(model)[0], X[:16].mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_endless_bn_data_is_refused_before_the_first_step():
    swa = SWA(2, bn_data=tf.data.Dataset.from_tensors(X).repeat())
    with pytest.raises(ValueError, match="goes on for ever"):
        fit(make_model(), swa)


def test_bn_off_leaves_the_last_statistics():
    model, end = make_model(), AtTheEnd()
    swa = SWA(2, bn="off")
    fit(model, swa, end)
    assert swa.bn_summary is None
    for value, expected in zip(moving(model), end.raw[2:4]):
        np.testing.assert_array_equal(value, expected)


def test_failing_pass_leaves_the_raw_weights():
    def batches():
        yield X[:16]
        raise OSError("disk full")

    model, end, swa = make_model(), AtTheEnd(), SWA(2, bn_data=batches(), bn_steps=2)
    with pytest.raises(OSError, match="disk full"):
        fit(model, swa, end)
    for value, expected in zip(model.get_weights(), end.raw):
        np.testing.assert_array_equal(value, expected)
    # The work of a training is not lost: the average is there, with the statistics of the last epoch.
    average = np.mean([weights[0].astype(np.float64) for weights in end.samples], axis=0)
    swa.use_average()
    np.testing.assert_allclose(model.get_weights()[0], average, rtol=1e-6)
    state = swa.state_dict()
    assert state["finished"] and not [key for key in state if key.startswith("sum_")]


def test_averaged_model_is_as_good_as_the_raw_one():
    (x, y), (x_test, y_test) = toy.blobs(samples=4096, held_out=20000)
    model = mlp.blobs_mlp()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    swa = SWA(8, "cyclic", 0.001, 0.003, 3, bn_data=x, batch_size=512)
    model.fit(x, y, batch_size=512, epochs=20, verbose=0, callbacks=[swa])
    averaged = model.evaluate(x_test, y_test, batch_size=20000, verbose=0)[1]
    # The best possible is 0.823; keras-swa ends around 0.4. Standard error of 20,000 points: 0.003.
    assert averaged > 0.81


# --- the end of a training ------------------------------------------------------------------------------------------


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.last = epoch - 1

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch >= self.last


def test_stop_before_the_start_leaves_the_raw_weights_and_says_so():
    model, end, swa = make_model(), AtTheEnd(), SWA(4, "constant", 0.01, bn_data=X)
    with pytest.warns(UserWarning, match="keeps its raw weights. Received: start_epoch=4, last epoch 2"):
        fit(model, swa, end, Stop(2))
    for value, expected in zip(model.get_weights(), end.raw):
        np.testing.assert_array_equal(value, expected)
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.1)


def test_stop_after_the_start_averages_what_there_is():
    model, end, swa = make_model(), AtTheEnd(), SWA(2, bn_data=X)
    fit(model, swa, end, Stop(3))
    assert swa.sampled_epochs == [2, 3]
    first, second = end.samples
    for value, one, two in zip(compat.get_values(model.trainable_weights), first, second):
        np.testing.assert_array_equal(value, (one + two) / np.float32(2))
    check_population(model)


def test_unknown_length_of_an_epoch_is_learnt_from_the_first():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).filter(lambda x, y: True)
    model, swa = make_model(batch_norm=False), SWA(2, "cyclic", 0.01, 0.04, 2)
    model.fit(dataset, epochs=5, verbose=0, callbacks=[swa])
    np.testing.assert_allclose(swa.lr_trace[3:9], [0.035, 0.03, 0.025, 0.02, 0.015, 0.01], rtol=1e-14)
    if swa.params["steps"] is None:
        with pytest.raises(ValueError, match="must know its length.*Give fit steps_per_epoch="):
            model.fit(dataset, epochs=5, verbose=0, callbacks=[SWA(1, "cyclic", 0.01, 0.04, 2)])


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(start_epoch=0), "`start_epoch` must be a whole number, at least 1. Received: start_epoch=0"),
        (dict(start_epoch=2, lr_schedule="cosine"), "must be one of .*Received: lr_schedule='cosine'"),
        (dict(start_epoch=2, lr_schedule="cyclic", swa_freq=1), "2 if 'cyclic'. Received: swa_freq=1"),
        (dict(start_epoch=2, swa_freq=0), "at least 1.*Received: swa_freq=0"),
        (dict(start_epoch=2, swa_lr2=0.1), "must be 'auto' if swa_lr is. Received: swa_lr2=0.1"),
        (
            dict(start_epoch=2, lr_schedule="cyclic", swa_freq=2, swa_lr=0.2, swa_lr2=0.1),
            "must be at least swa_lr. Received: swa_lr2=0.1",
        ),
        (dict(start_epoch=2, bn="mean"), "must be one of .*Received: bn='mean'"),
        (dict(start_epoch=True), "whole number, at least 1. Received: start_epoch=True"),
        (dict(start_epoch=2.5), "whole number, at least 1. Received: start_epoch=2.5"),
        (dict(), "`start_epoch` must be given. Received: unit='epoch', start_epoch=None, start_step=None"),
        (dict(start_epoch=2, start_step=3), "is for unit='step'. Received: unit='epoch', start_epoch=2, start_step=3"),
        (dict(unit="step"), "either `start_step` or `start_epoch`.*Received: unit='step', start_epoch=None"),
        (dict(start_epoch=2, unit="step", start_step=3), "either `start_step` or `start_epoch`"),
        (dict(unit="batch", start_epoch=2), "must be one of .*Received: unit='batch'"),
        (dict(start_epoch=2, average="mean"), "must be one of .*Received: average='mean'"),
        (
            dict(start_epoch=2, average="ema", decay=1.0),
            "`decay` must be a number between 0 and 1. Received: decay=1.0",
        ),
        (dict(start_epoch=2, decay="high"), "Received: decay='high'"),
        (dict(start_epoch=2, validate="all"), "must be one of .*Received: validate='all'"),
        (dict(start_epoch=2, storage="disk"), "must be one of .*Received: storage='disk'"),
        (dict(start_epoch=2, dtype="float16"), "must be one of .*Received: dtype='float16'"),
        (dict(start_epoch=2, on_missing_state="ignore"), "must be one of .*Received: on_missing_state='ignore'"),
        (dict(start_epoch=2, swa_lr=-0.1), "`swa_lr` must be 'auto' or a number, not below 0. Received: swa_lr=-0.1"),
        (dict(start_epoch=2, batch_size=0), "`batch_size` must be None or at least 1. Received: batch_size=0"),
        (
            dict(start_epoch=2, save_best={"monitor": "x"}),
            "must be a path, or a dict with path, .*Received: save_best=",
        ),
        (dict(start_epoch=2, save_best={"path": "x", "mode": "up"}), "must be a path, or a dict with path, "),
        (dict(start_epoch=2, save_best={"path": "x", "monitor": "val_q"}), "does not tell. Received: monitor='val_q'"),
        (dict(start_epoch=2, save_best="x.npz", validate="raw"), "never sees. Received: save_best='x.npz'"),
        (dict(start_epoch=2, bn_steps=0), "`bn_steps` must be a whole number, at least 1. Received: bn_steps=0"),
        (dict(start_epoch=2, sample_at="top"), "must be one of .*Received: sample_at='top'"),
        (dict(start_epoch=0, bn="x"), "(?s)bn='x'.*start_epoch=0"),
    ],
)
def test_contradicting_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SWA(**options)


@pytest.mark.parametrize(
    "swa, options, message",
    [
        (lambda: SWA(6), {}, "below the number of epochs. Received: start_epoch=6, swa_freq=1, epochs=6"),
        (lambda: SWA(5, "cyclic", swa_freq=3), {}, "No cycle of `swa_freq` epochs ends before"),
        (lambda: SWA(2, swa_lr=0.2), {}, r"not be above the optimizer's. Received: swa_lr=0.2, 0.1000000014"),
        (lambda: SWA(2), dict(initial_epoch=2), "Received: initial_epoch=2, start_epoch=2. Load the state"),
    ],
)
def test_arguments_that_contradict_the_training(swa, options, message):
    with pytest.raises(ValueError, match=message):
        fit(make_model(batch_norm=False), swa(), **options)


def scheduled():
    schedules = keras.optimizers.schedules
    return keras.optimizers.SGD(schedules.PiecewiseConstantDecay([9], [0.1, 0.05]))


@pytest.mark.parametrize("options", [dict(lr_schedule="constant"), dict(lr_schedule="cyclic", swa_freq=2)])
def test_schedule_object_cannot_be_changed(options):
    with pytest.raises(ValueError, match="Received: lr_schedule='{}'.*'manual'".format(options["lr_schedule"])):
        fit(make_model(scheduled(), batch_norm=False), SWA(2, **options))


def test_schedule_object_goes_with_manual():
    model, swa = make_model(scheduled(), batch_norm=False), SWA(2)
    history = fit(model, swa)
    # Three steps an epoch: the rate of steps 0..9 is 0.1, then 0.05; it is read at the beginning of each epoch.
    np.testing.assert_array_equal(np.float32(history.history["lr"]), np.float32([0.1, 0.1, 0.1, 0.1, 0.05, 0.05]))


# --- beside keras-swa -----------------------------------------------------------------------------------------------


def test_log_lines(capsys):
    model = make_model()
    fit(model, SWA(3, verbose=1, bn_data=X, batch_size=16))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        # As keras-swa 0.1.7 has it, and then what is true.
        "Model uses batch normalization. SWA will require last epoch to be a forward pass and will run with no "
        "learning rate (here that is a pass of its own after the last epoch, which trains like the others)",
        "Epoch 00003: starting stochastic weight averaging",
        "Epoch 00006: final model weights set to stochastic weight average",
        "Epoch 00006: reinitializing batch normalization layers",
        "Epoch 00006: running forward pass to adjust batch normalization",
        "SWA: average of 4 samples, epochs [3, 4, 5, 6]",
        "SWA: statistics of 1 batch normalization layer re-estimated from 40 samples in 3 batches",
    ]
    fit(model, SWA(3, bn_data=X))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "options",
    [
        dict(start_epoch=4),
        dict(start_epoch=3, swa_freq=2),
        dict(start_epoch=6, lr_schedule="constant", swa_lr=0.02, swa_freq=2),
        dict(start_epoch=6, lr_schedule="constant"),
        dict(start_epoch=6, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=0.05, swa_freq=3),
        dict(start_epoch=4, lr_schedule="cyclic", swa_freq=2),
    ],
)
def test_same_result_as_keras_swa_without_batch_norm(options):
    if compat.KERAS3:
        pytest.skip("keras-swa does not run on Keras 3")
    peer = pytest.importorskip("swa.tfkeras", reason="keras-swa is not installed")
    results, initial = [], []
    for make in (peer.SWA, lambda **given: SWA(sample_at="keras_swa", **given)):
        model, swa = make_model(batch_norm=False), make(**options)
        initial = initial or model.get_weights()
        model.set_weights(initial)
        # An epoch of whole batches: on TF 1.15 keras-swa leaves out the last one otherwise when it counts them.
        history = fit(model, swa, epochs=12, batch_size=8, shuffle=False)
        results.append((model.get_weights(), history.history.get("lr"), swa))
    (expected, rates, _), (weights, _, ours) = results
    for value, wanted in zip(weights, expected):
        np.testing.assert_allclose(value, wanted, rtol=4 * np.finfo(np.float32).eps, atol=1e-7)
    if options.get("lr_schedule") == "constant":
        np.testing.assert_allclose(ours.lr_trace[::5], rates, rtol=1e-6)
    elif "lr_schedule" in options:
        np.testing.assert_allclose(ours.lr_trace, rates, rtol=1e-6)
