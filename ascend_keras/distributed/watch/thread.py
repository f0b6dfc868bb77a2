"""The thread that watches over a run, and the end of a process that no longer gets on."""

import faulthandler
import os
import sys
import threading
import time
from typing import Dict, Optional, Tuple

from ascend_keras.distributed.watch import progress, stacks, verdict
from ascend_keras.distributed.watch.progress import Position, Record
from ascend_keras.log import logger

# Exit code of a process that the watchdog ends: EX_TEMPFAIL of sysexits.h, "try again later".
EXIT_CODE = 75
# File descriptor of the stacks and of the message: that of the process, whatever sys.stderr is by now.
_STDERR = 2
# A step may take this many times as long as the longest of its phase so far.
_SLOWER = 3.0
# Seconds that the end may take, before it is forced.
_LAST = 10.0


class Watch:
    """Watches over a run from a thread beside it.

    The time without progress is what the thread has seen itself: while the process is suspended, nothing adds up.

    Args:
        timeout: seconds without a step after which the process is ended. Between two steps, where code of callbacks
            runs, it counts as well that the thread moves.
        compile_timeout: the same until the first step of a phase is done, which compiles; and the longest that
            anything may take between two steps without a call of a hook or of `beat`. A step is what stands between
            two hooks, many steps of one execution too: where one has taken long, the next of its phase may take three
            times as long.
        rank, ranks: this rank, None where it is not known, and how many there are.
        folder: the common folder of all ranks for their progress; None writes none.
        native: whether a native call that never gives Python's lock back is ended too, by a timer of `faulthandler`
            (exit code 1). A process that was stopped for longer than the timeout cannot be told from one.
        report: seconds of compiling after which rank 0 says so first; then each time when twice as many have passed.
    """

    def __init__(self, timeout, compile_timeout, rank=0, ranks=1, folder=None, native=True, report=30.0):
        self._limits = timeout, max(timeout, compile_timeout)
        self._rank, self._ranks, self._folder = rank, ranks, folder if rank is not None else None
        self._native, self._report = native, report
        self._attempt = os.environ.get("ASCEND_KERAS_RESTARTS", "0")
        self._period = min(1.0, timeout / 10.0)
        # How long two looks at the other ranks are apart: a living rank writes many times in between, and a network
        # file system shows it.
        self._grace = max(1.0, min(timeout / 10.0, 60.0))
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._trains, self._clock = 0, None
        self._position, self._compiled, self._finished = Position(), False, False
        self._clear()

    def _clear(self):
        self._longest: Dict[str, float] = {}  # seconds of the longest step, by phase
        self._passed = self._began = 0.0  # seconds that the thread has seen, and of these when the step began
        self._seen = None
        self._idle = self._quiet = 0.0  # seconds without any sign of life, and without a hook
        self._written = 0
        self._seen_at: Tuple = ()
        self._first_look: Optional[Dict[int, Record]] = None
        self._looked_at = 0.0
        self._next_report = self._report
        self._said_debugger = False

    # --- called by the thread that trains -----------------------------------------------------------------------------

    def start(self):
        """Begins to watch over the thread that calls it, or a new run where it does already."""
        progress.begin_run(id(self))
        self._position, self._compiled, self._finished = Position(), False, False
        if self._thread is not None:
            return
        self._trains, self._clock = threading.get_ident(), stacks.cpu_clock()
        self._clear()
        if self._folder and self._rank == 0:
            verdict.forget(self._folder)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="ascend_keras watchdog", daemon=True)
        self._thread.start()

    def stop(self, finished=False):
        """Ends the thread. Further calls do nothing.

        Args:
            finished: whether the run has come to its end.
        """
        progress.end_run(id(self))
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._finished = finished
        self._stopped.set()
        thread.join(_LAST)  # it may hang itself, in a file system that is gone

    def at(self, position: Position, compiled: bool):
        """Tells where the run is; called by every hook.

        Args:
            position: where.
            compiled: whether the first step of this phase is done.
        """
        was_in_step, shorter = self._position.in_step, compiled and not self._compiled
        if position.in_step:
            self._began = self._passed
        elif was_in_step:
            self._longest[position.phase] = max(self._longest.get(position.phase, 0.0), self._passed - self._began)
        progress.advance(position.in_step or was_in_step)
        self._position, self._compiled = position, compiled
        if shorter and self._native and self._thread is not None:
            self._put_off(self._limit())  # the next call may not let the thread do it

    def _limit(self) -> float:
        """Seconds without progress that are too many where the run is now."""
        if not self._compiled:
            return self._limits[1]
        return max(self._limits[0], _SLOWER * self._longest.get(self._position.phase, 0.0))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self):
        before = time.monotonic()
        try:
            self._write()
            while not self._stopped.wait(self._period):
                now = time.monotonic()
                # A thread that was not woken was not looking either: the machine was suspended, or is overloaded.
                self._look(min(now - before, 2 * self._period))
                before = now
            self._write(ended=True)
        finally:
            faulthandler.cancel_dump_traceback_later()  # nobody puts it off any more

    def _look(self, passed: float):
        self._passed += passed
        position, compiled = self._position, self._compiled
        sign = position.events, progress.beats()
        if sign != self._seen:
            self._seen, self._idle, self._quiet, self._next_report = sign, 0.0, 0.0, self._report
        else:
            self._idle += passed
            self._quiet += passed
        if not position.in_step and self._moves():
            self._idle = 0.0
        limit = self._limit()
        self._write()
        self._arm(limit)
        if position.in_step and not compiled:
            self._report_compiling(position)
        if self._idle < limit and self._quiet < max(limit, self._limits[1]):
            self._first_look = None
        else:
            self._overdue(position)

    def _moves(self) -> bool:
        before, self._seen_at = self._seen_at, stacks.signature(self._trains, self._clock)
        return self._seen_at != before

    def _record(self, ended=False) -> Record:
        code = stacks.code_at(self._trains) if self._idle > self._limits[0] / 4 else ""
        idle = round(self._idle, 1)
        told = self._rank, self._position, self._written, idle, code, ended, self._attempt
        return Record(*told, limit=self._limit(), order=progress.order(), finished=self._finished)

    def _write(self, ended=False):
        self._written += 1
        if not self._folder:
            return
        try:
            progress.write(self._folder, self._record(ended))
        except OSError as error:
            logger.warning("the progress of rank %s cannot be written, so others cannot name it: %s", self._rank, error)
            self._folder = None

    def _arm(self, limit):
        if self._native:
            self._put_off(max(0.0, limit - self._idle))

    def _put_off(self, seconds):
        faulthandler.dump_traceback_later(seconds + 3 * self._grace, exit=True, file=_STDERR)

    def _report_compiling(self, position):
        if self._rank in (0, None) and self._quiet >= self._next_report:
            self._next_report *= 2
            logger.info(
                "compiling, %.0f s so far (first step %s: first data, graph and kernels)",
                self._quiet,
                position.activity,
            )

    # --- the end ------------------------------------------------------------------------------------------------------

    def _overdue(self, position):
        holder = stacks.debugger(self._trains)
        if holder:
            if not self._said_debugger:
                logger.warning(
                    "no step for %.0f s, but a debugger is at work (%s): nothing is ended", self._idle, holder
                )
            self._said_debugger = True
            self._idle = self._quiet = 0.0
            self._began = self._passed
            return
        if not self._folder or self._ranks == 1:
            self._end(None, position)
            return
        found = verdict.known(self._folder) or self._ask_others()
        if found:
            self._end(found, position)

    def _ask_others(self) -> Optional[str]:
        """The verdict, once two looks at the others have been far enough apart; None until then."""
        records = progress.read_all(self._folder, self._ranks, self._attempt)
        if self._first_look is None:
            self._first_look, self._looked_at = records, self._quiet
        if self._quiet - self._looked_at < self._grace:
            return None
        first, self._first_look = self._first_look, None
        silent = [rank for rank, record in records.items() if record == first.get(rank) and not record.ended]
        silent = [rank for rank in silent if rank != self._rank]
        busy = verdict.alive(records, self._record(), self._limits[0])
        if any(self._quiet < max(self._limits[1], busy[rank].limit) for rank in set(busy) - set(silent)):
            return None  # they get on, and it is for them to say when they no longer do
        started = progress.started_into(self._folder, self._ranks)
        return verdict.settle(self._folder, verdict.judge(records, self._ranks, silent, started).text)

    def _end(self, found, position):
        faulthandler.dump_traceback_later(_LAST, exit=True, file=_STDERR)  # whatever is locked below
        try:
            faulthandler.dump_traceback(_STDERR, all_threads=True)
            flushing = threading.Thread(target=_flush, daemon=True)
            flushing.start()
            flushing.join(_LAST / 4)
            os.write(_STDERR, self._message(found, position).encode("utf-8", "backslashreplace"))
        finally:
            os._exit(EXIT_CODE)

    def _message(self, found, position) -> str:
        code, doing = stacks.code_at(self._trains), progress.note()
        text = "made no step for {:.0f} s" if position.in_step else "did not get on for {:.0f} s"
        own = "rank {} {}: {}{}, {}{}{}".format(
            "?" if self._rank is None else self._rank,
            text.format(self._quiet),
            "last " if position.step else "at ",
            position,
            position.activity,
            ": {}".format(doing) if doing and not position.in_step else "",
            ", at {}".format(code) if code else "",
        )
        lines = [] if found is None else [found]
        lines += [own, "the stacks of its threads stand above; exit code {}".format(EXIT_CODE)]
        return "".join("[ascend_keras] watchdog: {}\n".format(line) for line in lines)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
