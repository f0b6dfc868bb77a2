"""From the command line to the environment of each rank, without starting one."""

import json
import os
import re
import socket

import pytest
from launch_plans import NPUS, SCRIPT, problems, resolve, write_table

from ascend_keras import cli, cli_launch
from ascend_keras.distributed.launch import dry_run, folder, machine, plan
from ascend_keras.distributed.launch.plan import Node

# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, own",
    [
        (["launch", "-n", "2", "s.py", "--a_b", "launch"], 3),
        (["--debug", "launch", "--log_dir", "x_y", "--dry-run", "s.py", "-n", "3"], 5),
        (["launch", "--log-dir=x", "--dry_run", "-m", "mod", "--a_b"], 3),
        (["launch", "--env", "A=b", "--env=C=d", "--bind_cores", "s_1.py"], 5),
        (["launch", "-n"], 2),
        (["launch", "--help"], 2),
    ],
)
def test_the_script_and_its_arguments_are_untouched(argv, own):
    assert cli_launch.split(argv) == (argv[:own], argv[own:])


def test_two_dashes_part_flags_from_the_script():
    assert cli_launch.split(["launch", "-n", "2", "--", "s.py", "--", "x"]) == (
        ["launch", "-n", "2"],
        ["s.py", "--", "x"],
    )


def test_n_without_a_space():
    assert cli_launch.split(["launch", "-n2", "s.py", "-n3"]) == (["launch", "-n", "2"], ["s.py", "-n3"])


def test_other_commands_keep_their_arguments():
    argv = ["report", "launch", "--a_b"]
    assert cli_launch.split(argv) == (argv, [])


def test_wrong_usage_is_told_at_once_with_status_2(capsys):
    assert cli.main(["launch", "-n", "0", "--max_restarts=x", "--timeout=-1", "--env=1A=b", "nope.py"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in told] == ["ascend-keras launch"] * 5
    for part in ("nope.py", "-n 0", "--max-restarts x", "--timeout -1", "--env 1A=b"):
        assert sum(part in line for line in told) == 1


def test_a_flag_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["launch", "-n", "2", "--rank-tabel=x", SCRIPT])
    assert caught.value.code == 2
    assert "unrecognized arguments: --rank-tabel=x" in capsys.readouterr().err


def test_help_shows_examples_and_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["launch", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert all(flag in shown for flag, _, _ in cli_launch._FLAGS)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "present, changes, expected",
    [
        ([], {"ranks": "2"}, ("tf_config", [None, None])),
        ([], {"ranks": "1"}, ("single", [None])),
        (NPUS, {"ranks": "2", "backend": "host"}, ("tf_config", [None, None])),
        (NPUS, {}, ("rank_table", NPUS)),
        (NPUS, {"ranks": "4"}, ("rank_table", [0, 1, 2, 3])),
        (NPUS, {"ranks": "1"}, ("single", [0])),
        (NPUS, {"devices": "5,4"}, ("rank_table", [4, 5])),
        (NPUS, {"devices": "6"}, ("single", [6])),
        # A container that has been given four of eight: ASCEND_DEVICE_ID counts those that are there.
        ([4, 5, 6, 7], {}, ("rank_table", [0, 1, 2, 3])),
        ([4, 5, 6, 7], {"devices": "6"}, ("single", [2])),
        ([], {"ranks": "2", "backend": "npu"}, ("rank_table", [0, 1])),
        (NPUS, dict(nnodes="2", node_rank="1", master="h:1"), ("cm", NPUS)),
        ([], dict(ranks="1", nnodes="2", node_rank="1", master="h:1"), ("tf_config", [None])),
    ],
)
def test_form_and_devices(present, changes, expected):
    made = resolve(present, **changes)
    assert (made.form, made.devices) == expected


def test_table_made_for_one_server_has_physical_ids(tmp_path):
    made = resolve([4, 5, 6, 7], devices="7,5", log_dir=str(tmp_path))
    assert made.rank_table == str(tmp_path / "rank_table.json")
    [server] = json.loads(made.table_text)["server_list"]
    assert [(device["device_id"], device["rank_id"]) for device in server["device"]] == [("5", "0"), ("7", "1")]
    assert made.devices == [1, 3]


