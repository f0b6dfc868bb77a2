"""Validating the average in the middle of a training: its numbers, its neutrality, its neighbours, the best one."""

import os
import warnings

import numpy as np
import pytest

from ascend_keras import NPUTrainer, compat, saving
from ascend_keras.callbacks.swa import SWA
from ascend_keras.compat import keras, tf

layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3)).astype(np.float32)
Y = random.randn(40, 2).astype(np.float32)
X_TEST = (5 + random.randn(24, 3)).astype(np.float32)
Y_TEST = random.randn(24, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
RESTORES_LATE = compat.KERAS_VERSION not in ("2.2.4-tf", "2.6.0", "2.15.0")  # EarlyStopping, its best weights


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


class Trace(keras.callbacks.Callback):
    """All weights at the end of every epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def make_model(batch_norm=True, seed=1):
    compat.set_seed(seed)
    inputs = keras.Input((3,))
    x = layers.BatchNormalization(momentum=0.5)(inputs) if batch_norm else inputs
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(x)))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"], **QUICK)
    weights = np.random.RandomState(seed)
    model.set_weights([abs(weights.randn(*w.shape)) for w in model.get_weights()])
    return model


def fit(model, *callbacks, **options):
    options = dict(dict(epochs=6, batch_size=8, verbose=0, shuffle=False), **options)
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def validate(model, weights, x=X_TEST, y=Y_TEST):
    """The validation loss of some weights of a model, by hand."""
    where = {id(variable): np.asarray(value, np.float64) for variable, value in zip(model.weights, weights)}
    norm, hidden, last = model.layers[1:]
    gamma, beta, mean, variance = (
        where[id(v)] for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    x = np.tanh(x @ where[id(hidden.kernel)] + where[id(hidden.bias)])
    return np.mean((x @ where[id(last.kernel)] + where[id(last.bias)] - y) ** 2)


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("bn", ["auto", "average"])
@pytest.mark.parametrize("validate_mode", ["average", "both", "raw"])
def test_what_is_validated(validate_mode, bn, storage):
    if storage == "host" and validate_mode != "both":
        pytest.skip("'both' covers the others on the host")
    model, trace = make_model(), Trace()
    swa = SWA(3, swa_freq=2, bn=bn, validate=validate_mode, storage=storage)
    logs = fit(model, trace, swa, validation_data=(X_TEST, Y_TEST)).history
    raw = [validate(model, weights) for weights in trace.weights]
    moving = [index for index, w in enumerate(model.weights) if "moving" in w.name]
    average = list(raw)
    for epoch, samples in {2: [2], 3: [2], 4: [2, 4], 5: [2, 4]}.items():
        weights = [np.mean([w.astype(np.float64) for w in ws], 0) for ws in zip(*[trace.weights[s] for s in samples])]
        for index in moving if bn == "auto" else []:
            weights[index] = trace.weights[epoch][index]
        average[epoch] = validate(model, weights)
    np.testing.assert_allclose(logs["val_loss"], raw if validate_mode == "raw" else average, rtol=2e-5)
    assert ("raw_val_loss" in logs) == (validate_mode == "both")
    if validate_mode == "both":
        np.testing.assert_allclose(logs["raw_val_loss"], raw, rtol=2e-5)
        assert any(name.startswith("raw_val_m") for name in logs)
        assert abs(average[-1] - raw[-1]) > 1e-3  # else nothing was shown


@pytest.mark.parametrize("kind", ["dataset", "split"])
def test_both_works_with_other_data(kind):
    data = tf.data.Dataset.from_tensor_slices((X_TEST, Y_TEST)).batch(8)
    options = dict(validation_data=data) if kind == "dataset" else dict(validation_split=0.4)
    model, trace = make_model(), Trace()
    logs = fit(model, trace, SWA(3, validate="both"), **options).history
    if kind == "dataset":
        np.testing.assert_allclose(
            logs["raw_val_loss"], [validate(model, weights) for weights in trace.weights], rtol=2e-5
        )
    else:
        expected = [validate(model, weights, X[24:], Y[24:]) for weights in trace.weights]
        np.testing.assert_allclose(logs["raw_val_loss"], expected, rtol=2e-5)


def test_epochs_without_validation():
    logs = fit(make_model(), SWA(2, validate="both"), validation_data=(X_TEST, Y_TEST), validation_freq=3).history
    assert len(logs["val_loss"]) == len(logs["raw_val_loss"]) == 2
    assert len(logs["lr"]) == 6


# --- neutrality -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [dict(), dict(average="ema"), dict(storage="host"), dict(unit="step", start_epoch=2)]
)
def test_validation_leaves_every_bit_of_the_training(options):
    options = dict(dict(start_epoch=2), **options)
    results = []
    for arguments in ({}, dict(validation_data=(X_TEST, Y_TEST))):
        model, trace = make_model(), Trace()
        swa = SWA(validate="both", **options)
        fit(model, trace, swa, **arguments)
        results.append(trace.weights + [model.get_weights(), swa.raw_weights])
    for one, other in zip(*results):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_evaluation_after_training_is_left_alone():
    model, swa = make_model(), SWA(2)
    fit(model, swa, validation_data=(X_TEST, Y_TEST))
    swa.use_raw()
    raw = model.get_weights()
    model.evaluate(X_TEST, Y_TEST, verbose=0, callbacks=[swa])
    for a, b in zip(raw, model.get_weights()):
        np.testing.assert_array_equal(a, b)


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the validation of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_test_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["trainer", "plain"])
def test_interrupted_validation_keeps_the_raw_weights(how):
    with NPUTrainer("host") as trainer:
        model, trace = make_model(), Trace()
        swa = SWA(2, "constant", swa_lr=0.01)
        arguments = dict(epochs=6, batch_size=8, verbose=0, shuffle=False, validation_data=(X_TEST, Y_TEST))
        fit_ = trainer.fit if how == "trainer" else keras.Model.fit
        with pytest.raises(KeyboardInterrupt):
            fit_(model, X, Y, callbacks=[trace, Interrupt(3), swa], **arguments)
        if how == "plain":
            swa.release()
        state = swa.state_dict()
        assert state["sampled"][0] == [2, 3, 4]
        model2, trace2 = make_model(), Trace()
        fit(model2, trace2, SWA(2, "constant", swa_lr=0.01))
        for a, b in zip(model.get_weights(), trace2.weights[3]):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(compat.get_learning_rate(model.optimizer), 0.05, rtol=1e-6)


# --- the best average ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor, mode", [("val_loss", "auto"), ("val_loss", "max"), ("val_mae", "auto")])
def test_best_average_is_saved(monitor, mode, tmp_path):
    path = str(tmp_path / "best.npz")
    name = monitor
    model, trace = make_model(), Trace()
    if monitor == "val_mae" and compat.TF1:
        name = "val_" + model.metrics_names[1]
    swa = SWA(3, bn="average", save_best=dict(path=path, monitor=name, mode=mode))
    logs = fit(model, swa, trace, validation_data=(X_TEST, Y_TEST)).history
    values = logs[name][2:]
    best = 2 + int(np.argmax(values) if mode == "max" else np.argmin(values))
    saved = make_model()
    saving.load_weights(saved, path)
    expected = [np.mean([w.astype(np.float64) for w in ws], axis=0) for ws in zip(*trace.weights[2 : best + 1])]
    for found, value in zip(saved.get_weights(), expected):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(validate(saved, saved.get_weights()), logs["val_loss"][best], rtol=2e-5)


def test_other_ranks_do_not_write(tmp_path):
    path = str(tmp_path / "best.npz")
    swa = SWA(3, save_best=path)
    swa.set_ranks(lambda vector: 2 * vector, False)
    fit(make_model(), swa, validation_data=(X_TEST, Y_TEST))
    assert not os.path.exists(path)


def test_unknown_monitor_is_named(tmp_path):
    swa = SWA(2, save_best=dict(path=str(tmp_path / "x.npz"), monitor="val_f1"))
    with pytest.raises(ValueError, match=r"Received: monitor='val_f1', logs \['loss', 'lr', "):
        fit(make_model(), swa, validation_data=(X_TEST, Y_TEST))


def test_average_that_is_worse_says_so():
    class Jump(keras.callbacks.Callback):
        """Far away at first, perfect at last."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch < 5:
                self.model.set_weights([100.0 * w for w in self.model.get_weights()])

    class Perfect(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 5:
                self.model.set_weights([0 * w for w in self.model.get_weights()])

    with pytest.warns(UserWarning, match="average is worse than the weights of the last epoch, by the validation loss"):
        fit(make_model(False), Jump(), Perfect(), SWA(2, validate="both"), validation_data=(X_TEST, Y_TEST))


def test_average_that_is_better_says_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(make_model(), SWA(6 - 1, validate="raw"), validation_data=(X_TEST, Y_TEST))
    assert not [w for w in caught if "average is worse" in str(w.message)]


# --- early stopping --------------------------------------------------------------------------------------------------


def stopper(restore, monitor="val_loss"):
    # Never better than the first epoch of which it hears: stops after the fifth.
    return keras.callbacks.EarlyStopping(monitor, patience=4, mode="max", baseline=None, restore_best_weights=restore)


def run_with_stopper(order, restore, monitor="val_loss", **options):
    model, swa, trace = make_model(), SWA(2, validate="raw"), Trace()
    stop = stopper(restore, monitor)
    beside = [swa, stop] if order == "swa first" else [stop, swa]
    fit(model, trace, *beside, epochs=20, **options)
    return model, swa, trace, stop.stopped_epoch


@pytest.mark.parametrize("order", ["swa first", "swa last"])
def test_early_stopping_averages_what_there_is(order):
    model, swa, trace, stopped = run_with_stopper(order, False, validation_data=(X_TEST, Y_TEST))
    assert 4 <= stopped < 19 and swa.sampled_epochs == list(range(2, stopped + 2))
    expected = np.mean([weights[-1].astype(np.float64) for weights in trace.weights[1:]], axis=0)
    np.testing.assert_allclose(model.get_weights()[-1], expected, rtol=1e-5, atol=1e-6)


def test_a_stop_by_another_callback_is_no_reason_to_leave_out_a_sample():
    swa, stop = SWA(2, validate="raw"), keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)

    def end(epoch, logs):
        model.stop_training = epoch == 3

    model = make_model()
    fit(model, stop, keras.callbacks.LambdaCallback(on_epoch_end=end), swa, epochs=20)
    assert swa.sampled_epochs == [2, 3, 4]


@pytest.mark.parametrize("order", ["swa first", "swa last"])
def test_early_stopping_that_restores(order):
    if RESTORES_LATE and order == "swa first":
        with pytest.raises(ValueError, match="restore_best_weights=True, behind SWA .* Put SWA behind it"):
            run_with_stopper(order, True, validation_data=(X_TEST, Y_TEST))
        return
    model, _, trace, stopped = run_with_stopper(order, True, validation_data=(X_TEST, Y_TEST))
    expected = [weights[-1].astype(np.float64) for weights in trace.weights[1 : stopped + 1]]
    np.testing.assert_allclose(model.get_weights()[-1], np.mean(expected, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(RESTORES_LATE, reason="this Keras restores at the end of training, after the sample")
def test_weights_that_were_put_back_are_no_sample():
    with pytest.warns(UserWarning, match="put back the weights of an earlier epoch: the sample of the last one"):
        model, swa, trace, stopped = run_with_stopper("swa last", True, monitor="loss")
    assert swa.sampled_epochs == list(range(2, stopped + 1))
    expected = [weights[-1].astype(np.float64) for weights in trace.weights[1:stopped]]
    np.testing.assert_allclose(model.get_weights()[-1], np.mean(expected, axis=0), rtol=1e-5, atol=1e-6)
