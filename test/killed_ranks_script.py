"""Trains on the ranks of a launch, and kills itself (-9) where it is told, for test_ranks_killed.py.

    python killed_ranks_script.py FOLDER [RANK:PLACE ...]

The n-th start of the launch takes the n-th of the places: start, compile, epoch, evaluation, saving, end. A start
without one trains to the end; rank 0 then writes FOLDER/weights.npz. Starts and deaths are noted in FOLDER/events.
"""

import os
import signal
import sys
import time

FOLDER, PLACES = sys.argv[1], sys.argv[2:]
RANK, START = int(os.environ.get("ASCEND_KERAS_RANK", "0")), int(os.environ.get("ASCEND_KERAS_RESTARTS", "0"))
VICTIM, PLACE = PLACES[START].split(":") if len(PLACES) > START else (None, None)


def note(what):
    with open(os.path.join(FOLDER, "events"), "a") as file:
        file.write("{} {} {} {:.3f}\n".format(START, RANK, what, time.time()))


def die_at(place):
    """Ends this process if that is what this start is for."""
    if place == PLACE and int(VICTIM) == RANK:
        note(place)
        os.kill(os.getpid(), signal.SIGKILL)


note("begun")
die_at("start")

import numpy as np  # noqa: E402

from ascend_keras import NPUTrainer, callbacks, compat  # noqa: E402
from ascend_keras.compat import keras  # noqa: E402

EPOCHS = 6


class Killer(keras.callbacks.Callback):
    """Dies in the first step, in the middle of the second epoch, or in the validation behind it."""

    epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        die_at("compile")
        if self.epoch % 2 == 1 and batch == 1:
            die_at("epoch")

    def on_test_batch_begin(self, batch, logs=None):
        if self.epoch % 2 == 1 and batch == 1:
            die_at("evaluation")


def die_while_saving(checkpoint):
    """Dies when the file of a checkpoint is written and has not got its name; other ranks, when they would read."""
    on_epoch_end, replace = checkpoint.on_epoch_end, os.replace

    def dying(epoch, logs=None):
        if epoch % 2 == 1 and RANK:
            die_at("saving")
        os.replace = lambda *paths: (epoch % 2 == 1 and die_at("saving")) or replace(*paths)
        on_epoch_end(epoch, logs)
        os.replace = replace

    checkpoint.on_epoch_end = dying


def main():
    random = np.random.RandomState(0)
    x, y = random.randn(32, 6).astype(np.float32), random.randint(0, 3, 32).astype(np.int32)
    with NPUTrainer("host", seed=1, deterministic=True) as trainer:
        with trainer.scope():
            layers = keras.layers
            inputs = keras.Input((6,))
            hidden = layers.BatchNormalization()(layers.Dense(8, activation="relu")(inputs))
            model = keras.Model(inputs, layers.Dense(3)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        quick = dict(jit_compile=False) if compat.KERAS3 else {}
        trainer.compile(model, keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], **quick)
        checkpoint = callbacks.Checkpoint(os.path.join(FOLDER, "ckpt"))
        die_while_saving(checkpoint)
        restored = checkpoint.restore(model)
        begin = restored.epoch if restored else 0
        note("from {}".format(begin))
        trainer.fit(
            model,
            x,
            y,
            batch_size=8,
            epochs=EPOCHS,
            initial_epoch=begin,
            shuffle=False,
            verbose=0,
            validation_data=(x, y),
            callbacks=[Killer(), callbacks.SWA(2, swa_freq=2, lr_schedule="manual"), checkpoint],
        )
        die_at("end")  # behind the last checkpoint: no epoch is left for the next start
        trainer.save(model, os.path.join(FOLDER, "weights.npz"))
    note("done")


main()
