"""The evaluation table of ModelZoo's AlexNet recipe, while a training goes on."""

import datetime

from ascend_keras import metrics
from ascend_keras.callbacks.modelzoo_log import write_line
from ascend_keras.compat import keras
from ascend_keras.recipes import lines


class EvaluationLog(keras.callbacks.Callback):
    """Prints the recipe's table of one row after each epoch that was validated.

    The numbers are those of the metrics themselves, exact over padded batches and over ranks.

    Args:
        metrics: three metrics of `ascend_keras.metrics` in the compiled model, as weighted metrics: top-1 and top-5
            accuracy, and the loss.
        samples: examples of the validation data.
        steps_per_epoch: steps of an epoch.
        last_step: the step with which the training ends.
        path: a file to which the lines are appended, too; None for none.

    Attributes: `rows`, the `EvaluationRow`s so far.
    """

    def __init__(self, metrics, samples, steps_per_epoch, last_step, path=None):
        super().__init__()
        self._metrics, self._samples, self._path = list(metrics), samples, path
        self._steps_per_epoch, self._last_step = steps_per_epoch, last_step
        self._reduce, self._is_main = None, True
        self.rows = []

    def set_ranks(self, reduce, is_main):
        """What NPUTrainer tells its callbacks: the sum over ranks, and whether this one prints."""
        self._reduce, self._is_main = reduce, is_main

    def on_epoch_end(self, epoch, logs=None):
        """Prints, where the metrics are those of a validation."""
        if "val_" + self._metrics[0].name in (logs or {}):
            step = min((epoch + 1) * self._steps_per_epoch, self._last_step)
            self.add(step, epoch + 1)

    def add(self, step, epoch, time=None):
        """Prints what the metrics hold, as that of the model after `step` steps.

        Args:
            time: when the weights were there, in UTC; None is now.

        Returns:
            The `EvaluationRow`.
        """
        row = evaluation_row(self._metrics, step, epoch, time, self._reduce)
        self.rows.append(row)
        if self._is_main:
            write_line(lines.format_evaluation([row], self._samples), self._path)
        return row


def evaluation_row(evaluated, step, epoch, time=None, reduce=None):
    """The row of a table, from what three metrics hold; see `EvaluationLog`."""
    values = metrics.reduce_over_ranks(evaluated, reduce or (lambda vector: vector))
    top1, top5, loss = (values[metric.name] for metric in evaluated)
    time = time or datetime.datetime.now(datetime.timezone.utc)
    return lines.EvaluationRow(step, float(epoch), 100.0 * top1, 100.0 * top5, loss, time)
