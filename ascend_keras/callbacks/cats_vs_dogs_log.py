"""The log of ModelZoo's cats-vs-dogs AlexNet, and its pictures."""

import math
import os

import numpy as np

from ascend_keras.callbacks.modelzoo_log import write_line
from ascend_keras.callbacks.step_report import StepReport
from ascend_keras.compat import keras
from ascend_keras.log import logger
from ascend_keras.recipes import lines

PROGRESS_STEPS = 20


class CatsVsDogsLog(StepReport):
    """Prints the lines of ModelZoo's cats-vs-dogs AlexNet, and writes its `loss.txt`.

        epoch 0 step: 1 step_time 0.050 FPS 2000.00000     every `every` steps; epoch and step count from 0
        progress : 8.0%  loss :0.653210                    every 20 steps: the mean since the last such line
        train accuracy 61.2500                             every epoch, in percent
        test accuracy 64.1000                              every epoch that is validated
        epoch: 1  batch loss: 0.648251  time elapsed: 12.100   in loss.txt, every epoch: the mean of the epoch, and the
                                                           seconds since the training began

    Losses contain the weight decay. Where the recipe times what lies behind the input queue, this has waiting for input
    in it (see `StepReport`). Only the main rank prints and writes.

    Args:
        folder: where `loss.txt` is appended to.
        every: steps from one line to the next.
        batch_size, epoch_samples, options: as for `StepReport`.
        accuracy: name of the accuracy in the logs of an epoch, in [0, 1].

    Raises:
        ValueError: a count is not a whole number above 0; all problems are listed.
    """

    def __init__(self, folder, every, batch_size, epoch_samples, metric=None, accuracy="top1", **options):
        super().__init__(every, batch_size, epoch_samples, metric, **options)
        self._folder = folder
        self._accuracy = accuracy

    def on_train_begin(self, logs=None):
        """Starts the clock of loss.txt."""
        super().on_train_begin(logs)
        self._began = self._clock()
        self._epoch, self._progress_begin = 0, self._initial_step
        self._progress = 0.0, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch for the lines."""
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def compiled(self, steps, seconds):
        """Prints the time of the first execution."""
        write_line("first {} step(s): {:.3f} s, compilation included".format(steps, seconds))

    def report(self, line):
        """Prints the line of a step, and the progress where it is time to."""
        steps = line.step - self._progress_begin - self._progress[1]
        seconds = self._batch_size / line.fps if line.fps else math.nan
        write_line(lines.format_cats_step(lines.CatsLine(self._epoch, self._epoch_steps - 1, seconds, line.fps)))
        total, count = self._progress
        total, count = total + line.total_loss * steps, count + steps
        self._progress = total, count
        if count >= PROGRESS_STEPS:
            share = 100.0 * self._epoch_steps / (self.params.get("steps") or self._epoch_steps)
            write_line("progress : {:.1f}%  loss :{:.6f}".format(share, total / count))
            self._progress_begin, self._progress = line.step, (0.0, 0)

    def on_epoch_end(self, epoch, logs=None):
        """Prints the accuracies and writes a line of loss.txt."""
        super().on_epoch_end(epoch, logs)
        logs = logs or {}
        if not self._is_main:
            return
        for name, key in (("test", "val_" + self._accuracy), ("train", self._accuracy)):
            if key in logs:
                write_line("{} accuracy {:.4f}".format(name, 100.0 * logs[key]))
        os.makedirs(self._folder, exist_ok=True)
        with open(os.path.join(self._folder, "loss.txt"), "a") as file:
            elapsed = self._clock() - self._began
            file.write(lines.format_cats_loss(epoch + 1, float(logs.get("loss", math.nan)), elapsed) + "\n")


class Curves(keras.callbacks.Callback):
    """Draws accuracy and loss over the epochs as `acc.png` and `loss.png` when the training ends.

    Without matplotlib it draws nothing and says so once, when the training begins.

    Args:
        folder: where the pictures go.
        accuracy: name of the accuracy in the logs of an epoch, in [0, 1].
    """

    def __init__(self, folder, accuracy="top1"):
        super().__init__()
        self._folder = folder
        self._series = {"acc.png": ("accuracy", accuracy), "loss.png": ("loss", "loss")}
        self._values = {}
        self._is_main = True

    def set_ranks(self, reduce, is_main):
        """What NPUTrainer tells its callbacks: only the main rank draws."""
        self._is_main = is_main

    def on_train_begin(self, logs=None):
        """Says what is missing, before hours are spent."""
        if self._is_main and _figure() is None:
            logger.warning(
                "acc.png and loss.png will not be drawn: matplotlib is not installed. Install it with: "
                "pip install 'ascend_keras[plot]'"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Takes up the numbers of the epoch."""
        for _, name in self._series.values():
            for key in (name, "val_" + name):
                if key in (logs or {}):
                    self._values.setdefault(key, {})[epoch + 1] = float(logs[key])

    def on_train_end(self, logs=None):
        """Draws."""
        figure = _figure() if self._is_main else None
        if figure is None:
            return
        os.makedirs(self._folder, exist_ok=True)
        for file, (label, name) in self._series.items():
            figure.clear()
            axes = figure.add_subplot()
            for key, told in ((name, "training"), ("val_" + name, "validation")):
                points = sorted(self._values.get(key, {}).items())
                axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=told)
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)
            axes.set_ylabel(label)
            axes.legend()
            figure.savefig(os.path.join(self._folder, file))

    def state_dict(self):
        """The numbers of the epochs so far, as arrays of (epoch, value)."""
        return {key: np.array(sorted(values.items()), np.float64) for key, values in self._values.items()}

    def load_state_dict(self, state):
        """Takes up what `state_dict` returned."""
        self._values = {key: {int(x): float(y) for x, y in np.asarray(pairs)} for key, pairs in state.items()}


def _figure():
    """An empty figure that draws to files; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(6.4, 4.0))
    FigureCanvasAgg(figure)
    return figure
