"""Rank tables: the files by which the ranks of an NPU job find each other. No TensorFlow.

`read` and `check` take the versions 1.0, 1.2 and 2.0 and both old forms with a group_list; `write` makes 1.0. The facts
about the forms are those of HCCL's manual and of its parser, as far as public (docs/rank-tables.md).
"""

from ascend_keras.distributed.rank_table.faults import Fault, RankTableError
from ascend_keras.distributed.rank_table.making import (
    addresses_in,
    as_json,
    as_version_1,
    content_hash,
    make,
    merge,
    summary,
    write,
)
from ascend_keras.distributed.rank_table.model import Device, RankTable, Server, host_names
from ascend_keras.distributed.rank_table.reading import check, read

__all__ = [
    "Device",
    "Fault",
    "RankTable",
    "RankTableError",
    "Server",
    "addresses_in",
    "as_json",
    "as_version_1",
    "check",
    "content_hash",
    "host_names",
    "make",
    "merge",
    "read",
    "summary",
    "write",
]
