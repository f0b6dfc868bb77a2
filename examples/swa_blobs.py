"""Stochastic weight averaging on Gaussian blobs (ModelZoo recipe SWA_ID0252) or on handwritten digits.

Trains, averages, and reports the accuracy of the averaged model on data that it has not seen.
"""

import os
import time
from typing import Any, Callable, Dict, Tuple

from absl import app, flags

from ascend_keras import NPUTrainer, callbacks, data, models, optimizers, report
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
flags.DEFINE_integer("batch_size", None, "samples per step and device (blobs 16384, digits 20)", lower_bound=1)
flags.DEFINE_alias("batch", "batch_size")
flags.DEFINE_float(
    "learning_rate", None, "learning rate before averaging starts (blobs 0.1, digits 3)", lower_bound=0.0
)
flags.DEFINE_integer("swa_start_epoch", None, "first epoch of averaging, from 1 (blobs 75, digits 21)", lower_bound=1)
flags.DEFINE_enum("lr_schedule", "cyclic", ["manual", "constant", "cyclic"], "learning rate while averaging")
flags.DEFINE_float("swa_lr", 0.001, "lowest learning rate of a cycle")
flags.DEFINE_float("swa_lr2", 0.003, "highest learning rate of a cycle")
flags.DEFINE_integer("swa_freq", 3, "epochs per cycle, one sample each", lower_bound=1)
flags.DEFINE_integer("seed", None, "seed of weights and order; None: different every time")
flags.DEFINE_enum("backend", "auto", ["auto", "npu", "host", "npu_bridge", "npu_device"], "where to run")
flags.DEFINE_string("precision_mode", None, "precision mode of the NPU; on a host its Keras counterpart")
flags.DEFINE_string("loss_scale", "auto", "none, auto, dynamic, or a number")
flags.DEFINE_boolean("over_dump", False, "dump overflowing operators")
flags.DEFINE_boolean("data_dump_flag", False, "dump operator data")
flags.DEFINE_string("data_dump_step", "10", "step of which to dump data")
flags.DEFINE_string("data_save_path", None, "where dumps go; None: below output_dir")
flags.DEFINE_boolean("profiling", False, "collect profiling data")
flags.DEFINE_string("output_dir", "output/swa", "where logs, weights and results go")
flags.DEFINE_string("case_suffix", "acc", "end of the case name: acc or perf")
flags.DEFINE_boolean("bind_core", False, "whether the process was bound to cores, for the case name")


NETWORK = "SWA_ID0252_for_TensorFlow"


def main(_):
    make_data, make_model, numbers = DATASETS[FLAGS.dataset]
    for name, value in numbers.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value
    (x, y), (x_test, y_test) = make_data()
    with NPUTrainer(FLAGS.backend, seed=FLAGS.seed, **device_arguments()) as trainer:
        with trainer.scope():
            model = make_model()
        optimizer = keras.optimizers.SGD(FLAGS.learning_rate)
        trainer.compile(model, optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        swa = callbacks.SWA(
            FLAGS.swa_start_epoch, FLAGS.lr_schedule, FLAGS.swa_lr, FLAGS.swa_lr2, FLAGS.swa_freq, verbose=1
        )
        throughput = callbacks.Throughput(FLAGS.batch_size, epoch_samples=len(x))
        history = trainer.fit(
            model, x, y, epochs=epochs(len(x)), batch_size=FLAGS.batch_size, verbose=2, callbacks=[swa, throughput]
        )
        # 20,000 divides the 200,000 points: all batches have one shape, as a device wants it.
        _, accuracy = trainer.evaluate(model, x_test, y_test, batch_size=20000, verbose=0)
        print("accuracy of the averaged model on {:,} held-out samples: {:.4f}".format(len(x_test), accuracy))
        trainer.save(model, os.path.join(FLAGS.output_dir, "ckpt", "swa_final.npz"))
        result = report.RunResult(
            network=NETWORK,
            batch_size=FLAGS.batch_size,
            case_name=report.case_name(NETWORK, FLAGS.batch_size, 1, FLAGS.case_suffix, FLAGS.bind_core),
            actual_fps=throughput.images_per_sec,
            train_accuracy=accuracy,
            e2e_training_time=time.time() - report.started(),
            backend=history.backend["backend"],
            details=dict(history.backend, samples=throughput.samples, seconds=throughput.seconds),
        )
        report.finish(FLAGS.output_dir, result, history.history["loss"])


def epochs(samples):
    """Epochs to train: `--epochs`, or fewer where `--max_steps` ends the run before."""
    steps = -(-samples // FLAGS.batch_size)
    return min(FLAGS.epochs, -(-FLAGS.max_steps // steps)) if FLAGS.max_steps else FLAGS.epochs


def device_arguments():
    """The device flags of ModelZoo's scripts in the words of NPUTrainer."""
    dumps = FLAGS.data_save_path or FLAGS.output_dir
    folders = {name: os.path.join(dumps, name) for name in ("overflow_dump", "data_dump", "profiling")}
    wanted = {"overflow_dump": FLAGS.over_dump, "data_dump": FLAGS.data_dump_flag, "profiling": FLAGS.profiling}
    for name, folder in folders.items():
        if wanted[name]:
            os.makedirs(folder, exist_ok=True)
    return dict(
        precision_mode=FLAGS.precision_mode,
        loss_scale=optimizers.parse_loss_scale(FLAGS.loss_scale),
        overflow_dump=folders["overflow_dump"] if FLAGS.over_dump else None,
        dump=dict(path=folders["data_dump"], step=FLAGS.data_dump_step, mode="all") if FLAGS.data_dump_flag else None,
        profiling=folders["profiling"] if FLAGS.profiling else None,
    )


if __name__ == "__main__":
    app.run(main)
