"""Two ranks on TF 1.15: what is reduced, how often, and what is not. Each part prints under its own name."""

# ruff: noqa: F403, F405 (the star import is what users write)

import json
import os

import numpy as np
import tensorflow as tf
from npu_bridge.npu_init import *

K, keras = tf.keras.backend, tf.keras
rank = int(os.environ["RANK_ID"])
seen = {}


def log_length():
    path = os.path.join(os.environ["FAKE_ASCEND_DIR"], "collectives.rank{}.jsonl".format(rank))
    return len(open(path).readlines()) if os.path.exists(path) else 0


def train(optimizer, layers, x, y, callbacks=(), touch=False):
    """Trains one batch; returns the collectives it took and the weights."""
    K.clear_session()
    tf.set_random_seed(1)
    net = keras.Sequential(layers)
    net.compile(optimizer(), "mse")
    if touch:
        K.get_session()
    start = log_length()
    net.fit(x, y, batch_size=len(x), verbose=0, callbacks=list(callbacks))
    return [log_length() - start, [weight.tolist() for weight in net.get_weights()]]


def dense(value="ones"):
    return [keras.layers.Dense(1, input_shape=(2,), kernel_initializer=value, use_bias=False)]


x = np.full((1, 2), rank + 1.0, "float32")
y = np.zeros((1, 1), "float32")
wrap = npu_distributed_optimizer_wrapper
seen["once"] = train(lambda: wrap(keras.optimizers.SGD(0.1)), dense(), x, y)
seen["twice"] = train(lambda: wrap(wrap(keras.optimizers.SGD(0.1))), dense(), x, y)
seen["clipnorm"] = train(lambda: wrap(keras.optimizers.SGD(1.0, clipnorm=0.01)), dense(), x, y)
mine = keras.initializers.constant(float(rank))
broadcast = [NPUBroadcastGlobalVariablesCallback(0)]
seen["callback on a fresh model"] = train(lambda: keras.optimizers.SGD(0.0), dense(mine), x, y, broadcast)
seen["callback after get_session"] = train(
    lambda: keras.optimizers.SGD(0.0), dense(mine), x, y, [NPUBroadcastGlobalVariablesCallback(0)], True
)
words = np.array([[rank]], "int32")
seen["embedding"] = train(
    lambda: wrap(keras.optimizers.SGD(0.1)),
    [keras.layers.Embedding(3, 1, input_length=1, embeddings_initializer="ones"), keras.layers.Flatten()],
    words,
    y,
)
manual = keras.Sequential(dense(mine))
K.get_session().run([tf.assign(weight, hccl_ops.broadcast([weight], 1)[0]) for weight in manual.weights])
seen["broadcast from 1"] = manual.get_weights()[0].ravel().tolist()
session, _ = init_resource()
seen["rank"] = [get_npu_rank_id(), get_npu_rank_size(), get_rank_id()]
print("RESULT " + json.dumps(seen))
