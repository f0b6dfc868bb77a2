"""How far a long command is: a bar on a terminal, a line now and then anywhere else. On stderr."""

import sys
import threading
import time

_BAR = 30
# Seconds between two drawings, and between two lines where nobody watches.
_REDRAW = 0.2
_LINE = 30.0


class Progress:
    """Counts items from several threads and shows how many are done.

    Args:
        total: number of items.
        unit: what they are called, such as "images".
        show: False counts without a word.
        stream: where to write; None takes stderr.
        clock: a function that gives seconds.
    """

    def __init__(self, total, unit="images", show=True, stream=None, clock=time.monotonic):
        self._total, self._unit, self._show, self._clock = total, unit, show, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._lock = threading.Lock()
        self._done, self._before = 0, 0
        self._start = self._shown = clock()

    @property
    def done(self):
        """Number of items done so far."""
        return self._done

    def skip(self, count):
        """Counts items that were done by an earlier run: they tell nothing about the speed of this one."""
        with self._lock:
            self._done += count
            self._before += count

    def step(self, count=1):
        """Counts items."""
        with self._lock:
            self._done += count
            now = self._clock()
            if now - self._shown >= (_REDRAW if self._terminal else _LINE):
                self._shown = now
                self._write(self.text())

    def close(self):
        """Draws the bar a last time and leaves its line."""
        if self._terminal and self._show:
            self._write(self.text())
            self._stream.write("\n")
            self._stream.flush()

    def text(self):
        """The line that is shown, without the bar."""
        seconds = self._clock() - self._start
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate > 0 else 0
        return "{:,} of {:,} {}, {:,.0f} a second, {} left".format(
            self._done, self._total, self._unit, rate, _duration(left)
        )

    def _write(self, text):
        if not self._show:
            return
        if self._terminal:
            filled = _BAR * self._done // max(self._total, 1)
            self._stream.write("\r[{}{}] {}\033[K".format("#" * filled, "." * (_BAR - filled), text))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "{}:{:02d}:{:02d}".format(hours, minutes, seconds)
