"""One, two, four and eight processes train alike at the same global batch, with an engine of the host.

Expected: the weights of one process. Sums of float32 in another order differ by rounding, which 20 steps of training
carry on; TOLERANCE is some hundred times the rounding of a float32 near 1.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import ranks

RANKS = (2, 4, 8)
TOLERANCE = dict(rtol=2e-5, atol=2e-5)
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "equal_ranks_script.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What all of them have written."""
    path = tmp_path_factory.mktemp("equal")
    command = [sys.executable, "-W", "ignore", SCRIPT, str(path), "1"] + [str(size) for size in RANKS]
    done = subprocess.run(command, env=ranks.environment(None, 0), stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode == 0, "".join(each.read_text()[-1500:] for each in sorted(path.glob("*.out")))
    return path


def found_by(folder, size):
    """What each of so many ranks has found."""
    return [json.loads((folder / "{}-{}.json".format(size, rank)).read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def one(folder):
    """What a single process finds."""
    return found_by(folder, 1)[0]


@pytest.fixture(scope="module", params=RANKS)
def several(request, folder):
    """The number of ranks, and what each of them finds."""
    return request.param, found_by(folder, request.param)


def weights(folder, name, size):
    with np.load(str(folder / "{}-{}.npz".format(name, size))) as file:
        return [file[key] for key in sorted(file.files) if file[key].dtype.kind == "f"]


def test_as_one_process(folder, one, several):
    size, found = several
    for name in ("alexnet", "swa"):
        for expected, got in zip(weights(folder, name, 1), weights(folder, name, size)):
            np.testing.assert_allclose(got, expected, err_msg="{} on {} ranks".format(name, size), **TOLERANCE)
        for key, expected in one[name]["history"].items():
            np.testing.assert_allclose(found[0][name]["history"][key], expected, rtol=1e-4, atol=1e-5, err_msg=key)
        np.testing.assert_allclose(found[0][name]["evaluated"], one[name]["evaluated"], rtol=1e-4, atol=1e-5)


def test_training_has_changed_the_weights(folder, one):
    # Or equal weights would say nothing.
    history = one["alexnet"]["history"]["loss"]
    assert history[-1] < 0.5 * history[0]
    assert one["swa"]["history"]["loss"][-1] < 0.9 * one["swa"]["history"]["loss"][0]


def test_ranks_end_with_the_same_bits(several):
    size, found = several
    assert len(found) == size
    for name in ("alexnet", "swa", "swa_bn"):
        assert {rank[name]["digest"] for rank in found} == {found[0][name]["digest"]}
        assert all(rank[name]["evaluated"] == found[0][name]["evaluated"] for rank in found)
        assert all(rank[name]["history"] == found[0][name]["history"] for rank in found)


def test_batch_norm_is_that_of_each_rank_with_merged_statistics(folder, one, several):
    """Batches are normalised by the statistics of a rank's part, so that weights differ; what is learnt does not."""
    size, found = several
    assert found[0]["swa_bn"]["evaluated"][1] == pytest.approx(one["swa_bn"]["evaluated"][1], abs=0.1)
    assert one["swa_bn"]["evaluated"][1] > 0.75
    single, merged = weights(folder, "swa_bn", 1), weights(folder, "swa_bn", size)
    assert not all(np.allclose(a, b, **TOLERANCE) for a, b in zip(single, merged))
