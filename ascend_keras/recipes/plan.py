"""What a script in test/ does with its command line, as shell code."""

import collections
import glob
import json
import os
import re
import shlex

from ascend_keras.recipes.data_sets import CHECKOUT, SCRIPTS, UsageError, choose
from ascend_keras.recipes.flags import Flag, parse, script_flags

CORE_FLAGS = ("precision_mode", "over_dump", "data_dump_flag", "data_dump_step", "data_save_path", "profiling")
RUN_FLAGS = [
    Flag("data_path", False, "required", "the data; ./ for a recipe that makes its own"),
    Flag("recipe", False, "auto", "auto looks at data_path; or one of: " + ", ".join(sorted(SCRIPTS))),
    Flag("output_dir", False, "test/output/<ASCEND_DEVICE_ID>", "where logs, weights and results go"),
    Flag("overwrite", True, "False", "delete the former run in output_dir instead of keeping it under a new name"),
    Flag("bind_core", True, "False", "bind the process to its share of the cores it may use"),
]
# What the scripts set themselves.
OWN_FLAGS = ("case_suffix",)
KINDS = {
    "acc": ("train_full_1p.sh", "Trains to full accuracy, then evaluates,"),
    "perf": ("train_performance_1p.sh", "Measures the speed of training"),
    "eval": ("eval_1p.sh", "Evaluates the checkpoints of the run in output_dir, with the flags it was trained with,"),
}
# The numbers that the scripts of ModelZoo hand to the recipes. A flag on the command line goes before them.
CONSTANTS = {
    "alexnet_imagenet": {
        "acc": dict(
            mode="train_and_evaluate", batch_size="128", lr="0.0075", max_epochs="150", iterations_per_loop="100"
        ),
        "perf": dict(mode="train", batch_size="256", lr="0.015", max_train_steps="5000", iterations_per_loop="100"),
        "eval": dict(mode="evaluate"),
    },
    "alexnet_cats_vs_dogs": {
        "acc": dict(epoch="35"),
        "perf": dict(step="600"),
        "eval": dict(mode="evaluate"),
    },
}
# Flags that say how long a run is: one on the command line takes the place of the constant, whichever it is.
LENGTHS = ("max_epochs", "max_train_steps", "epochs", "train_epochs", "epoch", "max_epoch", "step", "max_step")
CONFIG_FILE = "config.json"
# Other names of flags that the scripts read themselves, and flags whose values are paths.
SAME = {"data_dir": "data_path", "log_dir": "output_dir"}
PATHS = ("data_path", "checkpoint_dir", "modeldir", "data_save_path", "restore_path", "pretrained")
# Of a training's flags, those that an evaluation of it has its own values for.
NOT_INHERITED = ["data_path", "output_dir", "mode", "resume", "case_suffix", "bind_core", "eval", "do_checkpoint"]
NOT_INHERITED += ["rank_size", "mul_rank_size", "restore_path"]


def plan(kind, arguments, environ=None):
    """Shell code that describes the run which `arguments` ask for, or that says what is wrong and exits.

    Args:
        kind: "acc" for train_full_1p.sh, "perf" for train_performance_1p.sh, "eval" for eval_1p.sh.
        arguments: the command line of the script.
    """
    environ = os.environ if environ is None else environ
    if {"-h", "--help"} & set(arguments):
        return _exit_with(0, help_text(kind))
    try:
        values = parse(arguments, _known_flags())
        values = collections.OrderedDict((SAME.get(name, name), value) for name, value in values.items())
        _check_together(kind, values)
        if not values.get("data_path"):
            return _exit_with(1, '[Error] para "data_path" must be config')
        device = environ.get("ASCEND_DEVICE_ID") or "0"
        if not re.match(r"\d+$", device):
            raise UsageError("ASCEND_DEVICE_ID must be a whole number. Received: ASCEND_DEVICE_ID={}.".format(device))
    except UsageError as error:
        return _exit_with(2, str(error), ">&2")
    output = os.path.abspath(values.pop("output_dir", os.path.join(CHECKOUT, "test", "output", device)))
    try:
        trained = _trained_with(output) if kind == "eval" else {}
        request = values.pop("recipe", None) or trained.get("recipe", "auto")
        recipe, reason = choose(request, values["data_path"])
        if kind == "eval":
            reason = _check_evaluation(recipe, output, trained)
    except UsageError as error:
        return _exit_with(1, str(error), ">&2")
    problem = _foreign_flags(recipe, reason, values)
    if problem:
        return _exit_with(2, problem, ">&2")
    return _assignments(kind, device, recipe, reason, output, dict(trained.get("given", {}), **values))


