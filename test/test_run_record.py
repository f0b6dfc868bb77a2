"""The record of a training over restarts, and results of recipes that were ended behind their last step."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ascend_keras import compat, recipes
from ascend_keras.callbacks import Checkpoint, RunRecord, Throughput
from ascend_keras.compat import keras

pytestmark = pytest.mark.usefixtures("fresh_graph")
X = np.arange(24, dtype=np.float32).reshape(8, 3) / 24
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


def train(folder, epochs, resume):
    """One process of a training: the record, the Throughput of this process alone, and the history."""
    keras.backend.clear_session()
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones", input_shape=(3,))])
    model.compile(keras.optimizers.SGD(0.1), "mse", **QUICK)
    throughput = Throughput(batch_size=2)
    record, checkpoint = RunRecord(throughput), Checkpoint(str(folder))
    restored = checkpoint.restore(model) if resume else None
    begin = restored.epoch if restored else 0
    used = [throughput, record, checkpoint]
    data = dict(x=X, y=np.ones((8, 1), np.float32), batch_size=2, shuffle=False)
    history = model.fit(epochs=epochs, initial_epoch=begin, verbose=0, callbacks=used, **data)
    return record, throughput, history.history.get("loss", [])


def test_a_record_goes_on(tmp_path):
    first, of_first, losses = train(tmp_path, 2, resume=False)
    second, of_second, more = train(tmp_path, 5, resume=True)
    assert (len(losses), len(more)) == (2, 3)
    assert first.losses == pytest.approx(losses)
    assert second.losses == pytest.approx(list(losses) + list(more))
    assert second.logs["loss"] == second.losses[-1]
    # The first step of each process compiles and is not measured: 2 * 4 - 1 and 3 * 4 - 1.
    assert (first.steps, second.steps, second.samples) == (7, 7 + 11, 2 * 18)
    assert second.seconds == pytest.approx(of_first.seconds + of_second.seconds)
    assert second.images_per_sec == pytest.approx(36 / second.seconds)


def test_a_record_without_an_epoch_left(tmp_path):
    first, _, _ = train(tmp_path, 2, resume=False)
    second, of_second, more = train(tmp_path, 2, resume=True)
    assert (len(more), of_second.steps) == (0, 0)
    assert (second.losses, second.logs, second.steps) == (first.losses, first.logs, first.steps)
    assert second.images_per_sec == pytest.approx(first.images_per_sec)


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match="no state of a RunRecord. Received: one without logs, samples"):
        RunRecord(Throughput()).load_state_dict({"losses": [], "seconds": 1.0, "steps": 1})


def test_a_recipe_that_was_ended_behind_its_last_epoch_has_its_result(tmp_path):
    command = [sys.executable, recipes.SCRIPTS["swa_blobs"], "--output_dir=" + str(tmp_path), "--backend=host"]
    command += ["--dataset=digits", "--epochs=4", "--swa_start_epoch=2", "--seed=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND_KERAS_")}
    environment.update(PYTHONPATH=recipes.CHECKOUT, TF_CPP_MIN_LOG_LEVEL="3")
    found = []
    for resume in ([], ["--resume"]):
        done = subprocess.run(command + resume, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()[-3000:]
        with open(str(tmp_path / "summary.json")) as file:
            found.append(json.load(file))
        os.remove(str(tmp_path / "summary.json"))
    for name in ("train_accuracy", "actual_loss", "actual_fps"):
        assert found[0][name] == found[1][name], name
