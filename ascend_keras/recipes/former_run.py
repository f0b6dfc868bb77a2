"""What an evaluation learns from the training that it evaluates."""

import json
import os

from ascend_keras.recipes.data_sets import UsageError
from ascend_keras.recipes.scripts import CONSTANTS

CONFIG_FILE = "config.json"
# Of a training's flags, those that an evaluation of it has its own values for.
NOT_INHERITED = ["data_path", "output_dir", "mode", "resume", "case_suffix", "bind_core", "eval", "do_checkpoint"]
NOT_INHERITED += ["rank_size", "mul_rank_size", "restore_path"]


def trained_with(output):
    """The recipe of the run in a folder, and the flags that it was given: {"recipe": ..., "given": {...}}.

    Raises:
        UsageError: there is no such run.
    """
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


def check_evaluation(recipe, output, trained):
    """Says which recipe it is, and why.

    Raises:
        UsageError: the run is of another recipe than the one that was asked for, or its recipe has no evaluation.
    """
    if recipe != trained["recipe"]:
        raise UsageError(
            "The run in the folder is of another recipe, {}. Received: --recipe={}, --output_dir={}. Leave --recipe "
            "out.".format(trained["recipe"], recipe, output)
        )
    if "eval" not in CONSTANTS.get(recipe, {}):
        raise UsageError("The recipe {} evaluates when it trains, and only then.".format(recipe))
    return "recipe {}: that of the run in {}".format(recipe, output)
