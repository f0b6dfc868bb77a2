"""Collectives by the names that user code calls."""

from npu_bridge.helper import helper

gen_hccl_ops = helper.get_gen_ops()
_WORLD = "hccl_world_group"


def allreduce(tensor, reduction, fusion=1, fusion_id=-1, group=_WORLD):
    return gen_hccl_ops.hcom_all_reduce(
        input=tensor, reduction=reduction, fusion=fusion, fusion_id=fusion_id, group=group
    )


def allgather(tensor, rank_size, group=_WORLD, fusion=0, fusion_id=-1):
    return gen_hccl_ops.hcom_all_gather(
        input=tensor, group=group, fusion=fusion, fusion_id=fusion_id, rank_size=rank_size
    )


def broadcast(tensor, root_rank, fusion=2, fusion_id=0, group=_WORLD):
    """`tensor` is a list of tensors; returns a list."""
    return gen_hccl_ops.hcom_broadcast(
        input=tensor, fusion=fusion, fusion_id=fusion_id, group=group, root_rank=root_rank
    )


def reduce(tensor, reduction, root_rank, fusion=0, fusion_id=-1, group=_WORLD):
    return gen_hccl_ops.hcom_reduce(
        input=tensor, reduction=reduction, fusion=fusion, fusion_id=fusion_id, group=group, root_rank=root_rank
    )


def reduce_scatter(tensor, reduction, rank_size, group=_WORLD, fusion=0, fusion_id=-1):
    return gen_hccl_ops.hcom_reduce_scatter(
        input=tensor, reduction=reduction, group=group, fusion=fusion, fusion_id=fusion_id, rank_size=rank_size
    )
