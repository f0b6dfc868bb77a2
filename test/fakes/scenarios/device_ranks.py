"""Two ranks on TF 2.6: what is reduced and broadcast, how often, and what is not."""

import json
import os

import npu_device as npu
import numpy as np
import tensorflow as tf
from npu_device.distribute import hccl, npu_callbacks

keras = tf.keras
rank = int(os.environ["RANK_ID"])
seen = {"before as_default": float(npu.distribute.all_reduce(tf.constant(float(rank))))}
handle = npu.open()
seen["opened only"] = float(npu.distribute.all_reduce(tf.constant(float(rank))))
handle.as_default()


def log_length():
    path = os.path.join(os.environ["FAKE_ASCEND_DIR"], "collectives.rank{}.jsonl".format(rank))
    return len(open(path).readlines()) if os.path.exists(path) else 0


def net(optimizer, value=1.0, batch_norm=False):
    layers = [
        keras.layers.Dense(1, input_shape=(2,), use_bias=False, kernel_initializer=keras.initializers.Constant(value))
    ]
    if batch_norm:
        moments = keras.initializers.Constant(value)
        layers.append(keras.layers.BatchNormalization(moving_mean_initializer=moments, beta_initializer=moments))
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse")
    return model


def train(model, callbacks=()):
    start = log_length()
    model.fit(np.full((1, 2), rank + 1.0, "f"), np.zeros((1, 1), "f"), verbose=0, callbacks=list(callbacks))
    return [log_length() - start, [weight.ravel().tolist() for weight in model.get_weights()]]


wrap = npu.distribute.npu_distributed_keras_optimizer_wrapper
seen["once"] = train(net(wrap(keras.optimizers.SGD(0.1))))
seen["twice"] = train(net(wrap(wrap("sgd"))))[0]
seen["clipnorm"] = train(net(wrap(keras.optimizers.SGD(1.0, clipnorm=0.01))))
seen["callback"] = train(net(keras.optimizers.SGD(0.0), float(rank)), hccl.npu_callbacks_append([]))

model = net("sgd", float(rank), batch_norm=True)
npu_callbacks.broadcast_keras_model(model, root_rank=1)
seen["broadcast_keras_model"] = {v.name.split("/")[1]: v.numpy().ravel().tolist() for v in model.variables}
one = tf.Variable(float(rank))
npu.distribute.broadcast(one, root_rank=1)
seen["broadcast from 1"] = float(one)
seen["broadcast of a tensor"] = type(getattr(tf.constant(1.0), "assign", None)).__name__
mean = npu.distribute.all_reduce([tf.constant(rank + 1), None])
seen["mean of ints"] = [mean[0].dtype.name, float(mean[0]), mean[1]]
data, batch = npu.distribute.shard_and_rebatch_dataset(tf.data.Dataset.range(4), 6)
seen["shard"] = [[int(value) for value in data], batch]
try:
    npu.distribute.shard_and_rebatch_dataset(data, 7)
except ValueError as error:
    seen["uneven batch"] = str(error)
path = "saved{}.h5".format(rank)
model = net(wrap(keras.optimizers.SGD(0.1)))
model.save(path)
seen["loaded"] = train(keras.models.load_model(path))[0]
seen["handle"] = [handle.workers_num, handle.worker_id, handle.is_cluster_worker()]
print("RESULT " + json.dumps(seen))