# --- the flags ------------------------------------------------------------------------------------------------------


def _check_together(kind, values):
    """Raises UsageError for flags that a script cannot carry out."""
    problems = []
    evaluates = values.get("mode") == "evaluate" or _is_true(values.get("eval", ""))
    if kind != "eval" and evaluates:
        problems.append("This script trains. Received: --mode=evaluate. Use test/eval_1p.sh with the same folders.")
    if kind == "eval" and values.get("mode", "evaluate") != "evaluate":
        problems.append("This script evaluates. Received: --mode={}. Leave it out.".format(values["mode"]))
    for name in ("resume", "overwrite") if kind == "eval" else ():
        if _is_true(values.get(name, "")):
            problems.append("An evaluation leaves the run as it is. Received: --{}. Leave it out.".format(name))
    if kind != "eval" and _is_true(values.get("resume", "")) and _is_true(values.get("overwrite", "")):
        problems.append("--overwrite would delete what --resume goes on with. Received: both. Give one of them.")
    if problems:
        raise UsageError("\n".join(problems))


def _known_flags():
    known = collections.OrderedDict((flag.name, flag) for flag in RUN_FLAGS)
    for path in SCRIPTS.values():
        known.update((name, flag) for name, flag in script_flags(path).items() if name not in known)
    for name in OWN_FLAGS:
        known.pop(name, None)
    return known


def _foreign_flags(recipe, reason, values):
    """What is wrong with flags that are not those of the recipe; "" if nothing."""
    own = set(script_flags(SCRIPTS[recipe])) | {flag.name for flag in RUN_FLAGS}
    problems = []
    for name in values:
        if name not in own:
            others = [other for other in sorted(SCRIPTS) if name in script_flags(SCRIPTS[other])]
            text = "--{} is a flag of {}, not of this recipe. Received: --{}={}."
            problems.append(text.format(name, " and ".join(others), name, values[name]))
    return "\n".join(problems + ["The " + reason + "."]) if problems else ""


def _is_true(text):
    # ModelZoo's scripts bind cores for any value of --bind_core; "false" was not meant by that.
    return text.strip().lower() not in ("", "0", "f", "false", "n", "no", "off")


def _constants(kind, recipe, values):
    constants = dict(CONSTANTS.get(recipe, {}).get(kind, {}))
    if any(name in values for name in LENGTHS):
        constants = {name: value for name, value in constants.items() if name not in LENGTHS}
    return constants


# --- a former run ---------------------------------------------------------------------------------------------------


def _trained_with(output):
    """The recipe of the run in a folder, and the flags that it was given: {"recipe": ..., "given": {...}}."""
    path = os.path.join(output, CONFIG_FILE)
    try:
        with open(path) as file:
            config = json.load(file)
        flags = {name: entry for name, entry in config["flags"].items() if entry["origin"] == "flag"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "There is no run of a recipe to evaluate. Received: --output_dir={} ({}: {}). Give the output folder of a "
            "training.".format(output, type(error).__name__, error)
        ) from error
    given = {name: _text(entry["value"]) for name, entry in flags.items() if name not in NOT_INHERITED}
    return {"recipe": config["recipe"], "given": given}


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_evaluation(recipe, output, trained):
    if recipe != trained["recipe"]:
        raise UsageError(
            "The run in the folder is of another recipe, {}. Received: --recipe={}, --output_dir={}. Leave --recipe "
            "out.".format(trained["recipe"], recipe, output)
        )
    if "eval" not in CONSTANTS.get(recipe, {}):
        raise UsageError("The recipe {} evaluates when it trains, and only then.".format(recipe))
    return "recipe {}: that of the run in {}".format(recipe, output)


# --- cores ----------------------------------------------------------------------------------------------------------


