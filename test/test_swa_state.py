"""The state of SWA from one process to the next; test_resume.py kills processes for it."""

import functools

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.swa import state as states
from ascend_keras.compat import keras, tf

layers = keras.layers
random = np.random.RandomState(3)
X = (5 + random.randn(40, 3)).astype(np.float32)
Y = random.randn(40, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def make_model(units=4):
    inputs = keras.Input((3,))
    x = layers.Dense(units, "tanh")(layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    # Without momentum, so that weights are all that an optimizer has to carry.
    model.compile(keras.optimizers.SGD(0.1), "mse", **QUICK)
    weights = np.random.RandomState(1)
    model.set_weights([abs(weights.randn(*w.shape)) for w in model.get_weights()])
    return model


class Stop(keras.callbacks.Callback):
    """Breaks a training off at the end of an epoch, as a kill would; notes weights, learning rate and state there."""

    def __init__(self, epoch, swa):
        super().__init__()
        self.epoch, self.swa = epoch, swa

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            # What a file makes of it.
            self.state = states.from_bytes(states.to_bytes(self.swa.state_dict()))
            self.weights = self.model.get_weights()
            self.rate = compat.get_learning_rate(self.model.optimizer)
            raise KeyboardInterrupt


def fit(model, *callbacks, **options):
    options = dict(dict(epochs=8, batch_size=16, verbose=0, shuffle=False), **options)
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def resumed(make, epoch, **options):
    """SWA and model of a training that was broken off after an epoch and taken up by new objects."""
    swa = make()
    stop = Stop(epoch, swa)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), swa, stop, **options)
    model, swa = make_model(), make()
    model.set_weights(stop.weights)
    compat.set_learning_rate(model.optimizer, stop.rate)
    swa.load_state_dict(stop.state)
    fit(model, swa, initial_epoch=epoch + 1, **options)
    return swa, model


SETTINGS = {
    "manual": dict(start_epoch=3),
    "constant": dict(start_epoch=3, lr_schedule="constant", swa_freq=2),
    "cyclic": dict(start_epoch=3, lr_schedule="cyclic", swa_freq=2),
    "ema": dict(start_epoch=3, average="ema", decay=0.8),
    "host": dict(start_epoch=3, storage="host", lr_schedule="constant"),
    "steps": dict(start_step=6, unit="step", swa_freq=4, lr_schedule="cyclic"),
    "statistics": dict(start_epoch=3, bn="average"),
}


@functools.lru_cache(maxsize=None)
def undisturbed(name):
    """Weights, raw weights, rates and samples of a training that nothing broke off."""
    swa, model = SWA(**SETTINGS[name]), make_model()
    fit(model, swa)
    return model.get_weights() + swa.raw_weights, swa.lr_trace, swa.sampled_epochs + swa.sampled_steps


# Broken off before, at and after the start of averaging, and when all epochs were done; the first two are the hardest.
BREAKS = [(name, epoch) for name in ("cyclic", "steps") for epoch in (0, 1, 2, 5, 7)]
BREAKS += [(name, 2) for name in ("manual", "constant", "ema", "host", "statistics")] + [("constant", 7)]


@pytest.mark.parametrize("name, epoch", BREAKS)
def test_resumed_training_ends_with_the_same_bits(name, epoch):
    weights, trace, samples = undisturbed(name)
    swa, model = resumed(lambda: SWA(**SETTINGS[name]), epoch)
    for a, b in zip(weights, model.get_weights() + swa.raw_weights):
        np.testing.assert_array_equal(a, b)
    assert swa.lr_trace == trace and len(trace) == 24
    assert swa.sampled_epochs + swa.sampled_steps == samples
    np.testing.assert_allclose(compat.get_learning_rate(model.optimizer), 0.1, rtol=1e-6)


def test_longer_training_goes_on_with_the_average():
    def make():
        return SWA(**SETTINGS["manual"])

    whole, model = make(), make_model()
    fit(model, whole, epochs=12)
    swa, stop = make(), None
    stop = Stop(7, swa)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), swa, stop, epochs=8)
    swa, other = make(), make_model()
    other.set_weights(stop.weights)
    swa.load_state_dict(stop.state)
    fit(other, swa, epochs=12, initial_epoch=8)
    for a, b in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert swa.sampled_epochs == list(range(3, 13))


