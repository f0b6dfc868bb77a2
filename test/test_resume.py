"""A training that was killed and resumed in new processes has the bits of one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from ascend_keras import compat

TEST = pathlib.Path(__file__).resolve().parent
SCRIPT = TEST / "e2e" / "resume_script.py"
STEPS = 3

# Before averaging starts, where it starts (in epoch 4), behind it, and in the batch-norm pass after the last epoch.
KILLS = [["after", 2], ["after", 3], ["before", 5], ["batch norm"]]
CASES = {
    "manual": dict(optimizer="momentum", swa=dict(start_epoch=4), validate=True),
    "constant": dict(optimizer="adam", swa=dict(start_epoch=4, lr_schedule="constant", swa_lr=0.001)),
    "cyclic": dict(
        optimizer="momentum",
        swa=dict(start_epoch=4, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=0.05, swa_freq=2),
    ),
    "ema": dict(optimizer="scaled", swa=dict(start_epoch=4, average="ema", decay=0.75)),
    "step": dict(optimizer="momentum", swa=dict(unit="step", start_step=11, swa_freq=2)),
    "own data": dict(
        optimizer="momentum", swa=dict(start_epoch=4), own_data=True, kills=[["batch", 5, 1], ["after", 6]]
    ),
    "schedule": dict(
        optimizer="schedule", dropout=compat.KERAS3, kills=[["batch", 2, 2], ["after", 4], ["before", 5], ["after", 6]]
    ),
}
EPOCHS = 6
SAMPLED = {
    "manual": ([4, 5, 6], []),
    "constant": ([4, 5, 6], []),
    "cyclic": ([5], []),
    "ema": ([4, 5, 6], []),
    "step": ([], [11, 13, 15, 17]),
    "own data": ([4, 5, 6], []),
}


def plan_of(folder, case, epochs=EPOCHS):
    """The phases of an uninterrupted training without checkpoints, and of one that is killed again and again."""
    common = {key: value for key, value in case.items() if key != "kills"}
    whole = dict(common, folder=str(folder / "whole"), epochs=epochs, seed=1, checkpoint=False)
    kills = case.get("kills", KILLS) + [None]
    killed = [
        dict(common, folder=str(folder / "killed"), epochs=EPOCHS, seed=index + 1, kill=kill)
        for index, kill in enumerate(kills)
    ]
    return [whole] + killed


def run(plan, folder):
    """How the phases of a plan ended, and what they said."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    environment = dict(os.environ, PYTHONPATH=str(TEST.parent), TF_CPP_MIN_LOG_LEVEL="3")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(path)], env=environment, capture_output=True, timeout=600
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said[-3000:]
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("RESULT ")]
    return json.loads(line[len("RESULT ") :]), said


def expected_ends(plan):
    return [signal.SIGKILL if phase.get("kill") else 0 for phase in plan]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All cases in one process, which forks one for each phase: the folder and the ends of each case."""
    root = tmp_path_factory.mktemp("resume")
    plans = {name: plan_of(root / name, case) for name, case in CASES.items()}
    # The same again for two epochs more than it was begun with.
    more = root / "manual" / "more"
    plans["manual"] += [
        dict(plans["manual"][0], folder=str(more), epochs=EPOCHS + 2),
        dict(plans["manual"][-1], epochs=EPOCHS + 2, seed=9, result="longer.npz"),
    ]
    ends, said = run([phase for name in CASES for phase in plans[name]], root)
    found = {}
    for name in CASES:
        found[name] = (root / name, ends[: len(plans[name])], expected_ends(plans[name]), said)
        ends = ends[len(plans[name]) :]
    return found


def load(path):
    with np.load(str(path)) as file:
        return [file[name] for name in sorted(file.files)]


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sorted(CASES))
def test_killed_and_resumed_equals_uninterrupted(name, runs):
    folder, ends, expected, said = runs[name]
    assert ends == expected, said[-3000:]
    whole = load(folder / "whole" / "result.npz")
    assert_same_bits(load(folder / "killed" / "result.npz"), whole)
    if name in SAMPLED:
        assert [array.tolist() for array in whole[-2:]] == list(SAMPLED[name])
        assert len(whole[-3]) == EPOCHS * STEPS


@pytest.mark.parametrize("name", sorted(CASES))
def test_learning_rates_are_those_of_the_uninterrupted_training(name, runs):
    whole = (runs[name][0] / "whole" / "trace.txt").read_text().splitlines()
    killed = (runs[name][0] / "killed" / "trace.txt").read_text().splitlines()
    assert len(whole) == EPOCHS * STEPS
    # What was killed in an epoch did part of it twice, at the same rates.
    assert len(killed) > len(whole)
    short = [line for line in killed if int(line.split()[0]) < EPOCHS]
    assert sorted(set(short)) == sorted(whole)


def test_resumed_with_more_epochs_equals_a_longer_training(runs):
    folder = runs["manual"][0]
    longer = load(folder / "more" / "result.npz")
    assert_same_bits(load(folder / "killed" / "longer.npz"), longer)
    assert longer[-2].tolist() == [4, 5, 6, 7, 8]
    assert any(not np.array_equal(*pair) for pair in zip(longer, load(folder / "whole" / "result.npz")))


def test_new_interpreter_resumes(runs, tmp_path):
    """The same with no fork: one interpreter is killed by its own hand, the next one goes on."""
    folder, case = tmp_path / "case", CASES["cyclic"]
    _, *killed = plan_of(folder, dict(case, kills=[["after", 4]]))
    for phase in killed:
        ends, said = run([phase], tmp_path)
        assert ends == expected_ends([phase]), said[-3000:]
    assert_same_bits(load(folder / "killed" / "result.npz"), load(runs["cyclic"][0] / "whole" / "result.npz"))
