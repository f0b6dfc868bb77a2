"""Two ranks on TF 2.6, an overflow on rank 0 in step 2. argv: the order of loss scale (L) and distribution (D)."""

import json
import os
import sys

import fake_ascend
import npu_device as npu
import numpy as np
import tensorflow as tf

order, mode = sys.argv[1:]
rank = int(os.environ["RANK_ID"])
npu.set_device_sat_mode(0 if mode == "saturation" else 1)
npu.open().as_default()
wrap = npu.distribute.npu_distributed_keras_optimizer_wrapper
inner = tf.keras.optimizers.SGD(0.5)
if order == "D(L)":
    optimizer = wrap(npu.train.optimizer.NpuLossScaleOptimizer(inner, initial_scale=8.0))
elif order == "L(D)":
    optimizer = npu.train.optimizer.NpuLossScaleOptimizer(wrap(inner), initial_scale=8.0)
elif order == "stock L(D)":
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(wrap(inner), initial_scale=8.0)
else:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    optimizer = wrap(inner)
layer = tf.keras.layers.Dense(1, input_shape=(1,), use_bias=False, kernel_initializer="ones", dtype="float32")
model = tf.keras.Sequential([layer])
model.compile(optimizer, lambda target, output: tf.reduce_mean(output))
answer = {"steps": [], "error": None, "optimizer": type(model.optimizer).__name__}
try:
    for step in range(4):
        value = 1.0
        if rank == 0 and step == 1:
            if mode == "saturation":
                fake_ascend.inject_overflow(1)
            else:
                value = float("inf")
        model.train_on_batch(np.full((1, 1), value, "f"), np.zeros((1, 1), "f"))
        answer["steps"].append(
            [float(layer.kernel.numpy().ravel()[0]), float(model.optimizer.loss_scale), int(model.optimizer.iterations)]
        )
except tf.errors.OpError as error:
    answer["error"] = "{}: {}".format(type(error).__name__, error)
if hasattr(model.optimizer, "last_step_finite"):
    answer["last_step_finite"] = bool(model.optimizer.last_step_finite)
print("RESULT " + json.dumps(answer))
