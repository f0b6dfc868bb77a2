"""The numbers of dynamic loss scaling, and what a loss-scale argument may be. No TensorFlow."""

import contextlib
import math
from typing import Any, Callable, NamedTuple, Optional

INITIAL_SCALE = 2.0**15
GROWTH_STEPS = 2000


class FloatStatus(NamedTuple):
    """How a device that clips overflow instead of showing Inf tells of it.

    Attributes:
        read: returns the status, int32 of shape (8,), all zero when no operation overflowed.
        clear: returns an operation that zeroes the status.
        all_reduce: sums a status over the ranks; None for one rank.
    """

    read: Callable[[], Any]
    clear: Callable[[], Any]
    all_reduce: Optional[Callable[[Any], Any]] = None


def parse_loss_scale(text):
    """Turns the text of a flag into a `loss_scale` argument: "none", "auto", "dynamic" or a number.

    Raises:
        ValueError: the text is none of these.
    """
    value: Any = None if text.lower() == "none" else text
    with contextlib.suppress(ValueError):
        value = float(text)
    problem = check_loss_scale(value)
    if problem:
        raise ValueError(problem)
    return value


def check_loss_scale(loss_scale):
    """Returns a message that says what is wrong with a `loss_scale` argument, or None if nothing is."""
    if loss_scale is None or loss_scale in ("auto", "dynamic"):
        return None
    number = isinstance(loss_scale, (int, float)) and not isinstance(loss_scale, bool)
    if number and math.isfinite(loss_scale) and loss_scale >= 1:
        return None
    return (
        "loss_scale must be None, 'auto', 'dynamic' or a number >= 1. Received: loss_scale={!r}. "
        "A fixed scale is usually a power of two, such as 1024.".format(loss_scale)
    )
