"""The float status of a saturation-mode device on TF 1.15, and NPULossScaleOptimizer over it."""

# ruff: noqa: F403, F405, I001 (the star import is what users write)

import json

import tensorflow as tf
from npu_bridge.npu_init import *

import fake_ascend

seen = {"inf_nan": npu_plugin.is_inf_nan_enabled()}
npu_plugin.set_device_sat_mode(1)
seen["inf_nan after asking for it"] = npu_plugin.is_inf_nan_enabled()

gen = __import__("npu_bridge").helper.get_gen_ops()
status, clear = gen.npu_get_float_status_v2(), gen.npu_clear_float_status_v2()
value = tf.placeholder(tf.float32, [])
with tf.control_dependencies([value * 2]):
    status_after = gen.npu_get_float_status_v2()
finite = tf.reduce_all(tf.math.is_finite(value))

variable = tf.Variable(1.0)
manager = ExponentialUpdateLossScaleManager(8.0, 2, decr_every_n_nan_or_inf=1, decr_ratio=0.5)
scaler = NPULossScaleOptimizer(tf.train.GradientDescentOptimizer(0.5), manager)
step = tf.train.get_or_create_global_step()
train = scaler.minimize(variable * 1.0, global_step=step)

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    seen["shape"] = [status.dtype.name, status.shape.as_list(), type(clear).__name__]
    seen["clean"] = int(session.run(status)[0])
    fake_ascend.inject_overflow(1)
    seen["until cleared"] = [int(session.run(status)[0]), int(session.run(status)[0])]
    session.run(clear)
    seen["cleared"] = int(session.run(status)[0])
    seen["inf through the device"] = [int(session.run(status_after, {value: float("inf")})[0])]
    seen["finite test is blind"] = bool(session.run(finite, {value: float("inf")}))
    session.run(clear)
    trace = []
    for overflow in (False, False, True, False):
        if overflow:
            fake_ascend.inject_overflow(1)
        session.run(train)
        trace.append(
            [float(session.run(manager.get_loss_scale())), float(session.run(variable)), int(session.run(step))]
        )
    seen["training"] = trace
print("RESULT " + json.dumps(seen))
