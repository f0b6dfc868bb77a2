"""What the two AlexNets share: flags of images and of runs, how a run is divided into steps, how batches are fed."""

import collections
import contextlib
import math
import os

import common
from absl import flags

from ascend_keras import NPUTrainer, data
from ascend_keras.compat import tf

FLAGS = flags.FLAGS
flags.DEFINE_string("data_path", None, "folder of the images; see docs/recipes.md for what is known")
flags.DEFINE_alias("data_dir", "data_path")
flags.DEFINE_enum("mode", "train_and_evaluate", ["train", "evaluate", "train_and_evaluate"], "what to do")
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
Steps = collections.namedtuple("Steps", "data epoch loop last epochs fit stops")
Steps.__doc__ = """How a run goes.

    data: steps of an epoch of the data, and of the schedule; epoch: those of them that calls of the device divide, an
    epoch of the run; loop: steps in one call; last: steps of the run; epochs: epochs of `fit`; fit: steps of such an
    epoch; stops: whether the run ends within one.
"""


def plan_steps(available, epochs, last=None, loop=1, one_per_call=False, evaluation=None):
    """Divides a run into epochs and calls of the device.

    A call cannot cross the end of an epoch, nor of the run. The loop is the largest up to `loop` that divides the steps
    of the run, where these are given, and leaves no more of an epoch than a thousandth, which goes to the next epoch.
    A run has two calls at least, since the first one compiles and tells no speed.

    Args:
        available: steps that an epoch of the data has.
        epochs: epochs of the run, and of its schedule.
        last: steps of the run; None: all epochs.
        loop: steps that one call should have.
        one_per_call: whether the device takes one step a call.
        evaluation: steps of an evaluation, which is filled up to whole calls: a call has no more of them.

    Raises:
        UsageError: the run has one step only.
    """
    total = last or epochs * available
    _need_two(total)
    most = 1 if one_per_call else min(loop, available, evaluation or available, total // 2)
    fitting = (
        size for size in range(most, 0, -1) if available % size <= LEFT_OVER * available and not (last or 0) % size
    )
    chosen = next(fitting)
    epoch = available - available % chosen
    last = last or epochs * epoch
    stops = last > epoch and last % epoch != 0
    return Steps(available, epoch, chosen, last, math.ceil(last / epoch), min(last, epoch), stops)


def plan_rest(steps, done):
    """The plan for the rest of a run of which `done` steps are done: the same epochs, and again two calls at least.

    Raises:
        UsageError: one step is left.
    """
    left = steps.last - done
    _need_two(left)
    most = min(steps.loop, left // 2)
    return steps._replace(loop=next(size for size in range(most, 0, -1) if steps.loop % size == 0))


def _need_two(count):
    if count < 2:
        raise common.UsageError(
            "A training needs two steps at least: the first one compiles and tells no speed. Received: {} step to do. "
            "Ask for more steps, or for smaller batches.".format(count)
        )


@contextlib.contextmanager
def values_refused():
    """Turns a ValueError of the library into a UsageError, where it is handed what flags say."""
    try:
        yield
    except common.UsageError:
        raise
    except ValueError as error:
        raise common.UsageError(str(error)) from error


@values_refused()
def open_trainer(config):
    """The NPUTrainer of a configuration.

    Raises:
        UsageError: a flag of the device has a wrong value.
    """
    return NPUTrainer(**config["trainer"])


def configuration(deterministic=None, **sections):
    """The sections of a configuration that follow from the flags of this module, with those of the recipe.

    Args:
        deterministic: for NPUTrainer.
        sections: dicts by section; where a section is here, too, theirs are added.

    Raises:
        UsageError: flags contradict each other, or a value is wrong.
    """
    _check_start(sections.get("mode", FLAGS.mode))
    with values_refused():
        trainer = common.trainer_arguments(deterministic)
    folder = FLAGS.checkpoint_dir or os.path.join(FLAGS.output_dir, "ckpt")
    reading = dict(threads=FLAGS.threads, on_bad_image=FLAGS.on_bad_image)
    shared = {
        "mode": FLAGS.mode,
        "output_dir": FLAGS.output_dir,
        "trainer": trainer,
        "training_data": dict(reading, seed=FLAGS.seed or 0, batch_size=FLAGS.batch_size),
        "validation_data": dict(reading, training=False, resize=FLAGS.resize, batch_size=FLAGS.batch_size),
        "checkpoint": dict(folder=folder, keep=FLAGS.max_checkpoint_to_save, write=FLAGS.do_checkpoint),
        "metrics_file": None,
        "epochs_between_evals": 1,
        "start": dict(path=FLAGS.restore_path, exclude=list(FLAGS.restore_exclude), resume=common.resumes()),
    }
    for name, values in sections.items():
        both = isinstance(values, dict) and isinstance(shared.get(name), dict)
        shared[name] = dict(shared[name], **values) if both else values
    return shared


def _check_start(mode):
    """Raises UsageError for flags that do not agree on where to begin."""
    begins = ["--resume"] if FLAGS.resume else []
    begins += ["--restore_path={}".format(FLAGS.restore_path)] if FLAGS.restore_path else []
    if mode == "evaluate" and begins:
        raise common.UsageError(
            "An evaluation takes the checkpoints in --checkpoint_dir. Received: --mode=evaluate, {}. Leave that "
            "out.".format(", ".join(begins))
        )
    if FLAGS.resume and not FLAGS.do_checkpoint:
        raise common.UsageError("--resume goes on with checkpoints. Received: --nodo_checkpoint. Give one of them.")
    if FLAGS.resume and FLAGS.restore_path:
        raise common.UsageError(
            "--resume and --restore_path both say where to begin. Received: --restore_path={}. Give one of "
            "them.".format(FLAGS.restore_path)
        )


def check_ranks(asked, found):
    """The number of devices; an error where the flag says another one than the environment."""
    if asked not in (None, found):
        raise common.UsageError(
            "--rank_size must be the number of processes that were started. Received: --rank_size={}, where the "
            "environment has {}. Start that many, with RANK_SIZE, or leave the flag out.".format(asked, found)
        )
    return found


@values_refused()
def open_images(config, rank=0):
    """ImageDatasets for training and for evaluation, as the mode wants them; None for what it does not want.

    Args:
        config: the sections of a configuration.
        rank: who this is; where all ranks read all images, each has an order of its own.

    Raises:
        UsageError: the data or a flag of it is wrong, or the two do not have the same classes.
    """
    source = dict(config["source"])
    name = source.pop("name")
    make = data.get(name)

    def of_split(split):
        if name != "synthetic":
            return make(split=split, **source)
        # As ImageNet has 50,000 images for evaluation.
        return make(**dict(source, samples=source["samples"] if split == "train" else -(-source["samples"] // 25)))

    own = 0 if config["input"]["shard"] else rank
    training = validation = None
    if config["mode"] != "evaluate":
        options = dict(config["training_data"], seed=config["training_data"]["seed"] + own)
        training = data.images(of_split("train"), **options)
    if config["mode"] != "train":
        validation = data.images(of_split("validation"), **config["validation_data"])
    if training is not None and validation is not None:
        _check_classes(training.source, validation.source)
    return training, validation


def _check_classes(training, validation):
    names = [training.class_names, validation.class_names]
    if training.classes != validation.classes:
        what = "{} and {} classes".format(training.classes, validation.classes)
    elif None in names or names[0] == names[1]:
        return
    else:
        what = next(
            "class {} called {!r} and {!r}".format(k, *both) for k, both in enumerate(zip(*names)) if len(set(both)) > 1
        )
    raise common.UsageError(
        "Training and validation must have the same classes. Received: {} in {} and {}. Make both with the same list "
        "of classes.".format(what, training.name, validation.name)
    )


def feed(images, dtype="uint8", shard=True, multiple=1):
    """Batches of images, labels and weights, as a function of an InputContext.

    Args:
        images: an ImageDataset.
        dtype: in which images go to the device.
        shard: whether ranks read parts of their own.
        multiple: of this many batches an evaluation is made, by batches of zeros, with weight 0, at its end.
    """

    def cast(x, y, weights=None):
        # One form of batch for training and evaluation: TF 1.15 would build its graph again and again.
        weights = tf.ones(tf.shape(y)) if weights is None else weights
        return (x if dtype == "uint8" else tf.cast(x, dtype)), y, weights

    def open_(context=None):
        context = context if shard else None
        batches = images(context).map(cast)
        missing = -images.steps(context.num_input_pipelines if context else 1) % multiple
        if missing:
            zeros = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), batches.element_spec)
            batches = batches.concatenate(tf.data.Dataset.from_tensors(zeros).repeat(missing))
        return batches

    return open_
