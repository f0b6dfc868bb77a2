"""npu.distribute; the broadcast callback and broadcast_keras_model are not in it."""

# ruff: noqa: F401 (names are imported to be offered)

from npu_device.distribute.hccl import (
    all_reduce,
    broadcast,
    npu_distributed_keras_optimizer_wrapper,
    shard_and_rebatch_dataset,
)
from npu_device.distribute.weight_update_grouping import grouping_broadcast, grouping_gradients_apply
