"""The callbacks that NPUTrainer adds to every run."""

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras
from ascend_keras.log import logger

# Above this share of skipped steps, something other than the search for the scale is wrong.
WARN_SHARE = 0.005


class LossScaleReport(keras.callbacks.Callback):
    """Puts `loss_scale` and `skipped_steps` (in this epoch) into the logs, and says so when steps were skipped."""

    def __init__(self):
        super().__init__()
        self._skipped_before = 0
        self._steps_before = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers where the counters stand."""
        if optimizers.is_loss_scaled(self.model.optimizer):
            self._skipped_before = optimizers.skipped_steps(self.model.optimizer)
            self._steps_before = self._steps()

    def on_epoch_end(self, epoch, logs=None):
        """Reports the epoch."""
        if not optimizers.is_loss_scaled(self.model.optimizer):
            return
        skipped = optimizers.skipped_steps(self.model.optimizer) - self._skipped_before
        scale = optimizers.current_loss_scale(self.model.optimizer)
        if logs is not None:
            logs.update(loss_scale=scale, skipped_steps=skipped)
        if skipped:
            steps = self._steps() - self._steps_before
            level = logger.warning if skipped > WARN_SHARE * steps else logger.info
            level("epoch %d: %d of %d steps skipped for overflow, loss scale now %g", epoch + 1, skipped, steps, scale)

    def _steps(self):
        return int(compat.get_values([self.model.optimizer.iterations])[0])
