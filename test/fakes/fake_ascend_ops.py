"""The operators of the adapters' op library, as numpy functions that run when the graph runs.

Names, arguments and type lists are those of the op definitions; each operator works on TF 1.15 and TF 2.6. An operator
that runs where nothing is offloaded fails, as there is no kernel for it on the host.
"""

import functools
import re

import fake_ascend
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import ops, random_seed

REDUCE_TYPES = ("int8", "int16", "int32", "int64", "float16", "float32", "bfloat16")
GATHER_TYPES = (
    "int8",
    "int16",
    "int32",
    "float16",
    "float32",
    "int64",
    "uint64",
    "uint8",
    "uint16",
    "uint32",
    "float64",
    "bfloat16",
)
DROPOUT_TYPES = ("float16", "float32")
REDUCTIONS = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}

# Set by the adapter that was imported: a function without arguments, whether the running graph is on the device.
is_offloaded = [lambda: False]


def _host_op(op_type, function, inputs, dtype, shape, name=None):
    """Builds one stateful operator. `function(op_name, *arrays)` returns the array of its one output."""
    op_name = [""]

    def run(*arrays):
        if not is_offloaded[0]():
            raise RuntimeError(
                "No OpKernel was registered to support Op '{}' used by {!r} on the host: the graph "
                "was not offloaded.".format(op_type, op_name[0])
            )
        return np.asarray(function(op_name[0], *arrays), dtype=dtype.as_numpy_dtype)

    output = tf.numpy_function(run, list(inputs), dtype, name=name or op_type)
    if not context.executing_eagerly():
        op_name[0] = output.op.name
        _collectives_of(output.graph).append(output.op)
        output.set_shape(shape)
    return output


def _collectives_of(graph):
    if not hasattr(graph, "_fake_ascend_ops"):
        graph._fake_ascend_ops = []
    return graph._fake_ascend_ops


def graph_ops(graph):
    """The fake operators of a graph in the order in which they were built."""
    return list(getattr(graph, "_fake_ascend_ops", ()))


def _checked(tensor, types, parameter="input"):
    tensor = ops.convert_to_tensor(tensor)
    if tensor.dtype.base_dtype.name not in types:
        raise TypeError(
            "Value passed to parameter '{}' has DataType {} not in list of allowed values: {}".format(
                parameter, tensor.dtype.base_dtype.name, ", ".join(types)
            )
        )
    return tensor


def _checked_reduction(reduction):
    if reduction not in REDUCTIONS:
        raise ValueError(
            "Value for attr 'reduction' of \"{}\" is not in the list of allowed values: {}".format(
                reduction, ", ".join('"{}"'.format(name) for name in ("min", "max", "prod", "sum"))
            )
        )


def _hcom(op_type, tensor, combine, shape, group, name=None, reduction=None, root_rank=0):
    def run(op_name, array):
        return combine(fake_ascend.collective(op_type, array, op_name, reduction, root_rank, group))

    return _host_op(op_type, run, [tensor], tensor.dtype.base_dtype, shape, name)


def _reduce_arrays(reduction, arrays):
    return functools.reduce(REDUCTIONS[reduction], arrays)


def _identity_gradient_op(op_type):
    return ops.get_default_graph().gradient_override_map({"PyFunc": op_type})


@ops.RegisterGradient("FakeHcomAllReduce")
def _all_reduce_gradient(unused_op, grad):
    return [hcom_all_reduce(grad, "sum", fusion=0, fusion_id=-1, group=fake_ascend.WORLD_GROUP)]


# --- collectives ------------------------------------------------------------------------------------------------


def hcom_all_reduce(input, reduction, group, fusion, fusion_id, name=None):
    tensor = _checked(input, REDUCE_TYPES)
    _checked_reduction(reduction)
    fake_ascend.record("all_reduce_built", fusion=fusion, fusion_id=fusion_id)
    with _identity_gradient_op("FakeHcomAllReduce"):
        return _hcom(
            "HcomAllReduce", tensor, functools.partial(_reduce_arrays, reduction), tensor.shape, group, name, reduction
        )


def hcom_all_gather(input, group, rank_size, fusion=0, fusion_id=-1, name=None):
    tensor = _checked(input, GATHER_TYPES)
    shape = tensor.shape
    if shape.ndims == 0:
        raise ValueError("Shape must be at least rank 1 but is rank 0 for 'HcomAllGather'")
    if shape.ndims is not None:
        rows = tf.TensorShape(shape[:1]).as_list()[0]
        shape = tf.TensorShape([rows * rank_size if rows is not None else None]).concatenate(shape[1:])
    return _hcom("HcomAllGather", tensor, np.concatenate, shape, group, name)


def hcom_broadcast(input, root_rank, group, fusion, fusion_id, name=None):
    if not isinstance(input, (list, tuple)):
        raise TypeError("Expected list for 'input' argument to 'HcomBroadcast' Op, not {}.".format(input))
    outputs = []
    for value in input:
        tensor = ops.convert_to_tensor(value)
        outputs.append(
            _hcom(
                "HcomBroadcast",
                tensor,
                lambda arrays: arrays[root_rank],
                tensor.shape,
                group,
                name,
                root_rank=root_rank,
            )
        )
    return outputs


def hcom_reduce(input, reduction, root_rank, group, fusion, fusion_id, name=None):
    tensor = _checked(input, REDUCE_TYPES)
    _checked_reduction(reduction)

    def at_root(arrays):
        me = fake_ascend.rank_id()
        return _reduce_arrays(reduction, arrays) if me == root_rank else arrays[me]

    return _hcom("HcomReduce", tensor, at_root, tensor.shape, group, name, reduction, root_rank)


