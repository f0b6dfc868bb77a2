"""Rank, size and device of this process, read from the environment. No TensorFlow."""

import os
from typing import List, Mapping, NamedTuple, Optional, Tuple

CM_REQUIRED = ("CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE")


class Cluster(NamedTuple):
    """Who this process is among the ranks.

    Attributes:
        size: number of ranks, 1 for a run without any.
        rank: 0 .. size-1; None where only the collective runtime knows it (CM mode, before the device is open).
        device_id: logical device of this process.
        mode: "single", "rank_table" or "cm": how the ranks find each other.
    """

    size: int = 1
    rank: Optional[int] = 0
    device_id: int = 0
    mode: str = "single"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes files and talks."""
        return self.rank == 0


def from_environment(environ: Optional[Mapping[str, str]] = None) -> Cluster:
    """Reads RANK_SIZE/RANK_ID/RANK_TABLE_FILE or the CM_* variables, and ASCEND_DEVICE_ID.

    A RANK_ID without a RANK_SIZE above 1 says nothing and is ignored, as the adapters do.

    Raises:
        ValueError: the variables contradict each other or are not numbers; every problem is listed.
    """
    environ = os.environ if environ is None else environ
    problems: List[str] = []
    device_id = _integer(environ, "ASCEND_DEVICE_ID", 0, problems)
    size, mode = _size_and_mode(environ, problems)
    rank: Optional[int] = 0
    if mode == "rank_table":
        rank = _rank_of_table(environ, size, problems)
    elif mode == "cm":
        rank = None
        _check_cm(environ, problems)
    if problems:
        raise ValueError("The environment describes no valid set of ranks:\n  " + "\n  ".join(problems))
    return Cluster(size, rank, device_id, mode)


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
