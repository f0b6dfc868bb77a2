"""What the two AlexNets share: flags of images and of runs, how a run is divided into steps, how batches are fed."""

import collections
import math
import os

import common
from absl import flags

from ascend_keras import data
from ascend_keras.compat import tf

FLAGS = flags.FLAGS
flags.DEFINE_string("data_path", None, "folder of the images; see docs/recipes.md for what is known")
flags.DEFINE_alias("data_dir", "data_path")
flags.DEFINE_enum("mode", "train_and_evaluate", ["train", "evaluate", "train_and_evaluate"], "what to do")
flags.DEFINE_boolean("resume", False, "go on where the newest checkpoint in checkpoint_dir stands, if there is one")
flags.DEFINE_string("checkpoint_dir", None, "where checkpoints are written and read; None: ckpt below output_dir")
flags.DEFINE_boolean("do_checkpoint", True, "write checkpoints")
flags.DEFINE_integer("max_checkpoint_to_save", 5, "how many checkpoints are kept, the newest", lower_bound=1)
flags.DEFINE_string("restore_path", "", "weights to begin with: an .npz, a Keras file, or a TF checkpoint's prefix")
flags.DEFINE_alias("pretrained", "restore_path")
flags.DEFINE_list("restore_exclude", "dense_2", "layers that restore_path does not fill")
flags.DEFINE_integer("display_every", 1, "calls of the device from one log line to the next", lower_bound=1)
flags.DEFINE_integer("threads", None, "threads of the input pipeline; None: as many as CPUs", lower_bound=1)
flags.DEFINE_enum("on_bad_image", "skip", ["skip", "error"], "what to do about an image that cannot be decoded")
flags.DEFINE_enum("resize", "short_side", ["short_side", "squash"], "how evaluation resizes; squash: as ModelZoo did")
flags.DEFINE_enum(
    "variant", None, ["modelzoo", "torchvision"], "model as ModelZoo trained it, or as torchvision has it"
)

# What may be left of an epoch for the next one, so that calls of the device divide it.
LEFT_OVER = 0.001
Steps = collections.namedtuple("Steps", "epoch loop last epochs fit stops")
Steps.__doc__ = """How a run goes.

    epoch: steps of an epoch of the schedule; loop: steps in one call of the device; last: steps of the run; epochs:
    epochs of `fit`; fit: steps of such an epoch; stops: whether the run ends within one.
"""


def plan_steps(available, epochs, last=None, loop=1, one_per_call=False):
    """Divides a run into epochs and calls of the device.

    A call cannot cross the end of an epoch, nor of the run. The loop is the largest up to `loop` that divides the steps
    of the run, where these are given, and leaves no more of an epoch than a thousandth, which goes to the next epoch.

    Args:
        available: steps that an epoch of the data has.
        epochs: epochs of the run, and of its schedule.
        last: steps of the run; None: all epochs.
        loop: steps that one call should have.
        one_per_call: whether the device takes one step a call.
    """
    most = 1 if one_per_call else min(loop, available, last or available)
    fitting = (
        size for size in range(most, 0, -1) if available % size <= LEFT_OVER * available and not (last or 0) % size
    )
    chosen = next(fitting)
    epoch = available - available % chosen
    last = last or epochs * epoch
    return Steps(epoch, chosen, last, math.ceil(last / epoch), min(last, epoch), last > epoch and last % epoch != 0)


def configuration(deterministic=None, **sections):
    """The sections of a configuration that follow from the flags of this module, with those of the recipe.

    Args:
        deterministic: for NPUTrainer.
        sections: dicts by section; where a section is here, too, theirs are added.

    Raises:
        UsageError: flags contradict each other.
    """
    folder = FLAGS.checkpoint_dir or os.path.join(FLAGS.output_dir, "ckpt")
    reading = dict(threads=FLAGS.threads, on_bad_image=FLAGS.on_bad_image)
    shared = {
        "mode": FLAGS.mode,
        "output_dir": FLAGS.output_dir,
        "trainer": common.trainer_arguments(deterministic),
        "training_data": dict(reading, seed=FLAGS.seed or 0, batch_size=FLAGS.batch_size),
        "validation_data": dict(reading, training=False, resize=FLAGS.resize, batch_size=FLAGS.batch_size),
        "checkpoint": dict(folder=folder, keep=FLAGS.max_checkpoint_to_save, write=FLAGS.do_checkpoint),
        "metrics_file": None,
        "epochs_between_evals": 1,
        "start": dict(path=FLAGS.restore_path, exclude=list(FLAGS.restore_exclude), resume=FLAGS.resume),
    }
    if FLAGS.resume and not FLAGS.do_checkpoint:
        raise common.UsageError("--resume goes on with checkpoints. Received: --nodo_checkpoint. Give one of them.")
    if FLAGS.resume and FLAGS.restore_path:
        raise common.UsageError(
            "--resume and --restore_path both say where to begin. Received: --restore_path={}. Give one of "
            "them.".format(FLAGS.restore_path)
        )
    for name, values in sections.items():
        both = isinstance(values, dict) and isinstance(shared.get(name), dict)
        shared[name] = dict(shared[name], **values) if both else values
    return shared


def check_ranks(asked, found):
    """The number of devices; an error where the flag says another one than the environment."""
    if asked not in (None, found):
        raise common.UsageError(
            "--rank_size must be the number of processes that were started. Received: --rank_size={}, where the "
            "environment has {}. Start that many, with RANK_SIZE, or leave the flag out.".format(asked, found)
        )
    return found


def open_images(config):
    """ImageDatasets for training and for evaluation, as the mode wants them; None for what it does not want."""
    source = dict(config["source"])
    name = source.pop("name")
    make = data.get(name)

    def of_split(split):
        if name != "synthetic":
            return make(split=split, **source)
        # As ImageNet has 50,000 images for evaluation.
        return make(**dict(source, samples=source["samples"] if split == "train" else -(-source["samples"] // 25)))

    training = validation = None
    if config["mode"] != "evaluate":
        training = data.images(of_split("train"), **config["training_data"])
    if config["mode"] != "train":
        validation = data.images(of_split("validation"), **config["validation_data"])
    return training, validation


def feed(images, dtype="uint8", shard=True, multiple=1):
    """Batches of images, labels and weights, as a function of an InputContext.

    Args:
        images: an ImageDataset.
        dtype: in which images go to the device.
        shard: whether ranks read parts of their own.
        multiple: of this many batches an evaluation is made, by batches of weight 0 at its end.
    """

    def cast(x, y, weights=None):
        # One form of batch for training and evaluation: TF 1.15 would build its graph again and again.
        weights = tf.ones(tf.shape(y)) if weights is None else weights
        return (x if dtype == "uint8" else tf.cast(x, dtype)), y, weights

    def open_(context=None):
        context = context if shard else None
        data = images(context)
        missing = -images.steps(context.num_input_pipelines if context else 1) % multiple
        data = data.map(cast)
        if missing:
            empty = data.take(1).map(lambda x, y, weights: (x, y, 0.0 * weights)).repeat(missing)
            data = data.concatenate(empty)
        return data

    return open_
