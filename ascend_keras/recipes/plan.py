"""What a script in test/ does with its command line, as shell code."""

import collections
import glob
import os
import re
import shlex

from ascend_keras.distributed import cores, rank_table
from ascend_keras.recipes.data_sets import CHECKOUT, SCRIPTS, UsageError, choose
from ascend_keras.recipes.flags import parse, script_flags
from ascend_keras.recipes.former_run import check_evaluation, trained_with
from ascend_keras.recipes.scripts import KINDS, RANK_FLAGS, constants, help_text, known_flags, run_flags

# Other names of flags that the scripts read themselves, and flags whose values are paths.
SAME = {"data_dir": "data_path", "log_dir": "output_dir"}
PATHS = ("data_path", "checkpoint_dir", "modeldir", "data_save_path", "restore_path", "pretrained")


def plan(kind, arguments, environ=None):
    """Shell code that describes the run which `arguments` ask for, or that says what is wrong and exits.

    Args:
        kind: which script it is, a key of `scripts.KINDS`.
        arguments: the command line of the script.
    """
    environ = os.environ if environ is None else environ
    if {"-h", "--help"} & set(arguments):
        return _exit_with(0, help_text(kind))
    try:
        values = parse(arguments, known_flags(kind))
        values = collections.OrderedDict((SAME.get(name, name), value) for name, value in values.items())
        _check_together(kind, values)
        if not values.get("data_path"):
            return _exit_with(1, '[Error] para "data_path" must be config')
        devices = _devices(kind, values, environ)
    except UsageError as error:
        return _exit_with(2, str(error), ">&2")
    output = os.path.abspath(values.pop("output_dir", os.path.join(CHECKOUT, "test", "output", str(devices[0]))))
    try:
        trained = trained_with(output) if kind == "eval" else {}
        request = values.pop("recipe", None) or trained.get("recipe", "auto")
        recipe, reason = choose(request, values["data_path"])
        if kind == "eval":
            reason = check_evaluation(recipe, output, trained)
    except UsageError as error:
        return _exit_with(1, str(error), ">&2")
    problem = _foreign_flags(kind, recipe, reason, values)
    if problem:
        return _exit_with(2, problem, ">&2")
    return _assignments(kind, devices, recipe, reason, output, dict(trained.get("given", {}), **values))


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
    if not re.match(r"\d+$", values.get("max_restarts", "0")):
        problems.append("Restarts are counted. Received: --max_restarts={}.".format(values["max_restarts"]))
    if values.get("rank_table") and values.get("devices"):
        problems.append(
            "The rank table says which devices there are. Received: --rank_table={}, --devices={}. Give one of "
            "them.".format(values["rank_table"], values["devices"])
        )
    if problems:
        raise UsageError("\n".join(problems))


def _devices(kind, values, environ):
    """The devices of the run, at least one."""
    if not KINDS[kind].ranked:
        device = environ.get("ASCEND_DEVICE_ID") or "0"
        if not re.match(r"\d+$", device):
            raise UsageError("ASCEND_DEVICE_ID must be a whole number. Received: ASCEND_DEVICE_ID={}.".format(device))
        return [int(device)]
    if values.get("rank_table"):
        return _devices_of_table(values["rank_table"])
    text = values.get("devices") or "0-7"
    devices = []
    for part in text.split(","):
        match = re.match(r"(\d+)(?:-(\d+))?$", part)
        found = range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1) if match else []
        if not found:
            raise UsageError("Devices are numbers and ranges of them, such as 0-3 or 4,5. Received: {}.".format(text))
        devices += found
    if len(set(devices)) != len(devices) or len(devices) < 2:
        raise UsageError(
            "This script trains on two devices or more, each of them named once. Received: --devices={}. For one "
            "device there is test/{}.".format(text, KINDS[kind].name.replace("_8p", "_1p"))
        )
    return devices


def _devices_of_table(path):
    """The devices of this server in a rank table."""
    try:
        return [device for _, device in rank_table.read(path).local()]
    except ValueError as error:
        raise UsageError("--rank_table={}: {}".format(path, error)) from error


def _foreign_flags(kind, recipe, reason, values):
    """What is wrong with flags that are not those of the recipe; "" if nothing."""
    own = set(script_flags(SCRIPTS[recipe])) | {flag.name for flag in run_flags(kind)}
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


# --- cores ----------------------------------------------------------------------------------------------------------


def _cores_of(device):
    """The cores that a device gets out of those that may be used, as taskset takes them: `0-3,8`."""
    devices = _npus() or 1
    return cores.as_text(cores.shares_here(devices)[device % devices])


def _npus():
    """How many NPUs this machine has."""
    return len(glob.glob("/dev/davinci[0-9]*"))


# --- the shell code -------------------------------------------------------------------------------------------------


def _assignments(kind, devices, recipe, reason, output, values):
    overwrite = _is_true(values.pop("overwrite", "false"))
    bind_core = _is_true(values.pop("bind_core", "false"))
    values.update({name: os.path.abspath(values[name]) for name in PATHS if values.get(name)})
    script, launch = KINDS[kind], _launch(devices, values, output, bind_core) if KINDS[kind].ranked else []
    for flag in RANK_FLAGS:
        values.pop(flag.name, None)
    # absl takes the last of several, aliases included.
    flags = ["--{}={}".format(*item) for item in constants(kind, recipe, values).items()]
    flags += ["--{}={}".format(*item) for item in values.items()]
    flags += ["--output_dir=" + output, "--bind_core=" + str(bind_core).lower()]
    flags += ["--case_suffix=" + script.suffix] if script.suffix else []
    lines = [
        ("announcement", reason),
        ("script", SCRIPTS[recipe]),
        ("device", str(devices[0])),
        ("output", output),
        ("overwrite", "yes" if overwrite else ""),
        ("resume", "yes" if _is_true(values.get("resume", "")) else ""),
        ("cores", _cores_of(devices[0]) if bind_core and not launch else ""),
    ]
    code = ["{}={}".format(name, shlex.quote(value)) for name, value in lines]
    code += ["{}=({})".format(*pair) for pair in (("flags", _quoted(flags)), ("launch", _quoted(launch)))]
    return "\n".join(code)


def _launch(devices, values, output, bind_core):
    """The arguments of `ascend-keras launch` in front of the script."""
    asked, table = values.get("backend") or "auto", values.get("rank_table")
    on_npus = asked.startswith("npu") or (asked == "auto" and bool(table or _npus()))
    arguments = ["--backend", "npu" if on_npus else "host", "--log-dir", os.path.join(output, "ranks")]
    if table:
        arguments += ["--rank-table", os.path.abspath(table)]
    else:
        arguments += ["-n", str(len(devices))]
        arguments += ["--devices", ",".join(map(str, devices))] if on_npus else []
    if values.get("max_restarts"):
        arguments += ["--max-restarts", values["max_restarts"]]
    return arguments + (["--bind-cores"] if bind_core else [])


def _quoted(words):
    return " ".join(map(shlex.quote, words))


def _exit_with(status, text, where=""):
    return "printf '%s\\n' {} {}; exit {}".format(shlex.quote(text), where, status)
