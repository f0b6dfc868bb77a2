"""A job on this machine: its ranks from start to end, again and again if asked for, and what is said of it."""

import os
import subprocess
import sys
import time
from typing import Any, List, Optional, Tuple

from ascend_keras.distributed import cores
from ascend_keras.distributed.launch import folder, front, links, machine, output, processes, rendezvous
from ascend_keras.distributed.launch.links import Failure, Verdict
from ascend_keras.distributed.launch.plan import Node, Plan, environment, job_size, log_file, rank_numbers, variables
from ascend_keras.distributed.launch.team import Rank, RankStart, Signals, Team
from ascend_keras.distributed.launch_marks import path_of_mark

# The exit status of timeout(1).
TIMED_OUT = 124
# How long another machine may take to say what follows from a failure here.
_ANSWER_SECONDS = 10.0
_TICK = 0.25
_LONG_TICK = 5.0


def supervise(plan: Plan, pipe: int) -> int:
    """Runs a job in the process that front.run has made; returns the exit status."""
    job = Job(plan, output.Display(pipe), Signals(front.handled()))
    processes.adopt_orphans()
    return job.run()


class Job:
    """One launch, on this machine."""

    def __init__(self, plan: Plan, display: output.Display, signals: Signals):
        self._plan = plan
        self._display = display
        self._signals = signals
        self._say = display.say
        self._began = time.monotonic()
        self._numbers: List[int] = []

    def run(self) -> int:
        """Starts all ranks until they have ended well or may not be started again."""
        restarts, link = 0, links.Alone(0)
        try:
            link = self._link()
            verdict = self._start(link, restarts)
            while verdict.failure and verdict.restart:
                restarts += 1
                text = "{}. All ranks were ended; this is restart {} of {}."
                self._tell(verdict.failure, text.format(verdict.failure.text, restarts, self._plan.max_restarts))
                verdict = self._start(link, restarts)
            link.close()
        except rendezvous.RendezvousError as error:
            self._say(str(error))
            verdict = Verdict(Failure("", 1))
        except links.Interrupted:
            stopped = self._interruption()
            verdict = Verdict(stopped)
            link.failed(stopped)
            link.close()
            text = "{}; no rank was started again" if restarts else "{}; no rank had been started"
            self._say(text.format(stopped.text))
        else:
            self._conclude(verdict)
        self._flush()
        return verdict.failure.code if verdict.failure else 0

    def _link(self) -> Any:
        if self._plan.nodes > 1 and self._plan.master:
            return rendezvous.link(self._plan, self._say)
        return links.Alone(self._plan.max_restarts)

    def _start(self, link, restarts: int) -> Verdict:
        """One start of all ranks, to its end."""
        ports = machine.Ports(len(self._plan.devices) + 1)
        *own, chief = ports.numbers
        device, job_id = self._plan.devices[0] or 0, self._plan.job_id
        node = Node(len(self._plan.devices), address(self._plan), own, chief, device, job_id)
        nodes = link.meet(node, self._tick)
        ports.release()
        if not nodes:
            return link.poll()
        # It may have come while the ranks of the start before were ended.
        self._tick()
        team = Team(self._display, self._signals, link.sockets())
        try:
            failure = self._start_ranks(team, nodes, restarts)
            if failure:
                link.failed(failure)
            verdict = _Watch(self._plan, team, link, self._signals).verdict()
            if verdict.failure:
                self._say(verdict.failure.text + "; ending all ranks")
        finally:
            ended = team.end()
            team.close()
        if ended and not verdict.failure:
            self._say("ended {} {} that ranks had left behind".format(ended, _count("process", ended)))
        return verdict

    def _start_ranks(self, team: Team, nodes: List[Node], restarts: int) -> Optional[Failure]:
        self._numbers = rank_numbers(self._plan, nodes)
        if not restarts:
            self._announce(nodes)
        starts = self._starts(nodes, restarts)
        try:
            folder.forget(self._plan.log_dir, self._numbers, verdict=self._plan.node == 0)
            team.start(starts, "restart {}".format(restarts) if restarts else "a new launch")
        except (OSError, subprocess.SubprocessError) as error:
            return Failure("a rank could not be started: {}".format(error), 1, self._plan.node)
        return None

    def _starts(self, nodes: List[Node], restarts: int) -> List[RankStart]:
        single = job_size(self._plan, nodes) == 1
        starts = []
        for local, values in enumerate(variables(self._plan, nodes, restarts)):
            number = self._numbers[local]
            starts.append(
                RankStart(
                    "" if single else "rank {}".format(number),
                    self._plan.shows_all or number == 0,
                    number,
                    self._plan.command,
                    environment(values, os.environ),
                    self._plan.cores[local] if self._plan.cores else None,
                    log_file(self._plan, number),
                    path_of_mark(self._plan.log_dir, number),
                )
            )
        return starts

    def _tick(self) -> None:
        if self._signals.received:
            raise links.Interrupted
        self._display.flush()

    def _interruption(self) -> Failure:
        return interruption(self._signals.received[0], self._plan)

    # --- what is said -----------------------------------------------------------------------------------------------

    def _announce(self, nodes: List[Node]) -> None:
        size, here = job_size(self._plan, nodes), len(self._numbers)
        text = "{} {}".format(size, _count("rank", size))
        if here < size:
            text += ", {} of them here (node {} of {})".format(here, self._plan.node, self._plan.nodes)
        devices = [device for device in self._plan.devices if device is not None]
        on = "NPU " + ", ".join(map(str, devices)) if devices else "this host"
        self._say("{}, on {}; logs: {}".format(text, on, os.path.join(self._plan.log_dir, "rank_*.log")))
        for number, share in zip(self._numbers, self._plan.cores or ()):
            self._say("rank {}: cores {}".format(number, cores.as_text(share)))

    def _conclude(self, verdict: Verdict) -> None:
        self._display.tell_dropped()
        seconds, failure = time.monotonic() - self._began, verdict.failure
        if not failure:
            self._say("all ranks have ended well after {:.1f} s".format(seconds))
            return
        text = "{}. All ranks were ended after {:.1f} s; exit code {}.".format(failure.text, seconds, failure.code)
        self._tell(failure, text)

    def _tell(self, failure: Failure, text: str) -> None:
        """The last lines of a rank that failed, and then what happened, where one looks first."""
        if failure.log:
            where = failure.log if failure.node == self._plan.node else "node {}, {}".format(failure.node, failure.log)
            told = "The last lines of {}:" if failure.tail else "Nothing was printed to {}."
            self._say("\n".join([told.format(where)] + ["  | " + line for line in failure.tail]))
        self._say(text)

    def _flush(self) -> None:
        """Everything to the front; it reads until the end, whatever the terminal does."""
        while self._display.waiting:
            self._display.flush()
            time.sleep(0.001)


