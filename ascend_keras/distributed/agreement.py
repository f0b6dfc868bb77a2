"""What the ranks have to tell each other of their data before a verb of Keras runs, and what follows from it.

Each rank sends one vector and gets those of all, so that all come to the same decision: the steps that every rank can
make, or one error.
"""

from typing import Any, NamedTuple, Optional

import numpy as np

from ascend_keras import compat
from ascend_keras.distributed.parts import ARRAYS, ENDLESS, KINDS, STREAM, UNKNOWN
from ascend_keras.log import logger

# Where ranks with unequal graphs may wait for each other.
_NPU_MODES = ("rank_table", "cm")

_VERBS = ("fit", "evaluate", "predict")


class Role(NamedTuple):
    """One of the data arguments of a verb, as this rank has it.

    Attributes:
        name: the argument, for messages.
        training: equal steps on all ranks; or every example once.
        own: whether the data is this rank's part already.
        source: all of the data (see `parts`), None where the argument is not given.
        part: what this rank takes of it.
        steps: the argument that limits the steps, None where it is not given.
        batch_size: the argument of the verb, None where it is not given.
        empty: whether the part is known to have nothing in it.
    """

    name: str
    training: bool
    own: bool = False
    source: Any = None
    part: Any = None
    steps: Optional[int] = None
    batch_size: Optional[int] = None
    empty: bool = False

    def numbers(self):
        """What the others have to know: float64 (7,)."""
        if self.source is None:
            return np.zeros(7)
        lengths = [self.source.length, self.part.length]
        numbers = [self.source.kind, self.own] + lengths + [self.steps or 0, self.batch_size or 0, self.empty]
        return np.array(numbers, np.float64)


def agree(verb, prepare, roles, cluster, gather):
    """Makes the roles of this rank and settles them with the other ranks, by one collective on every path.

    Args:
        verb: "fit", "evaluate" or "predict"; all send vectors of one length, so that ranks at different ones meet.
        prepare: makes the two roles of this rank.
        roles: two roles without data, for where it fails.
        cluster: the ranks.
        gather: gets a float64 vector and returns those of all ranks, (size, length).

    Returns:
        The two roles, where they train with a part that makes as many steps as those of all other ranks.

    Raises:
        ValueError: the ranks are at different verbs, another rank failed, or the ranks' data do not fit together; the
            same on all those ranks.
        Exception: what `prepare` raised on this one.
    """
    error = None
    try:
        roles = prepare()
    except Exception as caught:  # noqa: BLE001 - raised after the collective, in which the others wait
        error = caught
    sent = np.concatenate([[_VERBS.index(verb), error is not None]] + [role.numbers() for role in roles])
    table = np.asarray(gather(sent.astype(np.float64)))
    _check_verbs(table[:, 0], error)
    if error is not None:
        raise error
    failed = np.flatnonzero(table[:, 1])
    if failed.size:
        raise ValueError(
            "Another rank could not prepare its data, so all stop. Received: an error on {}. The log of that rank says "
            "what it was.".format(_names(failed))
        )
    agreements = [Agreement(role, part) for role, part in zip(roles, np.split(table[:, 2:], 2, axis=1))]
    problems = [problem for agreement in agreements for problem in agreement.problems()]
    if problems:
        raise ValueError("\n".join(problems))
    return [agreement.settle(cluster) for agreement in agreements]


def _check_verbs(column, error):
    if not np.ptp(column):
        return
    received = ", ".join("rank {}: {}".format(rank, _VERBS[int(number)]) for rank, number in enumerate(column))
    raise ValueError(
        "The ranks are at different verbs, and would wait for each other for ever. Received: {}. Call the same ones in "
        "the same order on every rank, without branches on the rank.".format(received)
    ) from error


