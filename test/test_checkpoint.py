"""Checkpoint: when and what it writes, and the state of other callbacks."""

import glob
import os
import shutil

import numpy as np
import pytest
from checkpoint_models import (
    Counter,
    Other,
    Scores,
    Weights,
    X,
    Y,
    assert_same_bits,
    fit,
    make_model,
    names_in,
    state_of,
    variables_of,
)

from ascend_keras import checkpoint_files as files
from ascend_keras import compat
from ascend_keras.callbacks.checkpoint import Checkpoint
from ascend_keras.compat import keras


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, and a large one is slow.
        keras.backend.clear_session()


@pytest.fixture(scope="function" if compat.TF1 else "module")
def shared():
    """One model for most tests, and how it was when it was made."""
    model = make_model(norm=False)
    compat.build_optimizer(model)
    return model, state_of(model)


@pytest.fixture
def model(shared):
    model, start = shared
    compat.set_values(variables_of(model), start)
    return model


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


@pytest.fixture
def warnings_logged(monkeypatch):
    from ascend_keras.log import logger

    lines = []
    monkeypatch.setattr(logger, "warning", lambda text, *values: lines.append(text % values))
    return lines


# --- callbacks with a state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["found", "constructor", "set_callbacks"])
def test_state_of_other_callbacks_is_restored(model, way, folder):
    def make(counters):
        checkpoint = Checkpoint(folder, callbacks=counters if way == "constructor" else None)
        if way == "set_callbacks":
            checkpoint.set_callbacks(counters + [keras.callbacks.History(), checkpoint])
        return checkpoint

    counters, again, weights = [Counter("a"), Counter("b")], [Counter("a"), Counter("b")], Weights()
    fit(model, weights, *(counters + [make(counters)]))
    checkpoint = make(again)
    report = checkpoint.restore(model)
    later = " (when training begins)" if way == "found" else ""
    assert report.restored[-2:] == ("Counter" + later, "Counter#2" + later)
    if way != "found":
        assert [counter.epochs for counter in again] == [3, 3]
    fit(model, weights, *(again + [checkpoint]), initial_epoch=3, epochs=5)
    assert [counter.epochs for counter in again] == [5, 5]
    total = np.zeros(2, np.float32)
    for arrays in weights.seen:
        total = total + arrays[-1]
    assert_same_bits([again[0].total, again[1].total], [total, total])
    # The next training has states of its own.
    again[0].epochs = 100
    fit(model, *(again + [checkpoint]), initial_epoch=5, epochs=6)
    assert again[0].epochs == 101


def make_plateau():
    return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_delta=10.0, cooldown=1)


def make_stopping():
    return keras.callbacks.EarlyStopping(monitor="loss", patience=6, min_delta=10.0, restore_best_weights=True)


def test_state_of_callbacks_of_keras_is_restored(model, folder):
    # With such deltas no epoch is better than the first.
    expected = fit(model, make_plateau(), make_stopping(), Checkpoint(folder, keep=None), epochs=12)
    assert len(expected.history["loss"]) == 7
    end = state_of(model)
    for epoch in (1, 3, 6):
        checkpoint, plateau, stopping = Checkpoint(folder + "2"), make_plateau(), make_stopping()
        report = checkpoint.restore(model, os.path.join(folder, "ckpt-{:05d}.npz".format(epoch)))
        assert "ReduceLROnPlateau (when training begins)" in report.restored
        history = fit(model, plateau, stopping, checkpoint, epochs=12, initial_epoch=epoch)
        assert history.history["loss"] == expected.history["loss"][epoch:]
        assert_same_bits(state_of(model), end)
        shutil.rmtree(folder + "2")


def test_best_of_model_checkpoint_is_restored(model, folder, tmp_path):
    def make():
        return keras.callbacks.ModelCheckpoint(
            str(tmp_path / "kept.weights.h5"), monitor="score", mode="max", save_best_only=True, save_weights_only=True
        )

    fit(model, Scores(0.5, 0.75, name="score"), make(), Checkpoint(folder), epochs=2)
    checkpoint, kept = Checkpoint(folder), make()
    checkpoint.restore(model)
    fit(model, Scores(0, 0, 0.625, name="score"), kept, checkpoint, initial_epoch=2)
    assert kept.best == 0.75


