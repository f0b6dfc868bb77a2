"""AlexNet in two towers on cats and dogs: ModelZoo's recipe AlexNet_ID0259.

Trains, validates after each epoch, and prints the recipe's log. docs/recipes.md says what each flag does.
"""

import os

import common
import image_recipes
from absl import flags
from image_run import Run

from ascend_keras import callbacks, optimizers

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 100, "images per step and device", lower_bound=1)
flags.DEFINE_alias("batch", "batch_size")
flags.DEFINE_integer("image_size", 227, "side of the images that the network sees, in pixels", lower_bound=67)
flags.DEFINE_float("learning_rate", 0.001, "learning rate at the start, times the number of devices", lower_bound=1e-9)
flags.DEFINE_alias("lr", "learning_rate")
flags.DEFINE_integer("epoch", 1, "epochs of the run", lower_bound=1)
flags.DEFINE_alias("epochs", "epoch")
flags.DEFINE_alias("max_epoch", "epoch")
flags.DEFINE_alias("max_epochs", "epoch")
flags.DEFINE_alias("train_epochs", "epoch")
flags.DEFINE_integer("step", 0, "end after exactly this step; 0: after all epochs", lower_bound=0)
flags.DEFINE_alias("max_step", "step")
flags.DEFINE_alias("max_train_steps", "step")
flags.DEFINE_float("momentum", 0.9, "momentum", lower_bound=0.0, upper_bound=0.999999)
flags.DEFINE_float("weight_decay", 5e-4, "L2 over all weights but biases", lower_bound=0.0)
flags.DEFINE_float("dropout", 0.5, "share dropped at both hidden dense layers", lower_bound=0.0, upper_bound=0.999999)
flags.DEFINE_integer("plateau_epochs", 10, "epochs over which the training accuracy has to gain", lower_bound=2)
flags.DEFINE_float("plateau_gain", 0.02, "gain below which the learning rate is lowered")
flags.DEFINE_float("plateau_factor", 0.1, "by what it is multiplied then", lower_bound=1e-6, upper_bound=0.999999)
flags.DEFINE_integer("held_out", 1000, "photographs that are kept for validation", lower_bound=1)
flags.DEFINE_boolean("ten_crop", False, "ten fixed crops of each photograph instead of random ones")
flags.DEFINE_float("pca_noise", 0.1, "standard deviation of the colour noise; 0: none", lower_bound=0.0)
flags.DEFINE_integer("mul_rank_size", None, "number of devices; checked against the processes that run", lower_bound=1)
flags.DEFINE_alias("rank_size", "mul_rank_size")
flags.DEFINE_integer("save_interval", 1, "epochs from one checkpoint to the next", lower_bound=1)
flags.DEFINE_alias("modeldir", "checkpoint_dir")
flags.DEFINE_integer("kernels_every", 1, "epochs between pictures of the first kernels; 0: none", lower_bound=0)
common.RETIRED["mul_device_id"] = "the environment variable ASCEND_DEVICE_ID names the device."

NETWORK = "AlexNet_ID0259_for_TensorFlow"


def resolve(ranks=1):
    """The configuration that follows from the flags, as the arguments of what it is built of."""
    if not FLAGS.data_path:
        raise common.UsageError("--data_path must be given.")
    if FLAGS.variant == "torchvision":
        raise common.UsageError("The two towers have no such variant. Received: --variant=torchvision.")
    if FLAGS.ten_crop and FLAGS.image_size != 227:
        raise common.UsageError("The ten crops have 227 pixels. Received: --image_size={}.".format(FLAGS.image_size))
    ranks = image_recipes.check_ranks(FLAGS.mul_rank_size, ranks)
    kernels = os.path.join(FLAGS.output_dir, "first_kernel_visualization")
    return image_recipes.configuration(
        ranks=ranks,
        source=dict(name="cats_vs_dogs", path=FLAGS.data_path, held_out=FLAGS.held_out, ten_crop=FLAGS.ten_crop),
        training_data=dict(image_size=FLAGS.image_size, pca_noise=FLAGS.pca_noise),
        validation_data=dict(image_size=FLAGS.image_size),
        input=dict(dtype="uint8", shard=True),
        model=dict(name="alexnet_two_tower", variant=FLAGS.variant, image_size=FLAGS.image_size, dropout=FLAGS.dropout),
        loss=dict(label_smoothing=0.0, weight_decay=FLAGS.weight_decay, apply_to="weights"),
        optimizer=dict(learning_rate=FLAGS.learning_rate * ranks, momentum=FLAGS.momentum),
        plateau=dict(every=FLAGS.plateau_epochs, min_gain=FLAGS.plateau_gain, factor=FLAGS.plateau_factor),
        length=dict(epochs=FLAGS.epoch, last=FLAGS.step or None, loop=FLAGS.display_every),
        log=dict(folder=FLAGS.output_dir, every=FLAGS.display_every),
        kernels=dict(folder=kernels, every=FLAGS.kernels_every) if FLAGS.kernels_every else None,
        checkpoint=dict(every=FLAGS.save_interval),
    )


def main():
    config = resolve(common.ranks())
    with image_recipes.open_trainer(config) as trainer:
        images = image_recipes.open_images(config, trainer.settings.cluster.rank or 0)
        run = Run(NETWORK, trainer, config, *images)
        common.write_config("alexnet_cats_vs_dogs", config, run.is_main)
        run.compile(lambda _: optimizers.Momentum(**config["optimizer"]))
        if not run.training:
            run.evaluate_checkpoints()
            return
        own = [callbacks.PlateauDecay(run.accuracy, verbose=1, **config["plateau"])]
        own += [callbacks.Curves(FLAGS.output_dir, run.accuracy)]
        own += [callbacks.FirstKernels(**config["kernels"])] if config["kernels"] else []
        run.train(
            lambda **counted: callbacks.CatsVsDogsLog(**dict(config["log"], accuracy=run.accuracy, **counted)), own
        )


if __name__ == "__main__":
    common.run(main)
