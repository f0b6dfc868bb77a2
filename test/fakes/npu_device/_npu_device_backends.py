"""What the native half of the TF 2.6 adapter does: opens the device, holds the loop size and the float mode.

Importing it fails where the real extension could not be loaded: without CANN, or on another TensorFlow.
"""

import os

import fake_ascend
import tensorflow as tf

if fake_ascend.libraries_are_broken():
    raise ImportError("libge_runner.so: cannot open shared object file: No such file or directory")
if not tf.__version__.startswith("2.6."):
    raise ImportError(
        "_npu_device_backends.so: undefined symbol: TFE_GetServerDef (TensorFlow {})".format(tf.__version__)
    )

_opened = {}
_loop = {"size": 1}
_UNRECOGNISED = ("recompute", "graph_slice")


def SetNpuLoopSize(loop_size):
    if loop_size <= 0:
        print("Npu loop size must be greater than 0, got {}".format(loop_size), flush=True)
        return
    fake_ascend.record("loop_size", size=loop_size)
    _loop["size"] = loop_size


def loop_size():
    return _loop["size"]


def SetDeviceSatMode(mode):
    return fake_ascend.set_sat_mode(mode)


def GetDeviceSatMode():
    return fake_ascend.state.sat_mode


def Open(device_id, options):
    """Returns the text of the error, empty when the device is open. Options count at the first open only."""
    if device_id >= fake_ascend.device_count():
        return "device {} is not one of the {} devices of this host".format(device_id, fake_ascend.device_count())
    problem = fake_ascend.rank_table_problem() if fake_ascend.rank_size() > 1 else None
    if problem:
        return problem
    for name in sorted(set(options) & set(_UNRECOGNISED)):
        print("Unrecognized graph engine option {}:{}".format(name, options[name]), flush=True)
    _opened.setdefault("options", dict(options))
    fake_ascend.record(
        "open",
        device_id=device_id,
        options=dict(_opened["options"]),
        hf32=tf.config.experimental.tensor_float_32_execution_enabled(),
        hccl=fake_ascend.hccl_variables(),
    )
    return ""


def Close():
    fake_ascend.record("close")
    fake_ascend.state.hccl_owner = None


if "NPU_LOOP_SIZE" in os.environ:
    SetNpuLoopSize(int(os.environ["NPU_LOOP_SIZE"]))
