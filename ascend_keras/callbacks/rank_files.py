"""What users bring from Keras, made safe on several ranks: files of one rank, decisions of all."""

import math
import os
import platform
import re
import shutil
import tempfile
import zlib
from typing import Any, List

from ascend_keras import compat
from ascend_keras.callbacks.checkpoint import Checkpoint
from ascend_keras.callbacks.synchronise import AgreeOnStop, Synchronise
from ascend_keras.compat import keras
from ascend_keras.log import logger

# Where each of Keras' callbacks has the name of what it writes.
_PATHS = {"ModelCheckpoint": "filepath", "CSVLogger": "filename", "TensorBoard": "log_dir"}
_MODELS = "models"
# What becomes of those whose place another takes, where it cannot.
_HARMS = {
    "TerminateOnNaN": "a rank that stops in the middle of an epoch lets the others wait in the next gradient. Derive "
    "from ascend_keras.callbacks.StopOnNaN instead",
    "RemoteMonitor": "every rank sends",
}
_TALKERS = ("EarlyStopping", "LearningRateScheduler", "ModelCheckpoint", "ReduceLROnPlateau")


def for_ranks(callbacks, backend):
    """The callbacks of a `fit` on several ranks: the user's, and those that keep the ranks together around them.

    `Synchronise` comes first. `AgreeOnStop` comes before every `Checkpoint` that does not follow on another, as it acts
    by what is agreed, and last, where no `Checkpoint` is. The given list alone decides where, so that all ranks have as
    many collectives. Of Keras' own callbacks

    - ModelCheckpoint, CSVLogger and TensorBoard run on all ranks, as they read variables, and the files of all but rank
      0 go into a temporary folder that is removed;
    - TerminateOnNaN, which would stop one rank in the middle of an epoch, becomes `StopOnNaN`;
    - RemoteMonitor does nothing on all ranks but 0, and no other than rank 0 has `verbose` above 0;
    - BackupAndRestore is refused: it reads on each rank at which epoch to begin.

    A class that derives from TerminateOnNaN or RemoteMonitor has work of its own: it stays, with a warning.

    All others, and those of the user, stay as they are: on several ranks they must not write one file from all, nor
    run anything of the model on one rank alone.

    Args:
        callbacks: a list of callbacks; it is not changed.
        backend: an open backend with several ranks.

    Raises:
        ValueError: a callback cannot be used on several ranks.
    """
    is_main = backend.settings.cluster.is_main
    used = for_rank(callbacks, is_main)
    # One rank may have something more at the end, which takes no part in collectives.
    user, rest = used[: len(callbacks)], used[len(callbacks) :]
    listed, agreed = [], False
    for given, callback in zip(callbacks, user):
        if isinstance(given, Checkpoint) and not agreed:
            listed.append(AgreeOnStop(backend))
        agreed = isinstance(given, Checkpoint)
        listed.append(callback)
    return [Synchronise(backend)] + listed + ([] if agreed else [AgreeOnStop(backend)]) + rest


def for_rank(callbacks, is_main):
    """The callbacks of one of several ranks; see `for_ranks`, which adds those that have to do with the others.

    Args:
        callbacks: a list of callbacks.
        is_main: whether this rank writes files.

    Returns:
        A list with a callback in the place of each, and on ranks that do not write files another one at the end.

    Raises:
        ValueError: a callback cannot be used on several ranks.
    """
    refused = [
        type(callback).__name__ for callback in callbacks if compat.is_callback_of_keras(callback, "BackupAndRestore")
    ]
    if refused:
        raise ValueError(
            "Each rank would read by itself at which epoch to begin, and ranks that begin at different ones wait for "
            "each other for ever. Received: callbacks with {}. Use ascend_keras.callbacks.Checkpoint, and give fit the "
            "epoch that its restore() returns.".format(", ".join(refused))
        )
    listed = [_in_place_of(callback, is_main) for callback in callbacks]
    return listed if is_main else listed + [_Diverted(listed)]


