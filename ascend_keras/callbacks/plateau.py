"""Lowers the learning rate when a metric has stopped to grow, decided alike on all ranks."""

import math
import numbers
import sys

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras
from ascend_keras.log import logger

STATE = ("epochs", "values", "reduced_epochs", "reduced_rates")


def has_stalled(values, every, min_gain):
    """Whether the last value lies less than `min_gain` above those before it, on average.

    Args:
        values: one number an epoch, oldest first, at least `every` of them; the last `every` are looked at.
        every: how many, at least 2.
        min_gain: in the unit of the values.

    Returns:
        True if the mean of `last - value` over the `every - 1` values before the last is below `min_gain`; False where
        a NaN is among them.
    """
    last = values[-1]
    return sum(last - value for value in values[-every:-1]) / (every - 1) < min_gain


class PlateauDecay(keras.callbacks.Callback):
    """The plateau rule of ModelZoo's cats-vs-dogs AlexNet, for metrics that grow.

    At the end of the 11th, 21st, ... epoch, in general of each epoch whose index from 0 is a multiple of `every` and
    not 0, the metric is compared with its values in the `every - 1` epochs before. If it has gained less than
    `min_gain` on them, on average, the learning rate is multiplied by `factor`. The recipe counts in percent and uses
    the training accuracy: 10 epochs, 2 points, a tenth; these are the defaults here, in fractions.

    On several ranks each value is the mean over the ranks, so that all decide alike. Values are known by their epoch:
    a `fit` that begins at an earlier one takes back what was seen from there on. Where values are missing, as in a run
    that goes on at an `initial_epoch` without `load_state_dict`, nothing is decided, and a warning says so.

    Attributes: `reductions`, a list of (epoch counted from 1, new learning rate).

    Args:
        monitor: name of the metric in the logs of an epoch. "accuracy" and "val_accuracy" find it under the names that
            Keras has for it too: "acc" on TF 1.15, "sparse_categorical_accuracy". Every epoch must have it.
        every: epochs between decisions, and over which is looked back; at least 2.
        min_gain: the least mean gain that keeps the learning rate, in the unit of the metric.
        factor: what the learning rate is multiplied by, above 0 and below 1.
        min_lr: the learning rate is not lowered further than to this.
        reduce: a function that takes a float64 vector and returns its sum over the ranks; None is one rank, or, with
            NPUTrainer, what the trainer gives to `set_ranks`.
        verbose: 1 prints a line with each new learning rate, on the main rank.

    Raises:
        ValueError: in the constructor for wrong arguments, all at once; when training begins if the learning rate is a
            schedule; at the end of an epoch if the logs do not have the metric.
    """

    def __init__(self, monitor="accuracy", every=10, min_gain=0.02, factor=0.1, min_lr=0.0, reduce=None, verbose=0):
        super().__init__()
        self.monitor = monitor
        self.every = every
        self.min_gain = min_gain
        self.factor = factor
        self.min_lr = min_lr
        self.verbose = verbose
        self.reductions = []
        self._own_reduce = self._reduce = reduce
        problems = self._problems()
        if problems:
            raise ValueError("\n".join(problems))
        self._is_main = True
        self._values = {}
        self._loaded = self._began = False

    def set_ranks(self, reduce, is_main):
        """What NPUTrainer tells its callbacks.

        Args:
            reduce: as in the constructor, whose own goes first; None on one rank.
            is_main: whether this rank prints.
        """
        self._reduce = self._own_reduce or reduce
        self._is_main = is_main

    # --- the training -----------------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Checks that there is a learning rate to lower."""
        self._began = False
        if compat.has_schedule(self.model.optimizer):
            raise ValueError(
                "PlateauDecay cannot lower a learning rate that is a schedule. Received: an optimizer with a "
                "LearningRateSchedule. Give the optimizer a number as its learning rate."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first epoch: takes up the state that belongs to it."""
        if self._began:
            return
        self._began = True
        self.reductions = [(number, rate) for number, rate in self.reductions if number <= epoch]
        if self._loaded and self.reductions:
            compat.set_learning_rate(self.model.optimizer, self.reductions[-1][1])
        self._loaded = False
        if epoch and epoch - 1 not in self._values:
            logger.warning(
                "PlateauDecay does not know %s before epoch %d: it decides nothing until it has seen %d epochs. "
                "Load its state before fit.",
                self.monitor,
                epoch + 1,
                self.every,
            )

    def on_epoch_end(self, epoch, logs=None):
        """Notes the metric, and lowers the learning rate where the epoch is one to decide in."""
        self._values[epoch] = self._over_ranks(self._read(logs or {}))
        window = range(epoch - self.every + 1, epoch + 1)
        self._values = {known: value for known, value in self._values.items() if known in window}
        if epoch % self.every or len(self._values) < self.every:
            return
        if has_stalled([self._values[known] for known in window], self.every, self.min_gain):
            self._lower(epoch)

    def _read(self, logs):
        prefix, name = ("val_", self.monitor[4:]) if self.monitor.startswith("val_") else ("", self.monitor)
        key = self.monitor
        if key not in logs and name == "accuracy":
            found = compat.accuracy_key({key[len(prefix) :] for key in logs if key.startswith(prefix)})
            key = None if found is None else prefix + found
        if key not in logs:
            raise ValueError(
                "PlateauDecay finds no such metric in the logs of the epoch. Received: monitor={!r}, logs with {}. "
                "Name one of these, or compile the model with the metric.".format(
                    self.monitor, ", ".join(map(repr, sorted(logs))) or "nothing"
                )
            )
        return float(logs[key])

    def _over_ranks(self, value):
        if self._reduce is None:
            return value
        total, size = self._reduce(np.array([value, 1.0], np.float64))
        return float(total) / float(size)

    def _lower(self, epoch):
        rate = compat.get_learning_rate(self.model.optimizer)
        lower = max(rate * self.factor, self.min_lr)
        # The optimizer holds it in float32, in which min_lr may lie above min_lr.
        if not np.float32(lower) < np.float32(rate):
            return
        compat.set_learning_rate(self.model.optimizer, lower)
        self.reductions.append((epoch + 1, lower))
        if self.verbose and self._is_main:
            # A line of its own, below the progress bar.
            sys.stdout.write("\nEpoch {:05d}: [learning rate reducing] {:g}\n".format(epoch + 1, lower))

    # --- its state --------------------------------------------------------------------------------------------------

    def state_dict(self):
        """What a resumed run needs: a flat dictionary of arrays, the same on all ranks.

        Returns:
            `epochs` (int64, from 0) and `values` (float64), what was seen in the last `every` epochs; `reduced_epochs`
            (int64, from 1) and `reduced_rates` (float64), the reductions.
        """
        known = sorted(self._values)
        return {
            "epochs": np.array(known, np.int64),
            "values": np.array([self._values[epoch] for epoch in known], np.float64),
            "reduced_epochs": np.array([epoch for epoch, _ in self.reductions], np.int64),
            "reduced_rates": np.array([rate for _, rate in self.reductions], np.float64),
        }

    def load_state_dict(self, state):
        """Takes up a state, for the next `fit`, which then begins with the learning rate of its last reduction.

        Args:
            state: what `state_dict` returned; lists do for arrays.

        Raises:
            ValueError: it is no such dictionary.
        """
        problems = ["no {!r}".format(name) for name in STATE if name not in state]
        if not problems:
            columns = [np.asarray(state[name]) for name in STATE]
            pairs = [(STATE[at], STATE[at + 1], columns[at].shape, columns[at + 1].shape) for at in (0, 2)]
            problems = ["{} {} beside {} {}".format(a, m, b, n) for a, b, m, n in pairs if m != n or len(m) != 1]
        if problems:
            raise ValueError(
                "This is no state of PlateauDecay. Received: {}. Give what state_dict() returned.".format(
                    ", ".join(problems)
                )
            )
        epochs, values, reduced, rates = (column.tolist() for column in columns)
        self._values = dict(zip(map(int, epochs), map(float, values)))
        self.reductions = list(zip(map(int, reduced), map(float, rates)))
        self._loaded = True

    # --- checks -----------------------------------------------------------------------------------------------------

    def _problems(self):
        checks = [
            ("monitor", isinstance(self.monitor, str) and self.monitor, "the name of a metric"),
            ("every", _is_number(self.every, numbers.Integral) and self.every >= 2, "a whole number >= 2"),
            ("min_gain", _is_number(self.min_gain), "a finite number, in the unit of the metric"),
            ("factor", _is_number(self.factor) and 0 < self.factor < 1, "a number above 0 and below 1"),
            ("min_lr", _is_number(self.min_lr) and self.min_lr >= 0, "a finite number >= 0"),
            ("reduce", self._reduce is None or callable(self._reduce), "a function of a vector, or None"),
            ("verbose", self.verbose in (0, 1), "0 or 1"),
        ]
        given = dict(vars(self), reduce=self._reduce)
        text = "{0} must be {1}. Received: {0}={2!r}."
        return [text.format(name, demand, given[name]) for name, fine, demand in checks if not fine]


def _is_number(value, kind=numbers.Real):
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < math.inf
