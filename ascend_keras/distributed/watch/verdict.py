"""Which rank the others wait for, from what all of them tell of themselves."""

import os
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional

from ascend_keras.distributed.texts import rank_list
from ascend_keras.distributed.watch.progress import Record


class Verdict(NamedTuple):
    """Who holds up a run.

    Attributes:
        ranks: the ranks that the others wait for; empty where none stands out.
        text: one sentence that says so.
    """

    ranks: List[int]
    text: str


def judge(records: Mapping[int, Record], ranks: int, silent: Collection[int] = ()) -> Verdict:
    """Finds the ranks that hold up the others.

    In this order: who gives no sign of life; who has left the run; who has not begun, where nobody has made a step;
    who is behind; and where all are at the same place, who runs Python code of his own while the others are inside
    TensorFlow.

    Args:
        records: what the ranks tell, by rank.
        ranks: number of ranks.
        silent: ranks whose record does not change although they have not ended.
    """
    missing = [rank for rank in range(ranks) if rank not in records]
    ended = sorted(rank for rank, record in records.items() if record.ended)
    begun = any(record.position.step or record.position.epoch > 1 for record in records.values())
    if silent:
        quiet = sorted(silent)
        # It wrote once a second, and may have done some steps after that.
        text = (
            "made no step since about {} and {} no sign of life (stopped, swapped out, held in a native call, or gone)"
        )
        return _blame(quiet, ranks, text.format(_place(records, quiet), "gives" if len(quiet) == 1 else "give"))
    if ended and len(ended) < len(records):
        text = "left the run at {}".format(_place(records, ended))
        return _blame(ended, ranks, text)
    if missing and not begun:
        return _blame(missing, ranks, "did not begin the run")
    return _among_the_living(records, ranks, missing)


def _among_the_living(records, ranks, missing) -> Verdict:
    least = min(record.position.events for record in records.values())
    behind = sorted(rank for rank, record in records.items() if record.position.events == least)
    if len(behind) < len(records):
        return _blame(behind, ranks, "made no step since {}{}".format(_place(records, behind), _code(records, behind)))
    busy = sorted(rank for rank, record in records.items() if record.code)
    if busy and len(busy) < len(records):
        text = "made no step since {}, nor did the others, but only there Python code runs{}"
        return _blame(busy, ranks, text.format(_place(records, busy), _code(records, busy)))
    text = "no rank made a step since {}, and none is behind the others".format(_place(records, behind))
    if missing:
        text += "; nothing is known of {}, whose logs may be on another machine".format(rank_list(missing))
    return Verdict([], text)


def _place(records, culprits) -> str:
    return str(records[culprits[0]].position) if culprits[0] in records else "the start of the run"


def _code(records, culprits) -> str:
    code = records[culprits[0]].code
    return ": {}".format(code) if code else ""


def _blame(culprits: List[int], ranks: int, text: str) -> Verdict:
    waiting = [rank for rank in range(ranks) if rank not in culprits]
    text = "{} {}".format(rank_list(culprits), text)
    if waiting:
        verb, whom = "waits" if len(waiting) == 1 else "wait", "it" if len(culprits) == 1 else "them"
        text += "; {} {} for {}".format(rank_list(waiting), verb, whom)
    return Verdict(culprits, text)


def alive(records: Mapping[int, Record], mine: Record, within: float) -> Dict[int, Record]:
    """The other ranks that this one may be waiting for and that get on: not further than it, and busy.

    Args:
        records: what the ranks tell.
        mine: what this rank tells.
        within: seconds in which there was progress.
    """
    return {
        rank: record
        for rank, record in records.items()
        if rank != mine.rank
        and not record.ended
        and record.position.events <= mine.position.events
        and record.idle < within
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
