"""How far a rank is, and the small file in which it tells the others."""

import json
import os
import threading
from typing import Dict, NamedTuple, Optional

# What counts as a sign of life besides the hooks of Keras; see `beat`.
_beats = [0]
_note = [""]


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


class Position(NamedTuple):
    """Where a run is.

    Attributes:
        events: calls of the hooks so far; of two ranks in the same run the one with fewer is behind.
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
    """

    rank: int
    position: Position
    beat: int = 0
    idle: float = 0.0
    code: str = ""
    ended: bool = False
    attempt: str = "0"


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
        return Record(**dict(fields, position=Position(*fields["position"])))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_all(folder: str, ranks: int, attempt: str = "0") -> Dict[int, Record]:
    """The records that the ranks have written since they were started this time."""
    found = {rank: read(folder, rank) for rank in range(ranks)}
    return {rank: record for rank, record in found.items() if record is not None and record.attempt == attempt}
