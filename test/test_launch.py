"""`ascend-keras launch` on one machine: ranks, their output, their failures. No TensorFlow is loaded by any of it."""

import json
import os
import re
import subprocess
import sys

import pytest
from launches import ROOT, environment, lines, starter, until

from ascend_keras.distributed.launch import command_line, launch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The launcher is made for Linux.")
start = pytest.fixture(starter)

# --- what ranks get -------------------------------------------------------------------------------------------------


def test_ranks_on_a_host(start):
    run = start(
        ["-n", "3", "--env", "A=b c", "--env=B=x=y"],
        "print(os.environ['TF_CONFIG'], os.environ['A'], os.environ['B'], sys.argv[1:], sep='|')",
        ["--data_path=x y", "--log_dir", "-n", "7", "--", "launch"],
        env={"RANK_ID": "5", "RANK_SIZE": "8", "CM_CHIEF_IP": "1.2.3.4", "JOB_ID": "7"},
    )
    assert run.wait() == 0
    ports = []
    for rank in range(3):
        [line] = lines(run.out, rank)
        config, a, b, arguments = line.split("|")
        config = json.loads(config)
        assert config["task"] == {"type": "worker", "index": rank}
        assert (a, b) == ("b c", "x=y")
        assert arguments == "['--data_path=x y', '--log_dir', '-n', '7', '--', 'launch']"
        assert run.log(rank) == line + "\n"
        ports.append([address.split(":") for address in config["cluster"]["worker"]])
    assert ports[0] == ports[1] == ports[2]
    assert [host for host, _ in ports[0]] == ["127.0.0.1"] * 3
    assert len({port for _, port in ports[0]}) == 3


