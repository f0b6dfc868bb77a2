"""npu.configs."""

# ruff: noqa: F401 (names are imported to be offered)

from npu_device.configs.npu_run_context_option import NpuRunContextOptions as run_context_options