def test_checkpoint_must_come_last(model, folder):
    counter, checkpoint = Counter(), Checkpoint(folder)
    with pytest.raises(ValueError) as error:
        fit(model, checkpoint, counter, make_plateau())
    assert "Checkpoint must stand behind the callbacks whose state it saves" in str(error.value)
    assert "Received: Counter, ReduceLROnPlateau not before it" in str(error.value)
    assert "Put Checkpoint last" in str(error.value)
    with pytest.raises(ValueError, match="Received: Counter not before it"):
        fit(model, Checkpoint(folder, callbacks=[counter]))


def go_on(model, callback, checkpoint):
    checkpoint.restore(model)
    fit(model, callback, checkpoint, initial_epoch=3, epochs=4)


@pytest.mark.parametrize("known", [True, False])
def test_other_callbacks_are_refused(model, known, folder, trained):
    others = [Other(), Counter("another")]
    checkpoint = Checkpoint(folder, callbacks=others[:1] if known else None)
    with pytest.raises(ValueError) as error:
        go_on(model, others[0], checkpoint)
    assert "Counter: its state is in the file, but it is not here" in str(error.value)
    assert "Other: the file has no state of it" in str(error.value)
    checkpoint = Checkpoint(folder, callbacks=others[1:] if known else None)
    with pytest.raises(ValueError, match="Counter: This is the state of 'counter'"):
        go_on(model, others[1], checkpoint)


def test_other_callbacks_are_reported_when_not_strict(model, folder, trained, warnings_logged):
    other = Other()
    report = Checkpoint(folder, callbacks=[other]).restore(model, strict=False)
    assert report.missing == (
        "Counter: its state is in the file, but it is not here",
        "Other: the file has no state of it",
    )
    checkpoint = Checkpoint(folder)
    assert checkpoint.restore(model, strict=False).missing == ()
    fit(model, other, checkpoint, initial_epoch=3, epochs=4)
    assert ["not restored: " + text for text in report.missing] == warnings_logged
    assert other.epochs == 1


@pytest.mark.parametrize("value", [object(), np.array([None]), {1: 2}, [np.float32(1)]])
def test_state_that_no_file_can_hold_is_refused(model, value, folder):
    class Wrong(Counter):
        def state_dict(self):
            return {"fine": 1, "bad": value}

    with pytest.raises(ValueError, match="NumPy arrays of numbers and JSON values only. Received: bad=") as error:
        fit(model, Wrong(), Checkpoint(folder))
    assert "from Wrong" in str(error.value)
    assert names_in(folder) == []


# --- when, and how many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, epochs, expected",
    [
        (dict(), 3, [1, 2, 3]),
        (dict(keep=2), 5, [4, 5]),
        (dict(keep=None), 7, [1, 2, 3, 4, 5, 6, 7]),
        (dict(every=2), 5, [2, 4, 5]),
        (dict(every=3, keep=1), 7, [7]),
    ],
)
def test_which_files_are_there(model, options, epochs, expected, folder):
    checkpoint = Checkpoint(folder, **options)
    fit(model, checkpoint, epochs=epochs)
    assert names_in(folder) == ["ckpt-{:05d}.npz".format(epoch) for epoch in expected]
    assert checkpoint.latest() == os.path.join(folder, "ckpt-{:05d}.npz".format(expected[-1]))
    assert checkpoint.best() is None


def test_epoch_in_which_a_callback_stops_is_written(model, folder):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    fit(model, Stop(), Checkpoint(folder, every=10), epochs=9)
    assert names_in(folder) == ["ckpt-00003.npz"]
    report = Checkpoint(folder).restore(model)
    assert (report.epoch, report.stopped) == (3, True)
    assert "after 3 epochs" in str(report)
    assert "a callback had stopped the training there" in str(report)


