"""The folder of a launch: its name, who may use it, and what the launcher itself writes and removes there."""

import errno
import fcntl
import os
import socket
import time
from typing import Optional, Sequence

# What flock says on a file system that has no such thing.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# `busy` holds the lock for a moment.
_TRIES = 5
_PAUSE = 0.02


class BusyError(OSError):
    """Another launch uses the folder."""


def find(given: Optional[str], node: int, nodes: int, now: Optional[float] = None) -> str:
    """Absolute path of the folder for the logs: as given, or a free name below ./ascend_keras_logs."""
    if given:
        return os.path.abspath(given)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name = stamp if nodes == 1 else "{}-node{}".format(stamp, node)
    path = os.path.abspath(os.path.join("ascend_keras_logs", name))
    return next(name for name in _names(path) if not os.path.lexists(name))


def _names(path: str):
    yield path
    count = 0
    while True:
        count += 1
        yield "{}-{}".format(path, count)


def claim(path: str) -> str:
    """Makes a folder that nobody else has: `path`, or the first free one of path-1, path-2, ...; returns its name.

    Raises:
        OSError: it cannot be made.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return next(name for name in _names(path) if _is_made(name))


def _is_made(folder: str) -> bool:
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    return True


def why_not_writable(folder: str) -> Optional[str]:
    """Why no file can be made in a folder, or in one of that name that is still to be made; None if it can."""
    existing = folder
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return "{} is no folder".format(existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        return "no permission to write into {}".format(existing)
    return None


# --- one launch at a time -------------------------------------------------------------------------------------------


def _lock_file(folder: str, node: int) -> str:
    # Machines with a common file system may share the folder: each has a lock of its own.
    return os.path.join(folder, ".launch_{}.lock".format(node))


def busy(folder: str, node: int) -> Optional[str]:
    """Who uses the folder on this machine, such as "process 123 on host a"; None if no launch does."""
    try:
        with open(_lock_file(folder, node), "rb") as file:
            return None if _locked(file.fileno(), fcntl.LOCK_SH) else _holder(file.fileno())
    except OSError:
        # There is none, or `lock` will say what is wrong with it.
        return None


def lock(folder: str, node: int) -> int:
    """Keeps other launches out of the folder for as long as the file descriptor that it returns is open.

    Where the file system has no locks, nobody is kept out.

    Raises:
        BusyError: another launch uses it.
        OSError: the lock cannot be written.
    """
    descriptor = os.open(_lock_file(folder, node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(_TRIES):
        if _locked(descriptor, fcntl.LOCK_EX):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, "process {} on {}".format(os.getpid(), socket.gethostname()).encode())
            return descriptor
        time.sleep(_PAUSE)
    holder = _holder(descriptor)
    os.close(descriptor)
    raise BusyError(why_busy(holder))


def why_busy(holder: str) -> str:
    """The message about a folder that is in use."""
    return "another launch writes there ({}); wait for its end, or give another folder".format(holder)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "an unknown process"


# --- files ----------------------------------------------------------------------------------------------------------


def write(path: str, text: str) -> None:
    """Writes a file aside and gives it its name, so that no reader ever sees half of it."""
    aside = "{}.{}.{}.part".format(path, socket.gethostname(), os.getpid())
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


def forget(folder: str, ranks: Sequence[int], verdict: bool) -> None:
    """Removes what earlier ranks have told of themselves to the watchdog of others, which would take it for news.

    Args:
        ranks: those that are about to start here.
        verdict: whether to remove also what the watchdog has found, which is one file for all machines.
    """
    # The names are those of distributed.watch, which is not imported: it would load more than the launcher needs.
    names = ["rank_{}.progress".format(rank) for rank in ranks] + (["watchdog.verdict"] if verdict else [])
    for name in names:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            continue
