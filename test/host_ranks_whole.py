"""One of three ranks: a whole training with SWA and checkpoints; then the last rank fails. Argument: a folder."""

import sys
import time

import host_ranks as parts
import numpy as np

from ascend_keras import callbacks, compat, optimizers
from ascend_keras.callbacks import swa
from ascend_keras.compat import keras, tf

trainer, rank, size = parts.new_trainer(seed=1, deterministic=True, precision_mode_v2="mixed_float16")
backend = trainer.backend
X, Y = parts.data(72)


def dataset(context):
    """The batches of a rank: 4 of 6 examples each."""
    own = slice(context.input_pipeline_id, None, context.num_input_pipelines)
    return tf.data.Dataset.from_tensor_slices((X[own], Y[own])).repeat().batch(6, drop_remainder=True)


dataset.steps = lambda ranks: 72 // (6 * ranks)

with trainer.scope():
    inputs = keras.Input((6,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(5, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(keras.layers.Dense(2)(hidden)))
random = np.random.RandomState(rank)
model.set_weights([abs(random.randn(*weight.shape)) for weight in model.get_weights()])
trainer.compile(model, keras.optimizers.SGD(0.05, momentum=0.9), "mse", **backend.compile_arguments({}))
average = swa.SWA(start_epoch=2, bn="exact", bn_data=(X[rank::size], Y[rank::size]), batch_size=6)
checkpoint = callbacks.Checkpoint(sys.argv[1])
history = trainer.fit(model, dataset, validation_data=dataset, epochs=3, verbose=0, callbacks=[average, checkpoint])
out = {
    "trained": parts.hexed(compat.get_values(model.trainable_weights)),
    "bits": parts.hexed(model.get_weights()),
    "finite": bool(all(np.isfinite(weight).all() for weight in model.get_weights())),
    "history": {name: [float(value) for value in values] for name, values in history.history.items()},
    "backend": history.backend["rank"],
    "state": parts.hexed(compat.get_values([variable for _, variable in compat.optimizer_state(model.optimizer)])),
    "scale": optimizers.current_loss_scale(model.optimizer),
    "predicted": list(np.shape(trainer.predict(model, X[:4], batch_size=4))),
    "evaluated": bool(np.isfinite(trainer.evaluate(model, dataset, verbose=0))),
    "sum": backend.sum_over_ranks([0.1 * (rank + 1)]).tolist(),
    "mean": parts.gradients(backend, rank)["matrix"],
}
parts.report(out)
if rank == size - 1:
    raise ValueError("this rank fails")
if not compat.TF1:  # where the others would wait for ever
    begin = time.monotonic()
    try:
        backend.sum_over_ranks([1.0])
    except tf.errors.UnavailableError as error:
        parts.report(dict(out, lost=str(error)[:2000], after=time.monotonic() - begin))
