"""What is wrong with an argument of an optimizer, in words; None where nothing is."""

import math
import numbers


def raise_all(*problems):
    """Raises one ValueError with all the problems that are not None."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError("\n".join(found))


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def rate(value):
    """A learning rate: a number >= 0, or what Keras evaluates itself (a schedule, a variable, a function)."""
    evaluated = callable(value) or hasattr(value, "dtype")
    if evaluated or (_is_number(value) and value >= 0):
        return None
    return "learning_rate must be a number >= 0 or a LearningRateSchedule. Received: learning_rate={!r}.".format(value)


def number(name, value, low, high):
    """A number in [low, high)."""
    if _is_number(value) and low <= value < high:
        return None
    return "{0} must be a number in [{1}, {2}). Received: {0}={3!r}.".format(name, low, high, value)


def not_negative(name, value):
    """A number that is zero or above."""
    if _is_number(value) and value >= 0:
        return None
    return "{0} must be a number >= 0. Received: {0}={1!r}.".format(name, value)


def positive(name, value):
    """A number above zero."""
    if _is_number(value) and value > 0:
        return None
    return "{0} must be a number above 0. Received: {0}={1!r}.".format(name, value)


def flag(name, value):
    """True or False."""
    return None if isinstance(value, bool) else "{0} must be True or False. Received: {0}={1!r}.".format(name, value)