def test_state_is_json_and_arrays_and_the_same_everywhere():
    swa = SWA(3)
    stop = Stop(4, swa)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), swa, stop)
    state = dict(stop.state)
    assert state.pop("lr_trace").tolist() == [np.float32(0.1)] * 15
    arrays = [state.pop("sum_{:05d}".format(index)) for index in range(6)]
    assert sorted(a.shape for a in arrays) == [(2,), (3,), (3,), (3, 4), (4,), (4, 2)]
    assert all(a.dtype == np.float32 for a in arrays)
    assert len(state.pop("names")) == 6
    assert state.pop("initial_rate") == np.float32(0.1)
    assert state == dict(
        version=1, unit="epoch", average="equal", epoch=5, step=15, steps=3, sampled=[[3, 4, 5], []], best=None,
        finished=False,
    )  # fmt: skip


def test_finished_training_has_nothing_to_go_on_with():
    swa = SWA(3)
    fit(make_model(), swa)
    state = swa.state_dict()
    assert state["finished"] and not [key for key in state if key.startswith("sum_")]
    other = SWA(3)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="Training starts after the first sample was due"):
        fit(make_model(), other, epochs=12, initial_epoch=8)


def test_missing_state():
    with pytest.raises(ValueError, match=r"Received: initial_epoch=4, start_epoch=3. Load the state .*'restart'"):
        fit(make_model(), SWA(3), initial_epoch=4)
    swa = SWA(3, on_missing_state="restart")
    fit(make_model(), swa, initial_epoch=4)
    assert swa.sampled_epochs == [5, 6, 7, 8]
    fit(make_model(), SWA(3), initial_epoch=2)  # nothing is missing yet
    with pytest.raises(ValueError, match="initial_epoch=4, start_step=6"):
        fit(make_model(), SWA(unit="step", start_step=6), initial_epoch=4)


def state_of(swa, epoch=4):
    stop = Stop(epoch, swa)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), swa, stop)
    return stop.state


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: {}, "This is no state of SWA. Received: 'dict'"),
        (lambda state: None, "This is no state of SWA. Received: 'NoneType'"),
        (lambda state: dict(state, version=9), "`version` is 9 in the state, 1 here"),
        (
            lambda state: dict(state, unit="step", average="ema"),
            "(?s)`unit` is 'step' .*`average` is 'ema' in the state",
        ),
    ],
)
def test_states_that_do_not_fit(change, message):
    state = state_of(SWA(3))
    with pytest.raises(ValueError, match=message):
        SWA(3).load_state_dict(change(state))


def test_state_of_another_model():
    swa = SWA(3)
    swa.load_state_dict(state_of(SWA(3)))
    with pytest.raises(
        ValueError, match=r"(?s)of another model. Received:.*\(3, 4\) in the state, \(3, 5\) in the model"
    ):
        fit(make_model(units=5), swa, initial_epoch=5)


def test_state_of_another_epoch():
    swa = SWA(3)
    swa.load_state_dict(state_of(SWA(3)))
    with pytest.raises(
        ValueError, match="of another epoch. Received: initial_epoch=6, state after 5. Give fit the latter"
    ):
        fit(make_model(), swa, initial_epoch=6)


def test_best_value_survives(tmp_path):
    path = str(tmp_path / "best.npz")
    swa = SWA(2, save_best=path)
    stop = Stop(4, swa)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), swa, stop, validation_data=(X, Y))
    assert swa.state_dict()["best"] == stop.state["best"] > 0
    other = SWA(2, save_best=path)
    other.load_state_dict(dict(stop.state, best=-1.0))  # better than anything
    (tmp_path / "best.npz").unlink()
    fit(make_model(), other, initial_epoch=5, validation_data=(X, Y))
    assert not (tmp_path / "best.npz").exists()


@pytest.mark.skipif(compat.TF1, reason="tf.train.Checkpoint of TF 1.15 does not restore at once")
def test_part_of_a_tensorflow_checkpoint(tmp_path):
    swa = SWA(3)

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 4:
                tf.train.Checkpoint(swa=swa.trackable).write(str(tmp_path / "ckpt"))
                self.weights = self.model.get_weights()

    save, model = Save(), make_model()
    fit(model, swa, save)
    other, again = SWA(3), make_model()
    tf.train.Checkpoint(swa=other.trackable).read(str(tmp_path / "ckpt"))
    again.set_weights(save.weights)
    fit(again, other, initial_epoch=5)
    for a, b in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
