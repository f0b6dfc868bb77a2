"""Settings of the collectives on NPUs: what is legal, what is sent to HCCL, and what contradicts what."""

import json
import os
import struct
import subprocess
import sys

import pytest

from ascend_keras import backends
from ascend_keras.backends import npu_hccl, npu_options
from ascend_keras.backends.base import Settings
from ascend_keras.backends.npu_bridge import NpuBridgeBackend
from ascend_keras.backends.npu_device import NpuDeviceBackend
from ascend_keras.distributed.cluster import Cluster

HERE = os.path.dirname(os.path.abspath(__file__))


def settings(*args, **kwargs):
    """The settings, where nothing is wrong."""
    found, problems = npu_hccl.resolve(*args, **dict({"environ": {}}, **kwargs))
    assert problems == []
    return found


def problems(*args, **kwargs):
    found, problems = npu_hccl.resolve(*args, **dict({"environ": {}}, **kwargs))
    assert problems
    assert found == npu_hccl.Hccl()
    return problems


# --- gradient fusion ----------------------------------------------------------------------------------------------


def test_nothing_given_is_left_to_hccl():
    nothing = settings(adapter="tf115", ranks=8)
    assert nothing == npu_hccl.Hccl()
    assert (nothing.fusion, nothing.strategy(), nothing.variables(), nothing.given()) == (1, None, {}, {})


@pytest.mark.parametrize(
    "fusion, attribute, strategy",
    [
        (0, 0, None),
        (1, 1, ("set_split_strategy_by_size", [100.0])),
        (2, 1, ("set_split_strategy_by_size", [50.0, 50.0])),
        (3, 1, ("set_split_strategy_by_size", [2134 / 64, 2133 / 64, 2133 / 64])),
        (8, 1, ("set_split_strategy_by_size", [12.5] * 8)),
        ([0.6, 0.2, 0.2], 1, ("set_split_strategy_by_size", [60.0, 20.0, 20.0])),
        ((0.9654, 0.0346), 1, ("set_split_strategy_by_size", [6179 / 64, 221 / 64])),
        ([20, 100, 159], 1, ("set_split_strategy_by_idx", [20, 100, 159])),
        ([0], 1, ("set_split_strategy_by_idx", [0])),
        ([1.0], 1, ("set_split_strategy_by_size", [100.0])),
    ],
)
def test_each_form_of_gradient_fusion(fusion, attribute, strategy):
    found = settings(fusion)
    assert found.fusion == attribute
    assert found.strategy() == strategy
    assert found.given() == {"gradient_fusion": tuple(fusion) if isinstance(fusion, list) else fusion}


@pytest.mark.parametrize("groups", range(1, 9))
def test_percentages_add_up_to_100_in_float64_and_float32(groups):
    for shares in ([1.0 / groups] * groups, [(i + 1) / (groups * (groups + 1) / 2) for i in range(groups)]):
        name, sizes = settings(shares).strategy()
        assert name == "set_split_strategy_by_size"
        assert sum(sizes) == 100
        assert [struct.unpack("f", struct.pack("f", size))[0] for size in sizes] == sizes
        assert all(abs(size - 100 * share) < 100 / 64 for size, share in zip(sizes, shares))
        assert max(abs(size - 100 * share) for size, share in zip(sizes, shares)) <= 1 / 64


@pytest.mark.parametrize(
    "fusion, words",
    [
        (-1, "at most 8 groups"),
        (9, "at most 8 groups"),
        (52428800, "at most 8 groups"),
        (True, "must be a whole number or a list"),
        ("0.5", "must be a whole number or a list"),
        (0.5, "must be a whole number or a list"),
        ([], "1 to 8 groups"),
        ([0.1] * 10, "1 to 8 groups"),
        (list(range(9)), "1 to 8 groups"),
        ([3, 3], "in ascending order"),
        ([9, 3], "in ascending order"),
        ([-1, 3], "in ascending order"),
        ([3, 2**32], "in ascending order"),
        ([0.5, 0.6], "add up to 1"),
        ([0.5, float("nan")], "positive fractions"),
        ([1.5, -0.5], "positive fractions"),
        ([1.0, 0.0], "positive fractions"),
        ([0.5, 1], "either whole numbers or positive fractions"),
        ([None], "either whole numbers or positive fractions"),
        ([True], "either whole numbers or positive fractions"),
    ],
)
def test_what_is_no_gradient_fusion(fusion, words):
    (text,) = problems(fusion)
    assert words in text
    assert "Received: gradient_fusion={!r}.".format(fusion) in text
    assert "Give None, 0 to 8 groups" in text


