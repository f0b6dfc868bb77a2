"""Devices, their addresses and the rank tables of a launch on NPUs, which none of this needs."""

import json
import os

import pytest
from launch_plans import NPUS, problems, resolve, write_table

from ascend_keras.distributed.launch import dry_run, job, settings


@pytest.mark.parametrize("devices, warned", [("0,1", False), ("3,4", True), ("0,1,2", True), ("4,5,6,7", False)])
def test_rings_of_the_910a_are_a_warning_where_the_product_is_not_known(devices, warned):
    assert bool(resolve(NPUS, devices=devices).warnings) == warned


def test_addresses_of_devices_come_from_hccn_conf(tmp_path):
    path = tmp_path / "hccn.conf"
    path.write_text("address_0=10.0.0.1\naddress_1=10.0.0.2\n")
    assert settings._addresses([0, 1], str(path)) == {0: "10.0.0.1", 1: "10.0.0.2"}
    assert settings._addresses([1, 2], str(path)) == {1: "", 2: ""}
    assert settings._addresses([0], str(tmp_path / "absent")) == {0: ""}


@pytest.mark.parametrize("text", ["# address_0=10.0.0.1\n", "", "address_0=10.0.0.1\naddress_0=10.0.0.2\n"])
def test_an_hccn_conf_without_addresses_matters_only_where_they_are_needed(tmp_path, monkeypatch, text):
    path = tmp_path / "hccn.conf"
    path.write_text(text)
    monkeypatch.delenv("HCCL_INTRA_ROCE_ENABLE", raising=False)
    assert settings._addresses([0, 1], str(path)) == {0: "", 1: ""}
    monkeypatch.setenv("HCCL_INTRA_ROCE_ENABLE", "1")
    with pytest.raises(ValueError, match="hccn.conf has (no address|two addresses)"):
        settings._addresses([0, 1], str(path))


@pytest.mark.parametrize(
    "present, limit, changes, physical, logical",
    [
        (NPUS, "4,5", {}, ["4", "5"], [0, 1]),
        (NPUS, "5, 4", {}, ["4", "5"], [1, 0]),
        (NPUS, "4,5,6", {"devices": "4,6"}, ["4", "6"], [0, 2]),
        (NPUS, "4,5,6,7", {"ranks": "2"}, ["4", "5"], [0, 1]),
        # A container that has been given four of eight: the variable counts those that are there.
        ([4, 5, 6, 7], "2,3", {}, ["6", "7"], [0, 1]),
        # No device in sight, as on this machine.
        ([], "4,5", {"backend": "npu"}, ["4", "5"], [0, 1]),
        (NPUS, "", {"ranks": "2"}, ["0", "1"], [0, 1]),
    ],
)
def test_visible_devices(present, limit, changes, physical, logical):
    made = resolve(present, {"ASCEND_RT_VISIBLE_DEVICES": limit}, **changes)
    [server] = json.loads(made.table_text)["server_list"]
    assert [device["device_id"] for device in server["device"]] == physical
    assert made.devices == logical


def test_one_visible_device_and_hosts(tmp_path):
    limit = {"ASCEND_RT_VISIBLE_DEVICES": "5,4"}
    assert resolve(NPUS, limit, ranks="1").devices == [0]
    assert resolve(NPUS, limit, devices="4").devices == [1]
    assert resolve(NPUS, limit, rank_table=write_table(tmp_path, [[4, 5]])).devices == [1, 0]
    assert resolve(NPUS, {"ASCEND_RT_VISIBLE_DEVICES": "x"}, backend="host", ranks="2").form == "tf_config"
    # Left over on a host without NPUs, it makes none.
    assert resolve([], limit, ranks="2").form == "tf_config"


