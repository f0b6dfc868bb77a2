"""The logs of ModelZoo's AlexNet recipes, and the same numbers as a table."""

import contextlib
import csv
import os
import sys

from ascend_keras import compat
from ascend_keras.callbacks.step_report import StepReport
from ascend_keras.recipes import lines


class ModelZooLog(StepReport):
    """Prints and writes the log lines of ModelZoo's AlexNet recipe for ImageNet.

        PY3.7.16TF1.15.5
        Step   Epoch   Speed   Loss   FinLoss   LR
        step:   700, epoch:  0.6, FPS:33339.0, loss: 6.912, total_loss: 7.944, lr:0.00671, batch_time:3.050000

    What the numbers are: see `StepReport`. They depart from the recipe's in that the loss is a mean, and that the time
    of compilation stands in a line of its own instead of in the first `FPS`. Only the main rank prints.

    Args:
        every: steps from one line to the next.
        batch_size, epoch_samples, metric, loop, initial_step, clock: as for `StepReport`.
        path: a file to which the lines are appended, too; None for none.

    Raises:
        ValueError: a count is not a whole number above 0; all problems are listed.
    """

    def __init__(self, every, batch_size, epoch_samples, metric=None, path=None, **options):
        super().__init__(every, batch_size, epoch_samples, metric, **options)
        self._path = path

    def on_train_begin(self, logs=None):
        """Prints the versions and the header."""
        super().on_train_begin(logs)
        self._write(lines.format_versions(*compat.versions()))
        self._write(lines.HEADER)

    def compiled(self, steps, seconds):
        """Prints the time of the first execution."""
        # Without the words by which ModelZoo's scripts find their lines.
        self._write("first {} step(s): {:.3f} s, compilation included".format(steps, seconds))

    def report(self, line):
        """Prints a line."""
        self._write(lines.format_step(line))

    def _write(self, text):
        if self._is_main:
            write_line(text, self._path)


class MetricsFile(StepReport):
    """Writes step, epoch, fps, loss, total_loss, lr and batch_time as rows of a CSV file, for tools and plots.

    A row that was written when a training was killed, behind the step at which it goes on, stands there twice.

    Args:
        path: the file; rows are appended, and a header is written into a new one.
        every, batch_size, epoch_samples, options: as for `StepReport`.

    Raises:
        ValueError: a count is not a whole number above 0; all problems are listed.
    """

    def __init__(self, path, every, batch_size, epoch_samples, metric=None, **options):
        super().__init__(every, batch_size, epoch_samples, metric, **options)
        self._path = path

    def report(self, line):
        """Writes a row."""
        with _appended(self._path) as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(line._fields)
            writer.writerow(line)


def write_line(text, path=None):
    """Prints a line, and appends it to the file, if there is one."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if path is not None:
        with _appended(path) as file:
            file.write(text + "\n")


@contextlib.contextmanager
def _appended(path):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    # Opened for each line: there are few, and a killed process has lost none.
    with open(path, "a") as file:
        file.seek(0, os.SEEK_END)
        yield file
