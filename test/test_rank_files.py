"""Keras' own callbacks on several ranks: whose files stay, who decides, and what is refused."""

import os
import subprocess
import sys
import tempfile

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


def all_of_keras(folder):
    """One of each of Keras' callbacks that a user may bring, with a Checkpoint behind each other one."""
    arguments = {
        "CSVLogger": [str(folder / "log.csv")],
        "LearningRateScheduler": [lambda epoch: 0.5],
        "ModelCheckpoint": [str(folder / "model.keras")],
        "SidecarEvaluatorModelExport": None,
        "OrbaxCheckpoint": None,
        "BackupAndRestore": None,
        "SwapEMAWeights": [],
        "CallbackList": None,
    }
    kinds = {name: getattr(keras.callbacks, name) for name in sorted(dir(keras.callbacks))}
    kinds = {name: kind for name, kind in kinds.items() if isinstance(kind, type)}
    made = []
    for name, kind in kinds.items():
        given = arguments.get(name, [])
        if given is not None and issubclass(kind, keras.callbacks.Callback):
            made.append(kind(*given))
            made += [callbacks.Checkpoint(str(folder))] if len(made) % 3 == 1 else []
    return made


def test_all_ranks_have_as_many_collectives(tmp_path):
    places = {}
    for rank in (0, 1):
        listed = all_of_keras(tmp_path)
        assert any(type(callback) is keras.callbacks.RemoteMonitor for callback in listed)
        used = callbacks.for_ranks(listed, Played(alike, rank=rank))
        kinds = [type(callback).__name__ for callback in used]
        places[rank] = [name for name in kinds if name not in ("RemoteMonitor", "Callback", "_Diverted")]
        assert kinds.count("AgreeOnStop") > 3
        for callback in used:
            if hasattr(callback, "release"):
                callback.release()
    assert places[0] == places[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_remote_monitor_behind_a_checkpoint(rank, tmp_path):
    listed = [callbacks.Checkpoint(str(tmp_path)), keras.callbacks.RemoteMonitor()]
    kinds = [type(callback).__name__ for callback in callbacks.for_ranks(listed, Played(alike, rank=rank))]
    monitor = ["Callback", "AgreeOnStop", "_Diverted"] if rank else ["RemoteMonitor", "AgreeOnStop"]
    assert kinds == ["Synchronise", "AgreeOnStop", "Checkpoint"] + monitor


def test_each_checkpoint_acts_by_what_is_agreed(tmp_path):
    folder, user = str(tmp_path), keras.callbacks.Callback()
    first, second, third = (callbacks.Checkpoint(folder) for _ in range(3))
    used = callbacks.for_ranks([first, user, second, third], Played(alike))
    assert [type(callback).__name__ for callback in used] == (
        ["Synchronise", "AgreeOnStop", "Checkpoint", "Callback", "AgreeOnStop", "Checkpoint", "Checkpoint"]
    )


@pytest.mark.parametrize("name", ["TerminateOnNaN", "RemoteMonitor"])
def test_what_derives_from_those_that_are_replaced_stays(name, caplog, monkeypatch):
    monkeypatch.setattr(rank_files.logger, "propagate", True)
    derived = type("Mine", (getattr(keras.callbacks, name),), {})()
    for is_main in (True, False):
        caplog.clear()
        assert rank_files.for_rank([derived], is_main)[0] is derived
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(told) == int(is_main)
        assert not told or told[0].startswith("Mine derives from Keras' {} and stays as it is: ".format(name))


def test_folders_of_killed_ranks_are_removed(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prefix = rank_files._prefix()
    stay = ["{}{}_a".format(prefix, pid) for pid in (os.getpid(), 1)]
    stay += ["other_{}_a".format(gone.pid), "ascend_keras_rank_00000000_{}_a".format(gone.pid)]
    dead = "{}{}_a".format(prefix, gone.pid)
    for name in stay + [dead]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text("x")
    csv = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    used = rank_files.for_rank([csv], False)
    folder = os.path.basename(os.path.dirname(csv.filename))
    assert folder.startswith("{}{}_".format(prefix, os.getpid()))
    assert sorted(os.listdir(str(tmp_path))) == sorted(stay + [folder])
    used[-1].release()
    assert sorted(os.listdir(str(tmp_path))) == sorted(stay)


def test_terminate_on_nan_and_the_others_are_replaced():
    nan, user = keras.callbacks.TerminateOnNaN(), keras.callbacks.Callback()
    for is_main in (True, False):
        listed = rank_files.for_rank([nan, user, keras.callbacks.RemoteMonitor()], is_main)
        assert type(listed[0]) is callbacks.StopOnNaN and listed[1] is user
        kind = keras.callbacks.RemoteMonitor if is_main else keras.callbacks.Callback
        assert type(listed[2]) is kind, "in its place, so that all ranks have as many"
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


def test_another_learning_rate_is_refused():
    def other(vector):
        vector[4] *= 0.5
        return vector

    model, _ = normed()
    callback = synchronise.AgreeOnStop(Played(alike, other))
    callback.set_model(model)
    model.stop_training = True
    with pytest.raises(ValueError) as caught:
        callback.on_epoch_end(2, {})
    assert str(caught.value).startswith(
        "The ranks differ in the learning rate at the end of epoch 3. Received:\n"
        "  learning rate: 0.5 on rank 0, 0.5 on rank 1, 0.25 on rank 2\nA callback has set it by a number"
    )


def test_a_schedule_is_not_compared():
    model, _ = normed()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    model.compile(keras.optimizers.SGD(schedule), "mse")
    backend = Played(alike)
    callback = synchronise.AgreeOnStop(backend)
    callback.set_model(model)
    model.stop_training = False
    callback.on_epoch_end(0, {})
    assert backend.sent[0][3:].tolist() == [0.0] * 29 and not model.stop_training


@pytest.mark.parametrize("name", ["weights.npz", "model.h5"])
def test_reading_alone_leaves_no_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, _ = normed()
    before = model.get_weights()
    saving.read_only(model, str(tmp_path / name))
    assert os.listdir(str(tmp_path)) == []
    for kept, value in zip(before, model.get_weights()):
        np.testing.assert_array_equal(kept, value)