def test_a_rank_table_of_one_server(tmp_path):
    path = write_table(tmp_path, [[2, 3]])
    made = resolve(rank_table=path, environ={"JOB_ID": "x1"})
    assert (made.form, made.devices, made.numbers, made.size) == ("rank_table", [2, 3], [0, 1], 2)
    assert (made.rank_table, made.table_text, made.job_id) == (path, None, "x1")
    assert resolve(rank_table=path, ranks="2").devices == [2, 3]


@pytest.mark.parametrize("changes", [{"node_rank": "1"}, {"node_rank": "1", "nnodes": "2", "master": "h:1"}])
def test_a_rank_table_of_several_servers(tmp_path, changes):
    made = resolve(rank_table=write_table(tmp_path, [[0, 1], [0, 1, 2]]), **changes)
    assert (made.numbers, made.size, made.nodes, made.node) == ([2, 3, 4], 5, 2, 1)
    assert made.master == (("h", 1) if "master" in changes else None)


def test_this_server_is_found_in_the_table_by_its_name(tmp_path):
    path = write_table(tmp_path, [[0], [0]])
    text = (tmp_path / "table.json").read_text().replace("10.9.9.1", socket.gethostname())
    (tmp_path / "table.json").write_text(text)
    made = resolve(rank_table=path)
    assert (made.node, made.numbers) == (1, [1])


@pytest.mark.parametrize(
    "present, changes, expected",
    [
        ([], {"script": ()}, ["No script was given", "-n is missing: how many ranks? There is no NPU"]),
        ([], {"script": ("-m",), "ranks": "1"}, ["-m takes the name of a module"]),
        ([], {"script": (os.path.dirname(SCRIPT),), "ranks": "1"}, ["The script is a folder"]),
        ([], {"ranks": "x"}, ["-n must be a whole number from 1 on. Received: -n x."]),
        ([], {"backend": "npu"}, ["-n is missing: how many ranks? This machine has no NPU"]),
        ([], {"ranks": "1", "backend": "gpu"}, ["--backend must be auto, npu or host. Received: --backend gpu."]),
        (NPUS, {"ranks": "9"}, ["-n 9 asks for more than the 8 NPUs"]),
        (NPUS, {"devices": "8,9"}, ["This machine has no device 8, 9. Received: --devices 8,9. It has 0, 1, 2,"]),
        ([], {"devices": "1,1"}, ["--devices names a device twice"]),
        ([], {"devices": "0;1", "ranks": "2"}, ["--devices takes numbers with commas"]),
        ([], {"devices": "0,1", "ranks": "3"}, ["-n must be the number of --devices. Received: -n 3, --devices 0,1."]),
        ([], {"devices": "0", "backend": "host", "ranks": "1"}, ["--devices is for NPUs"]),
        ([], {"ranks": "1", "nnodes": "2"}, ["needs --master", "needs --node-rank"]),
        ([], {"ranks": "1", "nnodes": "2", "node_rank": "2", "master": "h:1"}, ["--node-rank must be below --nnodes"]),
        ([], {"ranks": "1", "master": "h:1"}, ["--master is for several machines"]),
        ([], {"ranks": "1", "node_rank": "0"}, ["--node-rank is for several machines"]),
        (
            [],
            {"ranks": "1", "nnodes": "2", "node_rank": "0", "master": "h:99999"},
            ["--master takes HOST:PORT. Received: --master h:99999."],
        ),
        ([], {"ranks": "1", "env": ["RANK_ID=1"]}, ["RANK_ID is set by the launcher itself"]),
        ([], {"ranks": "1", "log_dir": SCRIPT + "/logs"}, ["launch_plans.py is no folder"]),
        ([], {"ranks": "1", "show": "0"}, ["--show must be all or main. Received: --show 0."]),
        ([], {"ranks": "1", "timeout": "inf"}, ["--timeout must be a number of seconds above 0"]),
        ([], {"rank_table": "absent.json"}, ["absent.json"]),
    ],
)
def test_what_cannot_be_carried_out(present, changes, expected):
    told = problems(present, **changes)
    assert len(told) >= len(expected)
    for part in expected:
        assert any(part in line for line in told), told


def test_a_rank_table_for_8_with_n_4_is_one_message(tmp_path):
    [told] = problems(rank_table=write_table(tmp_path, [NPUS]), ranks="4")
    remedy = "Leave -n out, or make a table for 4 (ascend-keras rank-table make)."
    assert told == "The rank table has 8 ranks. Received: -n 4. " + remedy