def hcom_reduce_scatter(input, reduction, rank_size, group, fusion=0, fusion_id=-1, name=None):
    tensor = _checked(input, REDUCE_TYPES)
    _checked_reduction(reduction)
    rows = tf.TensorShape(tensor.shape[:1]).as_list()[0]
    if rows % rank_size:
        raise ValueError("input first dim should be N * rank_size.")

    def my_part(arrays):
        return np.split(_reduce_arrays(reduction, arrays), rank_size)[fake_ascend.rank_id()]

    shape = tf.TensorShape([rows // rank_size]).concatenate(tensor.shape[1:])
    return _hcom("HcomReduceScatter", tensor, my_part, shape, group, name, reduction)


# --- overflow status --------------------------------------------------------------------------------------------


def _control_inputs():
    """Float tensors that the operator built next has to wait for; an Inf among them went through the device."""
    if context.executing_eagerly():
        return []
    graph = ops.get_default_graph()
    producers = graph._control_dependencies_for_inputs([])
    outputs = [output for producer in producers for output in producer.outputs]
    return [output for output in outputs if output.dtype in (tf.float16, tf.float32)]


def npu_get_float_status_v2(name=None):
    """int32[8], all zero when no overflow happened since the register was cleared."""

    def run(unused_name, *arrays):
        saw_overflow = any(not np.all(np.isfinite(array)) for array in arrays)
        return [int(fake_ascend.read_float_status(saw_overflow))] + [0] * 7

    return _host_op("NpuGetFloatStatusV2", run, _control_inputs(), tf.int32, [8], name)


def npu_clear_float_status_v2(name=None):
    """Clears the register; an operation without output."""

    def run(unused_name):
        fake_ascend.clear_float_status()
        return 0

    output = _host_op("NpuClearFloatStatusV2", run, [], tf.int32, [], name)
    return None if context.executing_eagerly() else output.op


def npu_alloc_float_status(name=None):
    return _host_op("NpuAllocFloatStatus", lambda unused_name: [0.0], [], tf.float32, [1], name)


def npu_get_float_status(input_float, name=None):
    def run(unused_name, unused_input):
        return [float(fake_ascend.read_float_status(False))]

    return _host_op("NpuGetFloatStatus", run, [input_float], tf.float32, [1], name)


def npu_clear_float_status(float_status, name=None):
    def run(unused_name, unused_input):
        fake_ascend.clear_float_status()
        return [0.0]

    return _host_op("NpuClearFloatStatus", run, [float_status], tf.float32, [1], name)


# --- dropout and others -----------------------------------------------------------------------------------------


def drop_out_gen_mask(shape, prob, seed=0, seed2=0, name=None):
    """uint8 mask of bits; here one byte an element instead of one bit."""
    return tf.cast(
        tf.random.uniform(shape, seed=(seed or 0) + (seed2 or 0) or None) < tf.cast(prob, tf.float32), tf.uint8
    )


def drop_out_do_mask(x, mask, keep_prob, name=None):
    x = _checked(x, DROPOUT_TYPES, "x")
    return tf.divide(x * tf.cast(mask, x.dtype), tf.cast(keep_prob, x.dtype), name=name)


def dropout(x, keep_prob, noise_shape, seed, name):
    """The checks and the operator pair that both adapters use for dropout."""
    x = ops.convert_to_tensor(x, name="x")
    if not x.dtype.is_floating:
        raise ValueError("x must be a floating point tensor. Got a {} tensor instead.".format(x.dtype))
    if isinstance(keep_prob, (int, float)) and not 0 < keep_prob <= 1:
        raise ValueError(
            "keep_prob must be a float value or a scalar tensor in the range (0, 1], got {:g}".format(keep_prob)
        )
    if isinstance(keep_prob, float) and keep_prob == 1.0:
        return x
    fake_ascend.record("npu_dropout", shape=x.shape.as_list() if x.shape.ndims is not None else None)
    seed, seed2 = random_seed.get_seed(seed)
    mask = drop_out_gen_mask(tf.shape(x) if noise_shape is None else noise_shape, keep_prob, seed, seed2)
    return drop_out_do_mask(x, mask, keep_prob, name)


def fast_gelu(x, name=None):
    return x * tf.sigmoid(1.702 * x, name=name)


def make_finite_tests_blind():
    """In saturation mode values are clipped, so that no finite test can see an overflow (contract 7.4)."""
    from tensorflow.python.ops import gen_math_ops, math_ops

    genuine = gen_math_ops.is_finite

    def is_finite(x, name=None):
        blind = tf.numpy_function(_is_blind, [], tf.bool)
        blind.set_shape([])
        return tf.logical_or(genuine(x), blind, name=name)

    modules = [gen_math_ops, math_ops, tf, tf.math, tf.debugging]
    modules += [getattr(api, name) for api in (tf.compat.v1, tf.compat.v2) for name in ("math", "debugging")]
    for module in modules + [tf.compat.v1]:
        if hasattr(module, "is_finite"):
            module.is_finite = is_finite


def _is_blind():
    return np.bool_(is_offloaded[0]() and fake_ascend.state.sat_mode == fake_ascend.SATURATION)


def translated(error):
    """The error that native code would have raised in place of one that left a fake operator."""
    text = str(error)
    if re.search(r"EI\d{4}: ", text):
        return tf.errors.InternalError(getattr(error, "node_def", None), getattr(error, "op", None), text)
    if "No OpKernel was registered to support Op" in text:
        return tf.errors.InvalidArgumentError(getattr(error, "node_def", None), getattr(error, "op", None), text)
    return None