def test_hccl_takes_every_strategy_that_is_legal_and_keeps_the_first(tmp_path):
    """In a process of its own, against the recorded behaviour of hccl.split.api."""
    script = (
        "from ascend_keras.backends import npu_hccl\n"
        "for fusion in (1, 3, 7, [0.7, 0.1, 0.2], [4, 9], [5], 0, None):\n"
        "    found, problems = npu_hccl.resolve(fusion, environ={})\n"
        "    found.apply_strategy()\n"
    )
    path = os.pathsep.join([os.path.dirname(HERE), os.path.join(HERE, "fakes")])
    env = dict(os.environ, PYTHONPATH=path, FAKE_ASCEND_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], env=env, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "events.rank0.jsonl").read_text().splitlines()]
    made = [
        (event["event"].rpartition("_")[2], event.get("idx") or len(event["size"]), event["kept"]) for event in events
    ]
    assert made == [
        ("size", 1, True),
        ("size", 3, False),
        ("size", 7, False),
        ("size", 3, False),
        ("idx", [4, 9], True),
        ("idx", [5], False),
    ]


# --- timeouts -----------------------------------------------------------------------------------------------------


def test_timeouts_become_environment_variables():
    found = settings(None, 600, 3400, adapter="tf26", product="910A")
    assert found.variables() == {"HCCL_CONNECT_TIMEOUT": "600", "HCCL_EXEC_TIMEOUT": "3400"}
    assert found.given() == {"hccl_connect_timeout": 600, "hccl_exec_timeout": 3400}
    assert found.notices == ()


def test_variables_are_set_in_this_process(monkeypatch):
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "120")
    monkeypatch.delenv("HCCL_EXEC_TIMEOUT", raising=False)
    npu_hccl.Hccl(connect_timeout=7200).apply_variables()
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == "7200"
    assert "HCCL_EXEC_TIMEOUT" not in os.environ


@pytest.mark.parametrize("value", [119, 7201, 120.5, "600", True])
def test_range_of_the_connect_timeout(value):
    (text,) = problems(None, value)
    assert text == (
        "`hccl_connect_timeout` must be whole seconds. Received: hccl_connect_timeout={!r}. Give 120 to 7200.".format(
            value
        )
    )
    assert settings(None, 120).connect_timeout == 120
    assert settings(None, 7200).connect_timeout == 7200


@pytest.mark.parametrize(
    "product, least, most",
    [("910A", 1, 17340), ("A2", 0, 2**31 - 1), ("A3", 0, 2**31 - 1), ("950", 0, 2**31 - 1), (None, 0, 2**31 - 1)],
)
def test_range_of_the_exec_timeout(product, least, most):
    for value in (least, most):
        assert settings(None, None, value, product=product).exec_timeout == value
        assert settings(adapter="tf115", product=product, environ={"HCCL_EXEC_TIMEOUT": str(value)}).variables() == {}
    for value in (least - 1, most + 1):
        (text,) = problems(None, None, value, product=product)
        assert text.endswith("Received: hccl_exec_timeout={}. Give {} to {}.".format(value, least, most))
        (text,) = problems(adapter="tf26", product=product, environ={"HCCL_EXEC_TIMEOUT": str(value)})
        assert "Received: HCCL_EXEC_TIMEOUT='{}'. Give {} to {}.".format(value, least, most) in text


@pytest.mark.parametrize("value", ["60", "7201", "ten", "6e2", " 600", "\u0661\u0662\u0660"])
def test_the_environment_is_checked_on_npus_only(value):
    (text,) = problems(adapter="tf115", environ={"HCCL_CONNECT_TIMEOUT": value})
    assert "environment variable HCCL_CONNECT_TIMEOUT must be whole seconds. Received: HCCL_CONNECT_TIMEOUT=" in text
    assert settings(adapter=None, environ={"HCCL_CONNECT_TIMEOUT": value}) == npu_hccl.Hccl()
    assert settings(adapter="tf115", environ={"HCCL_CONNECT_TIMEOUT": ""}) == npu_hccl.Hccl()


def test_argument_and_environment_may_agree_and_not_differ():
    environ = {"HCCL_CONNECT_TIMEOUT": "600", "HCCL_EXEC_TIMEOUT": "1836"}
    assert settings(None, 600, 1836, adapter="tf26", environ=environ).connect_timeout == 600
    assert problems(None, 300, 0, adapter="tf26", environ=environ) == [
        "`hccl_connect_timeout` and the environment variable HCCL_CONNECT_TIMEOUT differ. Received: "
        "hccl_connect_timeout=300, HCCL_CONNECT_TIMEOUT=600. Keep one of them.",
        "`hccl_exec_timeout` and the environment variable HCCL_EXEC_TIMEOUT differ. Received: hccl_exec_timeout=0, "
        "HCCL_EXEC_TIMEOUT=1836. Keep one of them.",
    ]


def test_argument_and_option_may_agree_and_not_differ():
    assert settings(None, None, 200, options={"hccl_timeout": 200}).exec_timeout == 200
    (text,) = problems(None, None, 200, options={"hccl_timeout": 300})
    assert "hccl_timeout=300, hccl_exec_timeout=200. Keep one of them." in text