def core_share(cores, index, count):
    """The cores that device `index` of `count` gets out of `cores`, as taskset takes them: `0-3,8`.

    Every device gets as many as possible of neighbouring numbers; with fewer cores than devices, they are shared.
    """
    cores = sorted(cores)
    first, end = index * len(cores) // count, (index + 1) * len(cores) // count
    share = cores[first:end] or [cores[index % len(cores)]]
    parts, start = [], share[0]
    for core, following in zip(share, share[1:] + [None]):
        if following != core + 1:
            parts.append(str(start) if start == core else "{}-{}".format(start, core))
            start = following
    return ",".join(parts)


def _cores_of(device_id):
    devices = len(glob.glob("/dev/davinci[0-9]*")) or 1
    return core_share(os.sched_getaffinity(0), device_id % devices, devices)


# --- the shell code -------------------------------------------------------------------------------------------------


def _assignments(kind, device, recipe, reason, output, values):
    overwrite = _is_true(values.pop("overwrite", "false"))
    bind_core = _is_true(values.pop("bind_core", "false"))
    values.update({name: os.path.abspath(values[name]) for name in PATHS if values.get(name)})
    # absl takes the last of several, aliases included.
    flags = ["--{}={}".format(*item) for item in _constants(kind, recipe, values).items()]
    flags += ["--{}={}".format(*item) for item in values.items()]
    flags += ["--output_dir=" + output, "--bind_core=" + str(bind_core).lower()]
    flags += [] if kind == "eval" else ["--case_suffix=" + kind]
    lines = [
        ("announcement", reason),
        ("script", SCRIPTS[recipe]),
        ("device", device),
        ("output", output),
        ("overwrite", "yes" if overwrite else ""),
        ("resume", "yes" if _is_true(values.get("resume", "")) else ""),
        ("cores", _cores_of(int(device)) if bind_core else ""),
    ]
    code = ["{}={}".format(name, shlex.quote(value)) for name, value in lines]
    return "\n".join(code + ["flags=({})".format(" ".join(map(shlex.quote, flags)))])


def _exit_with(status, text, where=""):
    return "printf '%s\\n' {} {}; exit {}".format(shlex.quote(text), where, status)


def help_text(kind):
    """What `--help` of a script prints; the flags of the recipes come from their sources."""
    script, purpose = KINDS[kind]
    known = _known_flags()
    recipes = {recipe: script_flags(path) for recipe, path in sorted(SCRIPTS.items())}
    told = {flag.name for flag in RUN_FLAGS} | set(CORE_FLAGS) | set(OWN_FLAGS)
    of_all = [
        flag
        for name, flag in known.items()
        if name not in told and all(flags.get(name) == flag for flags in recipes.values())
    ]
    lines = [
        "usage: bash test/{} --data_path=PATH [--name=value ...]".format(script),
        "",
        purpose + " on one NPU, or on this host if there is none, and prints the result.",
        "Prepares its Python environment on first use (test/env.sh). Runs from any directory.",
        "",
        "The run:",
    ]
    lines += [_help_line(flag) for flag in RUN_FLAGS]
    lines += ["", "Device:"] + [_help_line(known[name]) for name in CORE_FLAGS if name in known]
    lines += ["", "All recipes:"] + [_help_line(flag) for flag in of_all] if of_all else []
    told |= {flag.name for flag in of_all}
    for recipe, flags in recipes.items():
        constants = CONSTANTS.get(recipe, {}).get(kind, {})
        lines += ["", "Recipe {}:".format(recipe)]
        lines += [_help_line(flag, constants.get(name)) for name, flag in flags.items() if name not in told]
    lines += [
        "",
        "Written to output_dir: train_<ASCEND_DEVICE_ID>.log, <CaseName>.log, train_<CaseName>_loss.txt, summary.json,",
        "config.json, ckpt/ (docs/log-format.md).",
        "Exit status: 0 when all has finished, 2 for a wrong flag, else that of the recipe.",
    ]
    return "\n".join(lines)


def _help_line(flag, constant=None):
    shown = "--" + flag.name + ("" if flag.boolean else "=...")
    default = flag.default if constant is None else constant
    told = "" if default in ("None", "required", "") else " (default: {})".format(default)
    required = "required: " if flag.default == "required" else ""
    return "  {:<24} {}{}{}".format(shown, required, flag.help, told)
