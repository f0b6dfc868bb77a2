"""Rank and group queries. All fail until HCCL is initialised and while its owner lives (contract 3.2)."""

import os

import fake_ascend

WORLD_GROUP = fake_ascend.WORLD_GROUP
_NOT_READY = 4


def _ranks_of(group, what):
    if not isinstance(group, str):
        raise ValueError("group must be a python str")
    if not group or len(group) > 127:
        raise ValueError("group name is empty or longer than 127. group: " + group[:127])
    if not fake_ascend.hccl_is_ready():
        raise ValueError("get {} error. ret[{}]".format(what, _NOT_READY))
    if group == WORLD_GROUP:
        return list(range(fake_ascend.rank_size()))
    if group not in fake_ascend.state.groups:
        raise ValueError("get {} error. ret[{}]".format(what, _NOT_READY))
    return fake_ascend.state.groups[group]


def _local_size():
    return int(os.environ.get("FAKE_ASCEND_LOCAL_SIZE", fake_ascend.rank_size()))


def get_rank_size(group=WORLD_GROUP):
    return len(_ranks_of(group, "rank size"))


def get_rank_id(group=WORLD_GROUP):
    ranks = _ranks_of(group, "rank id")
    if fake_ascend.rank_id() not in ranks:
        raise ValueError("get rank id error. ret[{}]".format(_NOT_READY))
    return ranks.index(fake_ascend.rank_id())


def get_local_rank_size(group=WORLD_GROUP):
    return min(_local_size(), len(_ranks_of(group, "local rank size")))


def get_local_rank_id(group=WORLD_GROUP):
    _ranks_of(group, "local rank id")
    return fake_ascend.rank_id() % _local_size()


def get_world_rank_from_group_rank(group, group_rank_id):
    return _ranks_of(group, "world rank from group rank")[group_rank_id]


def get_group_rank_from_world_rank(world_rank_id, group):
    return _ranks_of(group, "group rank from world rank").index(world_rank_id)


def create_group(group, rank_num, rank_ids):
    if not isinstance(rank_ids, list):
        raise ValueError("rank_ids must be a python list")
    if rank_num != len(rank_ids):
        raise ValueError("rank_num[{}] not equal to rank_ids len[{}].".format(rank_num, len(rank_ids)))
    if not fake_ascend.hccl_is_ready():
        raise ValueError("create group error:" + group)
    fake_ascend.state.groups[group] = list(rank_ids)


def destroy_group(group):
    if fake_ascend.state.groups.pop(group, None) is None:
        raise ValueError("destroy group error :" + group)
