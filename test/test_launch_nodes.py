"""`ascend-keras launch` on several machines, which are several launchers on this one."""

import contextlib
import json
import os
import re
import signal
import socket
import sys

import pytest
from launches import Launch, free_port

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The launcher is made for Linux.")

SHOW = "print('GOT', json.dumps({name: os.environ.get(name) for name in NAMES}))\n"
HEAD = "import json, signal, subprocess\nrank = int(os.environ['ASCEND_KERAS_RANK'])\n"
NAMES = "NAMES = ['TF_CONFIG', 'RANK_ID', 'CM_CHIEF_IP', 'CM_CHIEF_PORT', 'CM_CHIEF_DEVICE', 'CM_WORKER_SIZE', "
NAMES += "'CM_WORKER_IP', 'ASCEND_DEVICE_ID', 'JOB_ID', 'ASCEND_KERAS_RESTARTS']\n"
WAIT = "subprocess.Popen(['sleep', '300'], start_new_session=True)\ntime.sleep(300)\n"
READY = "open('ready%d' % rank, 'w').write('x')\n"


def table():
    servers = []
    for node in range(2):
        devices = [
            {"device_id": str(i), "rank_id": str(2 * node + i), "device_ip": "10.0.{}.{}".format(node, i + 1)}
            for i in range(2)
        ]
        servers.append({"server_id": "10.9.9.{}".format(node + 1), "device": devices})
    return {"version": "1.0", "server_count": "2", "server_list": servers, "status": "completed"}


