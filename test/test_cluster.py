"""Rank, size and device from the environment."""

import pytest

from ascend_keras.distributed.cluster import Cluster, from_environment

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
