"""npu.compat."""

# ruff: noqa: F401 (names are imported to be offered)

from npu_device.npu_device import enable_v1
