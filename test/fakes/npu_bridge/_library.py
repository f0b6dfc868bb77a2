"""The op library of the TF 1.15 fake: its operators by name, and the registration that the load performs."""

import fake_ascend
import fake_ascend_ops
import tensorflow as tf
from fake_ascend_ops import (
    drop_out_do_mask,
    drop_out_gen_mask,
    fast_gelu,
    hcom_all_gather,
    hcom_all_reduce,
    hcom_broadcast,
    hcom_reduce,
    hcom_reduce_scatter,
    npu_alloc_float_status,
    npu_clear_float_status,
    npu_clear_float_status_v2,
    npu_get_float_status,
    npu_get_float_status_v2,
)

from npu_bridge import _native

__all__ = [
    "drop_out_do_mask",
    "drop_out_gen_mask",
    "fast_gelu",
    "hcom_all_gather",
    "hcom_all_reduce",
    "hcom_broadcast",
    "hcom_reduce",
    "hcom_reduce_scatter",
    "npu_alloc_float_status",
    "npu_clear_float_status",
    "npu_clear_float_status_v2",
    "npu_get_float_status",
    "npu_get_float_status_v2",
    "npu_init",
    "npu_shutdown",
]

# More than the collectives of one run: those that wait keep their threads, and the ranks' orders may differ.
_WORKER_THREADS = 1024


def register():
    """What the load of the library does to the process: every session is looked at from now on."""
    if fake_ascend.rank_size() > 1:
        # A collective that waits for its peers holds a thread of the pool, whose size the first session decides.
        tf.compat.v1.Session(
            graph=tf.Graph(), config=tf.compat.v1.ConfigProto(inter_op_parallelism_threads=_WORKER_THREADS)
        ).close()
    _native.watch_sessions()
    fake_ascend_ops.is_offloaded[0] = _native.running_on_device
    fake_ascend_ops.make_finite_tests_blind()


def _system_op(op_type, action, name):
    def run(unused_name):
        action()
        return 0

    return fake_ascend_ops._host_op(op_type, run, [], tf.int32, [], name).op


def npu_init(name=None):
    """The operation behind initialize_system: GE and HCCL live with the session that runs it."""
    return _system_op("NPUInit", _native.start_system, name)


def npu_shutdown(name=None):
    return _system_op("NPUShutdown", _native.stop_system, name)
