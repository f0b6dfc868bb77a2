"""Fake of the TF 1.15 adapter. Importing it needs the op library, as the real package does."""

# ruff: noqa: F401, I001 (order matters, names are imported to be offered)

import atexit

from npu_bridge.helper.helper import npu_bridge_handle
from npu_bridge.helper.helper import version as __version__
from npu_bridge.helper import helper
from npu_bridge.hccl import hccl_ops
from npu_bridge.estimator.npu.npu_plugin import npu_close

atexit.register(npu_close)
__all__ = [name for name in dir() if not name.startswith("_")]
