"""Gradient fusion splitting: checked as the real API does, recorded, otherwise without effect.

HCCL keeps a strategy per group in a map into which it inserts: the first call for a group stays, later ones are ignored
without a word. Neither call needs an open device.
"""

import fake_ascend

_MAX_INDEX = 2**32 - 1
_kept = {}


def _check(group, name, values):
    if not isinstance(group, str):
        raise ValueError("group must be a python str")
    if not group or len(group) > 127:
        raise ValueError("group name is empty or too long")
    if not isinstance(values, list):
        raise ValueError("{} must be a python list".format(name))
    if not values:
        raise ValueError("{} length is 0".format(name))


def _keep(call, group, **fields):
    kept = _kept.setdefault((call, group), fields) is fields
    fake_ascend.record(call, group=group, kept=kept, **fields)


def set_split_strategy_by_idx(idxList, group=fake_ascend.WORLD_GROUP):
    _check(group, "idxList", idxList)
    for index in idxList:
        if not isinstance(index, int):
            raise ValueError("idx val[{}] in idxList is not python int type.".format(index))
        if not 0 <= index <= _MAX_INDEX:
            raise ValueError("idx val[{}] in idxList is an out-of-range value".format(index))
    if any(first >= second for first, second in zip(idxList, idxList[1:])):
        raise ValueError("idx in idxList is not ascending")
    _keep("set_split_strategy_by_idx", group, idx=list(idxList))


def set_split_strategy_by_size(dataSizeList, group=fake_ascend.WORLD_GROUP):
    _check(group, "dataSizeList", dataSizeList)
    for share in dataSizeList:
        if not isinstance(share, (int, float)):
            raise ValueError("dataSize val[{}] in dataSizeList is not python int or float type.".format(share))
        if share < 0:
            raise ValueError("dataSize val[{}] in dataSizeList cannot be a negative number.".format(share))
    if sum(dataSizeList) != 100:
        raise ValueError("size percentage list sum is not 100%")
    _keep("set_split_strategy_by_size", group, size=list(dataSizeList))
