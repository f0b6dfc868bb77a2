"""The ranks of this machine: started, listened to, and ended with all their descendants."""

import os
import selectors
import signal
import subprocess
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ascend_keras.distributed.launch import output, processes

# How long ranks have, after SIGTERM, to end by themselves.
GRACE_SECONDS = 5.0
# A process that SIGKILL does not end hangs in the kernel, on a dead file server or device, or is another user's.
KILL_SECONDS = 10.0
_CHUNK = 1 << 16
# A pipe holds 1 MB at most.
_PIPES_FULL = 16
_TICK = 0.02


class RankStart(NamedTuple):
    """How to start a rank.

    Attributes:
        name: what its lines begin with on the terminal, "" for nothing.
        shown: whether the terminal gets its output.
        rank: its number among all ranks of the job.
        command: program and arguments.
        environ: its whole environment.
        cores: those it is bound to, or None.
        log: path of its log.
        mark: path of the file that says that it has started; see distributed.launch_marks.
    """

    name: str
    shown: bool
    rank: int
    command: List[str]
    environ: Dict[str, str]
    cores: Optional[List[int]]
    log: str
    mark: str


class Signals:
    """The signals that ask for the end of the job, in the order of their arrival; SIGCHLD only wakes `select`."""

    def __init__(self, numbers: Sequence[int]):
        self.received: List[int] = []
        self._requests = processes.Requests()
        self.reading, writing = os.pipe()
        for end in (self.reading, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._take)
        signal.signal(signal.SIGCHLD, lambda number, _: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, list(numbers) + [signal.SIGCHLD])

    def _take(self, number, _) -> None:
        self.received.append(number)
        self._requests.add()

    @property
    def hurry(self) -> bool:
        """Whether the end was asked for more than once."""
        return self._requests.count > 1

    def drain(self) -> None:
        """Makes the pipe silent until the next signal."""
        try:
            while os.read(self.reading, 512):
                pass
        except BlockingIOError:
            return


class Rank:
    """One process of the job, whether it runs or has ended.

    Attributes:
        returncode: as subprocess has it; None as long as it runs.
    """

    def __init__(self, start: RankStart, stream: output.Stream):
        self.start = start
        self.stream = stream
        self.returncode: Optional[int] = None
        self.pipe, writing = os.pipe()
        parent = os.getpid()
        try:
            self.process = subprocess.Popen(
                start.command,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                env=start.environ,
                start_new_session=True,
                preexec_fn=lambda: processes.prepare_rank(parent, start.cores),
            )
        finally:
            os.close(writing)
        os.set_blocking(self.pipe, False)

    def ended(self, status: int) -> None:
        """Takes the status of `waitpid`."""
        self.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self.process.returncode = self.returncode


class Team:
    """The ranks that this launcher runs, from their start to their end."""

    def __init__(self, display: output.Display, signals: Signals, others: Sequence[Any] = ()):
        self.ranks: List[Rank] = []
        self._display = display
        self._signals = signals
        self._others = list(others)
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.reading, selectors.EVENT_READ)
        for other in self._others:
            self._selector.register(other, selectors.EVENT_READ)
        self._writing = False

    def start(self, starts: Sequence[RankStart], name: str) -> None:
        """Starts all ranks.

        Args:
            name: what a log that has lines already gets as a separator, such as "restart 1".
        """
        for start in starts:
            stream = output.Stream(start.name, start.log, self._display, start.shown)
            stream.separate(name)
            if os.path.exists(start.mark):
                os.unlink(start.mark)
            rank = Rank(start, stream)
            self.ranks.append(rank)
            self._selector.register(rank.pipe, selectors.EVENT_READ, rank)

    def wait(self, timeout: float) -> List[Rank]:
        """Passes output on until something else happens, or `timeout` seconds; the ranks that ended meanwhile."""
        self._watch_display()
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                self._read(key.data)
        self._signals.drain()
        self._display.flush()
        return self._reap()

    def _watch_display(self) -> None:
        waiting = bool(self._display.waiting)
        if waiting and not self._writing:
            self._selector.register(self._display.pipe, selectors.EVENT_WRITE)
        elif self._writing and not waiting:
            self._selector.unregister(self._display.pipe)
        self._writing = waiting

    def _read(self, rank: Rank) -> bool:
        """Reads once; whether there may be more."""
        try:
            data = os.read(rank.pipe, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            rank.stream.feed(data)
        else:
            self._close(rank)
        return bool(data)

    def read_all(self, rank: Rank) -> None:
        """Takes what a rank that has ended has printed, so far as its pipe holds it."""
        for _ in range(_PIPES_FULL):
            # What it left running may go on printing, so this has an end.
            if rank.pipe < 0 or not self._read(rank):
                return

    def _close(self, rank: Rank) -> None:
        if rank.pipe >= 0:
            self._selector.unregister(rank.pipe)
            os.close(rank.pipe)
            rank.pipe = -1
            rank.stream.close()

    def _reap(self) -> List[Rank]:
        by_pid = {rank.process.pid: rank for rank in self.ranks if rank.returncode is None}
        found = []
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                # Others are orphans that this process adopted.
                if pid in by_pid:
                    by_pid[pid].ended(status)
                    found.append(by_pid[pid])
        except ChildProcessError:
            return found
        return found

    @property
    def is_running(self) -> bool:
        """Whether a rank has not ended yet."""
        return any(rank.returncode is None for rank in self.ranks)

    def end(self, grace: float = GRACE_SECONDS) -> int:
        """Ends all ranks and what descends from them; takes all they have printed.

        Args:
            grace: seconds from SIGTERM to SIGKILL; what is stopped, and what runs when the end is asked for again,
                gets SIGKILL at once.
        Returns:
            How many processes there were to end.
        """
        begin = time.monotonic()
        asked: Dict[int, int] = {}
        while True:
            left = self._left()
            passed = time.monotonic() - begin
            if not left or passed > grace + KILL_SECONDS:
                # Those that have ended since `left` was made are zombies yet.
                self._reap()
                break
            hurry = passed >= grace or self._signals.hurry
            for pid, state in left.items():
                number = signal.SIGKILL if hurry or state in "Tt" else signal.SIGTERM
                if asked.get(pid) != number:
                    asked[pid] = number
                    processes.send(pid, number)
            self.wait(_TICK)
        self._drain()
        for pid, state in left.items():
            self._display.say("process {} cannot be ended (state {} in /proc/{}/stat)".format(pid, state, pid))
        return len(asked)

    def _left(self) -> Dict[int, str]:
        self._reap()
        try:
            # All descendants are below a child, as this process adopts orphans.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return {}
        return processes.descendants(os.getpid())

    def _drain(self) -> None:
        for rank in self.ranks:
            self.read_all(rank)
            self._close(rank)

    def close(self) -> None:
        """Gives the selector back; the ranks have ended."""
        self._selector.close()
