"""Validation of the average in the middle of a training, and the best average in a file."""

import warnings
from typing import Any

from ascend_keras import compat, saving
from ascend_keras.callbacks.monitors import greater_is_better
from ascend_keras.callbacks.rank_exchange import LENGTH, add_in_messages
from ascend_keras.callbacks.reduced_logs import reduce_evaluation


class Validation:
    """Lets Keras validate the average, and the raw weights beside it if that is wanted.

    The average is in the model from `begin` to `end`, and the training goes on with the bits it had before. Batch
    normalization uses the statistics that the last step of training left behind, or their average for bn="average".

    Args:
        settings: the arguments of SWA.

    Attributes:
        lends: whether the average will be in the model for a while.
    """

    def __init__(self, settings):
        self.lends = False
        self._settings = settings
        self._record = None
        self._last = None
        self._again: Any = None

    def prepare(self, model, record=None, reduce=None):
        """Begins a training.

        Args:
            model: the model.
            record: what was best in another process, of which this one goes on.
            reduce: sum over ranks, None on one rank.
        """
        self._record = record
        self._last = None
        arguments = compat.fit_arguments(model)
        # Outside of fit nobody knows, and on_test_begin may come.
        self.lends = self._settings.validate != "raw" and arguments.get("validation_data", "unknown") is not None
        self._again = compat.SecondEvaluation(model, arguments) if self._settings.validate == "both" else None
        if self._again is not None and hasattr(reduce, "prepare"):
            reduce.prepare(LENGTH)
        self._model, self._reduce = model, reduce

    @property
    def record(self):
        """The best value of what `save_best` watches; None before there is one."""
        return self._record

    def begin(self, average):
        """Puts the average into the model."""
        if self.lends and average is not None and average.count:
            average.lend()

    def end(self, average):
        """Takes it out again."""
        if average is not None and average.lent:
            average.take_back()

    def complete(self, logs, average):
        """Adds raw_val_* to the logs of an epoch.

        Args:
            logs: logs of the epoch; where there is an average, val_* are its own. The raw weights are in the model.
            average: the average, None before there is one.
        """
        seen = {name[4:]: value for name, value in logs.items() if name.startswith("val_")}
        if self._again is None or not seen:
            return
        has_average = average is not None and average.count
        raw = self._evaluate_again() if has_average else seen
        logs.update({"raw_val_" + name: raw[name] for name in seen if name in raw})
        self._last = (logs.get("val_loss"), logs.get("raw_val_loss")) if has_average else None

    def _evaluate_again(self):
        logs = self._again()
        if self._reduce is None:
            return logs
        return reduce_evaluation(
            self._model, logs, lambda names, values: add_in_messages(self._reduce, values), self._again.weight
        )

    def save_best(self, logs, model, average, is_main):
        """Saves the average if it is the best so far by what was validated."""
        if self._settings.best is None or average is None or not average.count:
            return
        path, monitor, mode = self._settings.best
        if not any(name.startswith("val_") for name in logs):
            return
        if monitor not in logs:
            raise ValueError(
                "save_best watches what is not in the logs. Received: monitor={!r}, logs {}.".format(
                    monitor, sorted(logs)
                )
            )
        value = float(logs[monitor])
        if self._record is None or (value > self._record if greater_is_better(monitor, mode) else value < self._record):
            self._record = value
            # All ranks, as what goes on with the variables is a graph on the device.
            average.lend()
            try:
                saving.save(model, path) if is_main else saving.read_only(model, path)
            finally:
                average.take_back()

    def warn_if_worse(self):
        """Says so if the average ended worse than the raw weights."""
        if self._last and None not in self._last and self._last[0] > self._last[1]:
            warnings.warn(
                "The average is worse than the weights of the last epoch, by the validation loss: {:.6g} against "
                "{:.6g}. use_raw() puts those back.".format(*self._last)
            )
