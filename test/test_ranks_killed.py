"""A rank is killed (-9) at start, while it compiles, in an epoch, in an evaluation, while a checkpoint is saved,
and behind the last one.

One launch takes all of them, one a restart, and has to end with the bits of a launch in which nobody was killed.
"""

import os
import re
import signal

import numpy as np
import pytest
from launches import Launch

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "killed_ranks_script.py")
PLACES = ["1:start", "0:compile", "1:epoch", "0:evaluation", "0:saving", "1:saving", "0:end"]
# Seconds in which all ranks have to be gone, and the next ones there.
LIMIT = 15
QUIET = dict(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", ASCEND_KERAS_WATCHDOG="120")


def launch(folder, flags, places):
    """The status of a launch of two ranks, the launch, and its events: (start, rank, what, time)."""
    found = Launch(
        folder,
        ["-n", "2", "--backend", "host"] + flags,
        "import runpy\nrunpy.run_path({!r}, run_name='__main__')\n".format(SCRIPT),
        [str(folder)] + places,
        env=QUIET,
    )
    try:
        status = found.process.wait(300)
        left = [] if found.nothing_left() else found.living()
    finally:
        found.close()
    assert not left
    lines = (folder / "events").read_text().splitlines()
    return status, found, [re.match(r"(\d+) (\d+) (.*) ([\d.]+)$", line).groups() for line in lines]


def weights(folder):
    with np.load(str(folder / "weights.npz")) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    status, found, events = launch(folder, [], [])
    assert status == 0, found.out[-3000:] + found.err[-3000:]
    assert [what for _, _, what, _ in events].count("done") == 2
    return folder


@pytest.fixture(scope="module")
def restarted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restarted")
    return (folder,) + launch(folder, ["--max-restarts", str(len(PLACES))], PLACES)


def test_restarts_end_as_if_nothing_had_happened(undisturbed, restarted):
    folder, status, found, events = restarted
    assert status == 0, found.out[-3000:] + found.err[-3000:]
    assert [what for start, _, what, _ in events if start == str(len(PLACES))].count("done") == 2
    expected, got = weights(undisturbed), weights(folder)
    assert sorted(expected) == sorted(got)
    for key in expected:
        np.testing.assert_array_equal(got[key], expected[key], err_msg=key)


def test_each_goes_on_from_the_last_checkpoint(restarted):
    _, _, _, events = restarted
    starts = range(len(PLACES) + 1)
    begun = [[what for start, _, what, _ in events if start == str(n) and "from" in what] for n in starts]
    assert begun[0] in ([], ["from 0"])
    # Epochs whose checkpoint was there: deaths are in the second epoch, from wherever a start begins.
    expected = ["from 0", "from 0", "from 1", "from 1", "from 1"]
    assert [set(texts) for texts in begun[1:6]] == [{text} for text in expected]
    # Where rank 1 dies, rank 0 may have given the file its name, or not yet.
    assert set(begun[6]) in ({"from 1"}, {"from 2"})
    assert set(begun[7]) == {"from 6"}


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_all_are_gone_in_time_and_the_rank_is_named(restarted, number):
    _, _, found, events = restarted
    victim, place = PLACES[number].split(":")
    (died,) = [float(time) for start, rank, what, time in events if (start, rank, what) == (str(number), victim, place)]
    begun = [float(time) for start, _, what, time in events if (start, what) == (str(number + 1), "begun")]
    assert len(begun) == 2
    assert max(begun) - died < LIMIT
    told = "[launch] rank {} failed: killed by SIGKILL. All ranks were ended; this is restart {} of {}.\n"
    assert told.format(victim, number + 1, len(PLACES)) in found.err


def test_without_restarts_the_status_is_that_of_the_rank(tmp_path):
    status, found, events = launch(tmp_path, [], ["1:epoch"])
    assert status == 128 + signal.SIGKILL
    assert re.search(r"rank 1 failed: killed by SIGKILL\. All ranks were ended after .*; exit code 137\.\n", found.err)
    assert [what for _, _, what, _ in events].count("done") == 0
