"""Keras' own callbacks on several ranks: whose files stay, who decides, and what is refused."""

import os

import numpy as np
import pytest
from test_synchronise_parts import Played, alike, normed

from ascend_keras import callbacks, compat, saving
from ascend_keras.callbacks import rank_files, synchronise
from ascend_keras.compat import keras

pytestmark = pytest.mark.usefixtures("fresh_graph")


def test_order_of_callbacks(tmp_path):
    backend = Played(alike)
    user, checkpoint = keras.callbacks.Callback(), callbacks.Checkpoint(str(tmp_path))

    def kinds(listed):
        return [type(callback).__name__ for callback in callbacks.for_ranks(listed, backend)]

    assert kinds([]) == ["Synchronise", "AgreeOnStop"]
    assert kinds([user]) == ["Synchronise", "Callback", "AgreeOnStop"]
    assert kinds([user, checkpoint]) == ["Synchronise", "Callback", "AgreeOnStop", "Checkpoint"]
    assert kinds([checkpoint, user]) == ["Synchronise", "AgreeOnStop", "Checkpoint", "Callback", "AgreeOnStop"]


def test_terminate_on_nan_and_the_others_are_replaced():
    nan, user = keras.callbacks.TerminateOnNaN(), keras.callbacks.Callback()
    for is_main in (True, False):
        listed = rank_files.for_rank([nan, user, keras.callbacks.RemoteMonitor()], is_main)
        assert type(listed[0]) is callbacks.StopOnNaN and listed[1] is user
        assert any(isinstance(callback, keras.callbacks.RemoteMonitor) for callback in listed) == is_main
        for callback in listed:
            if hasattr(callback, "release"):
                callback.release()


def test_backup_and_restore_is_refused(tmp_path):
    kind = getattr(keras.callbacks, "BackupAndRestore", None) or getattr(
        getattr(keras.callbacks, "experimental", None), "BackupAndRestore", None
    )
    if kind is None:
        pytest.skip("TF 1.15 has no such callback")
    with pytest.raises(ValueError) as caught:
        rank_files.for_rank([kind(str(tmp_path))], True)
    assert str(caught.value) == (
        "Each rank would read by itself at which epoch to begin, and ranks that begin at different ones wait for each "
        "other for ever. Received: callbacks with BackupAndRestore. Use ascend_keras.callbacks.Checkpoint, and give "
        "fit the epoch that its restore() returns."
    )


@pytest.mark.parametrize("is_main", [True, False])
def test_files_of_keras_are_those_of_rank_0(is_main, tmp_path):
    name = "model.h5" if compat.TF_VERSION < (2, 12) else "model.keras"
    saver = keras.callbacks.ModelCheckpoint(str(tmp_path / name), monitor="loss", save_best_only=True, verbose=1)
    csv = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    paths = saver.filepath, csv.filename
    used = rank_files.for_rank([saver, csv], is_main)
    assert ((saver.filepath, csv.filename) == paths) == is_main
    folder = os.path.dirname(csv.filename)
    assert os.path.basename(saver.filepath).endswith(name) and saver.verbose == int(is_main)
    model, _ = normed()
    x, y = np.ones((4, 3), "f"), np.zeros((4, 2), "f")
    model.fit(x, y, verbose=0, callbacks=used)
    assert (saver.filepath, csv.filename) == paths and saver.verbose == 1
    assert saver.best < 1e9, "every rank knows the best value"
    assert sorted(os.listdir(str(tmp_path))) == (["log.csv", name] if is_main else [])
    assert os.path.exists(folder) == is_main


def test_paths_come_back_after_a_training_that_was_broken_off(tmp_path):
    csv = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    used = rank_files.for_rank([csv], False)
    folder = os.path.dirname(csv.filename)
    assert os.path.isdir(folder) and folder != str(tmp_path)
    used[-1].release()
    used[-1].release()
    assert csv.filename == str(tmp_path / "log.csv") and not os.path.exists(folder)


@pytest.mark.parametrize("loss, stops", [(1.0, False), (float("nan"), True), (float("-inf"), True), (None, False)])
def test_stop_on_nan(loss, stops):
    callback = callbacks.StopOnNaN()
    model, _ = normed()
    callback.set_model(model)
    model.stop_training = False
    callback.on_epoch_end(0, {} if loss is None else {"loss": np.float32(loss)})
    assert model.stop_training == stops


@pytest.mark.parametrize("own, others, stops", [(0, 0, False), (0, 1, True), (1, 0, True), (1, 1, True)])
def test_agreement_on_the_end(own, others, stops):
    def other(vector):
        vector[3] = others
        return vector

    callback = synchronise.AgreeOnStop(Played(other, alike))
    model, _ = normed()
    callback.set_model(model)
    model.stop_training = bool(own)
    callback.on_epoch_end(0, {})
    assert model.stop_training == stops


@pytest.mark.parametrize("name", ["weights.npz", "model.h5"])
def test_reading_alone_leaves_no_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, _ = normed()
    before = model.get_weights()
    saving.read_only(model, str(tmp_path / name))
    assert os.listdir(str(tmp_path)) == []
    for kept, value in zip(before, model.get_weights()):
        np.testing.assert_array_equal(kept, value)
