"""The recipes' optimizers and weight decay; and what is put around a user's: loss scaling, the reduction over ranks."""

from ascend_keras.optimizers.distribute import average_gradients, distribute, is_distributed, undistribute
from ascend_keras.optimizers.learning_rate import ScaledSchedule, scale_learning_rate
from ascend_keras.optimizers.loss_scale import (
    current_loss_scale,
    is_loss_scaled,
    loss_scale_of,
    scale_loss,
    skip_mark,
    skipped_steps,
    unscaled,
    was_skipped,
)
from ascend_keras.optimizers.loss_scale_rule import FloatStatus, check_loss_scale, parse_loss_scale
from ascend_keras.optimizers.momentum import Momentum
from ascend_keras.optimizers.rms_prop import RMSPropFromOnes as RMSProp
from ascend_keras.optimizers.weight_decay import add_weight_decay, decayed_variables, l2_loss, l2_term

__all__ = [
    "FloatStatus",
    "Momentum",
    "RMSProp",
    "ScaledSchedule",
    "add_weight_decay",
    "average_gradients",
    "check_loss_scale",
    "current_loss_scale",
    "decayed_variables",
    "distribute",
    "is_distributed",
    "is_loss_scaled",
    "l2_loss",
    "l2_term",
    "loss_scale_of",
    "parse_loss_scale",
    "scale_learning_rate",
    "scale_loss",
    "skip_mark",
    "skipped_steps",
    "undistribute",
    "unscaled",
    "was_skipped",
]
