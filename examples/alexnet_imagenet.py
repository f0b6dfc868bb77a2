"""AlexNet on ImageNet: ModelZoo's recipe AlexNet_ID0072, or its like on other images.

Trains, evaluates, and prints the recipe's log and table. docs/recipes.md says what each flag does.
"""

import os

import common
import image_recipes
from absl import flags
from image_run import Run

from ascend_keras import callbacks, optimizers, schedules

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 128, "images per step and device", lower_bound=1)
flags.DEFINE_alias("batch", "batch_size")
flags.DEFINE_integer("image_size", 224, "side of the images that the network sees, in pixels", lower_bound=63)
flags.DEFINE_integer(
    "num_classes", None, "number of classes; None: as the data has, 1000 for synthetic images", lower_bound=1
)
flags.DEFINE_enum("alexnet_version", "he_uniform", ["he_uniform", "xavier", "he_uniform_custom"], "how kernels begin")
flags.DEFINE_alias("version", "alexnet_version")
flags.DEFINE_float("lr", 0.06, "highest learning rate; it is not scaled by the number of devices", lower_bound=1e-9)
flags.DEFINE_alias("learning_rate", "lr")
flags.DEFINE_integer("warmup_epochs", 5, "epochs in which the learning rate rises", lower_bound=0)
flags.DEFINE_integer("max_epochs", 150, "epochs of the run and of its learning rates", lower_bound=1)
flags.DEFINE_alias("epochs", "max_epochs")
flags.DEFINE_alias("train_epochs", "max_epochs")
flags.DEFINE_integer("max_train_steps", None, "end after exactly this step; the learning rates stay", lower_bound=1)
flags.DEFINE_alias("max_step", "max_train_steps")
flags.DEFINE_float("momentum", 0.9, "momentum", lower_bound=0.0, upper_bound=0.999999)
flags.DEFINE_boolean("use_nesterov", True, "Nesterov's momentum")
flags.DEFINE_float(
    "label_smoothing", 0.1, "share of each label that is spread over all classes", lower_bound=0.0, upper_bound=1.0
)
flags.DEFINE_float("weight_decay", 1e-4, "L2 over all variables", lower_bound=0.0)
flags.DEFINE_float("color_jitter", 0.0, "strength of random brightness, contrast and saturation", lower_bound=0.0)
flags.DEFINE_integer("shuffle_buffer", 10000, "images among which records are shuffled", lower_bound=1)
flags.DEFINE_boolean("synthetic", False, "images made on the fly instead of data_path")
flags.DEFINE_integer("synthetic_images", 1281167, "how many of them an epoch has", lower_bound=1)
flags.DEFINE_enum("dtype", "uint8", ["uint8", "float32", "float16", "tf.float32"], "how images go to the device")
flags.DEFINE_boolean("shard", True, "each device reads its own part of the images; no: each reads all")
flags.DEFINE_integer("rank_size", None, "number of devices; checked against the processes that run", lower_bound=1)
flags.DEFINE_alias("group_size", "rank_size")
flags.DEFINE_integer("iterations_per_loop", 1251, "steps in one call of the device, at most", lower_bound=1)
flags.DEFINE_integer("epochs_between_evals", 5, "epochs from one evaluation to the next", lower_bound=1)
flags.DEFINE_boolean("eval", False, "evaluate only, as --mode=evaluate does")
flags.DEFINE_boolean("debug", False, "deterministic operations, and an error for an image that cannot be decoded")
# absl has a flag of this name for a log of its own, which is not written here.
delattr(FLAGS, "log_dir")
flags.DEFINE_alias("log_dir", "output_dir")
flags.DEFINE_string("log_name", "alexnet_training.log", "file below output_dir for the recipe's log lines")
flags.DEFINE_integer("save_summary_steps", 100, "steps from one row of metrics.csv to the next; 0: none", lower_bound=0)
flags.DEFINE_integer("save_checkpoints_steps", None, "steps between checkpoints, in whole epochs; None: an epoch")
common.RETIRED["display"] = "it has never done anything; --display_every says how often a line is printed."

