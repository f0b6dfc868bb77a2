"""Rank, size and device of this process, read from the environment. No TensorFlow."""

import json
import os
import re
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

CM_REQUIRED = ("CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE")


class Cluster(NamedTuple):
    """Who this process is among the ranks.

    Attributes:
        size: number of ranks, 1 for a run without any.
        rank: 0 .. size-1; None where only the collective runtime knows it (CM mode, before the device is open).
        device_id: logical device of this process.
        mode: how the ranks find each other: "single", "rank_table" or "cm" (NPUs), "tf_config" (hosts).
        addresses: with "tf_config" the "host:port" of every rank, in rank order; else empty.
    """

    size: int = 1
    rank: Optional[int] = 0
    device_id: int = 0
    mode: str = "single"
    addresses: Tuple[str, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes files and talks."""
        return self.rank == 0


def from_environment(environ: Optional[Mapping[str, str]] = None) -> Cluster:
    """Reads RANK_SIZE/RANK_ID/RANK_TABLE_FILE, the CM_* variables or TF_CONFIG, and ASCEND_DEVICE_ID.

    A RANK_ID without a RANK_SIZE above 1 says nothing and is ignored, as the adapters do; so does a TF_CONFIG that
    names fewer than two tasks.

    Raises:
        ValueError: the variables contradict each other or are not numbers; every problem is listed.
    """
    environ = os.environ if environ is None else environ
    problems: List[str] = []
    device_id = _integer(environ, "ASCEND_DEVICE_ID", 0, problems)
    size, mode = _size_and_mode(environ, problems)
    rank: Optional[int] = 0
    addresses, index = _tf_config(environ, problems)
    if mode == "rank_table":
        rank = _rank_of_table(environ, size, problems)
    elif mode == "cm":
        rank = None
        _check_cm(environ, problems)
    if len(addresses) > 1:
        _check_one_form(environ, mode, problems)
        size, rank, mode = len(addresses), index, "tf_config"
    if problems:
        raise ValueError("The environment describes no valid set of ranks:\n  " + "\n  ".join(problems))
    return Cluster(size, rank, device_id, mode, addresses if mode == "tf_config" else ())


def restarts(environ: Optional[Mapping[str, str]] = None) -> int:
    """How often the launcher has started all ranks anew, from ASCEND_KERAS_RESTARTS; 0 at first and without one.

    Raises:
        ValueError: the variable is not a whole number.
    """
    problems: List[str] = []
    count = _integer(os.environ if environ is None else environ, "ASCEND_KERAS_RESTARTS", 0, problems)
    if problems:
        raise ValueError(problems[0])
    return count


def rank_for_log(environ: Optional[Mapping[str, str]] = None) -> int:
    """The rank as far as the environment tells it, for who only wants to know how much to say; never raises.

    RANK_ID counts beside a RANK_SIZE above 1 only. In a CM_* launch only the launcher tells it, in ASCEND_KERAS_RANK.
    0 where nothing does. A text that is no number is that of some other rank than 0.
    """
    environ = os.environ if environ is None else environ
    several = (_integer(environ, "RANK_SIZE", 1, []) or 1) > 1
    text = (environ.get("RANK_ID") if several else None) or environ.get("ASCEND_KERAS_RANK")
    if text:
        return int(text) if text.isdigit() else 1
    try:
        return max(0, int(json.loads(environ.get("TF_CONFIG") or "{}")["task"]["index"]))
    except (ValueError, TypeError, KeyError):
        return 0


def _size_and_mode(environ, problems) -> Tuple[int, str]:
    if environ.get("RANK_SIZE") and environ.get("CM_WORKER_SIZE"):
        problems.append(
            "RANK_SIZE and CM_WORKER_SIZE are both set. Received: RANK_SIZE={!r}, CM_WORKER_SIZE={!r}. "
            "Keep RANK_SIZE with a rank table, or CM_WORKER_SIZE with the CM_* variables.".format(
                environ["RANK_SIZE"], environ["CM_WORKER_SIZE"]
            )
        )
        return 1, "single"
    if environ.get("CM_WORKER_SIZE"):
        size = _integer(environ, "CM_WORKER_SIZE", 1, problems, minimum=1)
        return size, "cm" if size > 1 else "single"
    size = _integer(environ, "RANK_SIZE", 1, problems, minimum=1)
    if size == 1:
        return 1, "single"
    by_cm = any(environ.get(name) for name in CM_REQUIRED) and not environ.get("RANK_TABLE_FILE")
    return size, "cm" if by_cm else "rank_table"


def _rank_of_table(environ, size, problems) -> int:
    rank = _integer(environ, "RANK_ID", None, problems, minimum=0)
    if rank is not None and rank >= size:
        problems.append(
            "RANK_ID must be below RANK_SIZE. Received: RANK_ID={}, RANK_SIZE={}. Ranks count from 0.".format(
                rank, size
            )
        )
    both = [name for name in CM_REQUIRED if environ.get(name)]
    if both:
        problems.append(
            "A rank table and the CM_* variables are two ways to say one thing. Received: RANK_TABLE_FILE={!r} and {}. "
            "Unset one of them.".format(environ.get("RANK_TABLE_FILE"), ", ".join(both))
        )
    return rank or 0


def _check_cm(environ, problems):
    missing = [name for name in CM_REQUIRED if not environ.get(name)]
    if missing:
        problems.append(
            "The CM_* launch is incomplete. Missing: {}. Set them on every rank.".format(", ".join(missing))
        )


def _integer(environ, name, default, problems, minimum=0):
    text = environ.get(name)
    if text in (None, ""):
        if default is None:
            problems.append("{} is not set, but more than one rank was announced. Set it to 0 .. size-1.".format(name))
        return default
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < minimum:
        problems.append("{} must be a whole number >= {}. Received: {}={!r}.".format(name, minimum, name, text))
        return default
    return value


# --- TF_CONFIG --------------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})$")


def _tf_config(environ, problems) -> Tuple[Tuple[str, ...], int]:
    """The addresses of all workers and the index of this one; () and 0 where TF_CONFIG names no workers."""
    text = environ.get("TF_CONFIG")
    if not text:
        return (), 0
    try:
        config = json.loads(text)
    except ValueError as error:
        problems.append("TF_CONFIG must be JSON. Received: TF_CONFIG={!r} ({}).".format(text, error))
        return (), 0
    cluster, task = (
        (config.get("cluster") or {}, config.get("task") or {}) if isinstance(config, dict) else (None, None)
    )
    if not (isinstance(cluster, dict) and isinstance(task, dict)):
        problems.append(
            "TF_CONFIG must be an object with the objects 'cluster' and 'task'. Received: TF_CONFIG={!r}. {}".format(
                text, _FORM
            )
        )
        return (), 0
    if not cluster:
        return (), 0
    return _workers(cluster, problems), _index(cluster, task, problems)


_FORM = (
    'Set {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, or unset it; '
    "`ascend-keras launch` sets it."
)


def _workers(cluster, problems) -> Tuple[str, ...]:
    others = sorted(str(name) for name in cluster if name != "worker")
    if others:
        problems.append(
            "TF_CONFIG may name workers only: every rank is one, and worker 0 the first. Received: tasks of the kinds "
            "{}. {}".format(", ".join(others), _FORM)
        )
    workers = cluster.get("worker", [])
    if not isinstance(workers, list) or not (workers or others):
        problems.append("TF_CONFIG: 'worker' must be a list of addresses. Received: {!r}. {}".format(workers, _FORM))
        return ()
    for position, address in enumerate(workers):
        match = _ADDRESS.match(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match.group(2)) < 65536:
            problems.append(
                "TF_CONFIG: a worker's address is host:port, with a port of 1 to 65535. Received: worker {}: "
                "{!r}.".format(position, address)
            )
        elif address in workers[:position]:
            problems.append(
                "TF_CONFIG: two workers have one address. Received: workers {} and {}: {!r}.".format(
                    workers.index(address), position, address
                )
            )
    return tuple(str(address) for address in workers)


def _index(cluster, task, problems) -> int:
    kind, index = task.get("type"), task.get("index")
    if kind != "worker":
        problems.append("TF_CONFIG: the task's 'type' must be 'worker'. Received: {!r}. {}".format(kind, _FORM))
    count = len(cluster["worker"]) if isinstance(cluster.get("worker"), list) else 0
    number: Any = int(index) if isinstance(index, str) and index.isdigit() else index
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < max(count, 1):
        problems.append(
            "TF_CONFIG: the task's 'index' must be one of its {} workers, counted from 0. Received: index={!r}.".format(
                count, index
            )
        )
        return 0
    return number


def _check_one_form(environ, mode, problems):
    names = ("RANK_SIZE", "CM_WORKER_SIZE") + CM_REQUIRED
    other = ["{}={!r}".format(name, environ[name]) for name in names if environ.get(name)]
    if mode != "single" or any(environ.get(name) for name in CM_REQUIRED):
        problems.append(
            "TF_CONFIG (ranks on hosts) and {} (ranks on NPUs) are both set. Received: TF_CONFIG={!r}, {}. Unset one "
            "of them.".format(
                " and ".join(sorted(one.split("=")[0] for one in other)), environ["TF_CONFIG"], ", ".join(other)
            )
        )
