"""The paths that bench_swa_cost.py times for batch normalization: re-estimation, inference, a training epoch."""

import common
import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.batch_norm import Batches, BatchNormPass, reestimate_batch_norm
from ascend_keras.compat import keras, tf

BATCH_SIZE = 32
PREDICT, LEAN, EPOCH = "inference: model.predict", "inference: a bare loop over the batches", "training epoch"
REESTIMATE, ONCE = "re-estimation", "re-estimation, its graph built anew"


def cnn():
    """Six convolutions, each with batch normalization and ReLU, on 32 x 32 colour images."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for filters in (32, 64, 128):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization()(x)
            x = layers.Activation("relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", **common.compile_options())
    return model


def paths(images):
    """All paths over one model and so many images: {name: function} for `common.interleaved`."""
    random = np.random.RandomState(0)
    x = random.standard_normal((images, 32, 32, 3)).astype(np.float32)
    y = random.randint(0, 10, images).astype(np.int32)
    model = cnn()
    batch_norm = BatchNormPass(model)
    return {
        PREDICT: lambda: model.predict(x, batch_size=BATCH_SIZE, verbose=0),
        LEAN: _bare_loop(model, x),
        REESTIMATE: lambda: batch_norm.run(Batches(x, batch_size=BATCH_SIZE)),
        ONCE: lambda: reestimate_batch_norm(model, x, batch_size=BATCH_SIZE),
        EPOCH: lambda: model.fit(x, y, batch_size=BATCH_SIZE, epochs=1, verbose=0),
    }


def _bare_loop(model, x):
    if compat.TF1:
        outputs = keras.backend.function(model.inputs, model.outputs)
        infer = lambda batch: outputs([batch])  # noqa: E731
    else:
        infer = tf.function(lambda batch: model(batch, training=False))

    def loop():
        for start in range(0, len(x), BATCH_SIZE):
            np.asarray(infer(x[start : start + BATCH_SIZE]))

    return loop