@pytest.mark.parametrize(
    "limit, changes, expected",
    [
        ("4,x", {}, "takes numbers of devices, 0 to 7, each once, with commas between. Received: ASCEND_RT_VISIBLE"),
        ("4,4", {}, "Received: ASCEND_RT_VISIBLE_DEVICES=4,4. Correct or unset it."),
        ("8", {}, "Received: ASCEND_RT_VISIBLE_DEVICES=8. Correct or unset it."),
        ("4,5", {"devices": "6"}, "no device 6. Received: --devices 6. It has 4, 5 (ASCEND_RT_VISIBLE_DEVICES=4,5)."),
        ("4,5", {"ranks": "3"}, "-n 3 asks for more than the 2 NPUs"),
        ("4,5", {"rank_table": [[3, 4]]}, "devices that ranks do not see: 3. Received: ASCEND_RT_VISIBLE_DEVICES=4,5."),
    ],
)
def test_what_visible_devices_contradict(tmp_path, limit, changes, expected):
    if "rank_table" in changes:
        changes = {"rank_table": write_table(tmp_path, changes["rank_table"])}
    told = problems(NPUS, environ={"ASCEND_RT_VISIBLE_DEVICES": limit}, **changes)
    assert len(told) == 1
    assert expected in told[0]


def old_table(folder, form, name="old.json"):
    """Two servers with a device each, in reverse order of their names in the form "cloud"."""
    entry = [{"device_id": "3", "device_ip": "10.1.0.{}".format(number)} for number in (1, 2)]
    servers = ["10.9.9.0", "10.9.9.1"]
    group = {"group_name": "g", "instance_count": "2"}
    if form == "lab":
        instances = [{"rank_id": str(i), "server_id": servers[i], "devices": [entry[i]]} for i in (0, 1)]
        group.update(device_num="2", server_num="2", instance_list=instances)
        head = {"deploy_mode": "lab", "board_id": "0x0020", "chip_info": "910", "para_plane_nic_location": "device"}
        head.update(para_plane_nic_name=["eth0"], para_plane_nic_num="1")
    else:
        instances = [{"pod_name": "p%d" % i, "server_id": servers[i], "devices": [entry[i]]} for i in (1, 0)]
        group.update(device_count="2", instance_list=instances)
        head = {}
    content = dict(head, group_count="1", group_list=[group], status="completed")
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


@pytest.mark.parametrize("form", ["lab", "cloud"])
def test_a_table_of_an_old_form_is_converted_for_the_ranks(tmp_path, form):
    path = old_table(tmp_path, form)
    logs = tmp_path / "logs"
    made = resolve(rank_table=path, node_rank="1", log_dir=str(logs))
    assert (made.devices, made.numbers, made.size, made.rank_table) == ([3], [1], 2, str(logs / "rank_table.json"))
    content = json.loads(made.table_text)
    assert content["version"] == "1.0"
    found = [(server["server_id"], server["device"]) for server in content["server_list"]]
    device = {"device_id": "3", "rank_id": "0", "device_ip": "10.1.0.1"}
    assert found == [("10.9.9.0", [device]), ("10.9.9.1", [dict(device, rank_id="1", device_ip="10.1.0.2")])]
    assert any("is of an old form; ranks get it as version 1.0" in warning for warning in made.warnings)
    shown = dry_run.text(made, {})
    assert '#   "version": "1.0",' in shown.replace("#     ", "#   ")
    assert "RANK_TABLE_FILE={}".format(logs / "rank_table.json") in shown
    ready, lock = job.prepare(made)
    os.close(lock)
    assert json.loads((logs / "rank_table.json").read_text()) == content
    assert ready.rank_table == str(logs / "rank_table.json")


def test_a_table_of_an_old_form_is_never_overwritten(tmp_path):
    path = old_table(tmp_path, "cloud", "rank_table.json")
    [told] = problems(rank_table=path, node_rank="1", log_dir=str(tmp_path))
    assert "Received: --rank-table {}. Give another --log-dir.".format(path) in told


def test_tables_of_several_servers_are_told_apart(tmp_path):
    made = [
        resolve(rank_table=write_table(tmp_path, [[0], [device]]), node_rank="0").table_hash for device in (0, 0, 1)
    ]
    assert made[0] == made[1] != made[2]
    assert resolve(rank_table=write_table(tmp_path, [[0, 1]])).table_hash is None