def _in_place_of(callback, is_main):
    for name, harm in _HARMS.items():
        derives = compat.is_callback_of_keras(callback, name) and not compat.is_callback_of_keras(callback, name, True)
        if derives and is_main:
            logger.warning("%s derives from Keras' %s and stays as it is: %s", type(callback).__name__, name, harm)
    if compat.is_callback_of_keras(callback, "TerminateOnNaN", exactly=True):
        return StopOnNaN()
    if compat.is_callback_of_keras(callback, "RemoteMonitor", exactly=True) and not is_main:
        return keras.callbacks.Callback()
    return callback


class StopOnNaN(keras.callbacks.Callback):
    """Ends the training at the end of an epoch whose loss is NaN or infinite, on all ranks alike.

    In the place of Keras' TerminateOnNaN, which stops after a batch and the rank alone: the others would wait for it.
    The loss in the logs of an epoch is the mean over the ranks, and NaN if that of one is.
    """

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True

    def on_epoch_end(self, epoch, logs=None):
        """Looks at the loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            self.model.stop_training = True
            logger.warning("epoch %d: the loss over all ranks is %g; the training ends", epoch + 1, float(loss))


def _prefix():
    """How the names of temporary folders begin: with where a process id is that of this process alone.

    Containers and hosts may share the folder, but not the numbers.
    """
    space = "/proc/self/ns/pid"
    where = "{} {}".format(platform.node(), os.stat(space).st_ino if os.path.exists(space) else "")
    return "ascend_keras_rank_{:08x}_".format(zlib.crc32(where.encode("utf-8")))


def _remove_of_the_dead():
    """Removes the temporary folders of processes that were killed, which could not."""
    pattern = re.compile(re.escape(_prefix()) + r"(\d+)_")
    for entry in list(os.scandir(tempfile.gettempdir())):
        match = pattern.match(entry.name)
        if match and not _is_alive(int(match.group(1))):
            # Another rank may be at it as well; and what belongs to another user stays.
            shutil.rmtree(entry.path, ignore_errors=True)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


class _Diverted(keras.callbacks.Callback):
    """Lets the callbacks before it write into a temporary folder, from now until the end of the training.

    They take part in all that is read of the model, and what they write is thrown away, models after each epoch.
    """

    def __init__(self, callbacks):
        super().__init__()
        self._supports_tf_logs = True
        self._folder: Any = None
        self._changed: List[Any] = []
        for number, callback in enumerate(callbacks):
            for name, attribute in _PATHS.items():
                if compat.is_callback_of_keras(callback, name):
                    self._set(callback, attribute, self._path(name, number, getattr(callback, attribute)))
            if any(compat.is_callback_of_keras(callback, name) for name in _TALKERS):
                self._set(callback, "verbose", 0)

    def _set(self, callback, attribute, value):
        self._changed.append((callback, attribute, getattr(callback, attribute, 0)))
        setattr(callback, attribute, value)

    def _path(self, name, number, path):
        if self._folder is None:  # not before there is need of it: a rank that is killed leaves it behind
            _remove_of_the_dead()
            self._folder = tempfile.TemporaryDirectory(prefix="{}{}_".format(_prefix(), os.getpid()))
            os.mkdir(os.path.join(self._folder.name, _MODELS))
        folder = os.path.join(self._folder.name, _MODELS if name == "ModelCheckpoint" else "")
        # The ending stays, since Keras reads the format from it.
        return os.path.join(folder, "{}_{}".format(number, os.path.basename(os.fspath(path).rstrip(os.sep))))

    def on_epoch_end(self, epoch, logs=None):
        """Makes room."""
        for entry in os.scandir(os.path.join(self._folder.name, _MODELS)) if self._folder else ():
            shutil.rmtree(entry.path) if entry.is_dir() else os.remove(entry.path)

    def on_train_end(self, logs=None):
        """Gives the callbacks their paths back."""
        self.release()

    def release(self):
        """Gives the callbacks their paths back, after a training that was broken off, too."""
        changed, self._changed = self._changed, []
        for callback, attribute, value in changed:
            setattr(callback, attribute, value)
        if self._folder is not None:
            self._folder.cleanup()
