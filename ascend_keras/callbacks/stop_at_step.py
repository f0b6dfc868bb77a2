"""Ends a training after an exact number of steps."""

from ascend_keras.compat import keras
from ascend_keras.log import logger


class StopAtStep(keras.callbacks.Callback):
    """Ends the training when `last_step` steps are done, in the middle of an epoch if need be.

    With `steps_per_execution` the executions have to end there: it must divide both `last_step` and the steps of an
    epoch, or the training ends with the execution in which the step is, and a warning says so.

    Args:
        last_step: the number of steps.
        initial_step: steps done before this training.

    Raises:
        ValueError: an argument is not a whole number, or none is left to do.
    """

    def __init__(self, last_step, initial_step=0):
        super().__init__()
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (last_step, initial_step))
        if not whole or not 0 <= initial_step < last_step:
            raise ValueError(
                "StopAtStep needs whole numbers with initial_step < last_step. Received: last_step={!r}, "
                "initial_step={!r}.".format(last_step, initial_step)
            )
        self._last_step, self._initial_step = last_step, initial_step

    def on_train_begin(self, logs=None):
        """Starts to count."""
        self._before_epoch, self._epoch_steps = self._initial_step, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Adds the steps of the epoch before."""
        self._before_epoch, self._epoch_steps = self._before_epoch + self._epoch_steps, 0

    def on_train_batch_end(self, batch, logs=None):
        """Stops where it is time to."""
        self._epoch_steps = min(batch + 1, self.params.get("steps") or batch + 1)
        done = self._before_epoch + self._epoch_steps
        if done >= self._last_step:
            self.model.stop_training = True
        if done > self._last_step:
            logger.warning("asked to stop after step %d, but the execution ended with step %d", self._last_step, done)
