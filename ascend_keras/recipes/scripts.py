"""The scripts in test/: what each of them does, the flags they take, and the numbers that they hand to the recipes."""

import collections

from ascend_keras.recipes.data_sets import SCRIPTS
from ascend_keras.recipes.flags import Flag, script_flags

CORE_FLAGS = ("precision_mode", "over_dump", "data_dump_flag", "data_dump_step", "data_save_path", "profiling")
RUN_FLAGS = [
    Flag("data_path", False, "required", "the data; ./ for a recipe that makes its own"),
    Flag("recipe", False, "auto", "auto looks at data_path; or one of: " + ", ".join(sorted(SCRIPTS))),
    Flag("output_dir", False, "test/output/<ASCEND_DEVICE_ID>", "where logs, weights and results go"),
    Flag("overwrite", True, "False", "delete the former run in output_dir instead of keeping it under a new name"),
    Flag("bind_core", True, "False", "bind each process to its share of the cores that may be used"),
]
# Of the scripts that train on several devices.
RANK_FLAGS = [
    Flag("rank_table", False, "None", "the rank table of the NPUs; None: made here, of the devices of this server"),
    Flag("devices", False, "0-7", "the devices, one process each, such as 0-3 or 4,5,6,7; on a host, how many"),
    Flag("max_restarts", False, "0", "how often all processes start again from the last checkpoint when one fails"),
]
# What the scripts set themselves.
OWN_FLAGS = ("case_suffix",)

Script = collections.namedtuple("Script", "name purpose suffix ranked")
Script.__doc__ = """A script in test/.

    name: its file; purpose: what it does, for its help; suffix: end of the case name, "" for no case; ranked: whether
    it starts a process for each of several devices.
    """
_FULL, _SPEED = "Trains to full accuracy, then evaluates,", "Measures the speed of training"
KINDS = {
    "acc": Script("train_full_1p.sh", _FULL, "acc", False),
    "perf": Script("train_performance_1p.sh", _SPEED, "perf", False),
    "acc_8p": Script("train_full_8p.sh", _FULL, "acc", True),
    "perf_8p": Script("train_performance_8p.sh", _SPEED, "perf", True),
    "eval": Script(
        "eval_1p.sh",
        "Evaluates the checkpoints of the run in output_dir, with the flags it was trained with,",
        "",
        False,
    ),
}
# The numbers that the scripts of ModelZoo hand to the recipes. A flag on the command line goes before them.
_IMAGENET_FULL = dict(mode="train_and_evaluate", batch_size="128", max_epochs="150", iterations_per_loop="100")
_IMAGENET_SPEED = dict(mode="train", iterations_per_loop="100")
CONSTANTS = {
    "alexnet_imagenet": {
        "acc": dict(_IMAGENET_FULL, lr="0.0075"),
        "perf": dict(_IMAGENET_SPEED, batch_size="256", lr="0.015", max_train_steps="5000"),
        "acc_8p": dict(_IMAGENET_FULL, lr="0.06"),
        "perf_8p": dict(_IMAGENET_SPEED, batch_size="128", lr="0.06", max_train_steps="1000"),
        "eval": dict(mode="evaluate"),
    },
    "alexnet_cats_vs_dogs": {
        "acc": dict(epoch="35"),
        "perf": dict(step="600"),
        "acc_8p": dict(epoch="35"),
        "perf_8p": dict(step="600"),
        "eval": dict(mode="evaluate"),
    },
}
# Flags that say how long a run is: one on the command line takes the place of the constant, whichever it is.
LENGTHS = ("max_epochs", "max_train_steps", "epochs", "train_epochs", "epoch", "max_epoch", "step", "max_step")


def run_flags(kind):
    """The flags of a script itself, beside those of the recipes."""
    return RUN_FLAGS + (RANK_FLAGS if KINDS[kind].ranked else [])


def known_flags(kind):
    """All flags that a script takes, those of every recipe among them, by name."""
    known = collections.OrderedDict((flag.name, flag) for flag in run_flags(kind))
    for path in SCRIPTS.values():
        known.update((name, flag) for name, flag in script_flags(path).items() if name not in known)
    for name in OWN_FLAGS:
        known.pop(name, None)
    return known


def constants(kind, recipe, given):
    """The numbers that a script hands to a recipe beside the flags that it was `given`."""
    values = CONSTANTS.get(recipe, {}).get(kind, {})
    sized = any(name in given for name in LENGTHS)
    return {name: value for name, value in values.items() if not (sized and name in LENGTHS)}


def help_text(kind):
    """What `--help` of a script prints; the flags of the recipes come from their sources."""
    script, known = KINDS[kind], known_flags(kind)
    recipes = {recipe: script_flags(path) for recipe, path in sorted(SCRIPTS.items())}
    told = {flag.name for flag in run_flags(kind)} | set(CORE_FLAGS) | set(OWN_FLAGS)
    of_all = [
        flag
        for name, flag in known.items()
        if name not in told and all(flags.get(name) == flag for flags in recipes.values())
    ]
    lines = _head(script) + [_help_line(flag) for flag in run_flags(kind)]
    lines += ["", "Device:"] + [_help_line(known[name]) for name in CORE_FLAGS if name in known]
    lines += ["", "All recipes:"] + [_help_line(flag) for flag in of_all] if of_all else []
    told |= {flag.name for flag in of_all}
    for recipe, flags in recipes.items():
        numbers = CONSTANTS.get(recipe, {}).get(kind, {})
        lines += ["", "Recipe {}:".format(recipe)]
        lines += [_help_line(flag, numbers.get(name)) for name, flag in flags.items() if name not in told]
    return "\n".join(lines + _foot(script))


def _head(script):
    where = "on one NPU, or on this host if there is none, and prints the result."
    if script.ranked:
        where = "on several NPUs, or in as many processes on this host if\nthere is none, and prints the result."
    return [
        "usage: bash test/{} --data_path=PATH [--name=value ...]".format(script.name),
        "",
        "{} {}".format(script.purpose, where),
        "Prepares its Python environment on first use (test/env.sh). Runs from any directory.",
        "",
        "The run:",
    ]


def _foot(script):
    ranks = ["ranks/rank_N.log: what each process printed (docs/launch.md)."] if script.ranked else []
    return [
        "",
        "Written to output_dir: train_<ASCEND_DEVICE_ID>.log, <CaseName>.log, train_<CaseName>_loss.txt, summary.json,",
        "config.json, ckpt/ (docs/log-format.md).",
        *ranks,
        "Exit status: 0 when all has finished, 2 for a wrong flag, else that of the recipe.",
    ]


def _help_line(flag, constant=None):
    shown = "--" + flag.name + ("" if flag.boolean else "=...")
    default = flag.default if constant is None else constant
    told = "" if default in ("None", "required", "") else " (default: {})".format(default)
    required = "required: " if flag.default == "required" else ""
    return "  {:<24} {}{}{}".format(shown, required, flag.help, told)
