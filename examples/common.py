"""What the recipes' scripts share: flags of device and output, the configuration of a run, its result."""

import json
import os
import sys
import time

from absl import app, flags

from ascend_keras import checkpoint_files, optimizers, report
from ascend_keras.distributed import cluster
from ascend_keras.recipes.data_sets import near

FLAGS = flags.FLAGS
flags.DEFINE_enum("backend", "auto", ["auto", "npu", "host", "npu_bridge", "npu_device"], "where to run")
flags.DEFINE_string("precision_mode", None, "precision mode of the NPU; on a host its Keras counterpart")
flags.DEFINE_string("loss_scale", "auto", "none, auto, dynamic, or a number")
flags.DEFINE_boolean("over_dump", False, "dump overflowing operators")
flags.DEFINE_boolean("data_dump_flag", False, "dump operator data")
flags.DEFINE_string("data_dump_step", "10", "step of which to dump data")
flags.DEFINE_string("data_save_path", None, "where dumps go; None: below output_dir")
flags.DEFINE_boolean("profiling", False, "collect profiling data")
flags.DEFINE_integer("seed", None, "seed of weights and order; None: new weights, images as with 0", lower_bound=0)
flags.DEFINE_string("output_dir", "output", "where logs, weights and results go")
flags.DEFINE_boolean("resume", False, "go on where the newest checkpoint of the run stands, if there is one")
flags.DEFINE_string("case_suffix", "acc", "end of the case name: acc or perf")
flags.DEFINE_boolean("bind_core", False, "whether the process was bound to cores, for the case name")

# Flags of the recipes that ask for nothing this version does: name, and what to do instead.
RETIRED = {}


class UsageError(ValueError):
    """Flags that cannot be carried out together; the message says why and what to do."""


def run(main):
    """Reads the flags and calls `main`; exit status 2 for wrong ones."""

    def checked(_):
        try:
            main()
        except UsageError as error:
            _refuse([str(error)])

    app.run(checked, flags_parser=parse)


def parse(arguments):
    """Reads a command line into FLAGS; ends the process with status 2 and names all unknown flags."""
    for flag in _own_flags():
        # Or --help of a script would leave out those of the modules beside it.
        FLAGS.register_key_flag_for_module(arguments[0], flag)
    try:
        rest = FLAGS(arguments, known_only=True)[1:]
    except flags.Error as error:
        _refuse([str(error)])
    problems = []
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0].replace("-", "_")
        if not argument.startswith("-"):
            problems.append("Flags begin with --. Received: {}.".format(argument))
        elif name in RETIRED:
            problems.append("--{} is refused: {} Received: {}.".format(name, RETIRED[name], argument))
        else:
            told = near(name, list(FLAGS)).replace("mean ", "mean --")
            problems.append("Unknown flag.{} Received: {}.".format(told, argument))
    if problems:
        _refuse(problems + ["--help lists the flags."])
    return arguments[:1]


def _refuse(problems):
    sys.stderr.write("\n".join(problems) + "\n")
    sys.exit(2)


def ranks():
    """How many processes train together, as the environment says."""
    return cluster.from_environment().size


def resumes():
    """Whether to go on with the newest checkpoint: asked for, or started again by the launcher."""
    return FLAGS.resume or cluster.restarts() > 0


def check_folder(folder):
    """Refuses to begin a training anew where another one has left checkpoints.

    Raises:
        UsageError: there are some. Its status 2 also keeps the launcher from starting again, which would resume them.
    """
    found = [] if resumes() else list(checkpoint_files.Folder(folder, None).numbered())
    if found:
        raise UsageError(
            "The folder holds checkpoints of another training. Received: {} of them in {}. Go on with them by "
            "--resume, or give another --output_dir.".format(len(found), folder)
        )


# --- the configuration ----------------------------------------------------------------------------------------------


