"""Stochastic weight averaging."""

import sys
import warnings

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks import swa_schedules
from ascend_keras.callbacks.batch_norm import Batches, BatchNormPass
from ascend_keras.callbacks.weight_average import WeightAverage
from ascend_keras.compat import keras

LR_SCHEDULES = ("manual", "constant", "cyclic")
BN_MODES = ("auto", "exact", "off")
SAMPLE_POINTS = ("cycle_end", "keras_swa")


class SWA(keras.callbacks.Callback):
    """Averages the weights of the last epochs with equal weight, and leaves the average in the model.

    A drop-in for keras-swa: the first seven arguments are the same. The average covers the trainable weights; it is
    summed up in float32 or wider, in the graph, and costs one graph call per sampled epoch and nothing in between. All
    other variables keep the value of the last epoch, except the statistics of batch normalization, which are
    re-estimated exactly for the averaged weights in one pass over the training data after the last epoch
    (`reestimate_batch_norm`).

    After training, `use_raw()` and `use_average()` switch between the weights of the last epoch and their average, and
    `raw_weights` holds the former. `lr_trace` is the learning rate of every batch, `sampled_epochs` lists the epochs
    that went into the average, counted from 1, `bn_summary` tells what the re-estimation did. `history.history["lr"]`
    has the rate of the last batch of each epoch. A second `fit` with the same object starts a new average.

    Args:
        start_epoch: first epoch of averaging, counted from 1.
        lr_schedule: "manual" leaves the learning rate alone. "constant" lowers it to `swa_lr` before `start_epoch` and
            holds it there. "cyclic" does the same, then falls from `swa_lr2` to `swa_lr` in each cycle.
        swa_lr: the lowest learning rate; "auto" is a tenth of the optimizer's.
        swa_lr2: the highest learning rate of a cycle; "auto" lies a quarter of the way from `swa_lr` to the rate of the
            optimizer, None is ten times `swa_lr`.
        swa_freq: epochs from sample to sample, and of a cycle.
        batch_size: samples per batch when `bn_data` is arrays (default 32). It matters nowhere else: keras-swa asks for
            it for a batch-norm momentum b / (i * b + b), from which b cancels.
        verbose: 1 prints keras-swa's lines, the number of samples, and what was re-estimated.
        bn: "auto" re-estimates batch normalization if the model has any, over `bn_data`, else over the data of
            NPUTrainer.fit, else over the dataset that the running `fit` draws from (not on TF 1.15). "exact" does the
            same, but without the last of these ways. "off" leaves the statistics of the last epoch, which do not belong
            to the averaged weights.
        bn_data: the training data, for the re-estimation: see `reestimate_batch_norm`.
        bn_steps: at most so many batches are used for it; by default all of an epoch.
        sample_at: when "cyclic" samples: "cycle_end", where the learning rate is lowest, as in the paper, or
            "keras_swa", at the end of the first epoch of each cycle, as keras-swa does. The other schedules sample
            `start_epoch` and every `swa_freq` epochs after it.

    Raises:
        ValueError: in the constructor for arguments that contradict each other; at the start of training for those that
            contradict the optimizer or the number of epochs, and where batch normalization could not be re-estimated.

    Reference:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """

    def __init__(
        self,
        start_epoch,
        lr_schedule="manual",
        swa_lr="auto",
        swa_lr2="auto",
        swa_freq=1,
        batch_size=None,
        verbose=0,
        *,
        bn="auto",
        bn_data=None,
        bn_steps=None,
        sample_at="cycle_end",
    ):
        super().__init__()
        # Keras 2 would otherwise fetch the loss from the device after every batch, as there are batch methods here.
        self._supports_tf_logs = True
        self.start_epoch = start_epoch
        self.lr_schedule = lr_schedule
        self.swa_lr = swa_lr
        self.swa_lr2 = swa_lr2
        self.swa_freq = swa_freq
        self.batch_size = batch_size
        self.verbose = verbose
        self.bn = bn
        self.bn_data = bn_data
        self.bn_steps = bn_steps
        self.sample_at = sample_at
        _raise_if(self._argument_problems())
        self.lr_trace = []
        self.sampled_epochs = []
        self.bn_summary = None
        self._given = None
        self._finished = False
        self._average = None
        self._statistics = []
        self._bn_pass = None
        self._rate = None
        self._borrowed = None

    def set_data(self, data, steps=None, batch_size=None):
        """Names the training data of the next `fit`, for batch normalization; `bn_data` goes first.

        Args:
            data: see `reestimate_batch_norm`.
            steps: batches of an epoch.
            batch_size: samples per batch when `data` is arrays.
        """
        self._given = (data, steps, batch_size)

    # --- the average ------------------------------------------------------------------------------------------------

    @property
    def raw_weights(self):
        """The weights of the last epoch, in the order of `model.get_weights()`."""
        weights = compat.get_values(self.model.weights)
        if self._average is None or not self._average.installed:
            return weights
        raw = dict(zip(map(id, self._average.variables), self._average.stored_values()))
        raw.update((id(v), value) for v, value in self._statistics)
        return [raw.get(id(v), value) for v, value in zip(self.model.weights, weights)]

    def use_raw(self):
        """Puts the weights of the last epoch into the model."""
        self._switch(installed=False)

    def use_average(self):
        """Puts the average back into the model, after `use_raw`."""
        self._switch(installed=True)

    def _switch(self, installed):
        if not self._finished:
            samples = len(self.sampled_epochs)
            raise RuntimeError("There is no average. Received: {} samples. Train first.".format(samples))
        if self._average.installed != installed:
            self._average.exchange()
            variables = [v for v, _ in self._statistics]
            values = [value for _, value in self._statistics]
            self._statistics = list(zip(variables, compat.get_values(variables)))
            compat.set_values(variables, values)

    # --- events of the training -------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Checks the arguments against the training, and builds on TF 1.15 all that is added to the graph."""
        self.lr_trace = []
        self.sampled_epochs = []
        self.bn_summary = None
        self._finished = False
        self._first_epoch = None
        self._epoch = -1
        self._steps = self._known_steps()
        self._return_rate()
        _raise_if(self._training_problems())
        self._initial, self._low, self._high = self._resolve_rates()
        self._prepare_batch_norm()
        if self._average is not None:
            self._average.reset()
        if compat.TF1:
            self._prepare_average()

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the learning rate of the epoch."""
        start = self.start_epoch - 1
        if self._first_epoch is None:
            self._first_epoch = epoch
            _raise_if(self._late_start(epoch))
        self._epoch = epoch
        if epoch == start:
            self._report("starting stochastic weight averaging")
        if self.lr_schedule != "manual" and not self._in_cycle():
            self._set_rate(swa_schedules.approach(min(epoch, start), start, self._initial, self._low))

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate of the batch, where the schedule is cyclic."""
        if self._in_cycle():
            length = self.swa_freq * self._steps
            step = (self._epoch - self.start_epoch + 1) % self.swa_freq * self._steps + batch
            # Should an epoch be longer than the one before it, it goes on at the lowest rate.
            self._set_rate(swa_schedules.cycle(min(step, length - 1), length, self._low, self._high))
        elif self.lr_schedule == "manual" and batch == 0:
            self._rate = compat.get_learning_rate(self.model.optimizer)

    def on_train_batch_end(self, batch, logs=None):
        """Notes the batch; not at its beginning, as one more begins where the length of an epoch is unknown."""
        self._batches = batch + 1
        self.lr_trace.append(self._rate)

    def on_epoch_end(self, epoch, logs=None):
        """Adds the weights to the average, where the epoch is one to be sampled."""
        self._steps = self._steps or self._batches
        if self._samples(epoch):
            self._prepare_average()
            self._average.add()
            self.sampled_epochs.append(epoch + 1)
        if logs is not None:
            logs["lr"] = self.lr_trace[-1]

    def on_train_end(self, logs=None):
        """Puts the average into the model and re-estimates batch normalization for it."""
        self._return_rate()
        if self.sampled_epochs:
            self._install()
            return
        warnings.warn(
            "Training ended before a sample was taken: the model keeps its raw weights. "
            "Received: start_epoch={}, last epoch {}.".format(self.start_epoch, self._epoch + 1)
        )

    # --- the end of a training --------------------------------------------------------------------------------------

    def _install(self):
        layers = self._bn_pass.layers if self._bn_pass else []
        variables = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
        self._statistics = list(zip(variables, compat.get_values(variables)))
        self._average.install()
        self._report("final model weights set to stochastic weight average")
        if layers:
            self._report("reinitializing batch normalization layers")
            self._report("running forward pass to adjust batch normalization")
            try:
                self.bn_summary = self._bn_pass.run(self._bn_batches())
            except BaseException:
                # An average without its statistics is worth less than the raw weights.
                self._average.exchange()
                raise
        self._finished = True
        self._say("SWA: average of {} samples, epochs {}".format(len(self.sampled_epochs), self.sampled_epochs))
        self._say("SWA: {}".format(self.bn_summary or "no batch normalization re-estimated"))

    def _prepare_average(self):
        variables = self.model.trainable_weights
        if self._average is None or not self._average.covers(variables):
            self._average = WeightAverage(variables)

    def _prepare_batch_norm(self):
        given, self._given = self._given, None
        fresh = BatchNormPass(self.model)
        if not fresh.layers or self.bn == "off":
            self._bn_pass = None
            return
        if self._bn_pass is None or self._bn_pass.model is not self.model or self._bn_pass.layers != fresh.layers:
            self._bn_pass = fresh
        self._say("Model uses batch normalization. SWA will require a forward pass over the data after the last epoch")
        if self.bn_data is not None:
            given = (self.bn_data, None, self.batch_size)
        if given is not None:
            data, steps, batch_size = given
            batches = Batches(data, self.bn_steps or steps, batch_size or self.batch_size)
            self._bn_batches = lambda: batches
            self._bn_pass.build()
        elif self.bn == "exact" or not compat.watch_training_data(self.model, self._found):
            raise ValueError(self._no_data())

    def _found(self, dataset):
        if dataset is None:
            raise ValueError(self._no_data())
        self._bn_batches = lambda: Batches(dataset, self.bn_steps or self._steps)

    def _no_data(self):
        return (
            "The model has batch normalization, whose statistics must be re-estimated for the averaged weights, but "
            "the training data is not known here. Received: bn={!r}, bn_data=None. Give it as bn_data=, or "
            "train with NPUTrainer.fit.".format(self.bn)
        )

    def _report(self, event):
        # A line of its own, below the progress bar.
        self._say("\nEpoch {:05d}: {}".format(self._epoch + 1, event))

    def _say(self, line):
        if self.verbose:
            sys.stdout.write(line + "\n")

    # --- when and how fast ------------------------------------------------------------------------------------------

    def _samples(self, epoch):
        offset = epoch - (self.start_epoch - 1)
        if self.lr_schedule == "cyclic" and self.sample_at == "cycle_end":
            offset += 1
        return epoch >= self.start_epoch - 1 and offset % self.swa_freq == 0

    def _in_cycle(self):
        return self.lr_schedule == "cyclic" and self._epoch >= self.start_epoch - 1

    def _set_rate(self, rate):
        if rate != self._rate or self._borrowed is None:
            compat.set_learning_rate(self.model.optimizer, rate)
            self._rate = rate
            self._borrowed = self.model.optimizer

    def _return_rate(self):
        # Also after a training that was interrupted, unless somebody has set another rate since.
        optimizer, self._borrowed = self._borrowed, None
        if optimizer is not None and np.float32(compat.get_learning_rate(optimizer)) == np.float32(self._rate):
            compat.set_learning_rate(optimizer, self._initial)

    def _resolve_rates(self):
        """The optimizer's learning rate, the lowest and the highest one of averaging."""
        if compat.has_schedule(self.model.optimizer):
            return None, None, None
        initial = compat.get_learning_rate(self.model.optimizer)
        low = 0.1 * initial if self.swa_lr == "auto" else self.swa_lr
        high = low + (initial - low) * 0.25 if self.swa_lr2 == "auto" else self.swa_lr2
        return initial, low, 10 * low if high is None else high

    def _known_steps(self):
        steps, samples = self.params.get("steps"), self.params.get("samples")
        if steps is None and samples and self.params.get("batch_size"):
            steps = -(-samples // self.params["batch_size"])
        return steps

    # --- checks -----------------------------------------------------------------------------------------------------

    def _argument_problems(self):
        cyclic = self.lr_schedule == "cyclic"
        given = self.swa_lr != "auto" and self.swa_lr2 not in ("auto", None)
        checks = [
            ("start_epoch", self.start_epoch < 1, "must be at least 1"),
            ("lr_schedule", self.lr_schedule not in LR_SCHEDULES, "must be one of {}".format(LR_SCHEDULES)),
            ("swa_freq", self.swa_freq < (2 if cyclic else 1), "must be at least 1, and 2 for the cyclic schedule"),
            ("swa_lr2", self.swa_lr == "auto" and self.swa_lr2 != "auto", "must be 'auto' if swa_lr is"),
            ("swa_lr2", cyclic and given and self.swa_lr > self.swa_lr2, "must not be below swa_lr"),
            ("bn", self.bn not in BN_MODES, "must be one of {}".format(BN_MODES)),
            ("bn_steps", self.bn_steps is not None and self.bn_steps < 1, "must be at least 1"),
            ("sample_at", self.sample_at not in SAMPLE_POINTS, "must be one of {}".format(SAMPLE_POINTS)),
        ]
        text = "`{0}` {1}. Received: {0}={2!r}."
        return [text.format(name, demand, getattr(self, name)) for name, bad, demand in checks if bad]

    def _training_problems(self):
        epochs = self.params["epochs"]
        problems = []
        if self.start_epoch >= epochs:
            problems.append("`start_epoch` must be below the number of epochs.")
        elif not any(self._samples(epoch) for epoch in range(epochs)):
            problems.append("No cycle of `swa_freq` epochs ends before the training does.")
        if problems:
            received = " Received: start_epoch={}, swa_freq={}, epochs={}."
            problems = [problems[0] + received.format(self.start_epoch, self.swa_freq, epochs)]
        if self.lr_schedule == "cyclic" and self.start_epoch == 1 and self._steps is None:
            problems.append(
                "A cyclic schedule from the first epoch on must know its length. Received: start_epoch=1, "
                "steps_per_epoch=None. Give fit steps_per_epoch=."
            )
        return problems + self._rate_problems()

    def _rate_problems(self):
        if compat.has_schedule(self.model.optimizer):
            if self.lr_schedule == "manual":
                return []
            return [
                "The optimizer's learning rate is a schedule, which cannot be changed. Received: lr_schedule={!r}. Use "
                "lr_schedule='manual', or give the optimizer a number.".format(self.lr_schedule)
            ]
        initial, low, _ = self._resolve_rates()
        if low <= initial:
            return []
        return ["`swa_lr` must not be above the optimizer's. Received: swa_lr={!r}, {!r}.".format(self.swa_lr, initial)]

    def _late_start(self, epoch):
        if epoch < self.start_epoch:
            return []
        return [
            "Training starts after the first epoch of averaging, whose samples are not there. Received: "
            "initial_epoch={}, start_epoch={}. Give a start_epoch above {}.".format(epoch, self.start_epoch, epoch)
        ]


def _raise_if(problems):
    if problems:
        raise ValueError("\n".join(problems))
