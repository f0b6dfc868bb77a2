"""Ends a run that no longer gets on, and says which rank holds it up."""

import contextlib
import math
import os

from ascend_keras.compat import keras
from ascend_keras.distributed import cluster as clusters
from ascend_keras.distributed.watch import EXIT_CODE, Position, Watch, beat
from ascend_keras.distributed.watch.progress import forget_note

__all__ = ["EXIT_CODE", "Watchdog", "beat", "timeout_of", "watched"]

# Seconds without a step that are too many, where nobody says otherwise.
TIMEOUT = 600.0
# For the first step: this many times the timeout, and at least so many seconds.
COMPILE_TIMES, COMPILE_LEAST = 6, 600.0
VARIABLE = "ASCEND_KERAS_WATCHDOG"


class Watchdog(keras.callbacks.Callback):
    """Ends the process when it makes no step for too long, and says where it stands and which rank is to blame.

    A thread looks on once a second. When nothing has happened for `timeout` seconds, it writes the stacks of all
    threads to the standard error and ends the process with exit code 75. Until the first step of a phase (training,
    validation, evaluation, prediction) is done, `compile_timeout` holds, and rank 0 says now and then that it compiles.

    Progress is every call of a hook of Keras, and every call of `watchdog.beat()`; between two steps, where callbacks
    save, evaluate or compute, also that the thread moves (it uses the processor, or its Python code is elsewhere), for
    `compile_timeout` seconds at most. While the process or the machine is suspended, or a debugger holds it, the time
    stands still. A step is what stands between two hooks, many steps of one execution too: where one has taken long,
    the next of its phase may take three times as long, if that is more than `timeout`.

    With a folder of logs (the launcher gives one) each rank writes into it how far it is, and the message names the
    rank that the others wait for: the one that gives no sign of life, or is behind, or is alone in code of its own.

    It stands first in the list of callbacks, so that it sees what the others do. In plain `model.fit` it watches from
    the begin to the end of the training; NPUTrainer watches from before the first collective to after the last
    callback.

    Args:
        timeout: seconds without a step.
        compile_timeout: seconds up to the end of the first step of each phase; None takes six times `timeout`, and at
            least 600. What is shorter than `timeout` counts as that.
        rank, ranks: this rank and how many there are; None takes them from the environment.
        folder: where the ranks write how far they are; None takes ASCEND_KERAS_LOG_DIR, and without it writes nothing.
        native: whether a native call that keeps Python's lock is ended too. No Python code runs then, so a timer of
            `faulthandler` does it: stacks, no message, exit code 1. It cannot tell such a call from a process that was
            stopped (SIGSTOP, or suspended on Python before 3.11) for longer than the timeout, and ends that as well.
        report: seconds of compiling after which rank 0 says so.

    Raises:
        ValueError: an argument is out of range; all problems are listed.
    """

    def __init__(
        self,
        timeout=TIMEOUT,
        compile_timeout=None,
        rank=None,
        ranks=None,
        folder=None,
        native=True,
        report=30.0,
    ):
        super().__init__()
        # Keras 2 would fetch the numbers of each step from the device for it.
        self._supports_tf_logs = True
        _check(timeout=timeout, compile_timeout=compile_timeout, report=report)
        if compile_timeout is None:
            compile_timeout = max(COMPILE_TIMES * timeout, COMPILE_LEAST)
        if rank is None or ranks is None:
            found = clusters.from_environment()
            rank, ranks = found.rank, found.size
        if rank is None:  # known to the launcher alone
            text = os.environ.get("ASCEND_KERAS_RANK", "")
            rank = int(text) if text.isdigit() else None
        folder = folder or os.environ.get("ASCEND_KERAS_LOG_DIR") or None
        folder = folder if folder and os.path.isdir(folder) else None
        self._watch = Watch(float(timeout), float(compile_timeout), rank, ranks, folder, native, float(report))
        self._held = False
        self._training = False
        self._begin()

    def _begin(self):
        self._events = self._epoch = self._step = self._kept_step = 0
        self._phase = "start"
        self._done = set()  # phases of which a step is done

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self):
        """Watches from now on until `release`, whatever begins and ends in between."""
        self._begin()
        self._held = True
        self._watch.start()

    def release(self, finished=False):
        """Stops watching, after a training that was broken off as well. Further calls do nothing.

        Args:
            finished: whether all that was to be watched has come to its end.
        """
        self._held = self._training = False
        self._watch.stop(finished)

    def _enter(self, phase):
        if not self._held and not self._training:
            self._begin()
            self._watch.start()
        self._phase, self._step = phase, 0
        self._tell(False)

    def _leave(self):
        self._tell(False)
        if not self._held and not self._training:
            self._watch.stop()

    def _tell(self, in_step):
        self._events += 1
        position = Position(self._events, self._phase, self._epoch, self._step, in_step)
        self._watch.at(position, self._phase in self._done)

    # --- hooks ------------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        """Begins to watch."""
        self._training = False
        self._enter("train")
        self._training = True

    def on_train_end(self, logs=None):
        """Ends it, unless whoever called `start` does."""
        self._training = False
        self._leave()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch."""
        self._phase, self._epoch, self._step = "train", epoch + 1, 0
        self._tell(False)

    def on_epoch_end(self, epoch, logs=None):
        """A sign of life."""
        self._tell(False)

    def on_test_begin(self, logs=None):
        """An evaluation of its own, or one inside of a training."""
        self._kept_step = self._step
        self._enter("validation" if self._training else "test")

    def on_test_end(self, logs=None):
        """Goes back to the training, if it is inside of one."""
        self._back()

    def on_predict_begin(self, logs=None):
        """A prediction."""
        self._kept_step = self._step
        self._enter("predict")

    def on_predict_end(self, logs=None):
        """As after an evaluation."""
        self._back()

    def _back(self):
        if self._training:
            self._phase, self._step = "train", self._kept_step
        self._leave()

    def on_train_batch_begin(self, batch, logs=None):
        """A step begins."""
        self._step_begins()

    def on_train_batch_end(self, batch, logs=None):
        """One step is done, or several of one execution."""
        self._step_ends(batch)

    def on_test_batch_begin(self, batch, logs=None):
        """As in training."""
        self._step_begins()

    def on_test_batch_end(self, batch, logs=None):
        """As in training."""
        self._step_ends(batch)

    def on_predict_batch_begin(self, batch, logs=None):
        """As in training."""
        self._step_begins()

    def on_predict_batch_end(self, batch, logs=None):
        """As in training."""
        self._step_ends(batch)

    def _step_begins(self):
        forget_note()
        self._tell(True)

    def _step_ends(self, batch):
        self._step = batch + 1
        self._done.add(self._phase)
        self._tell(False)


def timeout_of(argument="auto", ranks=1, environ=None):
    """Seconds after which a run shall be ended, None for no watchdog.

    The environment variable ASCEND_KERAS_WATCHDOG (seconds, 0 for none) counts more than the argument.

    Args:
        argument: seconds; 0, False or None for none; "auto" for 600 on several ranks and none on one.
        ranks: number of ranks.
        environ: the environment; None takes that of the process.

    Raises:
        ValueError: neither seconds nor one of these words.
    """
    text = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
    if text:
        try:
            value, said = float(text), "{}={!r}".format(VARIABLE, text)
        except ValueError:
            value, said = math.nan, "{}={!r}".format(VARIABLE, text)
    elif argument == "auto":
        return TIMEOUT if ranks > 1 else None
    else:
        value, said = argument, "watchdog={!r}".format(argument)
    if value is None or value is False or (value is not True and value == 0):
        return None
    if not _is_seconds(value):
        raise ValueError(
            "The watchdog takes seconds without a step after which it ends the run, or 0 for none{}. Received: {}. "
            "600 is a good number.".format("" if text else ", or 'auto'", said)
        )
    return float(value)


@contextlib.contextmanager
def watched(timeout, rank=None, ranks=None, **arguments):
    """Inside, this thread is watched over; gives the list of callbacks to put before all others.

    Args:
        timeout: seconds, of `timeout_of`; None gives an empty list and watches nothing.
        rank, ranks, arguments: as for `Watchdog`.
    """
    if timeout is None:
        yield []
        return
    watchdog = Watchdog(timeout, rank=rank, ranks=ranks, **arguments)
    watchdog.start()
    try:
        yield [watchdog]
        watchdog.release(finished=True)
    finally:
        watchdog.release()


def _check(**seconds):
    problems = [
        "{}={!r}".format(*item)
        for item in seconds.items()
        if not _is_seconds(item[1]) and item != ("compile_timeout", None)
    ]
    if problems:
        raise ValueError(
            "Watchdog takes seconds above 0 and below a year. Received: {}. To go without it, leave it out.".format(
                ", ".join(problems)
            )
        )


def _is_seconds(value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < 365 * 86400