# Name -> flags and script of each launcher; all of a job get --master and, unless a table says it, --nnodes.
JOBS = {
    "host": [(["-n", "2"], HEAD + NAMES + SHOW), (["-n", "1"], HEAD + NAMES + SHOW)],
    "cm": [
        (["-n", "2", "--backend=npu"], HEAD + NAMES + SHOW, {"JOB_ID": "77"}),
        (["-n", "2", "--backend=npu"], HEAD + NAMES + SHOW),
    ],
    "another job": [
        (["-n", "1", "--backend=npu", "--timeout=10"], HEAD, {"JOB_ID": "77"}),
        (["-n", "1", "--backend=npu"], HEAD, {"JOB_ID": "78"}),
    ],
    "table": [(["--rank-table=t.json"], HEAD + NAMES + SHOW), (["--rank-table=t.json"], HEAD + NAMES + SHOW)],
    "failure": [
        (["-n", "2"], HEAD + WAIT),
        (["-n", "2"], HEAD + "print('last words')\nsys.exit(7) if rank == 3 and [time.sleep(0.5)] else None\n" + WAIT),
    ],
    "failure of the first": [(["-n", "1"], HEAD + "time.sleep(0.5)\nos.abort()"), (["-n", "1"], HEAD + WAIT)],
    "restart": [
        (["-n", "1", "--max-restarts=1"], HEAD + NAMES + SHOW),
        (
            ["-n", "1", "--max-restarts=1"],
            HEAD + NAMES + SHOW + "os.environ['ASCEND_KERAS_RESTARTS'] == '1' or os.kill(os.getpid(), 9)",
        ),
    ],
    "one ends later": [(["-n", "1"], HEAD), (["-n", "1"], HEAD + "time.sleep(1); print('end')")],
    "interrupted": [(["-n", "1"], HEAD + READY + WAIT), (["-n", "1"], HEAD + READY + WAIT)],
    "lost": [(["-n", "1"], HEAD + READY + WAIT), (["-n", "1"], HEAD + READY + WAIT)],
    "first lost": [(["-n", "1"], HEAD + READY + WAIT), (["-n", "1"], HEAD + READY + WAIT)],
    "different": [(["-n", "1", "--timeout=10"], HEAD), (["-n", "1", "--backend=npu"], HEAD)],
    "alone": [(["-n", "1", "--timeout=1.5"], HEAD)],
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """All jobs, started at once: they mostly wait."""
    folder, started = tmp_path_factory.mktemp("jobs"), {}
    for name, launchers in JOBS.items():
        master, started[name] = "--master=127.0.0.1:{}".format(free_port()), []
        for node, (flags, script, *env) in enumerate(launchers):
            own = folder / name / str(node)
            own.mkdir(parents=True)
            (own / "t.json").write_text(json.dumps(table()))
            flags = flags + [master, "--node-rank={}".format(node)] + ([] if name == "table" else ["--nnodes=2"])
            started[name].append(Launch(own, flags, script, env=env[0] if env else None))
    yield started
    for launches in started.values():
        for each in launches:
            each.close()


def ended(launches):
    """Exit statuses of all launchers of a job; nothing of them is left."""
    statuses = [each.wait() for each in launches]
    assert [each.left for each in launches] == [[] for _ in launches]
    assert "Traceback" not in "".join(each.err for each in launches)
    return statuses


def got(launch):
    found = re.findall(r"\[rank (\d+)\] GOT (.*)", launch.out)
    return sorted(((int(rank), json.loads(text)) for rank, text in found), key=lambda each: each[0])


def test_host_ranks_know_all_addresses(jobs):
    assert ended(jobs["host"]) == [0, 0]
    ranks = got(jobs["host"][0]) + got(jobs["host"][1])
    assert [rank for rank, _ in ranks] == [0, 1, 2]
    configs = [json.loads(values["TF_CONFIG"]) for _, values in ranks]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    workers = configs[0]["cluster"]["worker"]
    assert len(set(workers)) == 3
    assert all(re.match(r"127\.0\.0\.1:\d+$", worker) for worker in workers)
    assert all(values["RANK_ID"] is values["CM_CHIEF_IP"] is None for _, values in ranks)
    assert "3 ranks, 2 of them here (node 0 of 2), on this host" in jobs["host"][0].err


def test_npu_ranks_without_a_table_get_the_cm_form(jobs):
    assert ended(jobs["cm"]) == [0, 0]
    ranks = got(jobs["cm"][0]) + got(jobs["cm"][1])
    assert [rank for rank, _ in ranks] == [0, 1, 2, 3]
    assert [values["ASCEND_DEVICE_ID"] for _, values in ranks] == ["0", "1", "0", "1"]
    [port] = {values["CM_CHIEF_PORT"] for _, values in ranks}
    assert 0 < int(port) <= 65520
    for _, values in ranks:
        assert values["TF_CONFIG"] is values["RANK_ID"] is None
        assert [values["CM_CHIEF_IP"], values["CM_CHIEF_DEVICE"], values["CM_WORKER_SIZE"]] == ["127.0.0.1", "0", "4"]
        assert [values["CM_WORKER_IP"], values["JOB_ID"]] == ["127.0.0.1", "77"]


def test_a_rank_table_says_which_ranks_are_here(jobs):
    assert ended(jobs["table"]) == [0, 0]
    for node in range(2):
        ranks = got(jobs["table"][node])
        assert [rank for rank, _ in ranks] == [2 * node, 2 * node + 1]
        assert [(values["RANK_ID"], values["ASCEND_DEVICE_ID"]) for _, values in ranks] == [
            (str(2 * node), "0"),
            (str(2 * node + 1), "1"),
        ]
        assert {values["CM_CHIEF_IP"] for _, values in ranks} == {None}


def test_a_failure_on_another_machine_ends_all(jobs):
    assert ended(jobs["failure"]) == [7, 7]
    for launcher in jobs["failure"]:
        assert "rank 3 on node 1 failed: exit code 7" in launcher.err
        assert "[launch]   | last words" in launcher.err
    assert "The last lines of node 1, " in jobs["failure"][0].err


def test_a_failure_on_the_first_machine_ends_all(jobs):
    assert ended(jobs["failure of the first"]) == [134, 134]
    for launcher in jobs["failure of the first"]:
        assert "rank 0 on node 0 failed: killed by SIGABRT" in launcher.err


def test_all_machines_start_again_together(jobs):
    assert ended(jobs["restart"]) == [0, 0]
    for launcher in jobs["restart"]:
        starts = [values for _, values in got(launcher)]
        assert [values["ASCEND_KERAS_RESTARTS"] for values in starts][-1] == "1"
        assert "this is restart 1 of 1" in launcher.err
    [first, second] = [values["TF_CONFIG"] for _, values in got(jobs["restart"][1])]
    assert json.loads(first)["cluster"] != json.loads(second)["cluster"]
    assert second.replace('"index": 1', '"index": 0') == got(jobs["restart"][0])[-1][1]["TF_CONFIG"]


def test_a_machine_that_is_done_waits_for_the_others(jobs):
    assert ended(jobs["one ends later"]) == [0, 0]
    assert "[rank 1] end" in jobs["one ends later"][1].out


def test_ctrl_c_on_one_machine_ends_all(jobs):
    first, second = jobs["interrupted"]
    first.files("ready0")
    second.files("ready1")
    second.process.send_signal(signal.SIGINT)
    assert ended(jobs["interrupted"]) == [130, 130]
    assert "the launch was ended by SIGINT on node 1" in first.err


@pytest.mark.parametrize("name, victim", [("lost", 1), ("first lost", 0)])
def test_a_launcher_that_is_killed_ends_all(jobs, name, victim):
    for node in range(2):
        jobs[name][node].files("ready{}".format(node))
    with open("/proc/{0}/task/{0}/children".format(jobs[name][victim].process.pid)) as file:
        [supervisor] = file.read().split()
    os.kill(int(supervisor), signal.SIGKILL)
    statuses = ended(jobs[name])
    assert statuses[victim] == 137
    assert statuses[1 - victim] == 1
    assert "the launcher of node {} is gone".format(victim) in jobs[name][1 - victim].err


def test_a_launcher_of_another_job_is_refused(jobs):
    first, second = jobs["different"]
    assert ended([first, second]) == [1, 1]
    assert "it launches with cm, this one with tf_config" in first.err
    assert "The first machine refused this one: it launches with cm" in second.err
    assert "No launcher came from node 1 within 10 s" in first.err


def test_a_launcher_with_another_job_id_is_refused(jobs):
    first, second = jobs["another job"]
    assert ended([first, second]) == [1, 1]
    assert "The first machine refused this one: its JOB_ID is 78, that of this one 77." in second.err
    assert "Refused a launcher from 127.0.0.1: its JOB_ID is 78" in first.err


def test_a_launcher_that_stays_alone_says_so(jobs):
    assert ended(jobs["alone"]) == [1]
    assert "No launcher came from node 1 within 1.5 s" in jobs["alone"][0].err


def test_a_master_that_is_in_use(tmp_path):
    with contextlib.closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        flags = ["-n1", "--nnodes=2", "--node-rank=0", "--master=127.0.0.1:{}".format(holder.getsockname()[1])]
        run = Launch(tmp_path, flags, "")
        assert run.wait() == 1
    assert "cannot listen at --master" in run.err
    assert "Address already in use" in run.err
    assert "Traceback" not in run.err
