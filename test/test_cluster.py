"""Rank, size and device from the environment."""

import json

import pytest

from ascend_keras.distributed.cluster import Cluster, from_environment, rank_for_log, restarts

TABLE = {"RANK_SIZE": "8", "RANK_ID": "3", "RANK_TABLE_FILE": "/tables/8p.json", "ASCEND_DEVICE_ID": "3"}
CM = {
    "CM_WORKER_SIZE": "16",
    "CM_CHIEF_IP": "10.0.0.1",
    "CM_CHIEF_PORT": "6000",
    "CM_CHIEF_DEVICE": "0",
    "ASCEND_DEVICE_ID": "5",
}


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, Cluster(1, 0, 0, "single")),
        ({"ASCEND_DEVICE_ID": "6"}, Cluster(1, 0, 6, "single")),
        ({"RANK_SIZE": "1", "RANK_ID": "npu1p"}, Cluster(1, 0, 0, "single")),
        ({"RANK_SIZE": "", "RANK_ID": ""}, Cluster(1, 0, 0, "single")),
        (TABLE, Cluster(8, 3, 3, "rank_table")),
        (CM, Cluster(16, None, 5, "cm")),
        ({"CM_WORKER_SIZE": "1"}, Cluster(1, 0, 0, "single")),
    ],
)
def test_reads(environ, expected):
    assert from_environment(environ) == expected


def test_only_rank_zero_is_main():
    assert Cluster(8, 0).is_main
    assert not Cluster(8, 1).is_main
    assert not from_environment(CM).is_main


@pytest.mark.parametrize(
    "change, words",
    [
        ({"RANK_SIZE": "eight"}, ["RANK_SIZE must be a whole number >= 1", "'eight'"]),
        ({"RANK_SIZE": "0"}, ["RANK_SIZE must be a whole number >= 1", "'0'"]),
        ({"RANK_ID": "8"}, ["RANK_ID must be below RANK_SIZE", "RANK_ID=8, RANK_SIZE=8"]),
        ({"RANK_ID": "npu8p"}, ["RANK_ID must be a whole number", "'npu8p'"]),
        ({"RANK_ID": ""}, ["RANK_ID is not set"]),
        ({"ASCEND_DEVICE_ID": "-1"}, ["ASCEND_DEVICE_ID must be a whole number >= 0", "'-1'"]),
        ({"CM_WORKER_SIZE": "8"}, ["RANK_SIZE and CM_WORKER_SIZE are both set", "CM_WORKER_SIZE='8'"]),
        ({"CM_CHIEF_IP": "10.0.0.1"}, ["two ways to say one thing", "CM_CHIEF_IP"]),
    ],
)
def test_refuses(change, words):
    with pytest.raises(ValueError) as error:
        from_environment(dict(TABLE, **change))
    for word in words:
        assert word in str(error.value)


def test_incomplete_cm_launch_names_what_is_missing():
    with pytest.raises(ValueError, match="Missing: CM_CHIEF_PORT, CM_CHIEF_DEVICE"):
        from_environment({"CM_WORKER_SIZE": "2", "CM_CHIEF_IP": "10.0.0.1"})


def test_all_problems_at_once():
    with pytest.raises(ValueError) as error:
        from_environment({"RANK_SIZE": "8", "RANK_ID": "9", "ASCEND_DEVICE_ID": "x"})
    assert "RANK_ID must be below" in str(error.value) and "ASCEND_DEVICE_ID must be" in str(error.value)


# --- ranks on hosts ---------------------------------------------------------------------------------------------------

HOSTS = ["10.0.0.1:2222", "10.0.0.1:2223", "[fe80::1]:2222"]