@pytest.mark.parametrize(
    "scores, name, mode, best",
    [
        ([3, 1, 2, 1], "val_loss", "auto", 2),
        ([3, 1, 2, 3], "val_accuracy", "auto", 1),
        ([3, 1, 2, 3], "thing", "min", 2),
        ([3, 1, 2, 4], "thing", "max", 4),
        ([np.nan, 2, np.nan, 1], "val_loss", "auto", 4),
        ([np.float32(2), 1, None, None], "thing", "max", 1),
    ],
)
def test_best_is_kept(model, scores, name, mode, best, folder):
    checkpoint, weights = Checkpoint(folder, keep=1, monitor=name, mode=mode), Weights()
    fit(model, Scores(*scores, name=name), weights, checkpoint, epochs=4)
    assert names_in(folder) == ["best.npz", "ckpt-00004.npz"]
    report = checkpoint.restore(model, checkpoint.best())
    assert report.epoch == best
    assert_same_bits(model.get_weights(), weights.seen[best - 1])


def test_best_goes_on_in_a_new_process(model, folder):
    fit(model, Scores(1, 3), Checkpoint(folder, monitor="val_score"), epochs=2)
    checkpoint = Checkpoint(folder, monitor="val_score")
    checkpoint.restore(model)
    fit(model, Scores(0, 0, 2, 4), checkpoint, initial_epoch=2, epochs=3)
    assert files.read_meta(checkpoint.best())["epoch"] == 2
    checkpoint.restore(model)
    fit(model, Scores(0, 0, 0, 4), checkpoint, initial_epoch=3, epochs=4)
    assert files.read_meta(checkpoint.best())["epoch"] == 4


def test_best_that_a_killed_process_could_not_note_is_found(model, folder):
    fit(model, Scores(1, 3, 2), Checkpoint(folder))
    checkpoint = Checkpoint(folder, monitor="val_score")
    checkpoint.restore(model)
    fit(model, checkpoint, initial_epoch=3, epochs=3)
    assert files.read_meta(checkpoint.best())["epoch"] == 2


def test_accuracy_is_found_under_the_name_of_the_stack(folder):
    model = make_model(norm=False, metrics=["accuracy"])
    checkpoint = Checkpoint(folder, monitor="val_accuracy")
    history = fit(model, checkpoint, validation_data=(X, Y)).history
    key = "val_" + compat.accuracy_key(history)
    best = files.read_meta(checkpoint.best())
    assert best["logs"]["val_accuracy"] == max(history[key])
    assert best["epoch"] == 1 + int(np.argmax(history[key]))


def test_missing_metric_is_named(model, folder, warnings_logged):
    fit(model, Checkpoint(folder, monitor="val_loss"), epochs=1)
    assert len(warnings_logged) == 1
    assert "Received: monitor='val_loss', logs with " in warnings_logged[0]
    assert "loss" in warnings_logged[0].split("logs with ")[1]
    assert names_in(folder) == ["ckpt-00001.npz"]


def test_logs_are_kept_as_numbers(model, folder):
    class Logs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update(a=np.float32(0.5), b=True, c="text", d=[1, 2], e=np.array(3))

    checkpoint = Checkpoint(folder)
    history = fit(model, Logs(), checkpoint, epochs=1).history
    logs = files.read_meta(checkpoint.latest())["logs"]
    assert logs == dict(loss=float(history["loss"][0]), a=0.5, b=1.0, e=3.0)


def test_only_the_main_rank_writes(model, folder):
    class Reading(Counter):
        reads = 0

        def state_dict(self):
            self.reads += 1
            return super().state_dict()

    checkpoint, counter, reduced = Checkpoint(folder, monitor="val_score", mode="max"), Reading(), []

    def reduce(vector):
        reduced.append(vector.tolist())
        return vector + [10.0, 1.0] if len(vector) == 2 else vector

    checkpoint.set_ranks(reduce, False)
    fit(model, Scores(1, 2, 3), counter, checkpoint)
    assert not os.path.exists(folder)
    assert counter.reads == 3
    # First whether a rank sees later checkpoints.
    assert reduced == [[0], [1, 1], [2, 1], [3, 1]]


def test_later_checkpoints_that_another_rank_sees_are_refused(model, folder):
    checkpoint = Checkpoint(folder)
    checkpoint.set_ranks(lambda vector: vector + 1.0, True)
    with pytest.raises(ValueError) as caught:
        fit(model, checkpoint, epochs=1)
    assert "Received: initial_epoch=0, checkpoints that another rank sees. Restore" in str(caught.value)