def clean(texts):
    """Values of variables, with what differs from one launch to the next made equal."""
    ports = {}
    return [
        re.sub(r"127\.0\.0\.1:(\d+)", lambda match: "port" + str(ports.setdefault(match.group(1), len(ports))), text)
        for text in texts
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["-n", "2", "--bind-cores", "--env", "A=it's"],
        ["-n", "1"],
        ["-n", "2", "--devices", "0,1"],
        ["-n", "1", "--backend=npu"],
        ["--rank-table", "table.json"],
    ],
)
def test_dry_run_says_what_ranks_really_get(start, tmp_path, flags):
    stale = {"RANK_ID": "5", "CM_WORKER_SIZE": "9", "DEVICE_ID": "3", "TF_CONFIG": "{}", "PYTHONUNBUFFERED": "x"}
    script = """
        names = sorted(set(os.environ) - {'LC_CTYPE', '_', 'PWD', 'SHLVL', 'OLDPWD'})
        print(len(os.sched_getaffinity(0)), sys.executable, sys.argv, sorted(os.sched_getaffinity(0)))
        for name in names:
            print(repr((name, os.environ[name])))
    """
    table = {
        "version": "1.0",
        "server_count": "1",
        "status": "completed",
        "server_list": [{"server_id": "s", "device": [{"device_id": str(i), "rank_id": str(i)} for i in range(2)]}],
    }
    for folder in ("launch0", "launch1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "table.json").write_text(json.dumps(table))
    dry = start(flags + ["--dry-run"], script, ["a b", "--c_d"], env=stale)
    real = start(flags, script, ["a b", "--c_d"], env=stale)
    assert (dry.wait(), real.wait()) == (0, 0), dry.err + real.err
    assert not dry.logs.exists()
    commands = [line for line in dry.out.splitlines() if not line.startswith("#")]
    assert len(commands) == len(list(real.logs.glob("rank_*.log")))
    marker = next(item for item in real.log(0).splitlines() if "LAUNCH_TEST" in item)
    for rank, command in enumerate(commands):
        done = subprocess.run(
            ["sh", "-c", command], cwd=str(dry.folder), env=environment(stale), stdout=subprocess.PIPE
        )
        shown = done.stdout.decode().replace("launch0", "launch1").splitlines()
        got = [line for line in real.log(rank).splitlines() if line != marker]
        assert clean(got) == clean(shown)


def test_npu_form_with_a_table_made_for_this_machine(start):
    names = ["RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "JOB_ID", "TF_CONFIG", "RANK_TABLE_FILE"]
    run = start(["--devices=6,4"], "print([os.environ.get(name) for name in {}])".format(names))
    assert run.wait() == 0
    table = str(run.logs / "rank_table.json")
    assert lines(run.out, 0) == [str(["0", "2", "4", "10087", None, table])]
    assert lines(run.out, 1) == [str(["1", "2", "6", "10087", None, table])]
    with open(table) as file:
        [server] = json.load(file)["server_list"]
    assert [(device["rank_id"], device["device_id"]) for device in server["device"]] == [("0", "4"), ("1", "6")]


def test_module_instead_of_a_script(start, tmp_path):
    run = start(["-n", "2", "-m", "json.tool", "--help"], "")
    assert run.wait() == 0
    assert lines(run.out, 1)[0].startswith("usage: ")
    assert "json.tool" in lines(run.out, 1)[0] or "tool" in lines(run.out, 1)[0]


def test_no_tensorflow_and_little_else_is_loaded():
    code = (
        "import sys\nfrom ascend_keras import cli\n"
        "from ascend_keras.distributed.launch import dry_run, front, job, settings\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'absl', 'urllib', 'zipfile', 'logging', 'random'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_from_python(tmp_path, capfd, monkeypatch):
    script = tmp_path / "s.py"
    script.write_text("import os, sys\nprint(os.environ['A'], sys.argv[1])\nsys.exit(int(sys.argv[2]))")
    assert launch([str(script), "x", "4"], ranks=2, env={"A": "b"}, log_dir=str(tmp_path), backend="host") == 4
    assert "b x" in capfd.readouterr().out
    line = command_line("s.py", 2, devices=[0, 1], bind_cores=True, dry_run=False, timeout=None, log_dir="d")
    assert line[3:] == ["launch", "-n", "2", "--devices=0,1", "--bind-cores", "--log-dir=d", "s.py"]


# --- output ---------------------------------------------------------------------------------------------------------


def test_lines_are_never_torn(start):
    script = """
        rank = os.environ["ASCEND_KERAS_RANK"]
        for i in range(300):
            for part in (rank * 40, " ", str(i), "\\n"):
                sys.stdout.write(part)
                sys.stdout.flush() if i % 7 else None
    """
    run = start(["-n", "4"], script)
    assert run.wait() == 0
    for rank in range(4):
        expected = ["{} {}".format(str(rank) * 40, i) for i in range(300)]
        assert lines(run.out, rank) == expected
        assert run.log(rank).splitlines() == expected
    assert len(run.out.splitlines()) == 1200


def test_any_output_survives(start):
    script = r"""
        rank = os.environ["ASCEND_KERAS_RANK"]
        out = sys.stdout.buffer
        if rank == "0":
            out.write(b"\xff\xfe\x00bytes\n")
            for step in range(1000):
                out.write(b"\r%d/1000" % step)
            out.write(b"\rdone\r\nno newline at the end")
        elif rank == "1":
            for _ in range(160):
                out.write(b"x" * 65536)
        elif rank == "2":
            print("before", flush=True)
            os.close(1), os.close(2)
            time.sleep(0.5)
            with open("late", "w") as file:
                file.write("still running")
            os._exit(0)
        else:
            sys.stderr.write("to stderr\n")
    """
    run = start(["-n", "4"], script)
    assert run.wait() == 0, run.err
    raw = (run.folder / "stdout").read_bytes()
    log = (run.logs / "rank_0.log").read_bytes()
    shown = [line for line in raw.split(b"\n") if line.startswith(b"[rank 0] ")]
    assert shown[0] == b"[rank 0] \xff\xfe\x00bytes"
    assert shown[-2:] == [b"[rank 0] done", b"[rank 0] no newline at the end"]
    assert len(shown) < 10
    assert log.startswith(b"\xff\xfe\x00bytes\n\r0/1000\r1/1000")
    assert log.endswith(b"\r999/1000\rdone\r\nno newline at the end")
    assert sum(line.count(b"x") for line in raw.split(b"\n") if line.startswith(b"[rank 1] ")) == 160 * 65536
    assert (run.logs / "rank_1.log").stat().st_size == 160 * 65536
    assert (run.folder / "late").read_text() == "still running"
    assert lines(raw.decode(errors="replace"), 3) == ["to stderr"]


def test_one_rank_shows_its_output_as_it_is(start):
    run = start(["-n", "1"], "sys.stdout.write('no newline'); sys.stdout.flush(); sys.stderr.write('\\rpainted\\r')")
    assert run.wait() == 0
    assert (run.folder / "stdout").read_bytes() == b"no newline\rpainted\r"


def test_a_terminal_that_does_not_read_holds_nobody_up(start):
    reading, writing = os.pipe()
    run = start(["-n", "2"], "print('x' * 9, flush=True)\nfor _ in range(400): print('y' * 99999)", stdout=writing)
    os.close(writing)
    try:
        sizes = [run.logs / "rank_0.log", run.logs / "rank_1.log"]
        assert until(lambda: all(path.exists() and path.stat().st_size == 10 + 400 * 100000 for path in sizes))
        shown = b""
        chunk = b" "
        while chunk:
            chunk = os.read(reading, 1 << 20)
            shown += chunk
    finally:
        os.close(reading)
    assert run.wait() == 0
    assert shown.startswith(b"[rank ")
    assert re.search(r"\[launch\] \d+ lines were not shown", run.err)


def test_a_reader_that_goes_ends_no_training(start):
    reading, writing = os.pipe()
    run = start(["-n", "2"], "for i in range(3): print(i, flush=True); time.sleep(0.2)", stdout=writing)
    os.close(writing)
    os.close(reading)
    assert run.wait() == 0
    assert run.log(1) == "0\n1\n2\n"


def test_only_the_main_rank_is_shown_and_every_failure(start):
    script = """
        rank = int(os.environ['ASCEND_KERAS_RANK'])
        print('I am', rank)
        open('told%d' % rank, 'w')
        while not os.path.exists('told0'):
            time.sleep(0.01)
        sys.exit(rank)
    """
    run = start(["-n", "2", "--show=main"], script)
    assert run.wait() == 1
    assert run.out == "[rank 0] I am 0\n"
    assert run.log(1) == "I am 1\n"
    assert "[launch]   | I am 1\n" in run.err


# --- the documentation ----------------------------------------------------------------------------------------------


def documented():
    with open(os.path.join(ROOT, "docs", "launch.md"), encoding="utf-8") as file:
        text = file.read()
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    found = blocks.splitlines() + re.findall(r"`(ascend-keras launch [^`]*\.py[^`]*)`", text)
    return [line.partition("#")[0].strip() for line in found if line.startswith("ascend-keras launch")]


@pytest.mark.parametrize("command", documented())
def test_documented_commands_can_be_carried_out(tmp_path, monkeypatch, capsys, command):
    from ascend_keras import cli
    from ascend_keras.distributed import rank_table
    from ascend_keras.distributed.launch import machine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "npu_devices", lambda: list(range(8)))
    (tmp_path / "train.py").write_text("")
    addresses = [{device: "10.0.{}.{}".format(server, device + 1) for device in range(8)} for server in range(2)]
    rank_table.write(rank_table.make([("a", addresses[0])]), "8p.json")
    rank_table.write(rank_table.make([("a", addresses[0]), ("b", addresses[1])]), "16p.json")
    words = command.split()
    assert cli.main(words[1:2] + ["--dry-run"] + words[2:]) == 0
    shown = capsys.readouterr().out
    expected = 8
    for flag in ("-n", "--devices"):
        if flag in words:
            value = words[words.index(flag) + 1]
            expected = int(value) if flag == "-n" else len(value.split(","))
    assert len(re.findall("^# rank ", shown, re.MULTILINE)) == expected
