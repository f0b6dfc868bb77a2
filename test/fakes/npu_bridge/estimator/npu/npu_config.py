"""The session patch, and the configuration classes of the Estimator path, which the fake does not reproduce."""

import functools
from inspect import signature

from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig


def add_npu_optimizer(config):
    """Changes the proto itself. Where NpuOptimizer is there already, memory_optimization is left as it is."""
    rewrite = config.graph_options.rewrite_options
    if not any(entry.name == "NpuOptimizer" for entry in rewrite.custom_optimizers):
        rewrite.custom_optimizers.add().name = "NpuOptimizer"
        rewrite.memory_optimization = RewriterConfig.OFF
    config.allow_soft_placement = True
    config.log_device_placement = False
    rewrite.remapping = RewriterConfig.OFF
    config.graph_options.optimizer_options.global_jit_level = config_pb2.OptimizerOptions.OFF
    return config


def decorator_tf_session(init):
    """Wraps a session's __init__: whatever config it gets, or none, NpuOptimizer is in it."""
    position = list(signature(init).parameters).index("config") - 1

    @functools.wraps(init)
    def patched(self, *args, **kwargs):
        config = kwargs.pop("config", None)
        if len(args) > position:
            config, args = args[position], args[:position] + args[position + 1 :]
        return init(self, *args, config=add_npu_optimizer(config or config_pb2.ConfigProto()), **kwargs)

    return patched


def _estimator_only(name):
    def refuse(self, *args, **kwargs):
        raise NotImplementedError("{} belongs to the Estimator path, which the fake does not reproduce.".format(name))

    return type(name, (), {"__init__": refuse})


NPURunConfig = _estimator_only("NPURunConfig")
ProfilingConfig = _estimator_only("ProfilingConfig")
MemoryConfig = _estimator_only("MemoryConfig")
DumpConfig = _estimator_only("DumpConfig")
DynamicInputConfig = _estimator_only("DynamicInputConfig")
