"""How far a rank is, and the small file in which it tells the others."""

import json
import os
import threading
from typing import Dict, NamedTuple, Optional, Set, Tuple

# What counts as a sign of life besides the hooks of Keras; see `beat`.
_beats = [0]
_note = [""]
# How far this process is, see `order`, and the watches that are under way.
_order = [0, 0, 0]
_watches: Set[int] = set()


def beat(what: str = "") -> None:
    """Says that the work between two steps gets on, such as a pass over data in a callback; costs nothing.

    Without it such work is given `timeout` seconds from one visible movement to the next.

    Args:
        what: what is being done, for the message about a rank that stops there.
    """
    _beats[0] += 1
    _note[0] = what


def beats() -> int:
    """How often `beat` was called in this process."""
    return _beats[0]


def note() -> str:
    """What the last `beat` was about; forgotten with the next step."""
    return _note[0]


def forget_note() -> None:
    """A step has begun: what was done before it is over."""
    _note[0] = ""


def order() -> Tuple[int, ...]:
    """How far this process is: of two ranks the one with less is behind.

    The number of the run (of the verb); in it, the begins and ends of runs, epochs and phases; since the last of these,
    the begins and ends of steps. They are counted apart because the parts of a validation may differ by a batch, after
    which a plain count of hooks would differ for good. It is that of the process, so that it is the same whichever of
    several watches writes it, and goes on in an evaluation inside of a training.
    """
    return tuple(_order)


def begin_run(watch: int) -> None:
    """A watch begins: a run, unless it is inside of that of another watch."""
    if not _watches - {watch}:
        _order[:] = _order[0] + 1, 0, 0
    _watches.add(watch)
    advance(False)


def end_run(watch: int) -> None:
    """A watch has ended; who has ended is further than who is about to."""
    if watch in _watches:
        _watches.remove(watch)
        advance(False)


def advance(of_step: bool) -> None:
    """A hook was called: that of a step, or another."""
    if of_step:
        _order[2] += 1
    else:
        _order[1:] = _order[1] + 1, 0


class Position(NamedTuple):
    """Where a run is.

    Attributes:
        events: calls of the hooks so far; they grow where the run gets on.
        phase: "start" (before the first hook), "train", "test", "validation" or "predict".
        epoch: the epoch, from 1; 0 outside of epochs.
        step: steps done in this phase of this epoch.
        in_step: whether a step has begun and not ended.
    """

    events: int = 0
    phase: str = "start"
    epoch: int = 0
    step: int = 0
    in_step: bool = False

    def __str__(self) -> str:
        if self.phase == "start":
            return "the start of the run"
        where = {
            "train": "epoch {}".format(self.epoch) if self.epoch else "the training",
            "validation": "the validation of epoch {}".format(self.epoch),
            "test": "the evaluation",
            "predict": "the prediction",
        }[self.phase]
        if not self.step:
            return "the begin of {}".format(where)
        return "step {} of {}".format(self.step, where)

    @property
    def activity(self) -> str:
        """What goes on, in a few words: "in training"."""
        if self.phase == "start":
            return "in preparation"
        if not self.in_step:
            return "between two steps (callbacks, saving)"
        return "in " + {"train": "training", "test": "evaluation", "predict": "prediction"}.get(self.phase, self.phase)


class Record(NamedTuple):
    """What a rank tells of itself.

    Attributes:
        rank: the rank.
        position: where it is.
        beat: how often it has written; a living process counts on even where nothing gets on.
        idle: seconds without progress.
        code: the Python function outside TensorFlow in which it is, "" where there is none.
        ended: whether it has left the run that it told of.
        attempt: how often the launcher had started the ranks anew when it wrote.
        limit: seconds without progress that it allows itself where it is.
        order: how far it is, see `order`.
        finished: whether it has left a run that had come to its end.
    """

    rank: int
    position: Position
    beat: int = 0
    idle: float = 0.0
    code: str = ""
    ended: bool = False
    attempt: str = "0"
    limit: float = 0.0
    order: Tuple[int, ...] = (0, 0, 0)
    finished: bool = False


def path_of(folder: str, rank: int) -> str:
    """The file of a rank."""
    return os.path.join(folder, "rank_{}.progress".format(rank))


def write(folder: str, record: Record) -> None:
    """Writes the file of a rank; it is whole at any moment."""
    path = path_of(folder, record.rank)
    new = "{}.{}".format(path, threading.get_ident())  # two of them may watch over one process
    with open(new, "w", encoding="ascii") as stream:
        json.dump(record._asdict(), stream)
    os.replace(new, path)


def read(folder: str, rank: int) -> Optional[Record]:
    """The record of a rank; None where there is none that can be read."""
    try:
        with open(path_of(folder, rank), encoding="ascii") as stream:
            fields = json.load(stream)
        return Record(**dict(fields, position=Position(*fields["position"]), order=tuple(fields["order"])))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_all(folder: str, ranks: int, attempt: str = "0") -> Dict[int, Record]:
    """The records that the ranks have written since they were started this time."""
    found = {rank: read(folder, rank) for rank in range(ranks)}
    return {rank: record for rank, record in found.items() if record is not None and record.attempt == attempt}


def started_into(folder: str, ranks: int) -> Set[int]:
    """The ranks of which a launcher keeps the log, or the mark of the start, in this folder."""
    names = set(os.listdir(folder))
    return {rank for rank in range(ranks) if names & {"rank_{}.log".format(rank), "rank_{}.started".format(rank)}}
