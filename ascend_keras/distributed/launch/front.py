"""The process at the terminal: it shows what the supervisor sends, hands signals on, and cleans up after its death.

Two processes, so that whichever is killed, even with SIGKILL, the other ends all ranks: the supervisor gets SIGTERM
when this one dies, and this one adopts what the supervisor leaves behind.
"""

import os
import select
import signal
import sys
import time
from typing import Callable, FrozenSet, List

from ascend_keras.distributed.launch import output, processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# After so many requests to end the supervisor has had its chance.
PATIENCE = 3
# Atomic for a pipe that has room, and little enough for a terminal.
_PIECE = 4096


def run(supervise: Callable[[int], int]) -> int:
    """Runs `supervise(pipe)` in a child process of a session of its own and returns the exit status for the shell.

    Args:
        supervise: gets the file descriptor for output.Display, returns an exit status, and has the signals of SIGNALS
            blocked until it has made its handlers.
    """
    _flush()
    _open_standard_files()
    # A caller that ignores SIGCHLD would have the kernel throw away the status of the supervisor, and of the ranks.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    processes.adopt_orphans()
    reading, writing = os.pipe()
    parent = os.getpid()
    # After `exec` in a shell, what it had started in the background is a child of this process.
    strangers = frozenset(processes.descendants(parent))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(parent, writing, supervise)
    os.close(writing)
    front = _Front(child, strangers)
    front.install()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    front.show_all(reading)
    return front.finish()


def _child(parent: int, pipe: int, supervise: Callable[[int], int]) -> None:
    status = 1
    try:
        # Out of the terminal's sight: Ctrl-C comes once, through the front, and a kill of its group does not hit this.
        os.setsid()
        processes.die_with_parent(parent, signal.SIGTERM)
        status = supervise(pipe)
    except BaseException:  # noqa: BLE001
        # Whatever it is, this copy of the process must not go on in the code of the caller.
        sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # There is none where the shell has closed it.
        if stream is not None:
            stream.flush()


def _open_standard_files() -> None:
    """Where a shell has closed one of them, its number must not go to a pipe of ours."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= output.STDERR:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def handled() -> List[int]:
    """The signals that end a job; nohup has SIGHUP ignored, and that is kept."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


class _Front:
    def __init__(self, child: int, strangers: FrozenSet[int] = frozenset()):
        self._child = child
        self._strangers = strangers
        self._requests = processes.Requests()
        self._closed = set()

    def install(self) -> None:
        # SIGINT too where it is ignored, as in the background of a script: kill -INT has to end the job.
        for number in handled():
            signal.signal(number, self._hand_on)

    def _hand_on(self, number, _):
        self._requests.add()
        if self._child:
            processes.send(self._child, number if self._requests.count < PATIENCE else signal.SIGKILL)

    def show_all(self, pipe: int) -> None:
        """Until the supervisor closes its end."""
        data = b""
        while True:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                return
            data += chunk
            while len(data) >= output.HEADER.size:
                target, length = output.HEADER.unpack_from(data)
                if len(data) < output.HEADER.size + length:
                    break
                self._write(target, data[output.HEADER.size : output.HEADER.size + length])
                data = data[output.HEADER.size + length :]

    def _write(self, target: int, data: bytes) -> None:
        view = memoryview(data)
        while view and target not in self._closed:
            _, ready, _ = select.select([], [target], [], 1.0)
            if not ready:
                # Someone who asked for the end does not wait for a reader that does not read.
                if self._requests.count:
                    self._closed.add(target)
                continue
            try:
                view = view[os.write(target, view[:_PIECE]) :]
            except OSError:
                # The reader, such as `head`, has gone. The training has not, and its logs are complete.
                self._closed.add(target)

    def finish(self) -> int:
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        self._end_orphans()
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        number = os.WTERMSIG(status)
        text = "[launch] The launcher was {}. All ranks were ended.\n"
        self._write(output.STDERR, text.format(processes.describe_status(-number)).encode())
        return 128 + number

    def _end_orphans(self) -> None:
        """A supervisor that ended in order leaves none. Its ranks get SIGKILL at its death, their children here."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            _reap()
            # What shares the session of this process is not the job's: the supervisor has begun a new one.
            left = processes.descendants(os.getpid(), besides=self._strangers)
            left = {pid: state for pid, state in left.items() if not processes.shares_session(pid)}
            if not left:
                return
            for pid in left:
                processes.send(pid, signal.SIGKILL)
            time.sleep(0.01)


def _reap() -> None:
    """Takes note of all children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
