"""The command line: `ascend-keras`, also `python -m ascend_keras`. Its help needs no TensorFlow.

Exit status: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import json
import os
import sys
from typing import List, Optional, Sequence

from ascend_keras import __version__, cli_data, cli_launch, cli_rank_table

_EXAMPLES = """examples:
  ascend-keras doctor                        what can this machine train on, and why not on an NPU?
  ascend-keras doctor --backend=npu --json   for scripts: exit status 1 if there is no usable NPU
  ascend-keras report test/output            the results of all runs below a folder
  ascend-keras recipe --data-path=/data      which recipe fits this data?
  ascend-keras data check /data/imagenet     is the data set whole?
  ascend-keras launch -n 8 train.py          eight ranks of a script
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = _parser()
    own, script = cli_launch.split(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(_with_dashes(own), argparse.Namespace(script=script))
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
        return arguments.run(arguments)
    except BrokenPipeError:
        # The reader, such as `head`, has gone; what Python flushes at exit has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        if arguments.debug:
            raise
        print("ascend-keras: {}".format(error), file=sys.stderr)
        return 1


def _with_dashes(argv: Sequence[str]) -> List[str]:
    """`--data_path` and `--data-path` are the same flag; values stay as they are."""
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append((name.replace("_", "-") if name.startswith("--") else name) + equals + value)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ascend-keras",
        description="Keras training on Huawei Ascend NPUs, and on hosts without any.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version="ascend_keras " + __version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="command")

    doctor = commands.add_parser(
        "doctor", allow_abbrev=False, help="what this machine can train on, and what is missing"
    )
    doctor.add_argument("--backend", default="auto", help="auto (default), npu, or a backend's name")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)

    results = commands.add_parser("report", allow_abbrev=False, help="the results of finished runs as a table")
    results.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run, or a folder of such")
    results.add_argument("--json", action="store_true", help="print JSON")
    results.set_defaults(run=_report)

    recipe = commands.add_parser("recipe", allow_abbrev=False, help="the recipe that fits a folder of data")
    recipe.add_argument("--data-path", required=True, help="the folder")
    recipe.add_argument("--recipe", default="auto", help="auto (default), or the name of a recipe")
    recipe.set_defaults(run=_recipe)

    cli_data.add_commands(commands)
    cli_launch.add_commands(commands)
    cli_rank_table.add_commands(commands)
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from ascend_keras import doctor

    findings = doctor.examine(arguments.backend)
    print(doctor.as_json(findings) if arguments.json else doctor.text(findings))
    return 0 if doctor.is_usable(findings) else 1


def _report(arguments: argparse.Namespace) -> int:
    from ascend_keras import report

    summaries = [summary for run in arguments.runs for summary in report.load(run)]
    print(json.dumps(summaries, indent=2) if arguments.json else report.table(summaries))
    return 0


def _recipe(arguments: argparse.Namespace) -> int:
    from ascend_keras import recipes

    try:
        _, reason = recipes.choose(arguments.recipe, arguments.data_path)
    except recipes.UsageError as error:
        raise ValueError(str(error)) from error
    print(reason)
    return 0
