"""What ranks print: raw into a file each, in whole lines on the terminal, and the last lines in memory.

Everything is bytes: a rank may print what it likes.
"""

import collections
import os
import struct
import sys
import time
from typing import Deque, List, Optional

TAIL = 20
# A line longer than this is shown in pieces; what has no end must not fill the memory.
LONGEST = 1 << 16
# Of each line that is kept for the report of a failure.
KEPT = 2000
# A progress bar paints itself many times a second; that is one line a second here.
REFRESH_SECONDS = 1.0
# What waits for a terminal that does not take it. Beyond that, lines are dropped from the terminal, not from the logs.
WAITING = 8 << 20
STDOUT, STDERR = 1, 2
HEADER = struct.Struct(">BI")


class Lines:
    """Cuts a stream of bytes into lines, as a terminal shows them in the end: after a \\r, a line begins anew."""

    def __init__(self, clock=time.monotonic):
        self.tail: Deque[bytes] = collections.deque(maxlen=TAIL)
        self._clock = clock
        self._rest = b""
        self._painted_at = clock()

    def feed(self, data: bytes) -> List[bytes]:
        """The lines that `data` completes, without their ends."""
        pieces = (self._rest + data).split(b"\n")
        lines = [_last_painted(piece) for piece in pieces[:-1]]
        self._rest = pieces[-1]
        if b"\r" in self._rest[:-1]:
            lines += self._repaint()
        while len(self._rest) > LONGEST:
            lines.append(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]
        self.tail.extend(line[:KEPT] for line in lines)
        return lines

    def finish(self) -> List[bytes]:
        """What stands at the end without a newline."""
        lines = [_last_painted(self._rest)] if self._rest else []
        self._rest = b""
        self.tail.extend(line[:KEPT] for line in lines)
        return lines

    def last(self) -> List[bytes]:
        """The last TAIL lines, one that has no end yet among them."""
        unfinished = [_last_painted(self._rest)[:KEPT]] if self._rest else []
        return (list(self.tail) + unfinished)[-TAIL:]

    def _repaint(self) -> List[bytes]:
        """Of a line that is painted over and over, now and then, what was painted last."""
        whole, _, following = self._rest.rpartition(b"\r")
        painted = _last_painted(whole)
        self._rest = painted + b"\r" + following
        if not painted or self._clock() - self._painted_at < REFRESH_SECONDS:
            return []
        self._painted_at = self._clock()
        return [painted]


def _last_painted(piece: bytes) -> bytes:
    painted = [part for part in piece.split(b"\r") if part]
    return painted[-1] if painted else b""


class Stream:
    """The output of one rank.

    Args:
        name: how its lines are told from those of others on the terminal; "" shows its output as it is.
        log: path of the file that everything is appended to.
        shown: whether the terminal gets it too.
    """

    def __init__(self, name: str, log: str, display: "Display", shown: bool = True):
        self.log = log
        self._prefix = "[{}] ".format(name).encode() if name else b""
        self._display = display
        self._shown = shown
        self._lines = Lines()
        self._file: Optional[int] = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def tail(self) -> List[str]:
        """The last lines, whatever bytes they were made of."""
        return [line.decode(errors="replace") for line in self._lines.last()]

    def feed(self, data: bytes) -> None:
        """Takes what was read from the rank."""
        self._save(data)
        lines = self._lines.feed(data)
        if self._prefix:
            self._show(lines)
        elif self._shown:
            self._display.show(STDOUT, data)

    def close(self) -> None:
        """Takes the end of the output."""
        lines = self._lines.finish()
        if self._prefix:
            self._show(lines)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def separate(self, text: str) -> None:
        """Writes a line of the launcher into the log, if there is something in it already."""
        if os.path.getsize(self.log):
            self._save("---------- {} ----------\n".format(text).encode())

    def _show(self, lines: List[bytes]) -> None:
        if lines and self._shown:
            self._display.show(STDOUT, b"".join(self._prefix + line + b"\n" for line in lines))

    def _save(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self._file is not None:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            # A full disk is no reason to end a training that still prints to the terminal.
            os.close(self._file or 0)
            self._file = None
            self._display.say("{} cannot be written any more: {}".format(self.log, error))


class Display:
    """The way to the terminal: a pipe to the process that writes there, which may take its time.

    Args:
        pipe: file descriptor that does not block; each write is a frame of (1 or 2, length) and bytes.
    """

    def __init__(self, pipe: int):
        self.pipe = pipe
        self.waiting = bytearray()
        self._dropped = 0
        os.set_blocking(pipe, False)

    def say(self, text: str) -> None:
        """A message of the launcher itself, on stderr."""
        for line in text.split("\n"):
            self.show(STDERR, "[launch] {}\n".format(line).encode(errors="replace"))

    def show(self, target: int, data: bytes) -> None:
        """Shows bytes, at once or later; never waits."""
        if target == STDOUT and len(self.waiting) > WAITING:
            self._dropped += data.count(b"\n")
            return
        if len(self.waiting) < WAITING // 2:
            self.tell_dropped()
        self.waiting += HEADER.pack(target, len(data)) + data
        self.flush()

    def tell_dropped(self) -> None:
        """Says how much was not shown, if anything."""
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self.say("{} lines were not shown, as the terminal takes no more; the logs have them".format(count))

    def flush(self) -> None:
        """Hands on what the pipe takes."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.pipe, self.waiting)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The process at the terminal is gone, and this one will get its signal.
            self.waiting.clear()


def say(text: str) -> None:
    """A message of the launcher before there is a Display."""
    for line in text.split("\n") if sys.stderr else ():
        sys.stderr.write("[launch] {}\n".format(line))
    if sys.stderr:
        sys.stderr.flush()
