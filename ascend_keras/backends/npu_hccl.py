"""How the ranks of NPUs work together: how gradients are grouped into all-reduces, how long ranks wait. No TensorFlow.

HCCL takes the groups from `hccl.split.api` and its timeouts from the environment, both once per process, at the
latest when the device is opened; of two groupings it keeps the first without a word. So all is checked here first.
"""

import importlib
import numbers
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ascend_keras.backends import npu_values

CONNECT, EXEC = "HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"
CONNECT_SECONDS = (120, 7200)
# What HCCL waits for a collective where nobody says anything.
DEFAULT_EXEC_SECONDS = 1836
_EXEC_SECONDS = {"910A": (1, 17340)}
_EXEC_SECONDS_ELSEWHERE = (0, 2**31 - 1)
_STEP_OF_910A = 68
MAX_SEGMENTS = 8
_MAX_INDEX = 2**32 - 1
# Percentages are sent in steps of 1/64: HCCL wants their sum to be 100 to the last bit, also in float32.
_STEPS = 6400


class Hccl(NamedTuple):
    """Checked settings, made by `resolve`.

    Attributes:
        gradient_fusion: as given; None leaves the grouping to HCCL.
        connect_timeout, exec_timeout: seconds; None leaves the environment as it is.
        notices: texts of what is legal and yet not as one may expect.
    """

    gradient_fusion: Any = None
    connect_timeout: Optional[int] = None
    exec_timeout: Optional[int] = None
    notices: Tuple[str, ...] = ()

    @property
    def fusion(self) -> int:
        """The attribute `fusion` of an all-reduce: 0 keeps each gradient alone, 1 groups them by the strategy."""
        return 0 if _is_whole(self.gradient_fusion) and self.gradient_fusion == 0 else 1

    def given(self) -> Dict[str, Any]:
        """The settings that are not left to HCCL, by the names of the trainer's arguments."""
        pairs = (
            ("gradient_fusion", self.gradient_fusion),
            ("hccl_connect_timeout", self.connect_timeout),
            ("hccl_exec_timeout", self.exec_timeout),
        )
        return {name: value for name, value in pairs if value is not None}

    def variables(self) -> Dict[str, str]:
        """Environment variables to set before the device is opened."""
        pairs = ((CONNECT, self.connect_timeout), (EXEC, self.exec_timeout))
        return {name: str(value) for name, value in pairs if value is not None}

    def strategy(self) -> Optional[Tuple[str, List[Any]]]:
        """The function of `hccl.split.api` to call and its list; None where none is needed."""
        fusion = self.gradient_fusion
        if fusion is None or self.fusion == 0:
            return None
        if _is_whole(fusion):
            return "set_split_strategy_by_size", _percentages([1.0 / fusion] * fusion)
        if all(map(_is_whole, fusion)):
            return "set_split_strategy_by_idx", [int(index) for index in fusion]
        return "set_split_strategy_by_size", _percentages([float(share) for share in fusion])

    def apply_variables(self) -> None:
        """Sets the environment variables of this process; call it before the device is opened."""
        os.environ.update(self.variables())

    def apply_strategy(self) -> None:
        """Hands the grouping to HCCL; call it before a graph with gradients is compiled, once per process."""
        call = self.strategy()
        if call is not None:
            getattr(importlib.import_module("hccl.split.api"), call[0])(call[1])


def _percentages(shares):
    """Shares of 1 as percentages whose sum is exactly 100: in steps of 1/64, the largest remainders rounded up."""
    exact = [share / sum(shares) * _STEPS for share in shares]
    steps = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (steps[index] - exact[index], index))
    for index in by_remainder[: _STEPS - sum(steps)]:
        steps[index] += 1
    return [step * 100.0 / _STEPS for step in steps]


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def resolve(
    gradient_fusion: Any = None,
    connect_timeout: Any = None,
    exec_timeout: Any = None,
    *,
    options: Optional[Mapping[str, Any]] = None,
    adapter: Optional[str] = None,
    product: Optional[str] = None,
    ranks: int = 1,
    environ: Optional[Mapping[str, str]] = None,
) -> Tuple[Hccl, List[str]]:
    """Checks the settings, against each other, the options and the environment.

    Args:
        gradient_fusion: None (HCCL's default: two groups of 96.54 % and 3.46 % of the data), 0 (each gradient by
            itself), 1 to 8 (so many groups of equal size), a list of up to 8 fractions with the sum 1 (sizes of the
            groups in the order in which gradients are ready), or an ascending list of up to 8 whole numbers (the last
            gradient of each group, counted from 0).
        connect_timeout: 120 to 7200 seconds in which the ranks have to find each other (HCCL_CONNECT_TIMEOUT).
        exec_timeout: seconds that a collective waits for its peers (HCCL_EXEC_TIMEOUT): 1 to 17340 on a 910A, in
            steps of 68; else 0 (for ever) to 2147483647.
        options: the adapter options by canonical name, of which hccl_timeout and stream_sync_timeout matter.
        adapter: "tf115", "tf26", or None on a host, where the environment is not looked at.
        product: "910A", "A2", "A3", "950" or None.
        ranks: number of ranks.
        environ: the environment; None is this process'.

    Returns:
        (settings, problems): an `Hccl`, and a list of one-line texts, empty where all is well.
    """
    environ = os.environ if environ is None else environ
    problems = [_fusion_fault(gradient_fusion)]
    limits = _EXEC_SECONDS.get(str(product), _EXEC_SECONDS_ELSEWHERE)
    problems.append(_seconds_fault("hccl_connect_timeout", connect_timeout, CONNECT_SECONDS))
    problems.append(_seconds_fault("hccl_exec_timeout", exec_timeout, limits))
    if adapter is not None:
        problems.append(_variable_fault(environ, CONNECT, connect_timeout, "hccl_connect_timeout", CONNECT_SECONDS))
        problems.append(_variable_fault(environ, EXEC, exec_timeout, "hccl_exec_timeout", limits))
    options = options or {}
    problems.append(_option_fault(options, exec_timeout))
    problems.append(_stream_fault(options, exec_timeout, ranks, environ if adapter is not None else {}))
    found = [text for text in problems if text]
    if found:
        return Hccl(), found
    notices = _notices(exec_timeout, environ if adapter is not None else {}, product)
    return Hccl(_plain(gradient_fusion), _whole(connect_timeout), _whole(exec_timeout), notices), []


