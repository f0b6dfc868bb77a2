"""Checkpoints from which a training goes on as if nothing had happened."""

import math
import os

import numpy as np

from ascend_keras import checkpoint_files as files
from ascend_keras import compat
from ascend_keras.callbacks import checkpoint_state as states
from ascend_keras.callbacks.monitors import MODES, greater_is_better
from ascend_keras.compat import keras
from ascend_keras.log import logger


class Checkpoint(keras.callbacks.Callback):
    """Writes the whole state of a training at the end of an epoch, and restores it.

    A checkpoint holds all variables of the model, trainable or not, and on Keras 3 the state of random numbers; all
    variables of the optimizer, its step, slots, learning rate and loss scale among them; the number of finished epochs;
    and the state of the other callbacks of the same `fit`: of those with `state_dict()` and `load_state_dict()`, such
    as SWA, and of Keras' own EarlyStopping, ReduceLROnPlateau and ModelCheckpoint. In the list of callbacks it has to
    stand behind them, and behind all others that change something at the end of an epoch.

    A file with a final name is whole, whenever the process is killed. A run that was killed and restored in a new
    process ends with the bits of one that was not, where a training repeats itself at all: same stack, same number of
    threads, deterministic operations, and data whose order depends on the epoch only (so not `shuffle=True`). Dropout
    repeats itself on Keras 3; on Keras 2 after `keras.backend.experimental.enable_tf_random_generator()`, and otherwise
    not, since its state lies inside the operations.

        checkpoint = Checkpoint("output/checkpoints", monitor="val_loss")
        report = checkpoint.restore(model)              # compiled, and with weights
        model.fit(..., initial_epoch=report.epoch if report else 0, callbacks=[swa, checkpoint])

    Args:
        folder: for `ckpt-00012.npz` (after 12 epochs), the newest of which stay, and `best.npz`. It belongs to one
            training. `saving.load_weights` takes the weights alone out of these files, on any stack.
        every: epochs from one checkpoint to the next. After the last epoch there is one in any case.
        keep: how many of the newest stay; None keeps all.
        monitor: name of a metric in the logs of an epoch. The checkpoint in which it is best is kept as `best.npz`.
            On several ranks it is the mean over the ranks.
        mode: "min", "max", or "auto", which knows it from the name.
        callbacks: the callbacks whose state is saved; None takes all of the `fit` that have one. Given, `restore` loads
            them at once, and otherwise the next `fit` does.

    Raises:
        ValueError: in the constructor for wrong arguments; when training begins where this callback stands before one
            whose state it saves, or where the folder holds checkpoints of later epochs.
    """

    def __init__(self, folder, every=1, keep=5, monitor=None, mode="auto", callbacks=None):
        super().__init__()
        self.monitor = monitor
        self._every = every
        self._given = None if callbacks is None else states.holders_of(callbacks)
        problems = _argument_problems(every, keep, monitor, mode)
        problems += _stateless([] if callbacks is None else callbacks)
        if problems:
            raise ValueError("\n".join(problems))
        self._greater = bool(monitor and greater_is_better(monitor, mode))
        self._folder = files.Folder(folder, keep)
        self._reduce, self._is_main = None, True
        self._holders = self._given or {}
        self._waiting = None
        self._begun = False

    def set_ranks(self, reduce, is_main):
        """Tells of several ranks; NPUTrainer does. All ranks read variables and folder, the main one writes.

        Args:
            reduce: a function that returns the sum of a float64 vector over the ranks; None on one rank.
            is_main: whether this rank writes files.
        """
        self._reduce, self._is_main = reduce, is_main

    def set_callbacks(self, callbacks):
        """Names the callbacks of the next `fit`, in place of `callbacks` of the constructor; those with a state count.

        What `restore` has read for them is loaded.
        """
        self._given = self._holders = states.holders_of(callback for callback in callbacks if callback is not self)
        self._hand_over(self._waiting)

    # --- restoring --------------------------------------------------------------------------------------------------

    def latest(self):
        """Path of the newest whole checkpoint, None if there is none."""
        return next((path for _, path, _ in self._folder.whole()), None)

    def best(self):
        """Path of the best checkpoint by `monitor`, None if there is none."""
        return self._folder.best if self._folder.best_meta() else None

    def restore(self, model, path=None, strict=True):
        """Gives model, optimizer and callbacks the state of a checkpoint. Call it between `compile` and `fit`.

        Args:
            model: a compiled model that has weights.
            path: the file; None takes the newest one that is whole.
            strict: whether all of the file has to fit this model, its optimizer and the callbacks, and they the file.
                Otherwise the parts that fit are restored, the optimizer as a whole or not at all.

        Returns:
            A `RestoreReport`; None if `path` is None and the folder holds no checkpoint.

        Raises:
            ValueError: the parts do not fit each other (no variable was changed then, and all problems are listed), the
                model is not compiled or has no weights, or no file can be read.
        """
        content = self._newest() if path is None else (os.fspath(path),) + files.read(path)
        if content is None:
            return None
        path, meta, arrays = content
        compat.build_optimizer(model)
        comparison = states.Comparison(model, meta, arrays)
        waiting, self._waiting = _Waiting(path, states.saved_states(meta, arrays), strict), None
        missing = list(comparison.problems)
        if self._given is not None:
            missing += states.difference(waiting.states, self._given)
        waiting.refuse(missing)
        if self._given is not None:
            missing += self._hand_over(waiting)
        self._waiting = waiting
        comparison.assign()
        report = states.RestoreReport(
            epoch=meta["epoch"],
            path=path,
            stopped=meta["stopped"],
            restored=tuple(comparison.restored + self._callback_texts()),
            missing=tuple(missing),
        )
        logger.info("%s", report)
        return report

    def _newest(self):
        damaged = None
        for _, path in self._folder.numbered():
            try:
                return (path,) + files.read(path)
            except files.DamagedFileError as error:
                logger.warning("passed over: %s", error)
                damaged = error
        if damaged is not None:
            raise ValueError("No checkpoint can be read. Received: folder={!r}.".format(self._folder.path)) from damaged
        return None

    def _callback_texts(self):
        if self._given is None:
            return ["{} (when training begins)".format(name) for name in self._waiting.states]
        return [name for name in self._waiting.states if name in self._given]

    def _hand_over(self, waiting, late=False):
        """Gives the callbacks the states that wait for them; returns what they have against it.

        Args:
            waiting: the states, or None.
            late: whether it is the turn of callbacks that have to be given it when the training has begun.
        """
        problems = []
        for name, holder in self._holders.items() if waiting else ():
            if states.is_late(holder) == late and name in waiting.states:
                try:
                    holder.load_state_dict(waiting.states[name])
                except ValueError as error:
                    problems.append("{}: {}".format(name, error))
        if waiting:
            waiting.refuse(problems)
        return problems

    # --- events of the training -------------------------------------------------------------------------------------

    def set_params(self, params):
        """Looks at the other callbacks of the `fit` that is about to begin."""
        super().set_params(params)
        running = compat.running_callbacks(self)
        if self._given is None:
            self._holders = states.holders_of(callback for callback in running if callback is not self)
            missing = states.difference(self._waiting.states, self._holders) if self._waiting else []
            if self._waiting:
                self._waiting.refuse(missing)
            for text in missing + self._hand_over(self._waiting):
                logger.warning("not restored: %s", text)
        if running:
            self._check_order(running)

    def _check_order(self, running):
        before = running[: [callback is self for callback in running].index(True)]
        wrong = [name for name, holder in self._holders.items() if not states.is_of(holder, before)]
        if wrong:
            raise ValueError(
                "Checkpoint must stand behind the callbacks whose state it saves, or it would save their state of the "
                "epoch before. Received: {} not before it in the callbacks of fit, {}. Put Checkpoint last.".format(
                    ", ".join(wrong), [type(callback).__name__ for callback in running]
                )
            )

    def on_train_begin(self, logs=None):
        """Makes the folder, removes what a killed process has left there, gives Keras' own callbacks their state."""
        if compat.is_complete(self.model):
            # Training would make variables for the weights with a gradient only, and restoring for all.
            compat.build_optimizer(self.model)
        for text in self._hand_over(self._waiting, late=True):
            logger.warning("not restored: %s", text)
        self._waiting = None
        self._begun = False
        if self._is_main:
            self._folder.open()
            self._mend_best()

    def on_epoch_begin(self, epoch, logs=None):
        """Checks before the first epoch that the folder is that of this training."""
        if not self._begun:
            self._begun = True
            later = [path for _, path, meta in self._folder.whole() if meta["epoch"] > epoch]
            # On all ranks or on none: what one of them sees on its disk, the others may not.
            if later if self._reduce is None else self._reduce(np.array([len(later)], np.float64))[0]:
                raise ValueError(
                    "The folder holds checkpoints of later epochs than this training begins with, which `latest` would "
                    "prefer to new ones. Received: initial_epoch={}, {}. Restore the newest and give fit its epoch, "
                    "name another folder, or remove them.".format(
                        epoch, ", ".join(map(repr, later)) or "checkpoints that another rank sees"
                    )
                )

    def on_epoch_end(self, epoch, logs=None):
        """Writes a checkpoint, where one is due."""
        done = epoch + 1
        if done % self._every and done != self.params["epochs"] and not self.model.stop_training:
            return
        logs = self._numbers(logs or {})
        meta, arrays = states.capture(self.model, self._holders)
        if not self._is_main:
            # Where reading variables is a graph on the device, all ranks have to run it.
            for _ in arrays:
                pass
            return
        path = self._folder.numbered_path(done)
        files.write(path, dict(meta, epoch=done, stopped=bool(self.model.stop_training), logs=logs), arrays)
        if self.monitor and self._is_better(logs, self._folder.best_meta()):
            self._folder.make_best(path)
        self._folder.prune()

    # --- the best ---------------------------------------------------------------------------------------------------

    def _numbers(self, logs):
        """The logs as floats, with the mean of the monitored metric over the ranks under the name of `monitor`."""
        numbers = {key: float(value) for key, value in logs.items() if _is_number(value)}
        if self.monitor:
            value = _find(numbers, self.monitor)
            if value is None:
                logger.warning(
                    "Checkpoint finds no metric to tell the best epoch by. Received: monitor=%r, logs with %s.",
                    self.monitor,
                    ", ".join(sorted(numbers)) or "nothing",
                )
            elif self._reduce is not None:
                total, size = self._reduce(np.array([value, 1.0], np.float64))
                value = float(total) / float(size)
            numbers.update({} if value is None else {self.monitor: value})
        return numbers

    def _is_better(self, logs, best):
        value = logs.get(self.monitor, math.nan)
        known = best["logs"].get(self.monitor, math.nan) if best else math.nan
        if math.isnan(value) or math.isnan(known):
            return not math.isnan(value)
        return value > known if self._greater else value < known

    def _mend_best(self):
        # The process may have been killed between a checkpoint and its becoming the best one.
        for _, path, meta in reversed(list(self._folder.whole()) if self.monitor else []):
            if self._is_better(meta["logs"], self._folder.best_meta()):
                self._folder.make_best(path)