class Agreement:
    """What all ranks have for one role.

    Args:
        role: that of this rank. What is decided depends on its name and purpose only, the same on all ranks.
        table: `Role.numbers` of all ranks, (size, 7).
    """

    def __init__(self, role, table):
        self._role, self._name, self._training = role, role.name, role.training
        self._size = len(table)
        columns = np.asarray(table).astype(np.int64).T
        self._kinds, self._own, self._lengths, self._parts, self._steps, self._batch_sizes, self._empty = columns
        self._all_own = bool(self._own.all())

    def problems(self):
        """Everything that keeps the ranks from running together."""
        if not self._kinds.any():
            return []
        return self._differences() or self._emptiness() or self._unknown_steps() or self._too_many_steps()

    def settle(self, cluster):
        """The role, with its part cut to the steps of all; rank 0 says what is left out."""
        say = logger.info if cluster.is_main else _say_nothing
        if self._role.source is None:
            return self._role
        if not self._training:
            if cluster.is_main and self._may_overlap():
                text = "%s: without a seed ranks that shuffle do so in different ways, so that some examples count "
                text += "several times and others never. Give NPUTrainer a seed, or data that is not shuffled"
                logger.warning(text, self._name)
            self._warn_of_graphs(cluster)
            return self._limited()
        if not self._all_own:
            self._say_left_out(say)
        return self._role._replace(part=self._equal_part(say))

    # --- faults -------------------------------------------------------------------------------------------------

    def _differences(self):
        found = []
        if np.ptp(self._kinds):
            kinds = [KINDS[kind] for kind in self._kinds]
            found.append(self._differ("{} is of another kind on some ranks.", kinds, "Give all ranks the same kind."))
        elif np.ptp(self._own):
            values = [not own for own in self._own]
            found.append(self._differ("`shard` differs for {} among the ranks.", values, "Give the same to all."))
        elif not self._all_own and np.ptp(self._lengths):
            text = "{} must be the same on all ranks, each of which takes its part."
            remedy = "Give all ranks the same data, or shard=False where each has its own part already."
            found.append(self._differ(text, map(self._count, self._lengths), remedy))
        for argument, values in (("batch size", self._batch_sizes), ("number of steps", self._steps)):
            if np.ptp(values) and (self._training or not self._all_own):
                text = "The " + argument + " given for {} differs among the ranks."
                found.append(self._differ(text, [n or None for n in values], "Give the same: it counts for each rank."))
        return found

    def _emptiness(self):
        if not self._empty.any():
            return []
        nothing = _names(np.flatnonzero(self._empty))
        if self._all_own:
            text = (
                "Every rank needs data. Received: {}, which is empty on {}. Give each rank a part, or use fewer ranks."
            )
            return [text.format(self._name, nothing)]
        received = self._count(self._lengths[0]) if self._lengths[0] >= 0 else "too few batches"
        remedy = "" if self._kinds[0] == ARRAYS else " or make batches smaller"
        return [
            "{} is too small for a part on each rank. Received: {}, {} ranks; nothing is left for {}. Use fewer "
            "ranks{}.".format(self._name, received, self._size, nothing, remedy)
        ]

    def _unknown_steps(self):
        known = (self._parts != UNKNOWN).all() and (self._parts != ENDLESS).any()
        if known or self._steps[0] or not self._training or not self._all_own:
            return []
        text = "Each rank has its own part of {}, and how many steps all of them can make is not known."
        remedy = "Give steps_per_epoch, the steps of each rank."
        return [self._differ(text, map(self._count, self._parts), remedy)]

    def _too_many_steps(self):
        # The part may be unknown where its greatest length is not.
        most = self._parts if self._all_own or UNKNOWN not in self._parts else self._lengths // self._size
        steps = most[most >= 0]
        if self._kinds[0] == ARRAYS:
            # Without a batch size Keras makes one out of the steps.
            steps = -(-steps // self._batch_sizes[0]) if self._batch_sizes[0] else []
        if not self._training or UNKNOWN in most or not len(steps) or self._steps[0] <= min(steps):
            return []
        return [
            "steps_per_epoch counts the steps of each rank, and a rank has not as many. Received: steps_per_epoch={}, "
            "{} batches on a rank. Give steps_per_epoch={} or less, or none.".format(
                self._steps[0], min(steps), min(steps)
            )
        ]

    def _differ(self, text, values, remedy):
        received = ", ".join("rank {}: {}".format(rank, value) for rank, value in enumerate(values))
        return "{} Received: {}. {}".format(text.format(self._name), received, remedy)

    def _count(self, length):
        unit = "rows" if self._kinds[0] == ARRAYS else "batches"
        return {ENDLESS: "without end", UNKNOWN: "unknown"}.get(length, "{} {}".format(length, unit))

    # --- parts --------------------------------------------------------------------------------------------------

    def _equal_part(self, say):
        """The part, with as many steps as the smallest makes."""
        part = self._role.part
        if UNKNOWN in self._parts and self._steps[0] and self._kinds[0] != STREAM:
            # Keras would go on in the next epoch where it stopped, and end the training where it finds no more.
            say("%s: its length is not known, so it is repeated for steps_per_epoch to come true", self._name)
            return part.repeated()
        if not np.ptp(self._parts):
            return part
        least = min(self._parts[self._parts >= 0])
        lost = ["{} of rank {}".format(n - least, rank) for rank, n in enumerate(self._parts) if n > least]
        text = "%s: every rank takes %s, as many as the smallest part has; left out: %s"
        say(text, self._name, self._count(least), ", ".join(lost) or "what follows in parts without end")
        return part.first(int(least))

    def _limited(self):
        """Data to be tested, cut to the steps that were given: as an argument they would differ among the ranks."""
        role = self._role
        if self._kinds[0] in (ARRAYS, STREAM) or not role.steps or min(self._parts) < 0:
            return role
        part = role.part.first(int(role.steps)) if role.steps < role.part.length else role.part
        return role._replace(part=part, steps=None)

    def _say_left_out(self, say):
        length, part = self._lengths[0], self._parts[0]
        if part >= 0 and length > part * self._size:
            text = "%s: %d of %s are left out, so that each of %d ranks has %s"
            say(text, self._name, length - part * self._size, self._count(length), self._size, self._count(part))
        elif part == UNKNOWN:
            say("%s: batches that are smaller, or too few for each of %d ranks, are left out", self._name, self._size)
        if self._may_overlap():
            say("%s: without a seed ranks that shuffle do so in different ways, and their parts overlap", self._name)

    def _may_overlap(self):
        return not self._all_own and self._kinds[0] != ARRAYS and not compat.has_seed()

    def _warn_of_graphs(self, cluster):
        if cluster.mode in _NPU_MODES and np.ptp(self._parts):
            logger.warning(
                "%s: the parts of the ranks differ (%s); NPUs whose graphs or steps differ may wait for each other. "
                "Give a multiple of %d",
                self._name,
                ", ".join(map(self._count, self._parts)),
                self._size,
            )


def _names(ranks):
    return ", ".join("rank {}".format(rank) for rank in ranks)


def _say_nothing(*_):
    pass
