"""Options of one npu_run_context."""

from npu_device.configs.npu_config import NpuExperimentalConfig
from npu_device.configs.option_base import config_class

NpuRunContextOptions = config_class("NpuRunContextOptions", experimental=NpuExperimentalConfig)