def trainer_arguments(deterministic=None):
    """The flags of the device in the words of NPUTrainer; makes the folders that it wants to exist."""
    dumps = FLAGS.data_save_path or FLAGS.output_dir
    folders = {name: os.path.join(dumps, name) for name in ("overflow_dump", "data_dump", "profiling")}
    wanted = {"overflow_dump": FLAGS.over_dump, "data_dump": FLAGS.data_dump_flag, "profiling": FLAGS.profiling}
    for name, folder in folders.items():
        if wanted[name]:
            os.makedirs(folder, exist_ok=True)
    return dict(
        backend=FLAGS.backend,
        seed=FLAGS.seed,
        deterministic=deterministic,
        precision_mode=FLAGS.precision_mode,
        loss_scale=optimizers.parse_loss_scale(FLAGS.loss_scale),
        overflow_dump=folders["overflow_dump"] if FLAGS.over_dump else None,
        dump=dict(path=folders["data_dump"], step=FLAGS.data_dump_step, mode="all") if FLAGS.data_dump_flag else None,
        profiling=folders["profiling"] if FLAGS.profiling else None,
    )


def flag_values():
    """The recipe's flags: name to {"value", "origin"}, where the origin is "flag" or "default"; no aliases."""
    # absl has no public name for an alias.
    names = sorted(flag.name for flag in _own_flags() if type(flag).__name__ != "_FlagAlias")
    return {name: {"value": FLAGS[name].value, "origin": origin(name)} for name in names}


def _own_flags():
    """The flags, and aliases, of this module and of those beside it; absl and TensorFlow have flags, too."""
    found = []
    for module, defined in FLAGS.flags_by_module_dict().items():
        name = os.path.splitext(os.path.basename(module))[0] + ".py"
        if os.path.isfile(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)):
            found += defined
    return found


def origin(name):
    """Whether a flag was given on the command line, under its name or an alias: "flag", else "default"."""
    # Parsing an alias counts as present, and leaves the mark of the default.
    return "flag" if FLAGS[name].present or not FLAGS[name].using_default_value else "default"


def write_config(recipe, resolved, is_main=True):
    """Prints what a run is made of, and writes it to `config.json` in the output folder; `eval_config.json` for an
    evaluation, which leaves the file of the training alone.

    The file has `recipe`; `flags`, each with its value and origin; and `resolved`, the arguments that follow from them.
    """
    if not is_main:
        return
    given = ["--{}={}".format(n, entry["value"]) for n, entry in flag_values().items() if entry["origin"] == "flag"]
    print("{}: {}".format(recipe, " ".join(given) or "all flags have their defaults"))
    for section, values in resolved.items():
        print("  {}: {}".format(section, _one_line(values)))
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    prefix = "eval_" if resolved.get("mode") == "evaluate" else ""
    path = os.path.join(FLAGS.output_dir, prefix + "config.json")
    text = json.dumps(dict(recipe=recipe, flags=flag_values(), resolved=resolved), indent=2, default=str)
    with open(path + ".partial", "w") as file:
        file.write(text + "\n")
    os.replace(path + ".partial", path)


def _one_line(values):
    return ", ".join("{}={}".format(*item) for item in values.items()) if isinstance(values, dict) else values


# --- the result -----------------------------------------------------------------------------------------------------


def finish(network, batch_size, ranks, backend, record, accuracy, details):
    """Writes the result files of a training and prints the final block.

    Args:
        network: the name of the recipe at ModelZoo.
        batch_size: examples a step and device.
        ranks: number of devices.
        backend: what ran where, see `NPUTrainer.describe`.
        record: the RunRecord of the training.
        accuracy: of the final weights, in [0, 1].
        details: what else is worth keeping.
    """
    result = report.RunResult(
        network=network,
        batch_size=batch_size,
        rank_size=ranks,
        case_name=report.case_name(network, batch_size, ranks, FLAGS.case_suffix, FLAGS.bind_core),
        actual_fps=record.images_per_sec,
        train_accuracy=accuracy,
        e2e_training_time=time.time() - report.started(),
        backend=backend["backend"],
        details=dict(backend, samples=record.samples, seconds=record.seconds, **details),
    )
    return report.finish(FLAGS.output_dir, result, record.losses)