class _Watch:
    """Waits for what ends a start."""

    def __init__(self, plan: Plan, team: Team, link, signals: Signals):
        self._plan = plan
        self._team = team
        self._link = link
        self._signals = signals
        self._began = time.monotonic()
        self._unmarked = list(team.ranks) if plan.timeout else []
        self._told: Optional[Tuple[Failure, float]] = None
        self._is_done = False

    def verdict(self) -> Verdict:
        """The verdict on this start: of this launcher, or of the first one."""
        while True:
            ended = self._team.wait(_TICK if self._unmarked or self._told else _LONG_TICK)
            if self._signals.received:
                stopped = interruption(self._signals.received[0], self._plan)
                self._link.failed(stopped)
                return Verdict(stopped)
            failure = self._failure_of(ended) or self._late()
            if failure and not self._told:
                self._told = (failure, time.monotonic())
                self._link.failed(failure)
            if not failure and not self._told and not self._is_done and not self._team.is_running:
                self._is_done = True
                self._link.done()
            verdict = self._link.poll()
            if verdict:
                return verdict
            if self._told and time.monotonic() - self._told[1] > _ANSWER_SECONDS:
                return Verdict(self._told[0])

    def _failure_of(self, ended: List[Rank]) -> Optional[Failure]:
        failed = [(rank.returncode, rank) for rank in ended if rank.returncode]
        if not failed:
            return None
        # Of several seen at once, one that was killed is rather the cause than one that gave up.
        code, first = min(failed, key=lambda each: each[0] > 0)
        self._team.read_all(first)
        return self._failure(first, "failed: " + processes.describe_status(code), processes.exit_code(code))

    def _late(self) -> Optional[Failure]:
        self._unmarked = [
            rank for rank in self._unmarked if rank.returncode is None and not os.path.exists(rank.start.mark)
        ]
        seconds = self._plan.timeout or 0.0
        if not self._unmarked or time.monotonic() - self._began < seconds:
            return None
        text = "has not started: it made no trainer within {:g} s (--timeout)".format(seconds)
        return self._failure(self._unmarked[0], text, TIMED_OUT)

    def _failure(self, rank: Rank, text: str, code: int) -> Failure:
        node = self._plan.node
        where = " on node {}".format(node) if self._plan.nodes > 1 else ""
        return Failure(
            "rank {}{} {}".format(rank.start.rank, where, text),
            code,
            node,
            rank.stream.tail(),
            rank.start.log,
            code != links.USAGE,
        )


def interruption(number: int, plan: Plan) -> Failure:
    """What a signal to the launcher means for the job."""
    name = processes.describe_status(-number).rpartition(" ")[2]
    where = " on node {}".format(plan.node) if plan.nodes > 1 else ""
    text = "the launch was ended by {}{}".format(name, where)
    return Failure(text, 128 + number, plan.node, restartable=False)


def address(plan: Plan) -> str:
    """Under which others reach this machine, as far as it knows before the launchers meet."""
    return "127.0.0.1" if plan.nodes == 1 or not plan.master else plan.master[0]


def _count(word: str, number: int) -> str:
    return word if number == 1 else word + ("es" if word.endswith("s") else "s")


def prepare(plan: Plan) -> Tuple[Plan, int]:
    """Makes the folder of the logs, and in it what the ranks read.

    Returns:
        The plan, with the folder that was made, and the file descriptor that keeps other launches out of it.

    Raises:
        folder.BusyError: another launch uses it.
        OSError: it cannot be made.
    """
    if plan.log_dir_is_new:
        plan = plan._replace(log_dir=folder.claim(plan.log_dir))
        if plan.table_text and plan.rank_table:
            plan = plan._replace(rank_table=os.path.join(plan.log_dir, os.path.basename(plan.rank_table)))
    os.makedirs(plan.log_dir, exist_ok=True)
    lock = folder.lock(plan.log_dir, plan.node)
    if plan.table_text and plan.rank_table:
        folder.write(plan.rank_table, plan.table_text)
    return plan, lock


def run(plan: Plan) -> int:
    """Runs a job from the process at the terminal; returns the exit status."""
    try:
        plan, lock = prepare(plan)
    except OSError as error:
        text = "ascend-keras launch: The logs cannot be written: {}. Received: --log-dir {}.\n"
        sys.stderr.write(text.format(error, plan.log_dir))
        return 2
    for warning in plan.warnings:
        output.say("warning: " + warning)
    try:
        return front.run(lambda pipe: supervise(plan, pipe))
    finally:
        os.close(lock)
