"""What is put around a user's optimizer, and in which order: loss scaling, then the reduction over ranks."""

from ascend_keras.optimizers.distribute import distribute, undistribute
from ascend_keras.optimizers.loss_scale import (
    current_loss_scale,
    is_loss_scaled,
    loss_scale_of,
    scale_loss,
    skipped_steps,
    unscaled,
)
from ascend_keras.optimizers.loss_scale_rule import FloatStatus, check_loss_scale, parse_loss_scale

__all__ = [
    "FloatStatus",
    "check_loss_scale",
    "current_loss_scale",
    "distribute",
    "is_loss_scaled",
    "loss_scale_of",
    "parse_loss_scale",
    "scale_loss",
    "skipped_steps",
    "undistribute",
    "unscaled",
]
