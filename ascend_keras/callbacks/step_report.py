"""What a training reports every few steps: progress, speed, loss and learning rate, for callbacks that print it."""

import math
import time
from typing import Any

import numpy as np

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras
from ascend_keras.recipes.lines import StepLine


class StepReport(keras.callbacks.Callback):
    """Calls `report` with a `StepLine` every few steps and after the last one, on the main rank. All ranks read alike.

    Loss: the mean over the steps since the last report, not the loss of the last step alone. Keras' logs hold a running
    mean over the epoch on some stacks and the loss of the batch on others; both are turned into that mean, so that all
    stacks report the same. With `metric` it is exact; without, Keras' running mean in float32 leaves an error of about
    1e-7 * loss * (steps of the epoch so far) / (steps since the last report). On several ranks it is the mean over
    them, by one small sum over the ranks a report. `total_loss` contains `optimizers.l2_term` of the weights as they
    are at the report, `loss` does not.

    Speed: as `callbacks.Throughput` has it. The first execution, which compiles, is left out, as is what happens
    between epochs; waiting for input is left in. A report that would hold nothing but the first execution is put off to
    the next one that is due.

    Args:
        every: steps from one report to the next. With `steps_per_execution`, it comes with the first execution that
            reaches them.
        batch_size: examples a step, over all devices.
        epoch_samples: examples of the data set, for the epoch in the line.
        metric: the metric of `ascend_keras.metrics` in the compiled model that holds the mean loss without weight
            decay; None takes the loss from Keras' logs.
        loop: steps of which `batch_time` is the time; None takes `every`.
        initial_step: steps done before this training, for one that goes on.
        clock: a function that returns seconds.

    Attributes: `step`, the steps done; `compile_seconds`, from the begin of training to the end of the first execution.

    Raises:
        ValueError: a count is not a whole number above 0; all problems are listed.
    """

    def __init__(
        self, every, batch_size, epoch_samples, metric=None, loop=None, initial_step=0, clock=time.perf_counter
    ):
        super().__init__()
        loop = every if loop is None else loop
        _check(1, every=every, batch_size=batch_size, epoch_samples=epoch_samples, loop=loop)
        _check(0, initial_step=initial_step)
        self._every, self._batch_size, self._epoch_samples, self._loop = every, batch_size, epoch_samples, loop
        self._loss: Any = _LogLoss() if metric is None else _MetricLoss(metric)
        self._initial_step = self.step = self._reported = initial_step
        self._clock = clock
        self._reduce, self._is_main = None, True
        self.compile_seconds = math.nan

    def set_ranks(self, reduce, is_main):
        """What NPUTrainer tells its callbacks: the sum over ranks, None on one; only the main rank reports."""
        self._reduce, self._is_main = reduce, is_main

    def report(self, line):
        """Takes a `StepLine`; for subclasses."""
        raise NotImplementedError

    def compiled(self, steps, seconds):
        """Called after the first execution, of `steps` steps, on the main rank."""

    # --- events of the training -------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Sets all counts back, and builds what reads the learning rate and the L2 term."""
        self.step = self._reported = self._initial_step
        self._steady_steps, self._seconds = 0, 0.0
        self._is_compiled = self._is_open = False
        self._epoch_steps = 0
        self._loss.start()
        # On TF 1.15 they are added to the graph, which may be closed later.
        optimizers.l2_term(self.model)
        compat.get_learning_rate(self.model.optimizer, behind=1)
        if hasattr(self._reduce, "prepare"):
            self._reduce.prepare(2)
        self._since = self._clock()

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock, which stood still since the last step."""
        self._epoch_steps = self._timed = 0
        self._is_open = True
        self._loss.begin_epoch()
        if self._is_compiled:
            self._since = self._clock()

    def on_train_batch_end(self, batch, logs=None):
        """Reports, where it is time to."""
        steps = self.params.get("steps")
        done = min(batch + 1, steps or batch + 1)
        self.step += done - self._epoch_steps
        self._epoch_steps = done
        self._loss.see(done, logs)
        is_due = self.step // self._every > self._reported // self._every
        is_last = done == steps or self.model.stop_training
        if not (is_due or is_last or not self._is_compiled):
            return
        # Reading the loss waits for the device; only then the time is that of the steps.
        self._take(done)
        if is_due and self._steady_steps:
            self._line()
        self._is_open = not is_last

    def on_test_begin(self, logs=None):
        """Validation begins, which resets the metrics."""
        self._end_epoch()

    def on_epoch_end(self, epoch, logs=None):
        """Takes up what the steps since the last report leave."""
        self._end_epoch()

    def on_train_end(self, logs=None):
        """Reports the last steps."""
        if self.step > self._reported:
            self._line()

    def _end_epoch(self):
        # Where Keras knows the steps of an epoch, or the training was stopped, this has been done.
        if self._is_open:
            self._is_open = False
            if self._is_compiled and self._epoch_steps > self._timed:
                self._take(self._epoch_steps)

    def _take(self, done):
        self._loss.take(done)
        now = self._clock()
        if self._is_compiled:
            self._steady_steps += done - self._timed
            self._seconds += now - self._since
        else:
            self._is_compiled = True
            self.compile_seconds = now - self._since
            if self._is_main:
                self.compiled(done, self.compile_seconds)
        self._timed, self._since = done, now

    def _line(self):
        # Only a training of a single execution has no other time than that with compilation in it.
        steps = self._steady_steps or self.step - self._initial_step
        per_step = (self._seconds if self._steady_steps else self.compile_seconds) / steps
        loss, includes_l2 = self._loss.mean()
        loss = self._over_ranks(loss)
        l2 = optimizers.l2_term(self.model)
        line = StepLine(
            step=self.step,
            epoch=self.step * self._batch_size / self._epoch_samples,
            fps=self._batch_size / per_step if per_step else math.nan,
            loss=loss - l2 if includes_l2 else loss,
            total_loss=loss if includes_l2 else loss + l2,
            lr=compat.get_learning_rate(self.model.optimizer, behind=1),
            batch_time=per_step * self._loop,
        )
        self._reported, self._steady_steps, self._seconds = self.step, 0, 0.0
        # What is read is a graph on the device, which all ranks have to run; only the words are those of one.
        if self._is_main:
            self.report(line)

    def _over_ranks(self, value):
        if self._reduce is None:
            return value
        total, size = self._reduce(np.array([value, 1.0], np.float64))
        return float(total) / float(size)


class _MetricLoss:
    """Mean of a metric between two reports, from the metric's own sums, which Keras sets to zero with each epoch."""

    def __init__(self, metric):
        self._metric = metric

    def start(self):
        self._total = self._count = 0.0
        self.begin_epoch()

    def begin_epoch(self):
        self._seen = 0.0, 0.0

    def see(self, done, logs):
        pass

    def take(self, done):
        parts = self._metric.sums()
        values = [float(value) for value in compat.get_values([v for part in parts for v in part])]
        total, count = sum(values[: len(parts[0])]), sum(values[len(parts[0]) :])
        self._total += total - self._seen[0]
        self._count += count - self._seen[1]
        self._seen = total, count

    def mean(self):
        """The mean since the last call, and whether weight decay is in it."""
        mean = self._total / self._count if self._count else math.nan
        self._total = self._count = 0.0
        return mean, False


class _LogLoss:
    """Mean of the loss between two reports, from Keras' logs: of batches on TF 1.15, running means elsewhere."""

    def start(self):
        self._total, self._count = 0.0, 0
        self.begin_epoch()

    def begin_epoch(self):
        self._seen = 0.0, 0
        self._sum = 0.0
        self._logs = None

    def see(self, done, logs):
        self._logs = logs
        if compat.TF1:
            self._sum += float((logs or {}).get("loss", math.nan))

    def take(self, done):
        total = self._sum if compat.TF1 else float((self._logs or {}).get("loss", math.nan)) * done
        self._total += total - self._seen[0]
        self._count += done - self._seen[1]
        self._seen = total, done

    def mean(self):
        """The mean since the last call, and whether weight decay is in it."""
        mean = self._total / self._count if self._count else math.nan
        self._total, self._count = 0.0, 0
        return mean, True


def _check(least, **counts):
    wrong = ["{}={!r}".format(*item) for item in counts.items() if not _is_count(item[1], least)]
    if wrong:
        raise ValueError("The log counts in whole numbers >= {}. Received: {}.".format(least, ", ".join(wrong)))


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
