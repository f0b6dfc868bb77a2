"""What the threads of this process are doing, seen from a thread beside them."""

import os
import re
import sys
import threading
import time
from typing import List, Optional, Tuple

# Packages whose frames mean that the machinery of training runs, or waits, itself.
_MACHINERY = ("tensorflow", "tensorflow_core", "keras", "tf_keras", "npu_bridge", "npu_device", "hccl")
_DEBUGGERS = ("pdb", "bdb", "ipdb", "pydevd", "_pydevd_bundle", "debugpy")
_STANDARD = os.path.dirname(os.__file__) + os.sep
_STATUS = "/proc/self/status"


def _frames(thread: int) -> List:
    """The frames of a thread, outermost first."""
    frame = sys._current_frames().get(thread)
    found: List = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def cpu_clock() -> Optional[int]:
    """The clock of the processor time of the thread that calls this; None where the system has none."""
    # To be asked for by the thread itself: for one that has ended it is undefined.
    return time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None


def signature(thread: int, clock: Optional[int]) -> Tuple:
    """Changes when a thread has moved: it has used the processor, or its Python code is elsewhere.

    A thread that waits, in Python or in a native call, does neither. The place alone does not do: a loop around a
    native call is nearly always seen inside of it.

    Args:
        thread: identifier of the thread.
        clock: `cpu_clock()` of the thread.
    """
    try:
        used = None if clock is None else time.clock_gettime(clock)
    except OSError:  # the thread has ended
        used = None
    return (used,) + tuple((id(frame.f_code), frame.f_lasti) for frame in _frames(thread))


def _package(frame) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def _is_standard(frame) -> bool:
    path = frame.f_code.co_filename
    return path.startswith("<frozen") or (path.startswith(_STANDARD) and "site-packages" not in path)


def _code_of(thread: int, always: bool) -> str:
    """The innermost function that runs on top of TensorFlow or Keras in a thread, "" where they run themselves.

    Args:
        thread: the thread.
        always: whether to look at a thread in which neither of them runs.
    """
    frames = _frames(thread)
    machinery = [index for index, frame in enumerate(frames) if _package(frame) in _MACHINERY]
    if not machinery and not always:
        return ""
    above = frames[machinery[-1] + 1 :] if machinery else frames
    for frame in reversed(above):
        if not _is_standard(frame):
            code = frame.f_code
            return "{} ({}:{})".format(code.co_name, os.path.basename(code.co_filename), frame.f_lineno)
    return ""


def code_at(thread: int) -> str:
    """Where Python code runs that is neither TensorFlow's nor Keras': "name (file:line)" or "".

    Args:
        thread: the thread that trains; of the others those count in which TensorFlow calls Python, such as for a
            dataset made from a generator.
    """
    own = threading.get_ident()
    found = _code_of(thread, always=True)
    others = (other for other in sorted(sys._current_frames()) if other not in (own, thread))
    return found or next(filter(None, (_code_of(other, always=False) for other in others)), "")


def debugger(thread: int) -> Optional[str]:
    """The debugger that holds this process, None without one."""
    for frame in _frames(thread):
        if _package(frame) in _DEBUGGERS:
            return _package(frame)
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as stream:
            tracer = re.search(r"^TracerPid:\s*([1-9]\d*)", stream.read(), re.MULTILINE)
    except OSError:
        return None
    return "process {}".format(tracer.group(1)) if tracer else None
