"""A user's script: plain tf.keras, not one line for a device. The tests run it as it is on every stack and adapter."""

import json
import sys

import numpy as np
import tensorflow as tf

from ascend_keras import NPUTrainer, schedules

arguments = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
random = np.random.RandomState(0)
x = random.rand(64, 4).astype("float32")
y = (x.sum(axis=1) > 2).astype("int32")

with NPUTrainer(**arguments) as trainer:
    with trainer.scope():
        model = tf.keras.Sequential(
            [
                tf.keras.layers.Dense(8, activation="relu", kernel_initializer="ones", input_shape=(4,)),
                tf.keras.layers.BatchNormalization(momentum=0.5),
                tf.keras.layers.Dense(2, kernel_initializer="zeros"),
                tf.keras.layers.Activation("softmax", dtype="float32"),
            ]
        )
    optimizer = tf.keras.optimizers.SGD(schedules.WarmupCosine(0.5, total_steps=24, warmup_steps=4), momentum=0.9)
    trainer.compile(model, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = trainer.fit(model, x, y, batch_size=16, epochs=6, shuffle=False, verbose=0, validation_data=(x, y))
    loss, accuracy = trainer.evaluate(model, x, y, batch_size=16, verbose=0)
    predicted = trainer.predict(model, x, batch_size=16)
    result = {
        "backend": history.backend["backend"],
        "loss": history.history["loss"],
        "evaluated": float(loss),
        "accuracy": float(accuracy),
        "predicted": np.asarray(predicted).tolist(),
        "history": sorted(history.history),
        "weights": [weight.tolist() for weight in model.get_weights()],
    }
print("RESULT " + json.dumps(result))
