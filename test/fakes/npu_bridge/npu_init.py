"""The names that user scripts import with a star. Importing this module patches every session made later."""

# ruff: noqa: F401 (names are imported to be offered)

import os

import tensorflow as tf
from hccl.manage.api import (
    create_group,
    destroy_group,
    get_group_rank_from_world_rank,
    get_local_rank_id,
    get_local_rank_size,
    get_rank_id,
    get_rank_size,
    get_world_rank_from_group_rank,
)
from hccl.split.api import set_split_strategy_by_idx, set_split_strategy_by_size
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.client import session
from tensorflow.python.keras import backend

from npu_bridge.estimator import npu_ops
from npu_bridge.estimator.npu import npu_plugin, npu_scope, util
from npu_bridge.estimator.npu.npu_callbacks import NPUBroadcastGlobalVariablesCallback
from npu_bridge.estimator.npu.npu_config import (
    DumpConfig,
    DynamicInputConfig,
    MemoryConfig,
    NPURunConfig,
    ProfilingConfig,
    decorator_tf_session,
)
from npu_bridge.estimator.npu.npu_config import add_npu_optimizer as _add_npu_optimizer
from npu_bridge.estimator.npu.npu_hook import NPUBroadcastGlobalVariablesHook
from npu_bridge.estimator.npu.npu_loss_scale_manager import ExponentialUpdateLossScaleManager, FixedLossScaleManager
from npu_bridge.estimator.npu.npu_loss_scale_optimizer import NPULossScaleOptimizer
from npu_bridge.estimator.npu.npu_optimizer import (
    KerasDistributeOptimizer,
    NPUDistributedOptimizer,
    NPUOptimizer,
    npu_allreduce,
    npu_distributed_optimizer_wrapper,
)
from npu_bridge.estimator.npu_unary_ops import npu_unary_ops
from npu_bridge.hccl import hccl_ops

experimental_options = {"disable_model_pruning": False}
for _rewriter in (
    "function_optimization",
    "constant_folding",
    "shape_optimization",
    "arithmetic_optimization",
    "loop_optimization",
    "dependency_optimization",
    "layout_optimizer",
):
    experimental_options[_rewriter] = RewriterConfig.ON


def npu_hooks_append(hooks_list=()):
    """Appends the broadcast hook; anything but a list is thrown away."""
    hooks_list = hooks_list if isinstance(hooks_list, list) else []
    hooks_list.append(NPUBroadcastGlobalVariablesHook(0, int(os.getenv("RANK_ID", "0"))))
    return hooks_list


def npu_callbacks_append(callbacks_list=()):
    """Appends the broadcast callback; anything but a list is thrown away."""
    callbacks_list = callbacks_list if isinstance(callbacks_list, list) else []
    callbacks_list.append(NPUBroadcastGlobalVariablesCallback(0))
    return callbacks_list


def _proto(config):
    return _add_npu_optimizer(config if isinstance(config, config_pb2.ConfigProto) else config_pb2.ConfigProto())


def npu_config_proto(config_proto=None):
    """Adds NpuOptimizer to the caller's proto itself and returns it."""
    return _proto(config_proto)


def npu_graph_options(graph_options=None):
    if not isinstance(graph_options, config_pb2.GraphOptions):
        graph_options = config_pb2.GraphOptions()
    npu_optimizer_options(graph_options.optimizer_options)
    return graph_options


def npu_optimizer_options(optimizer_options=None):
    if not isinstance(optimizer_options, config_pb2.OptimizerOptions):
        optimizer_options = config_pb2.OptimizerOptions()
    optimizer_options.global_jit_level = config_pb2.OptimizerOptions.OFF
    return optimizer_options


def npu_run_config_init(run_config=None):
    if not isinstance(run_config, tf.estimator.RunConfig):
        run_config = tf.estimator.RunConfig()
    run_config.__dict__["_session_config"] = npu_config_proto(run_config.session_config)
    return run_config


def set_keras_session_npu_config(config=None):
    sess = session.Session(config=_proto(config))
    backend.set_session(sess)
    return sess


def init_resource(config=None):
    """Runs initialize_system in a session of its own and keeps the rank numbers. Returns (session, shutdown op)."""
    config = _proto(config)
    util.global_dict_init()
    start, shutdown = npu_ops.initialize_system(), npu_ops.shutdown_system()
    sess = session.Session(config=config)
    sess.run(start)
    for name, query in (
        ("npu_rank_id", get_rank_id),
        ("npu_local_rank_id", get_local_rank_id),
        ("npu_rank_size", get_rank_size),
        ("npu_local_rank_size", get_local_rank_size),
    ):
        util.set_value(name, query())
    return sess, shutdown


def shutdown_resource(sess, npu_shutdown):
    sess.run(npu_shutdown)


def close_session(sess):
    sess.close()


def get_npu_rank_id():
    """NameError before init_resource, as the three that follow."""
    return util.get_value("npu_rank_id", 0)


def get_npu_local_rank_id():
    return util.get_value("npu_local_rank_id", 0)


def get_npu_rank_size():
    return util.get_value("npu_rank_size", 1)


def get_npu_local_rank_size():
    return util.get_value("npu_local_rank_size", 1)


def npu_keras_optimizer(opt):
    return KerasDistributeOptimizer(opt)


def npu_tf_optimizer(opt):
    return NPUDistributedOptimizer(opt)


def npu_clear_session(config=None):
    """Clears Keras' session and sets a new one: NpuOptimizer stays, options that were set are lost."""
    backend.clear_session()
    backend.set_session(session.Session(config=npu_config_proto(config)))


session.Session.__init__ = decorator_tf_session(session.Session.__init__)
session.InteractiveSession.__init__ = decorator_tf_session(session.InteractiveSession.__init__)
