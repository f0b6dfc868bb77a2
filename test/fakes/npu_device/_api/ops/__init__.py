"""npu.ops."""

# ruff: noqa: F401 (names are imported to be offered)

from fake_ascend_ops import fast_gelu as gelu
