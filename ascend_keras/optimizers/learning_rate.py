"""The learning rate for the larger batch that several ranks make."""

import math
from typing import Callable, Dict

from ascend_keras import compat
from ascend_keras.compat import keras, register
from ascend_keras.log import logger
from ascend_keras.optimizers import arguments as check

_FACTORS: Dict[str, Callable[[int], float]] = {"linear": float, "sqrt": math.sqrt}


@register
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor; saved and loaded with the schedule inside.

    Args:
        schedule: a LearningRateSchedule.
        factor: a number above 0.
        name: name of the operation.

    Raises:
        ValueError: an argument is of another kind.
    """

    def __init__(self, schedule, factor, name="ScaledSchedule"):
        super().__init__()
        is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        text = "`schedule` must be a LearningRateSchedule. Received: schedule={!r}.".format(schedule)
        check.raise_all(None if is_schedule else text, check.positive("factor", factor))
        self.schedule, self.factor, self.name = schedule, float(factor), name

    def __call__(self, step):
        """The learning rate of `step`, of the type that the schedule gives."""
        return self.schedule(step) * self.factor

    def get_config(self):
        """The arguments of the constructor, the schedule as a config."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """Makes the schedule of a config."""
        schedule = config["schedule"]
        made = keras.optimizers.schedules.deserialize(schedule) if isinstance(schedule, dict) else schedule
        return cls(**dict(config, schedule=made))


def scale_learning_rate(optimizer, ranks, rule):
    """Multiplies the learning rate for a global batch that is `ranks` times that of one rank.

    "linear": times `ranks` (Goyal et al., Accurate, Large Minibatch SGD, 2017), meant for SGD and with a warm-up over
    the first epochs, which it does not add. "sqrt": times the square root of `ranks` (Krizhevsky, One weird trick for
    parallelizing convolutional neural networks, 2014, section 5), often taken for Adam. A weight decay of its own, as
    AdamW has, is not touched.

    An optimizer is scaled once. Called again with the same arguments nothing happens, and a schedule that was scaled
    before, such as that of a loaded model, is scaled anew from what it was, on one rank back to that. A plain number in
    a file does not tell that it was scaled: give rule=None for a loaded model.

    Args:
        optimizer: a Keras optimizer, with or without loss scaling; its learning rate is a number or a schedule.
        ranks: number of ranks.
        rule: None, "linear" or "sqrt".

    Returns:
        The optimizer.

    Raises:
        ValueError: an argument is out of range; the learning rate is a function; it was scaled otherwise before.
    """
    whole = isinstance(ranks, int) and not isinstance(ranks, bool) and ranks >= 1
    check.raise_all(
        None if whole else "`ranks` must be a whole number >= 1. Received: ranks={!r}.".format(ranks),
        None
        if rule in (None, *_FACTORS)
        else "The rule must be None, 'linear' or 'sqrt'. Received: rule={!r}.".format(rule),
    )
    if rule is None:
        return optimizer
    inner = compat.inner_optimizer(optimizer)
    before, done = vars(inner).get("_ascend_keras_scaled"), (ranks, rule)
    if before == done:
        return optimizer
    if before is not None:
        raise ValueError(
            "The learning rate is scaled already. Received: rule={!r} for {} ranks, after {!r} for {}. Make a new "
            "optimizer.".format(rule, ranks, before[1], before[0])
        )
    _multiply(inner, _FACTORS[rule](ranks), "{} rule, {} rank{}".format(rule, ranks, "s" if ranks > 1 else ""))
    vars(inner)["_ascend_keras_scaled"] = done
    return optimizer


def _multiply(optimizer, factor, reason):
    rate = compat.learning_rate_source(optimizer)
    if factor == 1 and not isinstance(rate, ScaledSchedule):
        return
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        schedule = rate
        while isinstance(schedule, ScaledSchedule):
            schedule = schedule.schedule
        optimizer.learning_rate = schedule if factor == 1 else ScaledSchedule(schedule, factor)
        logger.info("learning rate: %s times %g (%s)", type(schedule).__name__, factor, reason)
        return
    if callable(rate) and not hasattr(rate, "dtype"):
        raise ValueError(
            "A function as learning rate cannot be scaled. Received: learning_rate={!r}. Give a number or a "
            "LearningRateSchedule, or scale inside the function.".format(rate)
        )
    old = compat.get_learning_rate(optimizer)
    compat.set_learning_rate(optimizer, old * factor)
    logger.info("learning rate: %g instead of %g (%s)", old * factor, old, reason)
