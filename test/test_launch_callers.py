"""`ascend-keras launch` among other processes: those of the caller's shell, and other launches. No TensorFlow."""

import os
import re
import signal
import sys
import time

import pytest
from launches import Launch, lines, starter, until

from ascend_keras.distributed.launch import folder, job, processes, settings
from ascend_keras.distributed.watch import progress, verdict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The launcher is made for Linux.")
start = pytest.fixture(starter)

# --- what a caller hands on -----------------------------------------------------------------------------------------


def test_a_caller_that_ignores_the_end_of_its_children(start):
    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])

    script = "import signal\nprint(signal.getsignal(signal.SIGCHLD).name, signal.pthread_sigmask(0, []))"
    run = start(["-n", "2"], script, preexec=ignore)
    assert run.wait() == 0, run.err
    assert lines(run.out, 0) == lines(run.out, 1) == ["SIG_DFL set()"]
    assert "Traceback" not in run.err


def test_what_a_shell_had_in_the_background_goes_on(start):
    # One in the shell's session, one in a session of its own, which has a child.
    shell = "sleep 300 & echo $! > one\nsetsid sh -c 'sleep 300 & echo $! > three; wait' & echo $! > two\n"
    shell += 'until [ -s three ]; do sleep 0.01; done\nexec "$@"'
    run = start(["-n", "2"], "print('text')", shell=shell)
    assert run.wait() == 0, run.err
    strangers = [int((run.folder / name).read_text()) for name in ("one", "two", "three")]
    assert sorted(run.left) == sorted(strangers)


def test_what_a_shell_had_in_the_background_outlives_a_killed_supervisor(start):
    shell = 'sleep 300 & echo $! > stranger\nexec "$@"'
    run = start(
        ["-n", "2"],
        "import subprocess\nsubprocess.Popen(['sleep', '300'], start_new_session=True)\n" + READY,
        shell=shell,
    )
    run.files("ready0", "ready1", "stranger")
    with open("/proc/{0}/task/{0}/children".format(run.process.pid)) as file:
        [supervisor] = set(map(int, file.read().split())) - {int((run.folder / "stranger").read_text())}
    os.kill(supervisor, signal.SIGKILL)
    assert run.wait() == 137
    assert run.left == [int((run.folder / "stranger").read_text())]


def test_what_the_background_of_a_shell_starts_later_goes_on(start):
    # Its parent ends at once, so that the launcher becomes its parent.
    shell = '(until [ -e ready0 ]; do sleep 0.01; done; sleep 300 & echo $! > later) &\nexec "$@"'
    waits = "open('ready0', 'w')\nwhile not os.path.exists('later'): time.sleep(0.01)\ntime.sleep(0.3)"
    run = start(["-n", "1"], waits, shell=shell)
    assert run.wait() == 0, run.err
    assert run.left == [int((run.folder / "later").read_text())]


def test_a_pipe_of_the_shell_gets_everything(start):
    shell = 'exec > >(until [ -e go ]; do sleep 0.01; done; cat > piped) 2>&1\nexec "$@"'
    run = start(["-n", "2"], "print('text')", shell=shell)
    assert until(lambda: run.process.poll() is not None)
    assert run.process.returncode == 0
    (run.folder / "go").write_text("")
    piped = run.folder / "piped"
    assert until(lambda: piped.exists() and "all ranks have ended well" in piped.read_text())
    assert lines(piped.read_text(), 1) == ["text"]


READY = "open('ready' + os.environ['ASCEND_KERAS_RANK'], 'w').write('x')\ntime.sleep(300)\n"

# --- signals --------------------------------------------------------------------------------------------------------


def test_signals_within_a_second_are_one_request():
    now = [100.0]
    requests = processes.Requests(lambda: now[0])
    counts = []
    for moment in (100.0, 100.1, 100.99, 101.0, 101.5, 102.0, 102.5):
        now[0] = moment
        requests.add()
        counts.append(requests.count)
    assert counts == [1, 1, 1, 2, 2, 3, 3]


SAVING = """
import signal
rank = os.environ['ASCEND_KERAS_RANK']
def save(*_):
    open('saving' + rank, 'w').write('x')
    time.sleep(1.5)
    open('saved' + rank, 'w').write('x')
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
"""


def test_ctrl_c_on_a_script_whose_trap_sends_sigterm_too_leaves_the_ranks_their_time(start):
    run = start(["-n", "2"], SAVING + READY)
    run.files("ready0", "ready1")
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130
    assert run.left == []
    assert (run.folder / "saved0").exists()
    assert (run.folder / "saved1").exists()


def test_no_restart_after_a_signal_that_came_while_ranks_were_ended(start):
    failing = "if rank == '1':\n    while not os.path.exists('ready0'): time.sleep(0.01)\n    sys.exit(3)\n"
    run = start(["-n", "2", "--max-restarts", "3"], SAVING + "print('start')\n" + failing + READY)
    run.files("saving0")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.left == []
    assert lines(run.out, 0) == ["start"]
    assert "the launch was ended by SIGINT; no rank was started again" in run.err