def _plain(fusion):
    """Lists become tuples, so that two trainers' settings can be compared."""
    return tuple(fusion) if isinstance(fusion, (list, tuple)) else fusion


def _whole(value):
    return None if value is None else int(value)


def _fusion_fault(fusion):
    remedy = (
        "Give None, 0 to 8 groups, fractions such as [0.6, 0.4], or the last gradient of each group, such as [3, 9]."
    )
    what = None
    if fusion is None:
        return None
    if _is_whole(fusion):
        what = None if 0 <= fusion <= MAX_SEGMENTS else "`gradient_fusion` makes at most 8 groups."
    elif not isinstance(fusion, (list, tuple)):
        what = "`gradient_fusion` must be a whole number or a list."
    elif not fusion or len(fusion) > MAX_SEGMENTS:
        what = "`gradient_fusion` must have 1 to 8 groups."
    elif all(map(_is_whole, fusion)):
        rises = all(first < second for first, second in zip(fusion, fusion[1:]))
        if not rises or fusion[0] < 0 or fusion[-1] > _MAX_INDEX:
            what = "The gradients of `gradient_fusion` must be in ascending order, from 0 on."
    elif not all(isinstance(share, float) and share > 0 for share in fusion):
        what = "`gradient_fusion` must hold either whole numbers or positive fractions (floats)."
    elif not abs(sum(fusion) - 1) < 1e-6:
        what = "The fractions of `gradient_fusion` must add up to 1."
    return npu_values.problem(what, "gradient_fusion", fusion, remedy) if what else None


def _seconds_fault(name, value, limits):
    if value is None or (_is_whole(value) and limits[0] <= value <= limits[1]):
        return None
    return npu_values.problem("`{}` must be whole seconds.".format(name), name, value, _range(limits))


def _range(limits):
    return "Give {} to {}.".format(*limits)


def _variable_fault(environ, variable, argument, name, limits):
    text = environ.get(variable, "")
    if not text:
        return None
    if not (re.fullmatch("[0-9]{1,10}", text) and limits[0] <= int(text) <= limits[1]):
        what = "The environment variable {} must be whole seconds.".format(variable)
        return npu_values.problem(what, variable, text, _range(limits))
    if argument is not None and _is_whole(argument) and argument != int(text):
        return "`{0}` and the environment variable {1} differ. Received: {0}={2}, {1}={3}. Keep one of them.".format(
            name, variable, argument, text
        )
    return None


def _option_fault(options, exec_timeout):
    option = options.get("hccl_timeout")
    if exec_timeout is None or option is None or option == exec_timeout:
        return None
    return (
        "`hccl_timeout` and `hccl_exec_timeout` say the same in two ways, and the option wins. Received: "
        "hccl_timeout={!r}, hccl_exec_timeout={!r}. Keep one of them.".format(option, exec_timeout)
    )


def _stream_fault(options, exec_timeout, ranks, environ):
    """A stream must wait longer than a collective; what the option and the environment say npu_rules checks."""
    limit = options.get("stream_sync_timeout")
    if not _is_whole(limit) or limit == -1 or options.get("hccl_timeout") is not None or environ.get(EXEC):
        return None
    source, seconds = "hccl_exec_timeout", exec_timeout
    if seconds is None and ranks > 1:
        source, seconds = "HCCL_EXEC_TIMEOUT (its default)", DEFAULT_EXEC_SECONDS
    if not _is_whole(seconds) or (seconds > 0 and limit > seconds * 1000):
        return None
    wanted = "-1" if seconds == 0 else "-1 or more than {}".format(seconds * 1000)
    return (
        "A stream must wait longer (milliseconds) than a collective does (seconds, 0 for ever). "
        "Received: stream_sync_timeout={}, {}={}. Set stream_sync_timeout to {}. [stream-timeout-order]"
    ).format(limit, source, seconds, wanted)


def _notices(exec_timeout, environ, product):
    source, seconds = "hccl_exec_timeout", exec_timeout
    if seconds is None and environ.get(EXEC):
        source, seconds = EXEC, int(environ[EXEC])
    if product != "910A" or seconds is None or seconds % _STEP_OF_910A == 0:
        return ()
    if seconds < _STEP_OF_910A:
        return ("{}={} is less than the 68 s in which a 910A counts.".format(source, seconds),)
    lowered = seconds - seconds % _STEP_OF_910A
    return ("{}={} is lowered to {}, a multiple of 68 s, on 910A.".format(source, seconds, lowered),)
