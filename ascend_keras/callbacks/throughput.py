"""Examples per second of a training, in steady state."""

import math
import time

import numpy as np

from ascend_keras.compat import keras
from ascend_keras.log import logger


class Throughput(keras.callbacks.Callback):
    """Measures training speed: compilation left out, input wait left in, validation between epochs left out.

    The clock runs from the end of the first execution (of one step, or of `steps_per_execution` steps), and in later
    epochs from their begin, to the end of the last execution of each epoch. Put the callback last in the list: what
    others do at the begin of an epoch is then not counted. `images_per_sec` is added to the logs of each epoch; it is
    NaN for an epoch of which nothing was measured.

    Attributes: `images_per_sec` and `ms_per_step`, computed from `samples`, `steps` and `seconds`, the measured part of
    `total_steps`; `compile_seconds`, from the begin of training to the end of the first execution (tracing, compiling,
    first input).

    Args:
        batch_size: examples a step, over all devices; None takes it from Keras, which only TF 1.15 tells, for arrays.
        epoch_samples: examples in an epoch, for data whose last batch is smaller; None counts every batch as full.
        clock: a function that returns seconds.

    Raises:
        ValueError: `batch_size` or `epoch_samples` is not a whole number above 0.
    """

    def __init__(self, batch_size=None, epoch_samples=None, clock=time.perf_counter):
        super().__init__()
        _check(batch_size=batch_size, epoch_samples=epoch_samples)
        self._given = batch_size, epoch_samples
        self._clock = clock
        self._reduce, self._is_main = None, True
        self._reset()

    def set_ranks(self, reduce, is_main):
        """What NPUTrainer tells its callbacks: the sum over ranks, None on one, and whether this one speaks."""
        self._reduce, self._is_main = reduce, is_main

    def _reset(self):
        self.batch_size, self._epoch_samples = self._given
        self.compile_seconds = math.nan
        self.total_steps = self.steps = 0
        self.samples = self.seconds = 0
        self._epoch_steps = 0
        self._epoch_began_at = 0, 0
        self._since = None

    @property
    def images_per_sec(self):
        """Examples per second over all devices; NaN when nothing was measured."""
        return _ratio(self.samples, self.seconds)

    @property
    def ms_per_step(self):
        """Milliseconds a step; NaN when nothing was measured."""
        return 1000.0 * _ratio(self.seconds, self.steps)

    def on_train_begin(self, logs=None):
        self._reset()
        if self.batch_size is None and self.params.get("batch_size"):
            # Of this rank; all have as many.
            ranks = 1 if self._reduce is None else int(self._reduce(np.ones(1))[0])
            self.batch_size = self.params["batch_size"] * ranks
            self._epoch_samples = self.params["samples"] * ranks if self.params.get("samples") else None
        self._since = self._clock()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_steps = 0
        self._epoch_began_at = self.samples, self.seconds
        if self.total_steps:
            self._since = self._clock()

    def on_train_batch_end(self, batch, logs=None):
        now = self._clock()
        # With steps_per_execution the hook is called once for several steps, with the index of the last; Keras 3 counts
        # beyond the end of the epoch when its last execution is shorter.
        done = min(batch + 1, self.params.get("steps") or batch + 1)
        if self.total_steps:
            self.steps += done - self._epoch_steps
            self.samples += self._samples_until(done) - self._samples_until(self._epoch_steps)
            self.seconds += now - self._since
        else:
            self.compile_seconds = now - self._since
        self.total_steps += done - self._epoch_steps
        self._epoch_steps = done
        self._since = now

    def _samples_until(self, step):
        samples = step * (self.batch_size or math.nan)
        return samples if self._epoch_samples is None else min(samples, self._epoch_samples)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            samples, seconds = self._epoch_began_at
            logs["images_per_sec"] = _ratio(self.samples - samples, self.seconds - seconds)

    def on_train_end(self, logs=None):
        if not self._is_main:
            return
        if not self.steps:
            logger.warning(
                "The speed of this training was not measured: all of its %d steps ran in the first execution, which "
                "compiles. Train for at least two executions.",
                self.total_steps,
            )
        elif self.batch_size is None:
            logger.warning(
                "Images per second are not known, only %.6g ms/step: Keras does not tell the batch size. Give it: "
                "Throughput(batch_size=...).",
                self.ms_per_step,
            )
        else:
            logger.info(
                "%.6g images/sec, %.6g ms/step over %d steps; %.3g s to the end of the first step.",
                self.images_per_sec,
                self.ms_per_step,
                self.steps,
                self.compile_seconds,
            )


def _ratio(amount, of):
    return amount / of if of > 0 else math.nan


def _check(**counts):
    wrong = ["{}={!r}".format(*item) for item in counts.items() if not _is_count(item[1])]
    if wrong:
        raise ValueError(
            "Throughput counts in whole numbers >= 1. Received: {}. Give the examples of a step, and of an epoch, over "
            "all devices.".format(", ".join(wrong))
        )


def _is_count(value):
    return value is None or (value >= 1 and value == int(value))
