"""What decides about a job: the launcher itself, or on several machines the first of the launchers.

A link is asked for the machines before each start (`meet`), told how the own ranks ended (`failed`, `done`), and asked
what is to be done (`poll`).
"""

from typing import Any, List, NamedTuple, Optional, Sequence

from ascend_keras.distributed.launch.plan import Node

# The status of a script for wrong usage: it would fail again.
USAGE = 2


class Failure(NamedTuple):
    """Why a job ends before its time.

    Attributes:
        text: what happened, such as "rank 3 failed: exit code 1".
        code: exit status of the job.
        node: the machine where it happened.
        tail: the last lines of the rank.
        log: path of its log, on its machine.
        restartable: whether another start makes sense.
    """

    text: str
    code: int
    node: int = 0
    tail: Sequence[str] = ()
    log: str = ""
    restartable: bool = True


class Verdict(NamedTuple):
    """What all launchers do now: end well (no failure), end, or start again."""

    failure: Optional[Failure] = None
    restart: bool = False


class Interrupted(Exception):  # noqa: N818
    """A signal asks for the end while launchers wait for each other."""


class Policy:
    """Counts starts."""

    def __init__(self, max_restarts: int):
        self.restarts = 0
        self._most = max_restarts

    def verdict(self, failure: Failure) -> Verdict:
        """What follows from the first failure of a start."""
        restart = failure.restartable and self.restarts < self._most
        self.restarts += restart
        return Verdict(failure, restart)


class Alone:
    """The launcher of the only machine, or of one that knows no other."""

    def __init__(self, max_restarts: int):
        self._policy = Policy(max_restarts)
        self._verdict: Optional[Verdict] = None

    def sockets(self) -> List[Any]:
        """What to listen to while ranks run."""
        return []

    def meet(self, node: Node, tick) -> List[Node]:
        """All machines, in order, once all are ready to start."""
        self._verdict = None
        return [node]

    def failed(self, failure: Failure) -> None:
        """The first failure of this machine."""
        self._verdict = self._verdict or self._policy.verdict(failure)

    def done(self) -> None:
        """All ranks of this machine have ended well."""
        self._verdict = self._verdict or Verdict()

    def poll(self) -> Optional[Verdict]:
        """The verdict on this start, once there is one."""
        return self._verdict

    def close(self) -> None:
        """Nothing to close."""
