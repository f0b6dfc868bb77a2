"""Processes of Linux: who descends from this one, and how none outlives it. Standard library only."""

import ctypes
import os
import signal
import time
from typing import Collection, Dict, Optional, Sequence

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Ctrl-C on a shell script sends SIGINT to all its processes, and its trap may send SIGTERM after it: one request.
REQUEST_SECONDS = 1.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on a descendant that loses its parent becomes a child of this process, whatever session it is in.

    Raises:
        OSError: the system has no such thing (Linux 3.4 has).
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, number: int) -> None:
    """Has this process get signal `number` when its parent dies, in whatever way; ends it if the parent is dead.

    Args:
        parent: process id of the parent, read before the fork.
        number: a signal.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(128 + number)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, "prctl({}, {}): {}".format(option, value, os.strerror(code)))


def prepare_rank(parent: int, cores: Optional[Sequence[int]]) -> None:
    """What a rank does between fork and exec: it dies with the launcher, and keeps to its cores."""
    die_with_parent(parent, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if cores:
        os.sched_setaffinity(0, cores)


class Requests:
    """Counts requests to end: signals that come within REQUEST_SECONDS of the first of them are one.

    Attributes:
        count: number of requests.
    """

    def __init__(self, clock=time.monotonic):
        self.count = 0
        self._clock = clock
        self._began = 0.0

    def add(self) -> None:
        """A signal has come."""
        now = self._clock()
        if not self.count or now - self._began >= REQUEST_SECONDS:
            self.count += 1
            self._began = now


def shares_session(pid: int) -> bool:
    """Whether a process is in the session of this one; not if it has ended."""
    try:
        return os.getsid(pid) == os.getsid(0)
    except ProcessLookupError:
        return False


def descendants(root: int, besides: Collection[int] = ()) -> Dict[int, str]:
    """Living processes below `root`: process id -> state, one letter of /proc/PID/stat. Zombies are not living.

    Args:
        besides: processes to leave out, with all that is below them.
    """
    children: Dict[int, list] = {}
    states = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            state, parent = _state_and_parent(entry)
            states[int(entry)] = state
            children.setdefault(parent, []).append(int(entry))
    found, left = {}, [root]
    while left:
        for pid in children.get(left.pop(), ()):
            if pid in besides:
                continue
            left.append(pid)
            if states[pid] not in "ZX":
                found[pid] = states[pid]
    return found


def _state_and_parent(pid: str):
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            # The name of the program stands in brackets, and may hold brackets and spaces itself.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        # It has ended since the folder was listed.
        return "X", -1
    return (fields[0].decode(), int(fields[1])) if len(fields) > 1 else ("X", -1)


def send(pid: int, number: int) -> None:
    """A signal to a process that may have ended already, or have become another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def describe_status(code: int) -> str:
    """`code` as subprocess has it: "exit code 3", or "killed by SIGKILL" for -9."""
    if code >= 0:
        return "exit code {}".format(code)
    try:
        return "killed by " + signal.Signals(-code).name
    except ValueError:
        return "killed by signal {}".format(-code)


def exit_code(code: int) -> int:
    """What a shell makes of it: 128 + signal for one that was killed."""
    return code if code >= 0 else 128 - code