@pytest.mark.parametrize(
    "limit, seconds, ranks, wanted",
    [
        (60000, 60, 1, "-1 or more than 60000"),
        (60001, 60, 1, None),
        (-1, 0, 8, None),
        (10**9, 0, 8, "-1"),
        (1836000, None, 8, "-1 or more than 1836000"),
        (1836001, None, 8, None),
        (1000, None, 1, None),
    ],
)
def test_a_stream_waits_longer_than_a_collective(limit, seconds, ranks, wanted):
    given = dict(options={"stream_sync_timeout": limit}, ranks=ranks, adapter="tf26")
    if wanted is None:
        settings(None, None, seconds, **given)
        return
    (text,) = problems(None, None, seconds, **given)
    assert text.endswith("Set stream_sync_timeout to {}. [stream-timeout-order]".format(wanted))
    assert "stream_sync_timeout={}, ".format(limit) in text


def test_what_option_and_environment_say_of_streams_is_reported_once(monkeypatch):
    """By the rules between options, which are checked beside these settings."""
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "60")
    values = {"stream_sync_timeout": 60000}
    settings(None, None, 60, options=values, adapter="tf26", ranks=8, environ=os.environ)
    with pytest.raises(ValueError, match="stream-timeout-order"):
        npu_options.resolve(values, adapter="tf26")


@pytest.mark.parametrize(
    "seconds, notices",
    [
        (68, ()),
        (17340, ()),
        (100, ("hccl_exec_timeout=100 is lowered to 68, a multiple of 68 s, on 910A.",)),
        (67, ("hccl_exec_timeout=67 is less than the 68 s in which a 910A counts.",)),
    ],
)
def test_a_910a_counts_in_steps_of_68_seconds(seconds, notices):
    assert settings(None, None, seconds, product="910A").notices == notices
    assert settings(None, None, seconds, product="A2").notices == ()
    variable = settings(product="910A", adapter="tf115", environ={"HCCL_EXEC_TIMEOUT": str(seconds)})
    assert variable.notices == tuple(text.replace("hccl_exec_timeout", "HCCL_EXEC_TIMEOUT") for text in notices)


def test_every_problem_is_told_at_once():
    found = problems(9, 1, -1, options={"hccl_timeout": 7}, adapter="tf115", environ={"HCCL_CONNECT_TIMEOUT": "x"})
    assert [text.partition("`")[2].partition("`")[0] for text in found] == [
        "gradient_fusion",
        "hccl_connect_timeout",
        "hccl_exec_timeout",
        "",
        "hccl_timeout",
    ]


# --- in the backends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [NpuBridgeBackend, NpuDeviceBackend])
def test_a_second_trainer_cannot_have_other_settings(backend, monkeypatch):
    monkeypatch.setattr(backends, "_opened", {})
    monkeypatch.setattr(backends, "load", lambda name: backend)
    for method in ("open", "close"):
        monkeypatch.setattr(backend, method, lambda self: None)

    def open_with(fusion, seconds):
        hccl = settings(fusion, seconds)
        return backends.open_backend("npu", Settings(npu_options.resolve({}), Cluster(), hccl=hccl))

    first = open_with([0.5, 0.5], 600)
    assert open_with((0.5, 0.5), 600) is first
    with pytest.raises(RuntimeError, match=r"gradient_fusion=2 \(was \(0.5, 0.5\)\)"):
        open_with(2, 600)
    with pytest.raises(RuntimeError, match=r"hccl_connect_timeout=None \(was 600\)"):
        open_with([0.5, 0.5], None)
    assert first.describe()["gradient_fusion"] == (0.5, 0.5)


@pytest.mark.parametrize("backend", [NpuBridgeBackend, NpuDeviceBackend])
def test_a_trainer_reads_its_rank_table_before_the_device_does(backend, monkeypatch, tmp_path):
    path = tmp_path / "table.json"
    devices = [{"device_id": str(rank), "rank_id": str(rank)} for rank in range(2)]
    table = {"version": "1.0", "status": "completed", "server_list": [{"server_id": "node0", "device": devices}]}
    for name in ("POD_NAME", "ASCEND_RT_VISIBLE_DEVICES", "HCCL_INTRA_ROCE_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    launch = {"RANK_SIZE": "2", "RANK_ID": "1", "ASCEND_DEVICE_ID": "1", "RANK_TABLE_FILE": str(path)}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)

    def found(product=None):
        path.write_text(json.dumps(table))
        made = backend(Settings(npu_options.resolve({}), Cluster(2, 1, 1, "rank_table"), product))
        return [text for text in made.check() if str(path) in text]

    assert found("910A") == []
    devices[0]["rank_id"] = "1"
    (text,) = found()
    assert text.startswith("{}: server node0, device 1, rank_id: Device 0 of server node0 has the same".format(path))
    devices[0].update(rank_id="0", device_id="4")
    (text,) = found("910A")
    assert "devices 0-3 and 4-7 are two rings" in text
    devices[0]["device_id"] = "0"
    monkeypatch.setenv("RANK_SIZE", "8")
    (text,) = found()
    assert "RANK_SIZE: The rank table has 2 ranks. Received: RANK_SIZE='8'." in text
