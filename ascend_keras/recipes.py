"""Which recipe fits a folder of data, and what the scripts in test/ do with their arguments. Standard library only.

`python -m ascend_keras.recipes KIND ARGUMENT...` prints shell code for test/train_common.sh: either assignments that
describe the run, or a message and an exit.
"""

import ast
import collections
import difflib
import glob
import os
import re
import shlex
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = {"swa_blobs": os.path.join(CHECKOUT, "examples", "swa_blobs.py")}
CORE_FLAGS = ("precision_mode", "over_dump", "data_dump_flag", "data_dump_step", "data_save_path", "profiling")
# Enough to know a data set by; ImageNet's folders have more entries than one wants to list.
LISTED = 5000
# Description, names by which it is known, and how many of them are enough.
_DATA_SETS = [
    ("ImageNet TFRecords", r"(train|validation)-\d{5}(-of-\d{5})?$", 1),
    ("ImageNet class folders", r"n\d{8}$", 1),
    ("cats-vs-dogs files", r"(?i)(cat|dog)\.\d+\.jpe?g$", 1),
    ("cats-vs-dogs folders", r"(?i)(cat|dog)s?$", 2),
    ("TFRecords", r"(?i).*\.tfrecords?$", 1),
]

Flag = collections.namedtuple("Flag", "name boolean default help")
Flag.__doc__ = "A flag of a recipe's script: its name, whether it is boolean, its default as source text, its help."

RUN_FLAGS = [
    Flag("data_path", False, "required", "the data; ./ for a recipe that makes its own"),
    Flag("recipe", False, "auto", "auto looks at data_path; or one of: " + ", ".join(sorted(SCRIPTS))),
    Flag("output_dir", False, "test/output/<ASCEND_DEVICE_ID>", "where logs, weights and results go"),
    Flag("overwrite", True, "False", "delete the former run in output_dir instead of keeping it under a new name"),
    Flag("bind_core", True, "False", "bind the process to its share of the cores it may use"),
]
# What the scripts set themselves.
OWN_FLAGS = ("case_suffix",)


class UsageError(Exception):
    """A command line that cannot be carried out; the message says why and what to do."""


# --- the data --------------------------------------------------------------------------------------------------------


def recognise(data_path):
    """Says what data set a folder looks like.

    Returns:
        A description, such as "ImageNet TFRecords (train-00000-of-01024)", or None for anything that is no image set.
    """
    for folder in [data_path] + [os.path.join(data_path, name) for name in ("train", "PetImages", "val")]:
        names = _listing(folder)
        for described, pattern, least in _DATA_SETS:
            found = [name for name in names if re.match(pattern, name)]
            if len(found) >= least:
                return "{} ({})".format(described, os.path.relpath(os.path.join(folder, found[0]), data_path))
    return _class_folders(data_path)


def _class_folders(data_path):
    """Folders of images below `train`, whatever the classes are called."""
    train = os.path.join(data_path, "train")
    for name in _listing(train):
        if any(re.search(r"(?i)\.(jpe?g|png)$", image) for image in _listing(os.path.join(train, name))):
            return "class folders of images ({})".format(os.path.join("train", name))
    return None


def _listing(folder):
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= LISTED:
                    break
    except OSError:
        return []
    return sorted(names)


def choose(request, data_path):
    """Turns `--recipe` into the name of a recipe and the reason for it, as one line.

    Raises:
        UsageError: there is no such recipe, or none for the data in `data_path`.
    """
    if request != "auto":
        if request not in SCRIPTS:
            raise UsageError(
                "Unknown recipe.{} Received: --recipe={}. Known are auto, {}.".format(
                    _near(request, ["auto"] + sorted(SCRIPTS)), request, ", ".join(sorted(SCRIPTS))
                )
            )
        return request, "recipe {}: asked for by --recipe".format(request)
    if not os.path.exists(data_path):
        raise UsageError(
            "There is no such folder. Received: --data_path={}. Give an existing one, or --recipe=swa_blobs, which "
            "makes its own data.".format(data_path)
        )
    described = recognise(data_path)
    if described:
        raise UsageError(
            "The data looks like {}, and this version has no recipe for it. Received: --data_path={}. Give "
            "--recipe=swa_blobs to train on generated blobs without reading the data.".format(described, data_path)
        )
    return "swa_blobs", (
        "recipe swa_blobs: stochastic weight averaging on generated blobs, as {} holds no image data set "
        "(--recipe=auto)".format(data_path)
    )


# --- the flags -------------------------------------------------------------------------------------------------------


def script_flags(path):
    """Reads the absl flags of a script from its source, without running it: no TensorFlow, no delay.

    Returns:
        Flags by name, aliases among them, in the order of the source.
    """
    with open(path) as file:
        tree = ast.parse(file.read(), path)
    found = collections.OrderedDict()
    for node in tree.body:
        call = getattr(node, "value", None)
        kind = getattr(getattr(call, "func", None), "attr", "")
        if not kind.startswith("DEFINE_"):
            continue
        values = [_literal(argument) for argument in call.args]
        if kind == "DEFINE_alias":
            found[values[0]] = found[values[1]]._replace(name=values[0], help="the same as --" + values[1])
        else:
            help_text = [value for value in values[2:] if isinstance(value, str)][-1]
            found[values[0]] = Flag(values[0], kind in ("DEFINE_boolean", "DEFINE_bool"), str(values[1]), help_text)
    return found


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node


def _near(name, known):
    near = difflib.get_close_matches(name, known, n=1)
    return " Did you mean {}?".format(near[0]) if near else ""


