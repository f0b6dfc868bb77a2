"""The broadcast hook of session code. The other hooks belong to the Estimator path."""

import tensorflow as tf

from npu_bridge.estimator.npu import util
from npu_bridge.hccl import hccl_ops


def broadcast_global_variables(root_rank):
    op_list = []
    for variable in tf.trainable_variables():
        outputs = hccl_ops.broadcast(tensor=[variable], root_rank=root_rank)
        op_list += [outputs[0].op, tf.assign(variable, outputs[0])]
    return tf.group(op_list)


class NPUBroadcastGlobalVariablesHook(tf.train.SessionRunHook):
    """Broadcasts the trainable variables once the session is there."""

    def __init__(self, root_rank=None, index=None):
        self._root_rank = root_rank
        self._bcast_op = None
        self._rank_size = int(util.get_ranksize())

    def begin(self):
        if self._rank_size > 1 and (self._bcast_op is None or self._bcast_op.graph != tf.get_default_graph()):
            self._bcast_op = broadcast_global_variables(self._root_rank)

    def after_create_session(self, session, coord):
        if self._rank_size > 1:
            session.run(self._bcast_op)