# --- the folder of the logs -----------------------------------------------------------------------------------------


def plan_of(**changes):
    return settings.resolve(settings.Request(script=(os.path.abspath(__file__),), **changes), {}, list(range(8)))


def test_two_launches_in_one_second_get_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda *_: "20260101-000000")
    plans = [plan_of(devices=devices) for devices in ("0,1", "4,5")]
    assert plans[0].log_dir == plans[1].log_dir
    made = [job.prepare(plan) for plan in plans]
    for _, lock in made:
        os.close(lock)
    first = plans[0].log_dir
    assert [plan.log_dir for plan, _ in made] == [first, first + "-1"]
    for (plan, _), device in zip(made, (0, 4)):
        assert plan.rank_table == os.path.join(plan.log_dir, "rank_table.json")
        with open(plan.rank_table) as file:
            assert re.findall(r'"device_id": "(\d)"', file.read()) == [str(device), str(device + 1)]
        assert sorted(os.listdir(plan.log_dir)) == [".launch_0.lock", "rank_table.json"]


def test_a_folder_in_use_is_refused(start, tmp_path):
    first = start(["-n", "1"], READY)
    first.files("ready0")
    second = start(["-n", "1", "--log-dir", first.logs], "open('started', 'w')")
    dry = start(["-n", "1", "--log-dir", first.logs, "--dry-run"], "")
    assert (second.wait(), dry.wait()) == (2, 2)
    told = "another launch writes there (process {} on ".format(first.process.pid)
    assert told in second.err
    assert told in dry.err
    assert "--log-dir {}".format(first.logs) in second.err
    assert not (second.folder / "started").exists()
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 143
    assert start(["-n", "1", "--log-dir", first.logs], "").wait() == 0


def test_a_folder_that_is_taken_between_look_and_start(tmp_path, capsys):
    plan = plan_of(devices="0,1", log_dir=str(tmp_path))
    held = folder.lock(str(tmp_path), 0)
    try:
        assert job.run(plan) == 2
        assert "The logs cannot be written: another launch writes there" in capsys.readouterr().err
        assert not (tmp_path / "rank_table.json").exists()
        # Another machine with the same file system is no other launch.
        os.close(folder.lock(str(tmp_path), 1))
    finally:
        os.close(held)


def test_a_table_is_whole_at_any_moment(tmp_path, monkeypatch):
    path = str(tmp_path / "rank_table.json")
    folder.write(path, "old")
    folder.write(path, "new")
    assert os.listdir(str(tmp_path)) == ["rank_table.json"]
    monkeypatch.setattr(folder.os, "replace", lambda *_: None)
    folder.write(path, "half")
    with open(path) as file:
        assert file.read() == "new"


def test_ranks_find_nothing_of_an_earlier_run(tmp_path):
    names = ["rank_0.progress", "rank_1.progress", "watchdog.verdict"]
    (tmp_path / "logs").mkdir()
    for name in names + ["rank_7.progress"]:
        (tmp_path / "logs" / name).write_text("old")
    script = """
        rank, count = os.environ["ASCEND_KERAS_RANK"], os.environ["ASCEND_KERAS_RESTARTS"]
        mine = ["rank_%s.progress" % rank] + (["watchdog.verdict"] if rank == "0" else [])
        for name in mine:
            path = os.path.join(os.environ["ASCEND_KERAS_LOG_DIR"], name)
            print(name, os.path.exists(path))
            open(path, "w").write("new")
        open("wrote%s_%s" % (count, rank), "w")
        while not (os.path.exists("wrote%s_0" % count) and os.path.exists("wrote%s_1" % count)):
            time.sleep(0.01)
        sys.exit(1 if count == "0" and rank == "0" else 0)
    """
    run = Launch(tmp_path, ["-n", "2", "--max-restarts", "1"], script)
    assert run.wait() == 0, run.err
    assert lines(run.out, 0) == ["rank_0.progress False", "watchdog.verdict False"] * 2
    assert lines(run.out, 1) == ["rank_1.progress False"] * 2
    # That of a rank of another machine.
    assert (tmp_path / "logs" / "rank_7.progress").read_text() == "old"


def test_what_is_forgotten_is_what_the_watchdog_writes(tmp_path):
    assert not verdict.known(str(tmp_path))
    progress.write(str(tmp_path), progress.Record(3, progress.Position()))
    verdict.settle(str(tmp_path), "text")
    folder.forget(str(tmp_path), [3], verdict=False)
    assert progress.read(str(tmp_path), 3) is None
    assert verdict.known(str(tmp_path)) == "text"
    folder.forget(str(tmp_path), [3], verdict=True)
    assert os.listdir(str(tmp_path)) == []
