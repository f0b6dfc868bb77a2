"""What the launcher makes of the output of ranks, and what it knows of processes."""

import os
import subprocess
import sys

import pytest
from launches import LIMIT, environment

from ascend_keras.distributed.launch import output, processes

# --- output ---------------------------------------------------------------------------------------------------------


def lines_of(*chunks, seconds=0.0):
    now = [0.0]
    cutter = output.Lines(lambda: now[0])
    result = []
    for chunk in chunks:
        now[0] += seconds
        result += cutter.feed(chunk)
    return result + cutter.finish()


@pytest.mark.parametrize(
    "chunks, expected",
    [
        ([b"a\nb", b"c\n", b"d"], [b"a", b"bc", b"d"]),
        ([b"\n\n"], [b"", b""]),
        ([b"a\r\nb\r", b"\nc"], [b"a", b"b", b"c"]),
        ([b"1%\r2%\r", b"3%\r4", b"%\n"], [b"4%"]),
        ([b"\r1%", b"\r2%", b"\r"], [b"2%"]),
        ([b"1%\r2%\r", b"\r", b"\n"], [b"2%"]),
        ([b"\xff\x00\n"], [b"\xff\x00"]),
        ([b""], []),
    ],
)
def test_lines(chunks, expected):
    assert lines_of(*chunks) == expected


def test_a_bar_is_a_line_a_second():
    frames = [b"\r%d%%" % step for step in range(100)]
    shown = lines_of(*frames, seconds=0.125)
    assert shown == [b"%d%%" % step for step in range(6, 95, 8)] + [b"99%"]


def test_a_line_without_end_comes_in_pieces():
    shown = lines_of(b"x" * 200000, b"y\n")
    assert shown == [b"x" * 65536] * 3 + [b"x" * (200000 - 3 * 65536) + b"y"]


def test_tail_has_the_last_lines_the_unfinished_one_among_them():
    cutter = output.Lines()
    cutter.feed(b"".join(b"%d\n" % i for i in range(50)) + b"unfinished" + b"z" * 5000)
    assert cutter.last()[:-1] == [b"%d" % i for i in range(31, 50)]
    assert cutter.last()[-1] == (b"unfinished" + b"z" * 5000)[: output.KEPT]


def test_a_log_on_a_full_disk_does_not_stop_the_output(tmp_path):
    reading, writing = os.pipe()
    display = output.Display(writing)
    stream = output.Stream("rank 0", "/dev/full", display)
    stream.feed(b"text\n")
    stream.feed(b"more\n")
    stream.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        shown = file.read()
    assert b"/dev/full cannot be written any more: [Errno 28]" in shown
    assert b"[rank 0] text\n" in shown
    assert b"[rank 0] more\n" in shown


def test_display_keeps_what_the_pipe_does_not_take_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(output, "WAITING", 300000)
    reading, writing = os.pipe()
    display = output.Display(writing)
    for _ in range(10):
        display.show(output.STDOUT, b"x" * 99999 + b"\n")
    assert 300000 < len(display.waiting) < 500000
    display.tell_dropped()
    received = b""
    while display.waiting:
        received += os.read(reading, 1 << 20)
        display.flush()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        received += file.read()
    shown = received.count(b"x" * 99999 + b"\n")
    assert "[launch] {} lines were not shown".format(10 - shown).encode() in received


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, text, status",
    [
        (3, "exit code 3", 3),
        (-9, "killed by SIGKILL", 137),
        (-6, "killed by SIGABRT", 134),
        (-40, "killed by signal 40", 168),
    ],
)
def test_what_a_status_means(code, text, status):
    assert processes.describe_status(code) == text
    assert processes.exit_code(code) == status


def test_descendants_are_found_whatever_their_names():
    code = "import subprocess; open('/proc/self/comm', 'w').write('a) S 1 (b')\n"
    code += "child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        grandchild = int(child.stdout.readline())
        found = processes.descendants(os.getpid())
        assert {child.pid, grandchild} <= set(found)
        assert set(processes.descendants(child.pid)) == {grandchild}
        os.kill(grandchild, 9)
        child.wait()
        assert grandchild not in processes.descendants(os.getpid())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


STOPPED = """
import os, signal, sys, time
from ascend_keras.distributed.launch import output, team
signals = team.Signals([signal.SIGTERM])
reading, writing = os.pipe()
made = team.Team(output.Display(writing), signals)
start = team.RankStart("rank 0", True, 0, ["sleep", "600"], dict(os.environ), None, sys.argv[1], sys.argv[1] + ".mark")
made.start([start], "")
os.kill(made.ranks[0].process.pid, signal.SIGSTOP)
while "T" not in [state for state in team.processes.descendants(os.getpid()).values()]:
    time.sleep(0.01)
print(made.end(grace=600), made.ranks[0].returncode)
"""


def test_a_stopped_process_is_not_waited_for(tmp_path):
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "log")]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, timeout=LIMIT)
    assert done.stdout.decode().split() == ["1", "-9"]
