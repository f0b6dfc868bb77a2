"""Fake of the TF 2.6 adapter."""

# ruff: noqa: F401, I001 (order matters, names are imported to be offered)

from npu_device.npu_device import open
from npu_device.npu_device import npu_compat_function
from npu_device.npu_device import gen_npu_ops
from npu_device.npu_device import global_options
from npu_device.npu_device import set_npu_loop_size
from npu_device.npu_device import npu_run_context
from npu_device.npu_device import set_device_sat_mode
from npu_device.npu_device import is_inf_nan_enabled

from npu_device.utils.scope import keep_dtype_scope
from npu_device.utils.scope import npu_recompute_scope

from npu_device._api import distribute
from npu_device._api import train
from npu_device._api import ops
from npu_device._api import compat
from npu_device._api import configs