def test_what_a_rank_table_contradicts(tmp_path):
    path = write_table(tmp_path, [[0, 1], [0, 1]])
    assert (
        "The rank table has 2 servers. Received: --nnodes 3."
        in problems(rank_table=path, nnodes="3", node_rank="0", master="h:1")[0]
    )
    assert "no such server" in problems(rank_table=path, node_rank="5")[0]
    assert "No server of the rank table is this machine" in problems(rank_table=path)[0]
    assert "--devices and --rank-table both say" in problems(rank_table=path, node_rank="0", devices="0,1")[0]
    assert (
        "--max-restarts on several machines needs --master"
        in problems(rank_table=path, node_rank="0", max_restarts="1")[0]
    )
    assert "--rank-table is for NPUs" in problems(rank_table=path, backend="host", ranks="2")[0]


def test_every_fault_of_a_rank_table_is_told(tmp_path):
    path = write_table(tmp_path, [[0, 1]])
    text = (tmp_path / "table.json").read_text()
    (tmp_path / "table.json").write_text(text.replace('"rank_id": "1"', '"rank_id": "0"').replace("10.1.0.1", "10.1"))
    told = "\n".join(problems(rank_table=path))
    assert "rank_id" in told
    assert "device_ip" in told


def test_log_dir_has_a_new_name_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = folder.find(None, 0, 1, now=0.0)
    os.makedirs(first)
    assert os.path.dirname(first) == os.path.join(os.path.realpath(str(tmp_path)), "ascend_keras_logs")
    assert folder.find(None, 0, 1, now=0.0) == first + "-1"
    assert folder.find(None, 1, 2, now=0.0) == first + "-node1"
    assert folder.find("x", 1, 2) == os.path.abspath("x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_log_dir_without_permission(tmp_path):
    os.chmod(str(tmp_path), 0o500)
    assert "no permission" in folder.why_not_writable(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("10.0.0.1:2222", ("10.0.0.1", 2222)),
        ("a-b.c:1", ("a-b.c", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:5", None),
        ("a:0", None),
        ("a:65536", None),
        ("a", None),
        (":5", None),
        ("http://a:5", None),
    ],
)
def test_address_and_port(text, expected):
    assert machine.address_and_port(text) == expected


def test_devices_of_the_driver(tmp_path):
    for name in ("davinci0", "davinci10", "davinci2", "davinci_manager", "davinci3x"):
        (tmp_path / name).write_text("")
    assert machine.npu_devices(str(tmp_path)) == [0, 2, 10]


def test_ports_are_free_different_and_held_until_released():
    ports = machine.Ports(5)
    assert len(set(ports.numbers)) == 5
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        lowest = int(file.read().split()[0])
    assert lowest < 3000 or all(2000 <= port < lowest for port in ports.numbers)
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", ports.numbers[0]))
        ports.release()
        other.bind(("127.0.0.1", ports.numbers[0]))


# --- environments ---------------------------------------------------------------------------------------------------

BASE = plan.Plan("tf_config", ["python", "s.py"], [None, None], "/logs", nodes=2, node=1, extra=(("A", "b"),))
NODES = [Node(1, "10.0.0.1", [5], 6, 3), Node(2, "10.0.0.2", [7, 8], 9, 0)]
SAME = {"ASCEND_KERAS_LOG_DIR": "/logs", "PYTHONUNBUFFERED": "1", "A": "b"}


def test_variables_on_hosts():
    first, second = plan.variables(BASE, NODES, 2)
    expected = {
        "cluster": {"worker": ["10.0.0.1:5", "10.0.0.2:7", "10.0.0.2:8"]},
        "task": {"type": "worker", "index": 2},
    }
    assert json.loads(second.pop("TF_CONFIG")) == expected
    assert second == dict(SAME, ASCEND_KERAS_RANK="2", ASCEND_KERAS_RESTARTS="2")
    assert first["ASCEND_KERAS_RANK"] == "1"


def test_variables_of_the_cm_form():
    _, second = plan.variables(BASE._replace(form="cm", devices=[0, 1]), NODES, 0)
    assert second == dict(
        SAME,
        ASCEND_KERAS_RANK="2",
        ASCEND_KERAS_RESTARTS="0",
        CM_CHIEF_IP="10.0.0.1",
        CM_CHIEF_PORT="6",
        CM_CHIEF_DEVICE="3",
        CM_WORKER_SIZE="3",
        CM_WORKER_IP="10.0.0.2",
        ASCEND_DEVICE_ID="1",
        JOB_ID="10087",
    )


def test_variables_with_a_rank_table():
    made = BASE._replace(form="rank_table", devices=[4, 5], numbers=[8, 9], size=16, rank_table="/t.json", job_id="z")
    _, second = plan.variables(made, [], 0)
    assert second == dict(
        SAME,
        ASCEND_KERAS_RANK="9",
        ASCEND_KERAS_RESTARTS="0",
        RANK_TABLE_FILE="/t.json",
        RANK_ID="9",
        RANK_SIZE="16",
        ASCEND_DEVICE_ID="5",
        JOB_ID="z",
    )


@pytest.mark.parametrize("devices, expected", [([None], {}), ([3], {"ASCEND_DEVICE_ID": "3", "JOB_ID": "10087"})])
def test_variables_of_one_rank(devices, expected):
    made = BASE._replace(form="single", devices=devices, nodes=1, node=0)
    [values] = plan.variables(made, NODES[:1], 0)
    assert values == dict(SAME, ASCEND_KERAS_RANK="0", ASCEND_KERAS_RESTARTS="0", **expected)


def test_variables_of_all_forms_are_understood_by_the_ranks():
    from ascend_keras.distributed import cluster

    for form, devices, expected in [
        ("tf_config", [None, None], (3, 2, 0)),
        ("cm", [0, 1], (3, None, 1)),
        ("rank_table", [0, 1], (3, 2, 1)),
    ]:
        made = BASE._replace(form=form, devices=devices, rank_table="/t.json")
        inherited = dict.fromkeys(plan.CLUSTER_VARIABLES, "7")
        environ = plan.environment(plan.variables(made, NODES, 0)[1], inherited)
        found = cluster.from_environment(environ)
        assert (found.mode, (found.size, found.rank, found.device_id)) == (form, expected)


def test_ranks_are_told_of_cores_of_their_own():
    bound = plan.variables(BASE._replace(cores=[[0], [1]]), NODES, 0)
    assert [values["ASCEND_KERAS_BOUND"] for values in bound] == ["1", "1"]
    assert "ASCEND_KERAS_BOUND" not in plan.variables(BASE, NODES, 0)[0]


def test_addresses_of_version_6_are_in_brackets():
    values = plan.variables(BASE, [Node(1, "fe80::1", [5]), Node(2, "fe80::2", [7, 8])], 0)[0]
    assert json.loads(values["TF_CONFIG"])["cluster"]["worker"] == ["[fe80::1]:5", "[fe80::2]:7", "[fe80::2]:8"]


def test_stale_variables_are_removed():
    values = plan.variables(BASE, NODES, 0)[0]
    inherited = {"RANK_ID": "1", "PATH": "p", "TF_CONFIG": "x", "DEVICE_ID": "3", "HCCL_CONNECT_TIMEOUT": "600"}
    environ = plan.environment(values, inherited)
    assert {"RANK_ID", "DEVICE_ID"} & set(environ) == set()
    assert (environ["PATH"], environ["HCCL_CONNECT_TIMEOUT"], environ["A"]) == ("p", "600", "b")
    assert plan.removed(values, inherited) == ["RANK_ID", "DEVICE_ID"]


def test_dry_run_of_several_machines_shows_what_is_not_known_yet():
    made = BASE._replace(master=("127.0.0.1", 1), node=0, nodes=2)
    text = dry_run.text(made, {"RANK_ID": "4"})
    assert "<node 1>:<port>" in text
    assert text.count("env -u RANK_ID") == 2


def test_dry_run_of_the_cm_form_invents_no_port_and_no_device():
    text = dry_run.text(BASE._replace(form="cm", devices=[4, 5], master=("127.0.0.1", 1)), {})
    assert text.count("CM_CHIEF_PORT=<port>") == text.count("CM_CHIEF_DEVICE=<device>") == 2
    first = dry_run.text(BASE._replace(form="cm", devices=[4, 5], master=("127.0.0.1", 1), node=0), {})
    assert "CM_CHIEF_DEVICE=4" in first
    assert not re.search("CM_CHIEF_PORT=(0|<)", first)
