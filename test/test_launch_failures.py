"""`ascend-keras launch` when ranks fail, when signals come, when something is killed. No TensorFlow."""

import os
import re
import signal
import sys
import time

import pytest
from launches import FAMILY, Launch, environment, lines, starter, until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The launcher is made for Linux.")
start = pytest.fixture(starter)

# Rank 0 is stopped, rank 1 takes no SIGTERM, rank 2 fails when both are so far.
DEAF = (
    FAMILY
    + """
if rank == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
if rank == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("deaf", "w")
    time.sleep(300)
while not (os.path.exists("pid0") and os.path.exists("deaf")):
    time.sleep(0.01)
time.sleep(0.2)
os.abort()
"""
)
RESTARTS = """
rank, count = int(os.environ["ASCEND_KERAS_RANK"]), int(os.environ["ASCEND_KERAS_RESTARTS"])
print("start", count, os.environ["TF_CONFIG"][:60])
open("start%d_%d" % (count, rank), "w")
if rank == 1 and count < int(sys.argv[1]):
    while not os.path.exists("start%d_0" % count):
        time.sleep(0.01)
    os.kill(os.getpid(), 9) if count else sys.exit(int(sys.argv[2]))
time.sleep(0.3 if count == int(sys.argv[1]) else 300)
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Launches that mostly wait, all at once: name -> Launch."""
    folder = tmp_path_factory.mktemp("waiting")
    marked = "from ascend_keras.distributed import launch_marks\nrank = int(os.environ['ASCEND_KERAS_RANK'])\n"
    (folder / "late" / "logs").mkdir(parents=True)
    # A mark of an earlier launch in the same folder counts for nothing.
    (folder / "late" / "logs" / "rank_1.started").write_text("")
    tried = {
        "deaf": (["-n", "3"], DEAF),
        "restarts": (["-n", "2", "--max-restarts", "2"], RESTARTS, ["2", "1"]),
        "too few restarts": (["-n", "2", "--max-restarts", "2"], RESTARTS, ["9", "1"]),
        "wrong usage": (["-n", "2", "--max-restarts", "5"], RESTARTS, ["9", "2"]),
        "late": (["-n", "3", "--timeout", "12"], marked + "rank == 1 or launch_marks.mark_started()\ntime.sleep(300)"),
        "in time": (
            ["-n", "2", "--timeout", "12"],
            marked + "if rank == 0: launch_marks.mark_started(); time.sleep(12.5)",
        ),
        "one after the other": (["-n", "2"], marked + "time.sleep(rank); print('end')"),
    }
    started = {name: Launch(folder / name, *arguments) for name, arguments in tried.items()}
    yield started
    for each in started.values():
        each.close()


# --- failures -------------------------------------------------------------------------------------------------------


def test_the_first_failure_is_shown_and_ends_all(start):
    script = FAMILY + (
        "\nfor i in range(30): print('line', i)\nsys.exit(3) if rank == 1 and [time.sleep(0.5)] else time.sleep(300)"
    )
    run = start(["-n", "3"], script)
    assert run.wait() == 3
    assert run.left == []
    assert "rank 1 failed: exit code 3" in run.err
    assert re.findall(r"^\[launch\]   \| (.*)$", run.err, re.MULTILINE) == ["line {}".format(i) for i in range(10, 30)]
    assert str(run.logs / "rank_1.log") in run.err
    assert run.err.splitlines()[-1].endswith("exit code 3.")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank(start, rank):
    run = start(["-n", "3"], FAMILY + "\ntime.sleep(300)")
    pids = run.files("pid0", "pid1", "pid2")
    os.kill(int(pids[rank]), signal.SIGKILL)
    assert run.wait() == 137
    assert run.left == []
    assert "rank {} failed: killed by SIGKILL".format(rank) in run.err


def test_a_rank_killed_while_others_start(start):
    run = start(["-n", "4"], "os.kill(os.getpid(), 9) if os.environ['ASCEND_KERAS_RANK'] == '0' else time.sleep(300)")
    assert run.wait() == 137
    assert run.left == []
    assert "rank 0 failed: killed by SIGKILL" in run.err


