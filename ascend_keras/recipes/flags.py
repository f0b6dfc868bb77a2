"""Flags of the recipes' scripts, read from their sources, and command lines made of them."""

import ast
import collections
import os

from ascend_keras.recipes.data_sets import UsageError, near

Flag = collections.namedtuple("Flag", "name boolean default help")
Flag.__doc__ = "A flag of a recipe's script: its name, whether it is boolean, its default as source text, its help."


def script_flags(path):
    """Reads the absl flags of a script from its source, without running it: no TensorFlow, no delay.

    Flags of modules that stand beside the script and that it imports are its flags, too.

    Returns:
        Flags by name, aliases among them, in the order of the source, those of imported modules first.
    """
    found = collections.OrderedDict()
    _read_flags(path, found, set())
    return found


def _read_flags(path, found, seen):
    seen.add(path)
    with open(path) as file:
        tree = ast.parse(file.read(), path)
    for beside in _modules_beside(tree, os.path.dirname(path)):
        if beside not in seen:
            _read_flags(beside, found, seen)
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


def _modules_beside(tree, folder):
    names = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    paths = [os.path.join(folder, name + ".py") for name in names]
    return [path for path in paths if os.path.isfile(path)]


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node


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
            told = near(name, list(known)).replace("mean ", "mean --")
            problems.append("Unknown flag.{} Received: {}.".format(told, argument))
    if problems:
        raise UsageError("\n".join(problems + ["--help lists the flags."]))
    return values
