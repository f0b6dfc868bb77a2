"""Launches for tests: `ascend-keras launch` as a process, and whether anything of it is left."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIMIT = 60
_CLUSTER = re.compile("^(RANK_|CM_|ASCEND_|(JOB_ID|DEVICE_ID|DEVICE_INDEX|TF_CONFIG|PYTHONUNBUFFERED)$)")


# Prints what it got, and writes its process id; a child in a session of its own, and a grandchild, stay behind.
FAMILY = """
import signal, subprocess
rank = int(os.environ["ASCEND_KERAS_RANK"])
subprocess.Popen(["sh", "-c", "sleep 300 & exec sleep 300"], start_new_session=True)
subprocess.Popen(["sleep", "300"])
with open("pid%d.new" % rank, "w") as file:
    file.write(str(os.getpid()))
os.rename("pid%d.new" % rank, "pid%d" % rank)
"""


def starter(tmp_path):
    """A fixture: starts launches in folders of their own, and ends what the test has left of them."""
    started = []

    def begin(*arguments, **settings):
        started.append(Launch(tmp_path / "launch{}".format(len(started)), *arguments, **settings))
        return started[-1]

    yield begin
    for each in started:
        each.close()


class Launch:
    """A running launch.

    Args:
        shell: lines for bash, in which "$@" is the command.

    Attributes:
        process: the process that a user sees.
        logs: folder of the logs of ranks.
        left: processes that were there yet when `wait` came back, and were ended then.
    """

    def __init__(self, folder, flags, script, arguments=(), env=None, preexec=None, stdout=None, shell=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs = self.folder / "logs"
        self.left = None
        self._marker = "LAUNCH_TEST=" + uuid.uuid4().hex
        (self.folder / "script.py").write_text("import os, sys, time\n" + textwrap.dedent(script))
        flags = [str(flag) for flag in flags]
        flags += [] if any(flag.startswith("--log-dir") for flag in flags) else ["--log-dir", str(self.logs)]
        command = [sys.executable, "-m", "ascend_keras", "launch"] + flags + ["script.py"] + list(arguments)
        if shell:
            command = ["bash", "-c", shell, "bash"] + command
        self._files = [(self.folder / name).open("wb") for name in ("stdout", "stderr")]
        self.process = subprocess.Popen(
            command,
            cwd=str(self.folder),
            env=environment(dict([self._marker.split("=")], **(env or {}))),
            stdout=stdout or self._files[0],
            stderr=self._files[1],
            stdin=subprocess.DEVNULL,
            preexec_fn=preexec,
        )

    def wait(self):
        """The exit status; the launch has LIMIT seconds for it."""
        try:
            return self.process.wait(LIMIT)
        finally:
            self.left = self.close()

    def close(self):
        """Ends what is left, and says whether anything was."""
        for file in self._files:
            file.close()
        left = self.living()
        # What is ended may have started another one meanwhile.
        until(self._ends_all)
        self.process.wait()
        return left

    def _ends_all(self):
        living = self.living()
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not living

    @property
    def out(self):
        return (self.folder / "stdout").read_text()

    @property
    def err(self):
        return (self.folder / "stderr").read_text()

    def log(self, rank):
        return (self.logs / "rank_{}.log".format(rank)).read_text()

    def living(self):
        """Processes that were started by this launch, wherever they went, and the launch itself."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/{}/environ".format(entry), "rb") as file:
                    environ = file.read()
                with open("/proc/{}/stat".format(entry)) as file:
                    state = file.read().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if self._marker.encode() in environ and state not in "ZX":
                found.append(int(entry))
        return found

    def nothing_left(self, seconds=10):
        """Whether all its processes end within a time."""
        return until(lambda: not self.living(), seconds)

    def files(self, *names):
        """Waits for files that ranks write into the folder; their texts."""
        paths = [self.folder / name for name in names]
        assert until(lambda: all(path.exists() and path.read_text() for path in paths)), (self.out, self.err)
        return [path.read_text() for path in paths]


def environment(changes=None):
    """This process', without what says who it is in a cluster."""
    kept = {name: value for name, value in os.environ.items() if not _CLUSTER.match(name)}
    return dict(kept, PYTHONPATH=ROOT, **(changes or {}))


def free_port():
    with contextlib.closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def until(condition, seconds=LIMIT):
    """Waits for a condition; whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def lines(text, rank):
    """The lines of a rank on the terminal."""
    return re.findall(r"^\[rank {}\] (.*)$".format(rank), text, re.MULTILINE)
