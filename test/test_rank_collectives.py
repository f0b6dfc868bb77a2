"""Two ranks under the fakes: both send the same collectives, in a run with all that may come between them."""

import pathlib

import pytest
import test_synchronise
from test_synchronise import check_all

SCRIPT = pathlib.Path(__file__).resolve().parent / "synchronise_ranks.py"
FIELDS = ("kind", "shape", "dtype", "reduction", "group", "size")
# A message is 32 numbers of 8 bytes, sent as int32.
MESSAGE = [64]
# Means and variances of 3 and of 4 channels, squares of the means, and the number of the ranks.
STATISTICS = [2 * (1 + 3 * 3 + 3 * 4)]
WEIGHTS = 12


@pytest.fixture(scope="module")
def found(module_adapter, tmp_path_factory):
    """What both ranks say, and what they have sent: {name of a training: [collectives of rank 0, of rank 1]}."""
    folder = tmp_path_factory.mktemp("files")
    runs = module_adapter.run(SCRIPT, ranks=2, env={"FOLDER": str(folder), "BACKEND": "npu"})
    for rank, run in enumerate(runs):
        assert run.returncode == 0, "rank {}:\n{}".format(rank, run.stderr[-3000:])
    values = [run.value for run in runs]
    sent = {}
    for name in values[0] if not module_adapter.real else ():
        recorded = [module_adapter.collectives(rank) for rank in range(2)]
        bounds = [value[name]["collectives"] for value in values]
        sent[name] = [
            [
                {field: entry[field] for field in FIELDS}
                for entry in recorded[rank]
                if bounds[rank][0] <= entry["seq"] < bounds[rank][1]
            ]
            for rank in range(2)
        ]
    return values, sent


@pytest.fixture
def sent(found, module_adapter):
    if module_adapter.real:
        pytest.skip("collectives are counted by the fakes")
    return found[1]


def gathers(entries):
    return [entry["shape"] for entry in entries if entry["kind"] == "HcomAllGather"]


def test_both_ranks_send_the_same(sent):
    for name, (first, second) in sent.items():
        assert first == second, name
        assert len(first) > 10 or name == "saved", name


def test_a_run_with_everything_in_it(found):
    first, second = (value["everything"] for value in found[0])
    assert first.get("error") is None
    assert first["epochs"] == second["epochs"] == [0, 1, 2], "EarlyStopping stops both"
    assert first["history"] == second["history"]
    assert first["history"]["loss"] == ["inf"] * 3, "rank 1 has an Inf in each epoch"
    assert first["weights"] == second["weights"]


def test_messages_of_an_epoch(sent):
    # Where the ranks begin; each epoch: statistics, evaluation, logs, the end; and two evaluations.
    expected = [MESSAGE] + 3 * [STATISTICS, MESSAGE, MESSAGE, MESSAGE] + 2 * [MESSAGE]
    for entries in sent["plain"]:
        assert gathers(entries) == expected


def test_no_message_for_statistics_that_a_model_does_not_have(sent):
    for entries in sent["stopped"]:
        assert gathers(entries) == [MESSAGE] + 2 * [MESSAGE, MESSAGE]


def test_all_variables_are_broadcast_twice_before_the_first_step(sent, found):
    for value, entries in zip(found[0], sent["plain"]):
        kinds = [entry["kind"] for entry in entries]
        before = entries[: kinds.index("HcomAllReduce")]
        broadcasts = [entry["shape"] for entry in before if entry["kind"] == "HcomBroadcast"]
        assert kinds.count("HcomBroadcast") == len(broadcasts), "none after the first step"
        half = len(broadcasts) // 2
        assert broadcasts[:half] == broadcasts[half:]
        assert half == WEIGHTS + len(value["plain"]["momenta"]), "slots, counter and learning rate"


@pytest.mark.parametrize("check", test_synchronise.CHECKS, ids=lambda check: check.__name__)
def test_as_on_the_host(found, check):
    check_all(check, found[0])
