"""Several ranks train one model: the same variables, the same statistics, the same numbers in the logs of all."""

import functools
from typing import Dict

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks import reduced_logs
from ascend_keras.callbacks.merged_statistics import MergedStatistics
from ascend_keras.callbacks.rank_exchange import Exchange, check_equal
from ascend_keras.callbacks.rank_seeds import RankSeeds
from ascend_keras.compat import keras
from ascend_keras.log import logger

_OTHER_RATES = (
    "A callback has set it by a number that its rank alone has. What a callback adds to the logs, or decides by, has "
    "to be equal on all ranks: the numbers in the logs of an epoch are, those of batches are not."
)


class Synchronise(keras.callbacks.Callback):
    """Keeps the ranks of a training one. It has to be the first of the callbacks, on every rank.

    When training begins, the variables of the optimizer are made, and every rank gets the weights, moving statistics,
    slots, counters, learning rate and loss scale of rank 0; before the first step once more, for what other callbacks
    have restored since. Then the ranks also compare at which epoch they begin. The states of random numbers are those
    of rank 0 with the rank added, so that dropout draws other masks on each: see `RankSeeds`.

    Before each validation, and at the end of an epoch without one, what layers gather is merged: `MergedStatistics`.

    In the logs of an epoch stand the means over the ranks, for `val_*` the exact numbers over all samples (see
    `reduced_logs`), before any other callback sees them: History, EarlyStopping, progress bar. They are Python floats
    with the same bits on every rank. The logs of batches remain those of the rank.

    An epoch takes one collective of 256 bytes for the logs, with validation another one, and one for the statistics
    where a model has any.

    Args:
        backend: an open backend with several ranks.

    Raises:
        ValueError: on all ranks, if they begin at different epochs or have different logs.
    """

    def __init__(self, backend):
        super().__init__()
        # Keras 2 would otherwise fetch the loss from the device after every batch where all others do without.
        self._supports_tf_logs = True
        self._backend = backend
        self._exchange = Exchange(backend)
        self._training = False

    def on_train_begin(self, logs=None):
        """Broadcasts in list order, the same on every rank, and builds what goes into the graph of TF 1.15."""
        compat.put_before_progress_bar(self)
        compat.build_optimizer(self.model)
        self._statistics = MergedStatistics(self.model)
        self._exchange.prepare()
        if self._statistics.length:
            self._backend.prepare_sum(self._statistics.length)
        self._statistics.prepare()
        self._broadcast()
        RankSeeds(self.model, self._backend).spread()
        self._training, self._begun = True, False
        self._merged, self._validated, self._epoch_logs = False, {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        """Before the first epoch: compares where the ranks begin, and broadcasts what was restored since."""
        self._merged, self._validated = False, {}
        if not self._begun:
            self._begun = True
            self._compare_begin(epoch)
            self._broadcast()

    def on_test_begin(self, logs=None):
        """Merges the statistics, with which every rank evaluates its part."""
        if self._training:
            self._merge()

    def on_test_end(self, logs=None):
        """Reduces what the ranks have found, while the metrics still have it."""
        if not self._training:
            return
        found, weight = compat.evaluation_logs(self.model, logs)
        add = functools.partial(self._exchange.add, "evaluation")
        self._validated = reduced_logs.reduce_evaluation(self.model, found, add, weight)
        if logs:
            logs.update(self._validated)

    def on_epoch_end(self, epoch, logs=None):
        """Merges the statistics, if that was not done yet, and puts the numbers of all ranks into the logs."""
        if not self._merged:
            self._merge()
        logs = {} if logs is None else logs
        exact = {"val_" + name: value for name, value in self._validated.items() if "val_" + name in logs}
        rest = {name: value for name, value in logs.items() if name not in exact}
        self._epoch_logs = dict(reduced_logs.reduce_training(rest, self._exchange), **exact)
        logs.update(self._epoch_logs)

    def on_train_end(self, logs=None):
        """Keras hands over the logs of the last epoch once more, as they were."""
        self._training = False
        for name in logs or ():
            logs[name] = self._epoch_logs.get(name, logs[name])

    def release(self):
        """Ends a training that was broken off; NPUTrainer calls it."""
        self._training = False

    def _broadcast(self):
        state = [variable for _, variable in compat.optimizer_state(self.model.optimizer)]
        # A weight that two layers share is sent once.
        variables = {id(variable): variable for variable in list(self.model.weights) + state}
        self._backend.synchronise(list(variables.values()))

    def _compare_begin(self, epoch):
        steps = self.params.get("steps")
        values = [epoch, self.params.get("epochs") or 0, -1 if steps is None else steps]
        self._exchange.require_equal(
            "the plan of the training",
            ("initial_epoch", "epochs", "steps of an epoch (-1: unknown)"),
            values,
            "Give fit the same arguments on every rank, and every rank the checkpoints that another one sees.",
        )

    def _merge(self):
        self._statistics.merge(self._backend.sum_over_ranks)
        self._merged = True


class AgreeOnStop(keras.callbacks.Callback):
    """Ends the training on all ranks when a callback has ended it on one. To be put behind the callbacks that may.

    It acts at the end of an epoch, by one collective, in which the ranks compare their learning rates, too: a callback
    that sets it by a number of its rank would move the ranks apart for good. A rate that is a schedule follows the
    steps, which are the same.

    A rank that is stopped in the middle of an epoch where others go
    on cannot be helped: it is gone when they come to the next gradient, and they wait until the collective gives up, or
    the watchdog. So a rule that acts on single steps has to be one that all ranks come to at the same step.

    Args:
        backend: an open backend with several ranks.

    Raises:
        ValueError: on all ranks, if they have different learning rates.
    """

    def __init__(self, backend):
        super().__init__()
        self._supports_tf_logs = True
        self._exchange = Exchange(backend)

    def on_epoch_end(self, epoch, logs=None):
        """Compares."""
        rate = 0.0 if compat.has_schedule(self.model.optimizer) else compat.get_learning_rate(self.model.optimizer)
        names = ["stop", "learning rate"]
        rows = self._exchange.gather("end of an epoch", names, [float(bool(self.model.stop_training)), rate])
        check_equal("the learning rate at the end of epoch {}".format(epoch + 1), names[1:], rows[:, 1:], _OTHER_RATES)
        stopped = rows[:, 0]
        if not stopped.any():
            return
        if not stopped.all():
            ranks = ", ".join(str(rank) for rank in np.flatnonzero(stopped))
            logger.warning("epoch %d: a callback of rank %s has ended the training; all ranks end it", epoch + 1, ranks)
        self.model.stop_training = True


class _Ending(keras.callbacks.Callback):
    """Reduces what an evaluation has found when it ends."""

    def __init__(self, exchange):
        super().__init__()
        self._supports_tf_logs = True
        self._exchange = exchange
        self.found: Dict[str, float] = {}

    def on_test_begin(self, logs=None):
        """Makes sure that the progress bar shows what is returned."""
        compat.put_before_progress_bar(self)

    def on_test_end(self, logs=None):
        """Reduces, while the metrics still have their states."""
        local, weight = compat.evaluation_logs(self.model, logs)
        add = functools.partial(self._exchange.add, "evaluation")
        self.found = reduced_logs.reduce_evaluation(self.model, local, add, weight)
        if logs:
            logs.update(self.found)


def evaluate(backend, model, x=None, y=None, *, return_dict=False, callbacks=None, **arguments):
    """`model.evaluate` of this rank's part of the data, with the result over all ranks.

    In a running `fit` all ranks evaluate with the same statistics of batch normalization, merged as at the end of an
    epoch, and train on with their own.

    Args:
        backend: an open backend with several ranks. All ranks call this, each with its part.
        model, x, y, callbacks, arguments: as for `model.evaluate`.
        return_dict: a dict instead of a list; on TF 1.15, too, which itself has no such argument.

    Returns:
        As `model.evaluate`: a list in Keras' order, a number if there is but one, or a dict. See
        `reduced_logs.reduce_evaluation` for what is exact; the same bits on all ranks.

    Raises:
        ValueError: the ranks do not have the same metrics; on all of them.
    """
    ending = _Ending(Exchange(backend))
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or [])
    # Outside of a fit the statistics are the same on all ranks.
    statistics = MergedStatistics(model) if compat.fit_arguments(model) else None
    own = compat.get_values(statistics.variables) if statistics else []
    if statistics:
        statistics.merge(backend.sum_over_ranks)
    try:
        model.evaluate(x, y, callbacks=[ending] + given, **arguments)
    finally:
        if own:
            compat.set_values(statistics.variables, own)
    return dict(ending.found) if return_dict else compat.flat_evaluation(model, ending.found)
