"""The callback: what happens at which event of a training."""

import sys
import warnings

import numpy as np

from ascend_keras import compat, optimizers
from ascend_keras.callbacks.swa import agreement, neighbours
from ascend_keras.callbacks.swa import state as states
from ascend_keras.callbacks.swa import timeline as timelines
from ascend_keras.callbacks.swa.average import DeviceAverage, HostAverage
from ascend_keras.callbacks.swa.rates import HeldRate
from ascend_keras.callbacks.swa.settings import Settings, fit_problems, raise_if
from ascend_keras.callbacks.swa.statistics import ANNOUNCEMENT, Statistics
from ascend_keras.callbacks.swa.validation import Validation
from ascend_keras.compat import keras
from ascend_keras.log import logger


class SWA(keras.callbacks.Callback):
    """Averages the weights of the last part of a training, and leaves the average in the model.

    A drop-in for keras-swa: the first seven arguments are the same. The average covers the trainable weights; sums are
    taken in float32 or wider, in the graph, one call a sample, and nothing is done where none is due. All other
    variables keep their last value, except the statistics of batch normalization, which are re-estimated for the
    averaged weights in one pass over the training data after the last epoch (`reestimate_batch_norm`).

    After training, `use_raw()` and `use_average()` switch between the last weights and their average, and `raw_weights`
    holds the former. `lr_trace` is the learning rate of every step (of a schedule object or of `manual`, that of the
    first step of each epoch), `sampled_epochs` and `sampled_steps` list what went into the average, counted from 1,
    `bn_summary` tells what the re-estimation did. `history.history["lr"]` has the rate of the last step of each epoch.
    A second `fit` with the same object starts a new average.

    Args:
        start_epoch: first epoch of averaging, counted from 1.
        lr_schedule: "manual" leaves the learning rate alone. "constant" lowers it to `swa_lr` before `start_epoch` and
            holds it there. "cyclic" does the same, then falls from `swa_lr2` to `swa_lr` in each cycle.
        swa_lr: the lowest learning rate; "auto" is a tenth of the optimizer's.
        swa_lr2: the highest learning rate of a cycle; "auto" lies a quarter of the way from `swa_lr` to the rate of the
            optimizer, None is ten times `swa_lr`.
        swa_freq: epochs (or steps, see `unit`) from sample to sample, and of a cycle.
        batch_size: samples per batch when the data of the re-estimation is arrays; by default that of `fit`.
        verbose: 1 prints keras-swa's lines, the number of samples, and what was re-estimated.
        unit: "epoch", or "step": samples, cycles and learning rates go by steps. A step that loss scaling skips is
            no sample.
        start_step: with unit="step": first step of averaging, counted from 1, in place of `start_epoch`.
        average, decay: "equal" weights, or "ema": ema += (1 - decay) * (w - ema) at each sample, the first taken whole.
        bn: "auto" and "exact" re-estimate batch normalization over all of the training data, "partial" over 16 batches
            of it. "average" averages the moving statistics along with the weights, "off" leaves the last ones: neither
            belongs to the averaged weights.
        bn_data: the training data, for the re-estimation, see `reestimate_batch_norm`; by default the data of `fit`.
        bn_steps: at most so many batches are used for it; by default all of an epoch.
        sample_at: when "cyclic" samples: "cycle_end", where the learning rate is lowest, as in the paper, or
            "keras_swa", at the end of the first epoch of each cycle, as keras-swa does. The other schedules sample
            `start_epoch` and every `swa_freq` epochs after it.
        validate: what Keras validates once there is a sample: the "average", the "raw" weights, or "both": `val_*` of
            the average and `raw_val_*`. The average has the moving statistics of the raw weights then, or its own for
            bn="average". Training goes on with the same bits in any case.
        save_best: a path to which the best average is saved (see `NPUTrainer.save` for endings), or a dict with `path`,
            `monitor` ("val_loss") and `mode` ("auto", "min", "max").
        storage: where the sums are: on the "device", or on the "host". "auto": the device; on TF 1.15's NPU adapter,
            by epochs, the host, as each new graph has to be compiled there. (Not measured on an NPU.)
        dtype: "float32" or "float64", the dtype of the sums.
        keep_raw: whether the last weights are kept after training, at the cost of a copy.
        on_missing_state: what to do when training starts (`initial_epoch`) after samples were due that are not there:
            "error", or "restart" the average from there.

    Raises:
        ValueError: in the constructor for arguments that contradict each other; at the start of training for those that
            contradict the optimizer, the number of epochs or the state, and where batch normalization could not be
            re-estimated.

    Reference:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """

    def __init__(
        self,
        start_epoch=None,
        lr_schedule="manual",
        swa_lr="auto",
        swa_lr2="auto",
        swa_freq=1,
        batch_size=None,
        verbose=0,
        *,
        unit="epoch",
        start_step=None,
        average="equal",
        decay=0.999,
        bn="auto",
        bn_data=None,
        bn_steps=None,
        sample_at="cycle_end",
        validate="average",
        save_best=None,
        storage="auto",
        dtype="float32",
        keep_raw=True,
        on_missing_state="error",
    ):
        super().__init__()
        # Keras 2 would otherwise fetch the loss from the device after every batch, as there are batch methods here.
        self._supports_tf_logs = True
        given = locals()
        self.settings = Settings(**{name: given[name] for name in Settings._fields})
        raise_if(self.settings.problems())
        self.sampled_epochs, self.sampled_steps = [], []
        self.bn_summary = None
        self._statistics = Statistics(self.settings)
        self._validation = Validation(self.settings)
        self._average = self._timeline = self._pending = None
        self._training = self._finished = False
        self._reduce, self._is_main, self._backend = None, True, None
        self._epoch, self._batches, self._step = -1, 0, 0
        self._rate = HeldRate()

    def set_ranks(self, reduce, is_main):
        """Tells of several ranks; NPUTrainer does.

        Args:
            reduce: a function that returns the sum of a float64 vector over the ranks; None on one rank.
            is_main: whether this rank writes files and prints.
        """
        self._reduce, self._is_main = reduce, is_main

    def set_backend(self, name):
        """Tells which backend runs the graph, such as "npu_bridge"; NPUTrainer does."""
        self._backend = name

    # --- the average ------------------------------------------------------------------------------------------------

    @property
    def lr_trace(self):
        """The learning rate of every step so far, a list of floats."""
        return self._rate.trace

    @property
    def raw_weights(self):
        """The weights of the last epoch, in the order of `model.get_weights()`."""
        weights = compat.get_values(self.model.weights)
        if self._average is None:
            self._check_kept()
            return weights
        raw = dict(zip(map(id, self._average.variables), self._average.raw_values()))
        if self._average.installed:
            raw.update((id(v), value) for v, value in self._statistics.others())
        return [raw.get(id(v), value) for v, value in zip(self.model.weights, weights)]

    def use_raw(self):
        """Puts the weights of the last epoch into the model."""
        self._switch(installed=False)

    def use_average(self):
        """Puts the average back into the model, after `use_raw`."""
        self._switch(installed=True)

    def _switch(self, installed):
        if not self._finished:
            raise RuntimeError("There is no average. Received: {} samples. Train first.".format(self._samples()))
        self._check_kept()
        if self._average.installed != installed:
            self._average.exchange()
            self._statistics.exchange()

    def _check_kept(self):
        if self._finished and self._average is None:
            raise RuntimeError("The raw weights were not kept. Received: keep_raw=False. Train with keep_raw=True.")

    # --- from one process to the next -------------------------------------------------------------------------------

    def state_dict(self):
        """What a later process needs to go on with this average, as of the end of an epoch.

        Returns:
            A flat dict of NumPy arrays and JSON values, the same on every stack. After the end of a training it has no
            sums any more.
        """
        timeline, average = self._timeline, self._average
        state = dict(
            version=states.VERSION,
            unit=self.settings.unit,
            average=self.settings.average,
            epoch=self._epoch + 1,
            step=self._step,
            steps=timeline.steps if timeline else None,
            initial_rate=timeline.initial if timeline else None,
            sampled=[self.sampled_epochs, self.sampled_steps],
            lr_trace=np.asarray(self.lr_trace, np.float64),
            best=self._validation.record,
            finished=self._finished or (average is not None and average.spent),
        )
        if average is not None and average.count and not average.spent:
            state.update(states.pack_sums(map(compat.weight_path, average.variables), average.sums()))
        return state

    def load_state_dict(self, state):
        """Lets the next `fit`, with `initial_epoch` where the state was taken, go on with its average.

        Raises:
            ValueError: the state is of another kind of average.
        """
        states.check(state, self.settings.unit, self.settings.average)
        self._pending = dict(state)

    @property
    def trackable(self):
        """The state as an object for `tf.train.Checkpoint(swa=swa.trackable, ...)`, on TF 2."""
        return states.TrackableState(self)

    def release(self):
        """Puts raw weights and learning rate back after a training that was broken off; NPUTrainer calls it."""
        self._validation.end(self._average)
        self._rate.give_back()
        self._training = False

    # --- events of the training -------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Checks the arguments against the training, and builds on TF 1.15 all that is added to the graph."""
        self.release()
        state, self._pending = self._pending, None
        state = None if state is None or state["finished"] else state
        self._begin(state or {})
        self._expected = state["epoch"] if state else None
        problems = fit_problems(self.settings, self.model.optimizer, self._timeline.initial, self._timeline.low)
        problems += self._timeline.problems(self.params["epochs"], compat.steps_per_execution(self.model))
        raise_if(problems + neighbours.problems(self))
        if hasattr(self._reduce, "prepare") and agreement.wanted():
            self._reduce.prepare(agreement.LENGTH)
        if self._statistics.prepare(self.model, self._timeline.steps, self._reduce):
            self._say(ANNOUNCEMENT)
        self._sums = states.Sums(state) if state and "names" in state else None
        if self._average is not None:
            self._average.reset()
        if compat.TF1 or self._sums:
            self._prepare_average()
        self._training = True

    def _begin(self, state):
        self.sampled_epochs, self.sampled_steps = map(list, state.get("sampled", ((), ())))
        self.bn_summary = None
        self._finished = self._started = False
        self._validation.prepare(self.model, state.get("best"), self._reduce)
        self._epoch, self._batches, self._step = state.get("epoch", 0) - 1, 0, state.get("step", 0)
        steps = timelines.known_steps(self.params) or state.get("steps")
        manual = self.settings.lr_schedule == "manual"
        self._rate.begin(self.model.optimizer, None if manual else state.get("initial_rate"), state.get("lr_trace", ()))
        self._timeline = timelines.Timeline(self.settings, steps, self._rate.initial)

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the learning rate of the epoch."""
        if not self._started:
            self._started = True
            raise_if(self._late_start(epoch))
        self._epoch, self._batches, self._sampled = epoch, 0, False
        self._timeline.begin_epoch(epoch, self._step)
        if not self.settings.per_step and epoch == self._timeline.start:
            self._report("starting stochastic weight averaging")
        rate = self._timeline.rate(epoch, 0, self._step)
        self._rate.read() if rate is None else self._rate.set(rate)

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the learning rate of the step, where it differs from that of the one before."""
        if self._timeline.changes_within(self._epoch):
            self._rate.set(self._timeline.rate(self._epoch, batch, self._step))
        if self.settings.per_step and self._timeline.due(self._step):
            self._mark = optimizers.skip_mark(self.model.optimizer)

    def on_train_batch_end(self, batch, logs=None):
        """Takes a sample, where one is due at this step."""
        # Not at its beginning, as one more begins where the length of an epoch is unknown.
        done, self._batches = batch + 1 - self._batches, batch + 1
        self._rate.note(done)
        self._step += done
        if self.settings.per_step and self._timeline.due(self._step - 1):
            self._sample_step(done)

    def on_test_begin(self, logs=None):
        """Puts the average into the model, with the sample of this epoch in it, to be validated."""
        if self._training:
            self._sample_epoch()
            self._validation.begin(self._average)

    def on_test_end(self, logs=None):
        """Takes the average out again."""
        if self._training:
            self._validation.end(self._average)

    def on_epoch_end(self, epoch, logs=None):
        """Takes a sample, where one is due at this epoch, and adds to the logs."""
        self._timeline.steps = self._timeline.steps or self._batches
        self._sample_epoch()
        if logs is not None:
            logs["lr"] = self.lr_trace[-1]
            self._validation.complete(logs, self._average)
            self._validation.save_best(logs, self.model, self._average, self._is_main)

    def on_train_end(self, logs=None):
        """Puts the average into the model and re-estimates batch normalization for it."""
        self._training = False
        self._rate.give_back()
        if self._samples():
            self._install()
            return
        warnings.warn(
            "Training ended before a sample was taken: the model keeps its raw weights. "
            "Received: {}, last epoch {}, last step {}.".format(self.settings.start_text, self._epoch + 1, self._step)
        )

    # --- samples ----------------------------------------------------------------------------------------------------

    def _samples(self):
        return len(self.sampled_epochs) + len(self.sampled_steps)

    def _sample_epoch(self):
        due = not self.settings.per_step and not self._sampled and self._timeline.due(self._epoch)
        if due and not neighbours.have_put_weights_back(self, self._epoch):
            self._take_sample()
            self.sampled_epochs.append(self._epoch + 1)
        self._sampled = True
        self._statistics.merge_averages(self.model, self._average, self._reduce)

    def _sample_step(self, done):
        # In a call of several steps the last one counts; whether it was skipped cannot be told from the others.
        if done == 1 and optimizers.was_skipped(self.model.optimizer, self._mark):
            return
        if not self.sampled_steps:
            self._report("starting stochastic weight averaging")
        self._take_sample()
        self.sampled_steps.append(self._step)

    def _take_sample(self):
        self._prepare_average()
        self._average.add()

    def _prepare_average(self):
        variables = self.model.trainable_weights + self._statistics.averaged_variables(self.model)
        if self._average is None or not self._average.covers(variables, self._validation.lends):
            if self._average is not None and self._average.count:
                text = "The trainable weights changed in the middle of averaging. Received: {} variables at first, "
                text += "now {}. Freeze and unfreeze layers before the first sample."
                raise RuntimeError(text.format(len(self._average.variables), len(variables)))
            decay = self.settings.decay if self.settings.average == "ema" else None
            self._average = self._storage()(variables, decay, self.settings.dtype, self._validation.lends)
        sums, self._sums = self._sums, None
        if sums is not None:
            sums.load_into(self._average, self._samples())

    def _storage(self):
        on_host = self._backend == "npu_bridge" and not self.settings.per_step
        storage = self.settings.storage
        return HostAverage if storage == "host" or (storage == "auto" and on_host) else DeviceAverage

    def _install(self):
        self._prepare_average()
        self._average.install()
        self._report("final model weights set to stochastic weight average")
        try:
            if self._statistics.complete(self.model):
                self._report("reinitializing batch normalization layers")
                self._report("running forward pass to adjust batch normalization")
                self.bn_summary = self._statistics.install(self._reduce)
            self._statistics.merge(self.model, self._reduce)
        except BaseException:
            # An average without its statistics is worth less than the raw weights.
            self._average.exchange()
            self._finished = True
            logger.warning(
                "batch normalization was not re-estimated: the raw weights stay, use_average() has the average"
            )
            raise
        self._finished = True
        if self._reduce is not None and agreement.wanted():
            agreement.compare(self._average.variables + self._statistics.re_estimated(), self._reduce)
        if not self.settings.keep_raw:
            self._average = None
        sampled = self.sampled_epochs or "{} to {}".format(self.sampled_steps[0], self.sampled_steps[-1])
        self._say("SWA: average of {} samples, {}s {}".format(self._samples(), self.settings.unit, sampled))
        self._say("SWA: {}".format(self.bn_summary or "no batch normalization re-estimated"))
        self._validation.warn_if_worse()

    # --- checks and words -------------------------------------------------------------------------------------------

    def _late_start(self, epoch):
        if self._expected is None:
            self._step = epoch * (self._timeline.steps or 0)
            return self._timeline.late_problems(epoch, self._step)
        return states.epoch_problems(epoch, self._expected)

    def _report(self, event):
        # A line of its own, below the progress bar.
        self._say("\nEpoch {:05d}: {}".format(self._epoch + 1, event))

    def _say(self, line):
        if self.settings.verbose and self._is_main:
            sys.stdout.write(line + "\n")
