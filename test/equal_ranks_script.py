"""Trains with 1, 2, ... ranks at one global batch, for test_ranks_equal.py.

    python equal_ranks_script.py FOLDER 1 2 4 8

TensorFlow is imported once, and each rank is forked off before it is used: the start of a process costs more than the
training. Rank r of N writes FOLDER/N-r.json, by training a digest of all weights, the history and what evaluate()
returned, and what it prints to FOLDER/N-r.out; rank 0 writes the weights to FOLDER/<training>-N.npz.
"""

import hashlib
import json
import os
import signal
import sys
import traceback

import numpy as np
import ranks

from ascend_keras import NPUTrainer, callbacks, compat, losses, models, schedules
from ascend_keras.compat import keras

layers = keras.layers
GLOBAL_BATCH, STEPS, EPOCHS, CLASSES = 16, 4, 5, 5


def small_alexnet():
    """AlexNet's five convolutions, three pools and three dense layers, on images of 32 x 32 and with few channels."""
    x = inputs = keras.Input((32, 32, 3))
    for channels, size, stride, pool in [(8, 5, 2, True), (12, 3, 1, True), (16, 3, 1, False)]:
        x = layers.Conv2D(channels, size, strides=stride, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(3, 2, padding="same")(x) if pool else x
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.Conv2D(12, 3, padding="same", activation="relu")(x))
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    x = layers.Dense(24, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def without_norm():
    """The network of the SWA recipe without its batch normalization."""
    inputs = keras.Input((2,))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dense(50, activation="relu")(inputs)))


def give_weights(model):
    """The same beginning whatever numbers the stack would draw: normal, in the order of the weights."""
    random = np.random.RandomState(4)
    model.set_weights(
        [
            (random.randn(*w.shape) * np.sqrt(2.0 / max(1, np.prod(w.shape[:-1])))).astype(np.float32)
            if len(w.shape) > 1
            else w
            for w in model.get_weights()
        ]
    )
    return model


def images(count):
    """Images whose brightest corner or centre is their class, under noise."""
    random = np.random.RandomState(count)
    y = random.randint(0, CLASSES, count).astype(np.int32)
    x = random.rand(count, 32, 32, 3).astype(np.float32)
    for image, place in zip(x, y):
        row, column = [(0, 0), (0, 16), (16, 0), (16, 16), (8, 8)][place]
        image[row : row + 16, column : column + 16] += 2.0
    return x - 1.0, y


def points(count):
    """Points of three clouds."""
    random = np.random.RandomState(count)
    y = random.randint(0, 3, count).astype(np.int32)
    centres = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    return (centres[y] + random.randn(count, 2)).astype(np.float32), y


def averaging():
    return callbacks.SWA(2, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=0.03, swa_freq=2)


def trainings():
    """Name to model, optimizer, loss, data, callbacks."""
    rate = schedules.WarmupCosine(0.004, steps_per_epoch=STEPS, warmup_epochs=1, total_epochs=EPOCHS)
    smoothed = losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    sparse = "sparse_categorical_crossentropy"
    return {
        "alexnet": (small_alexnet, keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), smoothed, images, []),
        "swa": (without_norm, keras.optimizers.SGD(0.1), sparse, points, [averaging()]),
        "swa_bn": (models.blobs_mlp, keras.optimizers.SGD(0.1), sparse, points, [averaging()]),
    }


def train(trainer, name, training, folder):
    make, optimizer, loss, data, used = training
    cluster = trainer.settings.cluster
    batch = GLOBAL_BATCH // cluster.size
    x, y = data(GLOBAL_BATCH * STEPS)
    # 41 is divided by no number of ranks.
    tested = data(41)
    with trainer.scope():
        model = give_weights(make())
    trainer.compile(model, optimizer, loss, metrics=["accuracy"], **(dict(jit_compile=False) if compat.KERAS3 else {}))
    history = trainer.fit(
        model,
        x,
        y,
        batch_size=batch,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        validation_data=tested,
        callbacks=used,
    )
    evaluated = trainer.evaluate(model, *tested, batch_size=8, verbose=0)
    trainer.save(model, os.path.join(folder, "{}-{}.npz".format(name, cluster.size)))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())).hexdigest()
    logs = {
        key.replace("acc", "accuracy").replace("accuracyuracy", "accuracy"): [float(v) for v in values]
        for key, values in history.history.items()
    }
    return dict(digest=digest, history=logs, evaluated=[float(value) for value in evaluated])


def run_rank(folder, size, rank, ports):
    """One rank, in a process of its own; returns its exit status."""
    out = os.open(os.path.join(folder, "{}-{}.out".format(size, rank)), os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if size > 1:
        os.environ["TF_CONFIG"] = ranks.tf_config(ports, rank)
    try:
        found = {}
        with NPUTrainer("host", seed=0, deterministic=True) as trainer:
            for name, training in trainings().items():
                found[name] = train(trainer, name, training, folder)
        with open(os.path.join(folder, "{}-{}.json".format(size, rank)), "w") as file:
            json.dump(found, file)
        return 0
    except Exception:  # noqa: BLE001 - the test shows it
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run(folder, size):
    """All ranks; ends those that wait for one that has failed. Returns whether all ended well."""
    ports = ranks.free_ports(size)
    children = set()
    for rank in range(size):
        child = os.fork()
        if not child:
            os._exit(run_rank(folder, size, rank, ports))
        children.add(child)
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            return False
    return True


if __name__ == "__main__":
    sys.exit(not all(run(sys.argv[1], int(size)) for size in sys.argv[2:]))