def test_best_of_several_ranks_is_that_of_their_mean(model, folder):
    others = iter([8.0, 5.0, 0.0])
    checkpoint = Checkpoint(folder, monitor="val_score", mode="max")
    checkpoint.set_ranks(lambda vector: vector + [next(others), 1.0] if len(vector) == 2 else vector, True)
    fit(model, Scores(1, 5, 6), checkpoint, epochs=3)
    best = files.read_meta(checkpoint.best())
    assert (best["epoch"], best["logs"]["val_score"]) == (2, 5.0)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_no_checkpoint_is_no_error(model, folder):
    assert Checkpoint(folder).restore(model) is None
    assert Checkpoint(folder).latest() is None
    assert not os.path.exists(folder)


def test_checkpoints_of_later_epochs_are_refused(model, folder, trained):
    checkpoint = Checkpoint(folder)
    first = os.path.join(folder, "ckpt-00001.npz")
    for begin in (0, checkpoint.restore(model, first).epoch):
        with pytest.raises(ValueError) as error:
            fit(model, Counter(), checkpoint, initial_epoch=begin)
        assert "Received: initial_epoch={}, ".format(begin) in str(error.value)
        assert [number in str(error.value) for number in ("00001", "00002", "00003")] == [begin == 0, True, True]
        assert "Restore the newest" in str(error.value)
    assert names_in(folder) == ["ckpt-00001.npz", "ckpt-00002.npz", "ckpt-00003.npz"]


def test_damaged_files_are_passed_over(model, folder, trained, warnings_logged):
    checkpoint = Checkpoint(folder)
    size = os.path.getsize(os.path.join(folder, "ckpt-00003.npz"))
    with open(os.path.join(folder, "ckpt-00003.npz"), "r+b") as file:
        file.truncate(size // 2)
    assert checkpoint.latest().endswith("ckpt-00002.npz")
    with open(os.path.join(folder, "ckpt-00002.npz"), "r+b") as file:
        # Its end is whole: only who reads all of it can tell.
        file.seek(300)
        byte = file.read(1)
        file.seek(300)
        file.write(bytes([byte[0] ^ 1]))
    assert checkpoint.restore(model).epoch == 1
    assert [line for line in warnings_logged if "ckpt-00003.npz" in line]
    assert [line for line in warnings_logged if "ckpt-00002.npz" in line]
    for path in glob.glob(os.path.join(folder, "*")):
        with open(path, "wb"):
            pass
    with pytest.raises(ValueError, match="No checkpoint can be read. Received: folder="):
        checkpoint.restore(model)
    with pytest.raises(ValueError, match="This is no whole ascend_keras checkpoint"):
        checkpoint.restore(model, path)


def test_leftovers_are_removed_and_nothing_else(model, folder):
    os.makedirs(folder)
    ours = [".ckpt-00007.npz.123.tmp", ".best.npz.4.tmp"]
    others = [".hidden", "ckpt-1.npz", "ckpt-00001.npz.tmp", "notes.txt", ".other.npz.12.tmp"]
    for name in ours + others:
        with open(os.path.join(folder, name), "w"):
            pass
    fit(model, Checkpoint(folder), epochs=1)
    assert names_in(folder) == sorted(others + ["ckpt-00001.npz"])


# --- arguments ------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_listed(folder):
    with pytest.raises(ValueError) as error:
        Checkpoint(folder, every=0, keep=0, monitor=3, mode="best", callbacks=[keras.callbacks.History()])
    lines = str(error.value).split("\n")
    assert lines[0] == "`every` must be a whole number of epochs, at least 1. Received: every=0."
    assert lines[1] == "`keep` must be a whole number, at least 1, or None for all. Received: keep=0."
    assert lines[2] == "`mode` must be one of ('auto', 'min', 'max'). Received: mode='best'."
    assert lines[3] == "`monitor` must be the name of a metric. Received: monitor=3."
    assert "Received: History without state_dict()" in lines[4]
    assert len(lines) == 5


@pytest.mark.parametrize("name", ["thing", "score_loss"])
def test_name_that_tells_no_direction_needs_a_mode(name, folder):
    with pytest.raises(ValueError, match="`mode` must be 'min' or 'max' .* Received: monitor='{}'".format(name)):
        Checkpoint(folder, monitor=name)
    Checkpoint(folder, monitor=name, mode="min")
