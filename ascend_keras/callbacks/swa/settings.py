"""The arguments of SWA, and all that may be wrong with them."""

import numbers
from typing import Any, NamedTuple, Optional

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.monitors import MODES, greater_is_better

LR_SCHEDULES = ("manual", "constant", "cyclic")
CHOICES = {
    "lr_schedule": LR_SCHEDULES,
    "unit": ("epoch", "step"),
    "average": ("equal", "ema"),
    "bn": ("auto", "exact", "partial", "average", "off"),
    "sample_at": ("cycle_end", "keras_swa"),
    "validate": ("average", "raw", "both"),
    "storage": ("auto", "device", "host"),
    "dtype": ("float32", "float64"),
    "on_missing_state": ("error", "restart"),
}


class Settings(NamedTuple):
    """The arguments of the constructor; see `SWA`."""

    start_epoch: Optional[int]
    lr_schedule: str
    swa_lr: Any
    swa_lr2: Any
    swa_freq: int
    batch_size: Optional[int]
    verbose: int
    unit: str
    start_step: Optional[int]
    average: str
    decay: float
    bn: str
    bn_data: Any
    bn_steps: Optional[int]
    sample_at: str
    validate: str
    save_best: Any
    storage: str
    dtype: str
    keep_raw: bool
    on_missing_state: str

    @property
    def cyclic(self):
        """Whether the learning rate goes in cycles."""
        return self.lr_schedule == "cyclic"

    @property
    def per_step(self):
        """Whether epochs do not matter."""
        return self.unit == "step"

    @property
    def start_text(self):
        """Where averaging starts, for messages."""
        name = "start_epoch" if self.start_step is None else "start_step"
        return "{}={}".format(name, getattr(self, name))

    @property
    def best(self):
        """`save_best` as (path, monitor, mode), or None."""
        if self.save_best is None:
            return None
        given = self.save_best if isinstance(self.save_best, dict) else {"path": self.save_best}
        return given["path"], given.get("monitor", "val_loss"), given.get("mode", "auto")

    def problems(self):
        """What is wrong with the arguments by themselves: a list of sentences."""
        text = "`{0}` must be one of {1}. Received: {0}={2!r}."
        found = [
            text.format(name, choices, getattr(self, name))
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        return found + self._number_problems() + self._start_problems() + self._best_problems()

    def _number_problems(self):
        given = is_number(self.swa_lr) and is_number(self.swa_lr2)
        least = 2 if self.cyclic else 1
        checks = [
            (
                "swa_freq",
                not is_count(self.swa_freq, least),
                "a whole number, at least 1, or 2 if 'cyclic'",
            ),
            ("batch_size", self.batch_size is not None and not is_count(self.batch_size), "None or at least 1"),
            ("swa_lr", self.swa_lr != "auto" and not is_number(self.swa_lr), "'auto' or a number, not below 0"),
            ("swa_lr2", self.swa_lr2 not in ("auto", None) and not is_number(self.swa_lr2), "'auto', None or a number"),
            ("swa_lr2", self.swa_lr == "auto" and self.swa_lr2 != "auto", "'auto' if swa_lr is"),
            ("swa_lr2", self.cyclic and given and self.swa_lr > self.swa_lr2, "at least swa_lr"),
            ("decay", not (is_number(self.decay) and 0 < self.decay < 1), "a number between 0 and 1"),
            ("bn_steps", self.bn_steps is not None and not is_count(self.bn_steps), "a whole number, at least 1"),
        ]
        text = "`{0}` must be {1}. Received: {0}={2!r}."
        return [text.format(name, demand, getattr(self, name)) for name, bad, demand in checks if bad]

    def _start_problems(self):
        found = []
        for name in ("start_step", "start_epoch"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                found.append("`{0}` must be a whole number, at least 1. Received: {0}={1!r}.".format(name, value))
        if self.start_step is not None and not self.per_step:
            demand = "`start_step` is for unit='step'."
        elif self.per_step and (self.start_step is None) == (self.start_epoch is None):
            demand = "With unit='step' either `start_step` or `start_epoch` must be given."
        elif not self.per_step and self.start_epoch is None:
            demand = "`start_epoch` must be given."
        else:
            return found
        received = " Received: unit={!r}, start_epoch={!r}, start_step={!r}."
        return found + [demand + received.format(self.unit, self.start_epoch, self.start_step)]

    def _best_problems(self):
        if self.save_best is None:
            return []
        if isinstance(self.save_best, dict):
            fits = set(self.save_best) <= {"path", "monitor", "mode"} and self.save_best.get("path")
            if not fits or self.best[2] not in MODES:
                return [
                    "`save_best` must be a path, or a dict with path, monitor and mode, one of {}. Received: "
                    "save_best={!r}.".format(MODES, self.save_best)
                ]
        _, monitor, mode = self.best
        if greater_is_better(monitor, mode) is None:
            return [
                "`save_best` needs mode 'min' or 'max' for a metric whose name does not tell. Received: monitor={!r}, "
                "mode='auto'.".format(monitor)
            ]
        if self.validate == "raw":
            return [
                "`save_best` is for the average, which validate='raw' never sees. Received: save_best={!r}.".format(
                    self.save_best
                )
            ]
        return []


def is_number(value):
    """Whether a value is a number of at least zero."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value) >= 0


def is_count(value, least=1):
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def fit_problems(settings, optimizer, initial, low):
    """What is wrong with the arguments for this optimizer: a list of sentences.

    Args:
        settings: the arguments.
        optimizer: the compiled optimizer.
        initial: its learning rate before averaging, None for a schedule.
        low: the lowest learning rate of averaging.
    """
    if compat.has_schedule(optimizer):
        if settings.lr_schedule == "manual":
            return []
        return [
            "The optimizer's learning rate is a schedule, which cannot be changed. Received: lr_schedule={!r}. Use "
            "lr_schedule='manual', or give the optimizer a number.".format(settings.lr_schedule)
        ]
    # The optimizer holds its rate in float32: 0.02 there is a little less than 0.02 here.
    if np.float32(low) > np.float32(initial):
        text = "`swa_lr` must not be above the optimizer's. Received: swa_lr={!r}, {!r}."
        return [text.format(settings.swa_lr, initial)]
    return []


def raise_if(problems):
    """Raises one ValueError for all problems, if there are any."""
    if problems:
        raise ValueError("\n".join(problems))
