"""The broadcast callback of TF 1.15, with its traps (behaviours 2, 3 and 27)."""

from tensorflow.python import keras
from tensorflow.python.keras import backend
from tensorflow.python.ops import control_flow_ops, state_ops

from npu_bridge.estimator.npu import util
from npu_bridge.hccl import hccl_ops


def broadcast_global_variables(root_rank):
    """Broadcasts what Keras has marked initialised, in the order of a set: not the same on every rank."""
    op_list = []
    for variable in backend._get_variables(backend.get_graph()):
        if getattr(variable, "_keras_initialized", False):
            outputs = hccl_ops.broadcast(tensor=[variable], root_rank=root_rank)
            op_list += [outputs[0].op, state_ops.assign(variable, outputs[0])]
    return control_flow_ops.group(op_list)


class BroadcastGlobalVariablesCallbackImpl:
    def __init__(self, root_rank, *args):
        super().__init__(*args)
        self.root_rank = root_rank
        self.broadcast_done = False

    def on_batch_begin(self, batch, logs=None):
        if self.broadcast_done:
            return
        if int(util.get_ranksize()) > 1:
            broadcast = broadcast_global_variables(self.root_rank)
            backend.get_session().run(broadcast)
        self.broadcast_done = True


class NPUBroadcastGlobalVariablesCallback(BroadcastGlobalVariablesCallbackImpl, keras.callbacks.Callback):
    """Broadcasts once, at the first batch, what was marked as initialised by then: nothing, for a fresh model."""

    def __init__(self, root_rank):
        super().__init__(root_rank)
