"""`ascend-keras rank-table`: its arguments, its output, and its exit status."""

import json
import os
import subprocess
import sys

import pytest

from ascend_keras import cli, cli_rank_table
from ascend_keras.distributed import rank_table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLD_8P = os.path.join(ROOT, "test", "data", "rank_table_old_8p.json")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, with no variables of a cluster and no /etc/hccn.conf."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_rank_table, "HCCN_CONF", "hccn.conf")
    for name in ("RANK_SIZE", "RANK_ID", "ASCEND_DEVICE_ID", "POD_NAME", "HCCL_INTRA_ROCE_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def conf(path, count, net=0):
    path.write_text("".join("address_{}=10.0.{}.{}\n".format(i, net, i + 1) for i in range(count)))
    return path.name


def run(*arguments):
    return cli.main(["rank-table"] + list(arguments))


def devices(path):
    """(server, device, address, rank) of a table that is written."""
    return [
        (server.server_id, one.device_id, one.device_ip, one.rank_id)
        for server in rank_table.read(str(path)).servers
        for one in server.devices
    ]


@pytest.mark.parametrize(
    "arguments",
    [["rank-table", "--help"], ["rank-table", "make", "--help"], ["rank-table", "check", "--help"], ["rank-table"]],
)
def test_help_loads_no_tensorflow(arguments):
    code = (
        "import sys\nfrom ascend_keras import cli\n"
        "try:\n    status = cli.main({!r})\nexcept SystemExit as exit:\n    status = exit.code\n"
        "print(status, sorted({{'tensorflow', 'keras', 'numpy'}} & set(sys.modules)))"
    ).format(arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "{} []".format(2 if arguments == ["rank-table"] else 0)


def test_this_server_from_its_hccn_conf(folder, capsys):
    conf(folder / "hccn.conf", 2)
    assert run("make", "-o", "2p.json") == 0
    name = os.uname().nodename
    assert devices("2p.json") == [(name, 0, "10.0.0.1", 0), (name, 1, "10.0.0.2", 1)]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "version 1.0: 2 ranks on 1 server"
    assert out[1] == "  {}: rank 0 on device 0, rank 1 on device 1".format(name)
    assert out[2] == "written to 2p.json, content {}".format(rank_table.content_hash("2p.json"))


def test_some_devices_and_a_name(folder):
    conf(folder / "hccn.conf", 8)
    assert run("make", "-o", "4p.json", "--devices", "4-5,7,6", "--server_id=node0") == 0
    assert devices("4p.json") == [("node0", 4 + i, "10.0.0.{}".format(5 + i), i) for i in range(4)]


def test_devices_without_addresses_where_there_is_no_hccn_conf(folder, capsys):
    assert run("make", "-o", "2p.json", "--devices=0-1") == 0
    assert [entry[1:] for entry in devices("2p.json")] == [(0, "", 0), (1, "", 1)]
    assert "without addresses" in capsys.readouterr().err
    assert run("make", "-o", "3p.json") == 1
    assert "hccn.conf" in capsys.readouterr().err


def test_addresses_as_arguments(folder, capsys):
    assert run("make", "-o", "2p.json", "--server-id=s", "--devices=2,0", "--ips=10.0.0.3,10.0.0.1") == 0
    assert devices("2p.json") == [("s", 0, "10.0.0.1", 0), ("s", 2, "10.0.0.3", 1)]
    assert run("make", "-o", "bad.json", "--devices=0-2", "--ips=10.0.0.3,10.0.0.1") == 1
    assert "Received: 3 devices, 2 addresses" in capsys.readouterr().err
    assert run("make", "-o", "bad.json", "--ips=10.0.0.300") == 1
    assert "device 0, device_ip: '10.0.0.300' is no IPv4 or IPv6 address" in capsys.readouterr().err
    assert not (folder / "bad.json").exists()


def test_several_servers_from_their_files(folder):
    conf(folder / "a.conf", 2, net=1)
    (folder / "b.txt").write_text("ipaddr:10.0.2.1\nnetmask:255.255.255.0\nipaddr:10.0.2.2\nnetmask:255.255.255.0\n")
    assert run("make", "-o", "4p.json", "--server=nodeB:b.txt", "--server=172.16.0.1:a.conf") == 0
    assert devices("4p.json") == [
        ("nodeB", 0, "10.0.2.1", 0),
        ("nodeB", 1, "10.0.2.2", 1),
        ("172.16.0.1", 0, "10.0.1.1", 2),
        ("172.16.0.1", 1, "10.0.1.2", 3),
    ]


def test_tables_of_servers_are_joined(folder):
    for net, name in enumerate("ab"):
        conf(folder / (name + ".conf"), 2, net)
        assert run("make", "-o", name + ".json", "--server", "{0}:{0}.conf".format(name)) == 0
    assert run("make", "-o", "ab.json", "--merge", "b.json", "a.json") == 0
    assert devices("ab.json") == [
        ("b", 0, "10.0.1.1", 0),
        ("b", 1, "10.0.1.2", 1),
        ("a", 0, "10.0.0.1", 2),
        ("a", 1, "10.0.0.2", 3),
    ]


def test_an_old_table_is_converted_and_nothing_overwritten(folder, capsys):
    assert run("make", "--output=8p.json", "--from", OLD_8P, "--product=910A") == 0
    assert [(rank, device) for _, device, _, rank in devices("8p.json")] == list(enumerate([0, 1, 2, 3, 7, 6, 5, 4]))
    before = (folder / "8p.json").read_bytes()
    conf(folder / "hccn.conf", 1)
    assert run("make", "-o", "8p.json") == 1
    assert "8p.json'. Give another name, or --overwrite" in capsys.readouterr().err
    assert (folder / "8p.json").read_bytes() == before
    assert run("make", "-o", "8p.json", "--overwrite") == 0
    assert len(devices("8p.json")) == 1
    assert sorted(os.listdir(".")) == ["8p.json", "hccn.conf"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--server=a:hccn.conf", "--merge", "a.json"], "--server, --merge"),
        (["--from=a.json", "--devices=0-3"], "keeps its servers and devices. Received: --devices"),
        (["--server=hccn.conf"], "--server takes ID:FILE"),
        (["--server=a:hccn.conf", "--server-id=b"], "--server names the server already"),
        (["--devices=3-1"], "0-7 or 0,1,4-5. Received: --devices='3-1'"),
        (["--devices=0,0"], "named twice"),
        (["--devices=0-3"], "no address for device 2, 3"),
        (["--product=A4"], "Unknown product. Received: product='A4'"),
        (["--server=a:missing.conf"], "missing.conf"),
        (["--output=table.txt"], "end in .json"),
    ],
)
def test_what_cannot_be_made_says_why_and_writes_nothing(folder, capsys, arguments, words):
    conf(folder / "hccn.conf", 2)
    output = [] if "--output=table.txt" in arguments else ["-o", "new.json"]
    assert run("make", *(output + arguments)) == 1
    assert words in capsys.readouterr().err
    assert os.listdir(".") == ["hccn.conf"]


def test_the_rings_of_a_product_are_checked_when_making(folder, capsys):
    conf(folder / "hccn.conf", 8)
    assert run("make", "-o", "4p.json", "--devices=2-5", "--product=910A") == 1
    assert "devices 0-3 and 4-7 are two rings" in capsys.readouterr().err
    assert run("make", "-o", "4p.json", "--devices=2-5", "--product=A2") == 0


def test_check_sums_up_a_good_table(folder, capsys):
    conf(folder / "hccn.conf", 2)
    run("make", "-o", "2p.json", "--server-id=node0")
    capsys.readouterr()
    assert run("check", "2p.json", "--size=2", "--product=910A") == 0
    assert capsys.readouterr().out.splitlines() == [
        "version 1.0: 2 ranks on 1 server",
        "  node0: rank 0 on device 0, rank 1 on device 1",
        "content {}: the same on every node".format(rank_table.content_hash("2p.json")),
    ]


def test_check_prints_every_fault(folder, capsys):
    assert run("check", OLD_8P, "--size=4") == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "size: The rank table has 8 ranks. Received: size=4. Launch 8, or make a table for 4.",
        "{}: 1 fault".format(OLD_8P),
    ]
    (folder / "bad.json").write_text('{"version": "1.0", "status": 1, "server_list": []}')
    assert run("check", "bad.json", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["good"]
    assert [fault["field"] for fault in found["faults"]] == ["status", "server_list"]
    assert run("check", "none.json") == 1
    assert "path: The file cannot be read" in capsys.readouterr().out


def test_check_compares_with_the_environment_when_asked(folder, capsys, monkeypatch):
    conf(folder / "hccn.conf", 2)
    run("make", "-o", "2p.json", "--server-id=node0")
    monkeypatch.setenv("RANK_SIZE", "8")
    assert run("check", "2p.json") == 0
    assert run("check", "2p.json", "--environment") == 1
    assert "RANK_SIZE: The rank table has 2 ranks. Received: RANK_SIZE='8'" in capsys.readouterr().out


def test_a_warning_is_shown_and_is_no_fault(folder, capsys):
    conf(folder / "hccn.conf", 3)
    assert run("make", "-o", "3p.json", "--server-id=n") == 0
    capsys.readouterr()
    assert run("check", "3p.json") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("server n, device: warning: If this is a 910A: a server takes 1, 2, 4 or 8 devices.")