def parse(arguments, known):
    """Splits `--name=value`, `--name value`, `--switch` and `--noswitch`; the last of several counts.

    Args:
        known: Flags by name.

    Raises:
        UsageError: an argument is no known flag, or lacks its value; names all such arguments.
    """
    values, problems = collections.OrderedDict(), []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        negated = name[2:] if name.startswith("no") and name not in known else ""
        if not argument.startswith("--"):
            problems.append("Flags begin with --. Received: {}.".format(argument))
        elif name in known and has_value:
            values[name] = value
        elif name in known and known[name].boolean:
            values[name] = "true"
        elif name in known and rest and not rest[0].startswith("--"):
            values[name] = rest.pop(0)
        elif name in known:
            problems.append("The flag needs a value: --{}=... Received: {}.".format(name, argument))
        elif negated in known and known[negated].boolean and not has_value:
            values[negated] = "false"
        else:
            near = _near(name, list(known))
            problems.append("Unknown flag.{} Received: {}.".format(near.replace("mean ", "mean --"), argument))
    if problems:
        raise UsageError("\n".join(problems + ["--help lists the flags."]))
    return values


def _is_true(text):
    # ModelZoo's scripts bind cores for any value of --bind_core; "false" was not meant by that.
    return text.strip().lower() not in ("", "0", "f", "false", "n", "no", "off")


# --- cores -----------------------------------------------------------------------------------------------------------


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


# --- the plan of a run -----------------------------------------------------------------------------------------------


def plan(kind, arguments, environ=None):
    """Shell code that describes the run which `arguments` ask for, or that says what is wrong and exits.

    Args:
        kind: "acc" for train_full_1p.sh, "perf" for train_performance_1p.sh.
        arguments: the command line of the script.
    """
    environ = os.environ if environ is None else environ
    if {"-h", "--help"} & set(arguments):
        return _exit_with(0, help_text(kind))
    known = _known_flags()
    try:
        values = parse(arguments, known)
        if not values.get("data_path"):
            return _exit_with(1, '[Error] para "data_path" must be config')
        device = environ.get("ASCEND_DEVICE_ID") or "0"
        if not re.match(r"\d+$", device):
            raise UsageError("ASCEND_DEVICE_ID must be a whole number. Received: ASCEND_DEVICE_ID={}.".format(device))
    except UsageError as error:
        return _exit_with(2, str(error), ">&2")
    try:
        recipe, reason = choose(values.pop("recipe", "auto"), values["data_path"])
    except UsageError as error:
        return _exit_with(1, str(error), ">&2")
    return _assignments(kind, device, recipe, reason, values)


def _known_flags():
    known = collections.OrderedDict((flag.name, flag) for flag in RUN_FLAGS)
    for path in SCRIPTS.values():
        known.update((name, flag) for name, flag in script_flags(path).items() if name not in known)
    for name in OWN_FLAGS:
        known.pop(name, None)
    return known


def _assignments(kind, device, recipe, reason, values):
    output = os.path.abspath(values.pop("output_dir", os.path.join(CHECKOUT, "test", "output", device)))
    overwrite = _is_true(values.pop("overwrite", "false"))
    bind_core = _is_true(values.pop("bind_core", "false"))
    values["data_path"] = os.path.abspath(values["data_path"])
    flags = ["--{}={}".format(*item) for item in values.items()]
    flags += ["--output_dir=" + output, "--case_suffix=" + kind, "--bind_core=" + str(bind_core).lower()]
    lines = [
        ("announcement", reason),
        ("script", SCRIPTS[recipe]),
        ("device", device),
        ("output", output),
        ("overwrite", "yes" if overwrite else ""),
        ("cores", _cores_of(int(device)) if bind_core else ""),
    ]
    code = ["{}={}".format(name, shlex.quote(value)) for name, value in lines]
    return "\n".join(code + ["flags=({})".format(" ".join(map(shlex.quote, flags)))])


def _exit_with(status, text, where=""):
    return "printf '%s\\n' {} {}; exit {}".format(shlex.quote(text), where, status)


def help_text(kind):
    """What `--help` of a script prints; the flags of the recipes come from their sources."""
    script = {"acc": "train_full_1p.sh", "perf": "train_performance_1p.sh"}[kind]
    lines = [
        "usage: bash test/{} --data_path=PATH [--name=value ...]".format(script),
        "",
        {"acc": "Trains to full accuracy", "perf": "Measures the speed of training"}[kind]
        + " on one NPU, or on this host if there is none, and prints the result.",
        "Prepares its Python environment on first use (test/env.sh). Runs from any directory.",
        "",
        "The run:",
    ]
    known = _known_flags()
    lines += [_help_line(flag) for flag in RUN_FLAGS]
    lines += ["", "Device:"] + [_help_line(known[name]) for name in CORE_FLAGS if name in known]
    for recipe, path in sorted(SCRIPTS.items()):
        told = {flag.name for flag in RUN_FLAGS} | set(CORE_FLAGS) | set(OWN_FLAGS)
        lines += ["", "Recipe {}:".format(recipe)]
        lines += [_help_line(flag) for name, flag in script_flags(path).items() if name not in told]
    lines += [
        "",
        "Written to output_dir: train_<ASCEND_DEVICE_ID>.log, <CaseName>.log, train_<CaseName>_loss.txt, summary.json,",
        "ckpt/ (docs/log-format.md).",
        "Exit status: 0 when training has finished, 2 for a wrong flag, else that of the training.",
    ]
    return "\n".join(lines)


def _help_line(flag):
    shown = "--" + flag.name + ("" if flag.boolean else "=...")
    default = "" if flag.default in ("None", "required") else " (default: {})".format(flag.default)
    required = "required: " if flag.default == "required" else ""
    return "  {:<24} {}{}{}".format(shown, required, flag.help, default)


if __name__ == "__main__":
    print(plan(sys.argv[1], sys.argv[2:]))
