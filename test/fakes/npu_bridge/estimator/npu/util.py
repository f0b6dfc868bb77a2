"""Small helpers: rank size, the dictionary behind get_npu_rank_id, argument checks."""

import os

import fake_ascend


def get_ranksize():
    """Text, default "1"; ValueError when RANK_SIZE and CM_WORKER_SIZE are both set."""
    return str(fake_ascend.rank_size())


def global_dict_init():
    global _global_dict
    _global_dict = {}


def set_value(key, value):
    _global_dict[key] = value


def get_value(key, default=None):
    return _global_dict.get(key, default)


def check_nonnegative_integer(value, name):
    if not isinstance(value, int):
        raise TypeError("{} must be int, got {}".format(name, type(value)))
    if value < 0:
        raise ValueError("{} must be nonnegative, got {}".format(name, value))


def check_bool_type(value, name):
    if not isinstance(value, bool):
        raise TypeError("{} must be True or False, got {}".format(name, value))


def check_path(path):
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK):
        raise ValueError("path:{} is not an existing directory with read and write permissions.".format(path))
    return os.path.realpath(path)
