"""Scopes that mark operators: an attribute on each operator built inside."""

from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import ops
from tensorflow.python.util import tf_contextlib


def _attribute_scope(name, value):
    @tf_contextlib.contextmanager
    def scope():
        with ops.get_default_graph()._attr_scope({name: value}):
            yield

    return scope


keep_dtype_scope = _attribute_scope("_keep_dtype", attr_value_pb2.AttrValue(i=1))
npu_optimizer_scope = _attribute_scope("_optimizer", attr_value_pb2.AttrValue(b=True))
npu_gradients_scope = _attribute_scope("_backward", attr_value_pb2.AttrValue(b=True))
npu_recompute_scope = _attribute_scope("_recompute", attr_value_pb2.AttrValue(b=True))
