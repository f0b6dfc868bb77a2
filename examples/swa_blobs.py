"""Stochastic weight averaging on Gaussian blobs (ModelZoo recipe SWA_ID0252) or on handwritten digits.

Trains, averages, and reports the accuracy of the averaged model on data that it has not seen.
"""

import os
from typing import Any, Callable, Dict, Tuple

import common
from absl import flags

from ascend_keras import NPUTrainer, callbacks, data, models
from ascend_keras.compat import keras

RATES = dict(learning_rate=3.0, swa_lr=3.0)
# name: data, model, and the numbers of the recipe; those of digits are the ones of docs/swa.md
DATASETS: Dict[str, Tuple[Callable, Callable, Dict[str, Any]]] = {
    "blobs": (data.blobs, models.blobs_mlp, dict(epochs=100, batch_size=16384, learning_rate=0.1, swa_start_epoch=75)),
    "digits": (
        lambda: data.digits(noise=0.3),
        models.digits_cnn,
        dict(epochs=40, batch_size=20, swa_start_epoch=21, swa_freq=1, lr_schedule="constant", **RATES),
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "blobs", sorted(DATASETS), "what to learn")
flags.DEFINE_string("data_path", "./", "unused by these data sets, which are made here; ModelZoo scripts demand it")
flags.DEFINE_integer("epochs", None, "passes over the training data (blobs 100, digits 40)", lower_bound=1)
flags.DEFINE_alias("train_epochs", "epochs")
flags.DEFINE_integer("max_steps", None, "stop at the end of the epoch that holds this step", lower_bound=1)
flags.DEFINE_alias("max_step", "max_steps")
flags.DEFINE_integer(
    "batch_size", None, "samples per step and device (blobs 16384, digits 20, divided by the devices)", lower_bound=1
)
flags.DEFINE_alias("batch", "batch_size")
flags.DEFINE_float(
    "learning_rate", None, "learning rate before averaging starts (blobs 0.1, digits 3)", lower_bound=0.0
)
flags.DEFINE_integer("swa_start_epoch", None, "first epoch of averaging, from 1 (blobs 75, digits 21)", lower_bound=1)
flags.DEFINE_enum("lr_schedule", "cyclic", ["manual", "constant", "cyclic"], "learning rate while averaging")
flags.DEFINE_float("swa_lr", 0.001, "lowest learning rate of a cycle")
flags.DEFINE_float("swa_lr2", 0.003, "highest learning rate of a cycle")
flags.DEFINE_integer("swa_freq", 3, "epochs per cycle, one sample each", lower_bound=1)

NETWORK = "SWA_ID0252_for_TensorFlow"


def main():
    make_data, make_model, numbers = DATASETS[FLAGS.dataset]
    for name, value in numbers.items():
        if common.origin(name) == "default":
            FLAGS[name].value = value
    ranks = common.ranks()
    if common.origin("batch_size") == "default":
        FLAGS["batch_size"].value = max(1, FLAGS.batch_size // ranks)
    (x, y), (x_test, y_test) = make_data()
    config = resolve(len(x), ranks)
    folder = os.path.join(FLAGS.output_dir, "ckpt")
    common.check_folder(folder)
    with NPUTrainer(**config["trainer"]) as trainer:
        is_main = trainer.settings.cluster.is_main
        common.write_config("swa_blobs", config, is_main)
        with trainer.scope():
            model = make_model()
        optimizer = keras.optimizers.SGD(**config["optimizer"])
        trainer.compile(model, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        swa = callbacks.SWA(verbose=1, **config["swa"])
        throughput = callbacks.Throughput(FLAGS.batch_size * ranks, epoch_samples=len(x) - len(x) % ranks)
        record, checkpoint = callbacks.RunRecord(throughput), callbacks.Checkpoint(folder, keep=2)
        restored = checkpoint.restore(model) if config["start"]["resume"] else None
        history = trainer.fit(
            model,
            x,
            y,
            verbose=2,
            initial_epoch=restored.epoch if restored else 0,
            callbacks=[swa, throughput, record, checkpoint],
            **config["fit"],
        )
        # 5,000 divides the 200,000 points, and the part of each of 2, 4 or 8 devices: all batches have one shape, as a
        # device wants it.
        _, accuracy = trainer.evaluate(model, x_test, y_test, batch_size=5000, verbose=0)
        trainer.save(model, os.path.join(folder, "swa_final.npz"))
        if is_main:
            print("accuracy of the averaged model on {:,} held-out samples: {:.4f}".format(len(x_test), accuracy))
            details = dict(accuracy_on="{:,} held-out samples, averaged model".format(len(x_test)))
            common.finish(NETWORK, FLAGS.batch_size, ranks, history.backend, record, accuracy, details)


def resolve(samples, ranks=1):
    """The configuration that follows from the flags, as the arguments of what it is built of."""
    steps = -(-(samples // ranks) // FLAGS.batch_size)
    epochs = min(FLAGS.epochs, -(-FLAGS.max_steps // steps)) if FLAGS.max_steps else FLAGS.epochs
    return {
        "trainer": common.trainer_arguments(),
        "data": dict(dataset=FLAGS.dataset),
        "start": dict(resume=common.resumes()),
        "optimizer": dict(learning_rate=FLAGS.learning_rate),
        "swa": dict(
            start_epoch=FLAGS.swa_start_epoch,
            lr_schedule=FLAGS.lr_schedule,
            swa_lr=FLAGS.swa_lr,
            swa_lr2=FLAGS.swa_lr2,
            swa_freq=FLAGS.swa_freq,
        ),
        "fit": dict(epochs=epochs, batch_size=FLAGS.batch_size),
    }


if __name__ == "__main__":
    common.run(main)
