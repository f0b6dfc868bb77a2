"""Scopes that mark operators for the compiler: an attribute on each operator built inside."""

import contextlib

from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import ops


def _attribute_scope(name, value):
    @contextlib.contextmanager
    def scope():
        with ops.get_default_graph()._attr_scope({name: value}):
            yield

    return scope


keep_dtype_scope = _attribute_scope("_keep_dtype", attr_value_pb2.AttrValue(i=1))
without_npu_compile_scope = _attribute_scope("_without_npu_compile", attr_value_pb2.AttrValue(b=True))
disable_autofuse = _attribute_scope("_disable_autofuse_scope", attr_value_pb2.AttrValue(b=True))
npu_optimizer_scope = _attribute_scope("_optimizer", attr_value_pb2.AttrValue(b=True))