NETWORK = "AlexNet_ID0072_for_TensorFlow"


def resolve(ranks=1):
    """The configuration that follows from the flags, as the arguments of what it is built of."""
    if FLAGS.eval and FLAGS["mode"].present and FLAGS.mode != "evaluate":
        raise common.UsageError("--eval is --mode=evaluate. Received: --eval, --mode={}.".format(FLAGS.mode))
    if FLAGS.warmup_epochs >= FLAGS.max_epochs:
        raise common.UsageError(
            "The learning rate must have risen before the last epoch. Received: --warmup_epochs={}, --max_epochs={}. "
            "Give fewer of the first.".format(FLAGS.warmup_epochs, FLAGS.max_epochs)
        )
    source = dict(path=FLAGS.data_path, classes=FLAGS.num_classes)
    if FLAGS.synthetic:
        source = dict(samples=FLAGS.synthetic_images, image_size=FLAGS.image_size, classes=FLAGS.num_classes or 1000)
    elif not FLAGS.data_path:
        raise common.UsageError("--data_path must be given, or --synthetic.")
    bad = dict(on_bad_image="error") if FLAGS.debug else {}
    return image_recipes.configuration(
        deterministic=FLAGS.debug or None,
        mode="evaluate" if FLAGS.eval else FLAGS.mode,
        ranks=image_recipes.check_ranks(FLAGS.rank_size, ranks),
        source=dict(source, name="synthetic" if FLAGS.synthetic else "imagenet"),
        training_data=dict(
            bad, image_size=FLAGS.image_size, color_jitter=FLAGS.color_jitter, shuffle_buffer=FLAGS.shuffle_buffer
        ),
        validation_data=dict(bad, image_size=FLAGS.image_size),
        input=dict(dtype=FLAGS.dtype.replace("tf.", ""), shard=FLAGS.shard),
        model=dict(name="alexnet", version=FLAGS.alexnet_version, variant=FLAGS.variant, image_size=FLAGS.image_size),
        loss=dict(label_smoothing=FLAGS.label_smoothing, weight_decay=FLAGS.weight_decay, apply_to="all"),
        schedule=dict(peak=FLAGS.lr, warmup_epochs=FLAGS.warmup_epochs, total_epochs=FLAGS.max_epochs, staircase=True),
        optimizer=dict(momentum=FLAGS.momentum, nesterov=FLAGS.use_nesterov),
        length=dict(epochs=FLAGS.max_epochs, last=FLAGS.max_train_steps, loop=FLAGS.iterations_per_loop),
        epochs_between_evals=FLAGS.epochs_between_evals,
        log=dict(
            path=os.path.join(FLAGS.output_dir, FLAGS.log_name),
            every=FLAGS.iterations_per_loop * FLAGS.display_every,
            loop=FLAGS.iterations_per_loop,
        ),
        metrics_file=FLAGS.save_summary_steps
        and dict(path=os.path.join(FLAGS.output_dir, "metrics.csv"), every=FLAGS.save_summary_steps),
        checkpoint=dict(every_steps=FLAGS.save_checkpoints_steps),
    )


def main():
    config = resolve(common.ranks())
    with image_recipes.open_trainer(config) as trainer:
        images = image_recipes.open_images(config, trainer.settings.cluster.rank or 0)
        run = Run(NETWORK, trainer, config, *images)
        common.write_config("alexnet_imagenet", config, run.is_main)

        def optimizer(steps_per_epoch):
            rate = schedules.WarmupCosine(steps_per_epoch=steps_per_epoch, **config["schedule"])
            return optimizers.Momentum(rate, **config["optimizer"])

        run.compile(optimizer)
        if run.training:
            run.train(lambda **counted: callbacks.ModelZooLog(**dict(config["log"], **counted)))
        else:
            run.evaluate_checkpoints()


if __name__ == "__main__":
    common.run(main)
