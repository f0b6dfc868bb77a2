"""npu.train.optimizer."""

# ruff: noqa: F401 (names are imported to be offered)

from npu_device.train.optimizer.npu_loss_scale_optimizer import NpuLossScaleOptimizer