def test_a_rank_that_ends_well_waits_for_the_others(waiting):
    run = waiting["one after the other"]
    assert run.wait() == 0
    assert lines(run.out, 0) == lines(run.out, 1) == ["end"]
    assert "all ranks have ended well" in run.err


def test_what_ranks_leave_behind_is_ended(start):
    run = start(["-n", "2"], FAMILY)
    assert run.wait() == 0
    assert run.left == []
    assert "[launch] ended 6 processes that ranks had left behind" in run.err


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_to_the_launcher(start, number, status):
    def ignore():
        # As in the background of a shell without job control; and tests may run under nohup, which is another test.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    run = start(["-n", "2"], FAMILY + "\ntime.sleep(300)", preexec=ignore)
    run.files("pid0", "pid1")
    run.process.send_signal(number)
    assert run.wait() == status
    assert run.left == []
    assert "Traceback" not in run.err + run.out
    assert "the launch was ended by {}".format(signal.Signals(number).name) in run.err


def test_nohup_is_respected(start):
    run = start(
        ["-n", "2"],
        FAMILY + "\nwhile not os.path.exists('go'): time.sleep(0.01)\ntime.sleep(0.2)",
        preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    run.files("pid0", "pid1")
    run.process.send_signal(signal.SIGHUP)
    (run.folder / "go").write_text("")
    assert run.wait() == 0


def seconds_of_two_signals(start, numbers, pause):
    """How long a launch with ranks that take no SIGTERM lives on after the first of two signals."""
    run = start(["-n", "2"], FAMILY + "\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(300)")
    run.files("pid0", "pid1")
    assert until(lambda: run.out.count("deaf") == 2)
    begin = time.monotonic()
    run.process.send_signal(numbers[0])
    time.sleep(pause)
    assert len(run.living()) >= 4
    run.process.send_signal(numbers[1])
    assert run.wait() == 130
    assert run.left == []
    return time.monotonic() - begin


def test_a_second_ctrl_c_does_not_wait(start):
    # It would take five seconds in any case if the second signal counted for nothing; a busy machine gets three tries.
    assert any(seconds_of_two_signals(start, [signal.SIGINT] * 2, 1.1) < 4.8 for _ in range(3))


def test_ctrl_c_in_a_terminal(tmp_path):
    import pty

    (tmp_path / "s.py").write_text("import time\nprint('ready')\ntime.sleep(300)")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(str(tmp_path))
        command = [sys.executable, "-m", "ascend_keras", "launch", "-n", "2", "s.py"]
        os.execve(sys.executable, command, environment())
    shown = b""
    while shown.count(b"ready") < 2:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 130
    shown += os.read(terminal, 65536)
    os.close(terminal)
    assert b"Traceback" not in shown
    assert b"the launch was ended by SIGINT" in shown
    assert b"^C" in shown


def test_ctrl_c_does_not_wait_for_a_terminal_that_takes_nothing(start):
    reading, writing = os.pipe()
    run = start(["-n", "2"], "while True: print('x' * 9999)", stdout=writing)
    os.close(writing)
    try:
        assert until(lambda: run.logs.exists() and sum(path.stat().st_size for path in run.logs.iterdir()) > 1 << 20)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130
    finally:
        os.close(reading)
    assert run.left == []


@pytest.mark.parametrize("victim", ["front", "supervisor", "group"])
def test_nothing_outlives_a_killed_launcher(start, victim):
    run = start(["-n", "2"], FAMILY + "\ntime.sleep(300)", preexec=os.setsid)
    run.files("pid0", "pid1")
    # The process at the terminal, the supervisor, and two ranks with three descendants each.
    assert until(lambda: len(run.living()) == 10)
    if victim == "supervisor":
        with open("/proc/{0}/task/{0}/children".format(run.process.pid)) as file:
            [supervisor] = file.read().split()
        os.kill(int(supervisor), signal.SIGKILL)
        assert until(lambda: run.process.poll() is not None)
        assert "The launcher was killed by SIGKILL" in run.err
    elif victim == "front":
        run.process.kill()
    else:
        os.killpg(run.process.pid, signal.SIGKILL)
    assert run.process.wait() in (-9, 137)
    assert run.nothing_left()


def test_ranks_end_with_both_processes_of_the_launcher(start):
    run = start(["-n", "2"], FAMILY + "\ntime.sleep(300)")
    ranks = [int(pid) for pid in run.files("pid0", "pid1")]
    with open("/proc/{0}/task/{0}/children".format(run.process.pid)) as file:
        [supervisor] = map(int, file.read().split())
    # Stopped, so that it cannot do anything about the death of the other.
    os.kill(supervisor, signal.SIGSTOP)
    run.process.kill()
    os.kill(supervisor, signal.SIGKILL)
    assert until(lambda: not set(ranks) & set(run.living()))


# --- restarts and timeouts ------------------------------------------------------------------------------------------


def test_restarts(waiting):
    run = waiting["restarts"]
    assert run.wait() == 0
    starts = lines(run.out, 0)
    assert [line.split()[1] for line in starts] == ["0", "1", "2"]
    assert len({line.split("[")[1] for line in starts}) == 3
    assert "rank 1 failed: exit code 1. All ranks were ended; this is restart 1 of 2." in run.err
    assert "rank 1 failed: killed by SIGKILL. All ranks were ended; this is restart 2 of 2." in run.err
    separators = re.findall(r"^-+ (.*?) -+$", run.log(0), re.MULTILINE)
    assert separators == ["restart 1", "restart 2"]


@pytest.mark.parametrize("name, starts, status", [("too few restarts", 3, 137), ("wrong usage", 1, 2)])
def test_no_more_restarts_than_asked_for_and_none_for_wrong_usage(waiting, name, starts, status):
    run = waiting[name]
    assert run.wait() == status
    assert len(lines(run.out, 0)) == starts


def test_timeout_of_a_rank_that_never_starts(waiting):
    run = waiting["late"]
    assert run.wait() == 124
    assert "rank 1 has not started: it made no trainer within 12 s (--timeout)" in run.err


def test_timeout_is_none_for_ranks_that_have_started_or_ended(waiting):
    run = waiting["in time"]
    assert run.wait() == 0, run.err


def test_a_mark_without_a_launcher_is_nothing(tmp_path):
    from ascend_keras.distributed import launch_marks

    launch_marks.mark_started({})
    launch_marks.mark_started({"ASCEND_KERAS_LOG_DIR": str(tmp_path / "absent"), "ASCEND_KERAS_RANK": "0"})
    launch_marks.mark_started({"ASCEND_KERAS_LOG_DIR": str(tmp_path), "ASCEND_KERAS_RANK": "3"})
    assert os.listdir(str(tmp_path)) == ["rank_3.started"]


def test_logs_of_an_earlier_launch_are_kept(start):
    first = start(["-n", "1"], "print('one')")
    assert first.wait() == 0
    second = start(["-n", "1", "--log-dir", first.logs], "print('two')")
    assert second.wait() == 0
    assert first.log(0) == "one\n---------- a new launch ----------\ntwo\n"


def test_stopped_and_deaf_processes_are_ended(waiting):
    run = waiting["deaf"]
    assert run.wait() == 134
    assert run.left == []
    assert "rank 2 failed: killed by SIGABRT" in run.err


@pytest.mark.parametrize("closed", [[0], [1], [0, 1, 2]])
def test_a_shell_that_has_closed_standard_files(start, closed):
    run = start(
        ["-n", "2"],
        "print('text')\nopen('end' + os.environ['ASCEND_KERAS_RANK'], 'w').write('x')",
        shell='exec "$@" ' + " ".join("{}>&-".format(number) for number in closed),
    )
    run.files("end0", "end1")
    assert run.wait() == 0
    assert run.log(1) == "text\n"
    assert len(lines(run.out, 1)) == (0 if 1 in closed else 1)