class _Waiting:
    """States of callbacks that were read from `path` and are not handed over yet."""

    def __init__(self, path, saved, strict):
        self.states = saved
        self._path = path
        self._strict = strict

    def refuse(self, problems):
        """Raises for what does not fit, if all has to."""
        if problems and self._strict:
            raise ValueError(
                "This checkpoint is of another training. Received: {!r}.\n  {}\nGive strict=False to restore only what "
                "fits.".format(self._path, "\n  ".join(problems))
            )


# --- arguments --------------------------------------------------------------------------------------------------------


def _argument_problems(every, keep, monitor, mode):
    text = "`{0}` must be {1}. Received: {0}={2!r}."
    checks = [
        ("every", every, not _is_count(every), "a whole number of epochs, at least 1"),
        ("keep", keep, keep is not None and not _is_count(keep), "a whole number, at least 1, or None for all"),
        ("mode", mode, mode not in MODES, "one of {}".format(MODES)),
        ("monitor", monitor, not (monitor is None or (monitor and isinstance(monitor, str))), "the name of a metric"),
    ]
    problems = [text.format(name, demand, value) for name, value, bad, demand in checks if bad]
    if not problems and monitor and mode == "auto" and greater_is_better(monitor, mode) is None:
        problems = [
            "`mode` must be 'min' or 'max' for a metric whose name does not tell. Received: monitor={!r}, "
            "mode='auto'.".format(monitor)
        ]
    return problems


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value):
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in "biuf"


def _stateless(callbacks):
    wrong = [type(callback).__name__ for callback in callbacks if not states.holders_of([callback])]
    if not wrong:
        return []
    return [
        "`callbacks` must have a state. Received: {} without state_dict() and load_state_dict(). Leave out what needs "
        "none.".format(", ".join(wrong))
    ]


def _find(numbers, monitor):
    """The value of a metric in the logs; "accuracy" finds it under the other names that Keras has for it, too."""
    prefix, name = ("val_", monitor[4:]) if monitor.startswith("val_") else ("", monitor)
    if monitor not in numbers and name == "accuracy":
        found = compat.accuracy_key({key[len(prefix) :] for key in numbers if key.startswith(prefix)})
        return None if found is None else numbers[prefix + found]
    return numbers.get(monitor)
