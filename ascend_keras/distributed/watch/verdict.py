"""Which rank the others wait for, from what all of them tell of themselves."""

import os
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional

from ascend_keras.distributed.texts import rank_list
from ascend_keras.distributed.watch.progress import Record

# It wrote once a second, and may have done some steps after that.
_SILENT = "made no step since about {} and {} no sign of life (stopped, swapped out, held in a native call, or gone)"


class Verdict(NamedTuple):
    """Who holds up a run.

    Attributes:
        ranks: the ranks that the others wait for; empty where none stands out.
        text: one sentence that says so.
    """

    ranks: List[int]
    text: str


def judge(
    records: Mapping[int, Record], ranks: int, silent: Collection[int] = (), started: Collection[int] = ()
) -> Verdict:
    """Finds the ranks that hold up the others, among those of which something is known here.

    In this order: who gives no sign of life; who has left the run; who has not begun, where nobody has made a step;
    who is behind; and where all are at the same place, who runs Python code of his own while the others are inside
    TensorFlow.

    Args:
        records: what the ranks tell, by rank.
        ranks: number of ranks.
        silent: ranks whose record does not change although they have not ended.
        started: ranks started here. Of those that are in neither nothing is known.
    """
    known = sorted(set(records) | set(started))
    missing = [rank for rank in known if rank not in records]
    left = _who_left(records)
    begun = any(record.position.step or record.position.epoch > 1 for record in records.values())
    if silent:
        quiet = sorted(silent)
        return _blame(quiet, known, _SILENT.format(_place(records, quiet), "gives" if len(quiet) == 1 else "give"))
    if left and len(left) < len(records):
        return _blame(left, known, "left the run at {}".format(_place(records, left)))
    if missing and not begun:
        return _blame(missing, known, "did not begin the run")
    return _among_the_living(records, known, [rank for rank in range(ranks) if rank not in records])


def _who_left(records) -> List[int]:
    """The ranks that have left a run in which the others wait for them: not those that have finished it before them.

    Who trains may wait for a rank whose training has come to its end too early.
    """
    living = [record for record in records.values() if not record.ended]
    trains = any(record.position.in_step and record.position.phase == "train" for record in living)
    ended = {rank: record for rank, record in records.items() if record.ended}
    for rank, record in list(ended.items()):
        if record.finished and not trains and all(other.order < record.order for other in living):
            del ended[rank]
    return sorted(ended)


def _among_the_living(records, known, unknown) -> Verdict:
    least = min(record.order for record in records.values())
    behind = sorted(rank for rank, record in records.items() if record.order == least)
    if len(behind) < len(records):
        return _blame(behind, known, "made no step since {}{}".format(_place(records, behind), _code(records, behind)))
    busy = sorted(rank for rank, record in records.items() if record.code)
    if busy and len(busy) < len(records):
        text = "made no step since {}, nor did the others, but only there Python code runs{}"
        return _blame(busy, known, text.format(_place(records, busy), _code(records, busy)))
    text = "no rank made a step since {}, and none is behind the others".format(_place(records, behind))
    if unknown:
        text += "; nothing is known of {}, whose logs may be on another machine".format(rank_list(unknown))
    return Verdict([], text)


def _place(records, culprits) -> str:
    return str(records[culprits[0]].position) if culprits[0] in records else "the start of the run"


def _code(records, culprits) -> str:
    code = records[culprits[0]].code
    return ": {}".format(code) if code else ""


def _blame(culprits: List[int], known: List[int], text: str) -> Verdict:
    waiting = [rank for rank in known if rank not in culprits]
    text = "{} {}".format(rank_list(culprits), text)
    if waiting:
        verb, whom = "waits" if len(waiting) == 1 else "wait", "it" if len(culprits) == 1 else "them"
        text += "; {} {} for {}".format(rank_list(waiting), verb, whom)
    return Verdict(culprits, text)


def alive(records: Mapping[int, Record], mine: Record, timeout: float) -> Dict[int, Record]:
    """The other ranks that this one may be waiting for and that get on: not further than it, and busy.

    Busy is who has made progress in the last half of the timeout, or allows itself more than the timeout (it compiles,
    or its executions are long) and has not used it up.

    Args:
        records: what the ranks tell.
        mine: what this rank tells.
        timeout: seconds without a step that are too many.
    """
    return {
        rank: record
        for rank, record in records.items()
        if rank != mine.rank
        and not record.ended
        and record.order <= mine.order
        and record.idle < (record.limit if record.limit > timeout else timeout / 2)
    }


def _path(folder) -> str:
    return os.path.join(folder, "watchdog.verdict")


def forget(folder: str) -> None:
    """Removes what an earlier run has left."""
    try:
        os.remove(_path(folder))
    except FileNotFoundError:
        return


def known(folder: str) -> Optional[str]:
    """What a rank has found out already; None where none has."""
    try:
        with open(_path(folder), encoding="utf-8") as stream:
            return stream.read() or None
    except FileNotFoundError:
        return None


def settle(folder: str, text: str) -> str:
    """Makes `text` the verdict of all ranks, unless another rank was first; returns the verdict."""
    try:
        handle = os.open(_path(folder), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return known(folder) or text
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    return text
