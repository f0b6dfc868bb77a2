"""The input queue of a function with a loop: `loop size` batches a call, no more and no less (contract 4.3).

The real device waits for ever for a batch that nobody sends. The fake raises instead, and records a "stall".
"""

import contextlib

import fake_ascend
import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops
from tensorflow.python.framework import ops

from npu_device import _npu_device_backends

_call = {"name": None, "taken": 0, "looped": False}


def watch_iterators():
    """Counts each batch that a graph takes: predict takes its first one before the loop."""
    genuine = iterator_ops.OwnedIterator._next_internal

    def counted(self):
        if not ops.get_default_graph().building_function:
            return genuine(self)
        with tf.control_dependencies([tf.numpy_function(_take, [_is_in_loop_body()], tf.int32)]):
            return genuine(self)

    iterator_ops.OwnedIterator._next_internal = counted


def _is_in_loop_body():
    graph = ops.get_default_graph()
    while isinstance(graph, ops.Graph) and graph.building_function:
        if "while" in graph.name and "body" in graph.name:
            return True
        graph = graph.outer_graph
    return False


def _take(in_loop):
    _call["taken"] += 1
    _call["looped"] = _call["looped"] or bool(in_loop)
    if _call["looped"] and _call["taken"] > _npu_device_backends.loop_size():
        _stall("asked for batch {} of a call".format(_call["taken"]))
    return np.int32(_call["taken"])


def _stall(what):
    size = _npu_device_backends.loop_size()
    fake_ascend.record("stall", function=_call["name"], loop_size=size, taken=_call["taken"])
    raise RuntimeError(
        "stall: the loop of {} {}, but npu_loop_size is {}: steps_per_execution and "
        "set_npu_loop_size must be equal.".format(_call["name"], what, size)
    )


@contextlib.contextmanager
def one_call(name):
    """One call from Python; a loop that left batches in the queue is as wrong as one that wants more."""
    _call.update(name=name, taken=0, looped=False)
    yield
    # A function without a loop takes one batch a call, whatever the loop size.
    if _call["looped"] and _call["taken"] < _npu_device_backends.loop_size():
        _stall("took {} batches of a call".format(_call["taken"]))
