"""npu.train."""

# ruff: noqa: F401 (names are imported to be offered)

from npu_device._api.train import optimizer