def tf_config(workers=HOSTS, index=1, kind="worker", **others):
    config = {"cluster": dict({"worker": workers}, **others), "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(config)}


@pytest.mark.parametrize(
    "environ, expected",
    [
        (tf_config(), Cluster(3, 1, 0, "tf_config", tuple(HOSTS))),
        (tf_config(index="2"), Cluster(3, 2, 0, "tf_config", tuple(HOSTS))),
        (dict(tf_config(index=0), ASCEND_DEVICE_ID="5"), Cluster(3, 0, 5, "tf_config", tuple(HOSTS))),
        (dict(tf_config(), RANK_SIZE="1", RANK_ID="7"), Cluster(3, 1, 0, "tf_config", tuple(HOSTS))),
        (tf_config(HOSTS[:1], 0), Cluster(1, 0, 0, "single")),
        (dict(TABLE, **tf_config(HOSTS[:1], 0)), Cluster(8, 3, 3, "rank_table")),
        ({"TF_CONFIG": ""}, Cluster(1, 0, 0, "single")),
        ({"TF_CONFIG": "{}"}, Cluster(1, 0, 0, "single")),
        ({"TF_CONFIG": '{"cluster": {}, "task": {}}'}, Cluster(1, 0, 0, "single")),
    ],
)
def test_reads_tf_config(environ, expected):
    assert from_environment(environ) == expected


@pytest.mark.parametrize(
    "environ, words",
    [
        ({"TF_CONFIG": "{cluster"}, ["TF_CONFIG must be JSON", "'{cluster'"]),
        ({"TF_CONFIG": "[1]"}, ["must be an object", "'[1]'"]),
        ({"TF_CONFIG": '{"cluster": [1]}'}, ["must be an object"]),
        ({"TF_CONFIG": '{"cluster": {"worker": {"0": "a:1"}}}'}, ["'worker' must be a list", "{'0': 'a:1'}"]),
        (tf_config(chief=["a:1"], ps=["b:1"]), ["workers only", "kinds chief, ps"]),
        (tf_config(kind="chief"), ["'type' must be 'worker'", "Received: 'chief'"]),
        (tf_config(index=3), ["'index' must be one of its 3 workers", "Received: index=3"]),
        (tf_config(index=-1), ["Received: index=-1"]),
        (tf_config(index=None), ["Received: index=None"]),
        (tf_config(index=True), ["Received: index=True"]),
        (tf_config(HOSTS + HOSTS[:1]), ["two workers have one address", "workers 0 and 3: '10.0.0.1:2222'"]),
        (tf_config(["a", "b:99999", "c:1", 4]), ["worker 0: 'a'", "worker 1: 'b:99999'", "worker 3: 4"]),
        (
            dict(tf_config(), RANK_SIZE="8", RANK_ID="1"),
            ["TF_CONFIG (ranks on hosts) and RANK_SIZE (", "RANK_SIZE='8'"],
        ),
        (dict(tf_config(), **CM), ["TF_CONFIG (ranks on hosts) and ", "CM_WORKER_SIZE='16'", "CM_CHIEF_IP='10.0.0.1'"]),
        (dict(tf_config(), CM_CHIEF_IP="10.0.0.1"), ["TF_CONFIG (ranks on hosts) and CM_CHIEF_IP"]),
    ],
)
def test_refuses_tf_config(environ, words):
    with pytest.raises(ValueError) as error:
        from_environment(environ)
    for word in words:
        assert word in str(error.value)


def test_all_problems_of_tf_config_at_once():
    environ = dict(tf_config(["a:1", "a:1", "b"], index=9, kind="ps"), ASCEND_DEVICE_ID="x")
    with pytest.raises(ValueError) as error:
        from_environment(environ)
    for words in ("two workers", "worker 2: 'b'", "index=9", "'type' must be", "ASCEND_DEVICE_ID must be"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "environ, rank",
    [
        ({}, 0),
        ({"RANK_ID": ""}, 0),
        ({"RANK_ID": "0"}, 0),
        ({"RANK_ID": "3"}, 0),
        ({"RANK_ID": "3", "RANK_SIZE": "1"}, 0),
        ({"RANK_ID": "npu1p", "RANK_SIZE": "1"}, 0),
        ({"RANK_ID": "3", "RANK_SIZE": "eight"}, 0),
        (TABLE, 3),
        (dict(TABLE, RANK_ID="npu8p"), 1),
        (dict(TABLE, RANK_ID=""), 0),
        (dict(TABLE, ASCEND_KERAS_RANK="5"), 3),
        (dict(RANK_SIZE="1", RANK_ID="3", ASCEND_KERAS_RANK="5"), 5),
        (dict(CM, ASCEND_KERAS_RANK="5"), 5),
        (dict(ASCEND_KERAS_RANK="5", RANK_ID="2"), 5),
        (tf_config(index=0), 0),
        (tf_config(index=2), 2),
        (tf_config(index="1"), 1),
        (dict(tf_config(index=2), RANK_ID="1"), 2),
        ({"TF_CONFIG": "{"}, 0),
        ({"TF_CONFIG": "[]"}, 0),
        ({"TF_CONFIG": '{"task": {"index": null}}'}, 0),
        ({"TF_CONFIG": '{"task": {"index": -2}}'}, 0),
    ],
)
def test_rank_for_log(environ, rank):
    assert rank_for_log(environ) == rank


def test_restarts():
    assert restarts({}) == 0
    assert restarts({"ASCEND_KERAS_RESTARTS": "2"}) == 2
    with pytest.raises(ValueError, match="ASCEND_KERAS_RESTARTS must be a whole number >= 0. Received: .*'-1'"):
        restarts({"ASCEND_KERAS_RESTARTS": "-1"})
