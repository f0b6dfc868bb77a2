"""Gradient fusion splitting: recorded, otherwise without effect."""

import fake_ascend


def set_split_strategy_by_idx(idxList, group=fake_ascend.WORLD_GROUP):
    if not isinstance(idxList, list):
        raise ValueError("idxList must be a python list")
    fake_ascend.record("set_split_strategy_by_idx", idx=list(idxList), group=group)


def set_split_strategy_by_size(dataSizeList, group=fake_ascend.WORLD_GROUP):
    if not isinstance(dataSizeList, list):
        raise ValueError("dataSizeList must be a python list")
    fake_ascend.record("set_split_strategy_by_size", size=list(dataSizeList), group=group)
