"""Opening the device on TF 2.6: environment, handle, frozen options, the replaced context."""

# ruff: noqa: E402, I001 (a variable from before the import is part of the scenario)
import functools
import json
import os

import numpy as np
import tensorflow as tf

variable = tf.Variable(1.0)
import npu_device as npu
from npu_device.npu_device import global_npu_ctx
from hccl.manage import api

import fake_ascend

seen = {}


def message(function, **env):
    os.environ.update(env)
    try:
        function()
        return "no error"
    except (RuntimeError, TypeError, ValueError, tf.errors.OpError) as error:
        return "{}: {}".format(type(error).__name__, error)
    finally:
        for key in env:
            del os.environ[key]


chief = dict(CM_CHIEF_IP="1.2.3.4", CM_CHIEF_PORT="60000", CM_CHIEF_DEVICE="0")
table = dict(RANK_TABLE_FILE="/nowhere/table.json", RANK_ID="0")
seen["nothing"] = message(npu.open, RANK_SIZE="2")
seen["both sizes"] = message(npu.open, RANK_SIZE="2", CM_WORKER_SIZE="2")
seen["both modes"] = message(npu.open, RANK_SIZE="2", **chief, **table)
seen["no rank"] = message(npu.open, RANK_SIZE="2", RANK_TABLE_FILE="/nowhere/table.json")
seen["no port"] = message(npu.open, CM_WORKER_SIZE="2", CM_CHIEF_IP="1.2.3.4")
seen["bad table"] = message(npu.open, RANK_SIZE="2", **table)
seen["no card"] = message(npu.open, FAKE_ASCEND_DEVICES="0")
seen["rank before open"] = message(api.get_rank_id)

npu.global_options().precision_mode_v2 = "mixed_float16"
handle = npu.open()
seen["same"] = npu.open(0) is handle
seen["other id"] = message(lambda: npu.open(1))
npu.global_options().precision_mode_v2 = "fp16"
npu.open()
seen["frozen"] = [event["options"]["precision_mode_v2"] for event in fake_ascend.recorded("open")]
seen["rank"] = api.get_rank_id()
seen["handle"] = [handle.name(), handle.workers_num, handle.worker_id, handle.is_cluster_worker()]
seen["default before"] = global_npu_ctx() is None
seen["old variable"] = message(variable.read_value)
plain = tf.function
seen["as_default"] = handle.as_default() is handle and global_npu_ctx() is handle and tf.function is not plain
seen["new variable"] = float(tf.Variable(2.0) + 1)
seen["outside of a cluster"] = [npu.distribute.all_reduce(3), npu.distribute.shard_and_rebatch_dataset("data", 7)]
seen["top level"] = [hasattr(npu, "close"), hasattr(npu.distribute, "npu_callbacks_append")]
with handle.scope():
    seen["scope"] = float(tf.constant(1.0))


@tf.function
def drop(x, rate):
    return tf.nn.dropout(x, rate)


@tf.function(jit_compile=True)
def without_xla(x):
    return drop(x, 0.5)


seen["dropout rate 1"] = message(lambda: tf.function(lambda x: tf.nn.dropout(x, 1.0))(tf.ones([4])))
seen["dropout float64"] = message(lambda: tf.function(lambda x: tf.nn.dropout(x, 0.5))(tf.ones([4], tf.float64)))
seen["eager dropout float64"] = message(lambda: tf.nn.dropout(tf.ones([4], tf.float64), 0.5))
values = tf.function(lambda x: tf.nn.dropout(x, 0.25))(tf.ones([1000])).numpy()
seen["dropout values"] = sorted({round(float(value), 4) for value in values})
seen["nested, without XLA"] = without_xla(tf.ones([2])).shape.as_list()
npu.set_device_sat_mode(0)
seen["finite test is blind"] = bool(tf.function(tf.math.is_finite)(tf.constant(float("inf"))))
npu.set_device_sat_mode(1)
seen["finite test sees"] = not bool(tf.function(tf.math.is_finite)(tf.constant(float("inf"))))


def fit(steps_per_execution, loop_size):
    npu.set_npu_loop_size(loop_size)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 2), "f"), np.ones((8, 1), "f"))).batch(1)
    model.fit(data, verbose=0)


for steps, loop in ((1, 1), (2, 2), (2, 1), (2, 4), (3, 3), (1, 2)):
    seen["fit {}/{}".format(steps, loop)] = message(functools.partial(fit, steps, loop))
npu.set_npu_loop_size(0)
print("RESULT " + json.dumps(seen))
