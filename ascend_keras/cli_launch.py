"""`ascend-keras launch`: N ranks of a script, started and ended together. No TensorFlow."""

import argparse
import os
import sys
from typing import List, Sequence, Tuple

_USAGE = "ascend-keras launch -n N [flags] SCRIPT|-m MODULE [its arguments]"

_DESCRIPTION = """Runs N ranks of a script on this machine, or this machine's part of several, until all have ended.
When one fails, all are ended: its last lines are shown, and its exit status is that of the launch.
Each rank's output is shown with [rank N] in front, and kept in LOG_DIR/rank_N.log.
"""

_EXAMPLES = """examples:
  ascend-keras launch -n 2 train.py --epochs=3           two ranks on this host, or on two NPUs of this machine
  ascend-keras launch -n 8 --backend=host train.py       rehearse eight ranks on a machine without NPUs
  ascend-keras launch --rank-table=8p.json train.py      the ranks of a rank table (ascend-keras rank-table make)
  ascend-keras launch -n 8 --dry-run train.py            what each rank would get, as shell commands
  ascend-keras launch -n 4 --nnodes=2 --node-rank=0 --master=10.0.0.1:2222 train.py     the first of two machines

exit status: 0 all ranks ended well; that of the first rank that failed (128 + signal); 2 wrong usage;
124 a rank did not start within --timeout; 130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP. See docs/launch.md.
"""

# Flag, metavar (None for a flag without a value), help.
_FLAGS = [
    ("--backend", "NAME", "auto (default: npu with a rank table or NPUs in this machine, else host), npu, host"),
    ("--rank-table", "FILE", "HCCL's rank table; says how many ranks there are, and which are this machine's"),
    ("--devices", "LIST", "NPUs of the ranks, such as 0,1,2,3 (default: the first ones that ranks see)"),
    ("--nnodes", "K", "number of machines"),
    ("--node-rank", "I", "which of them this is, from 0"),
    ("--master", "HOST:PORT", "where the launchers of several machines meet: an address of machine 0, a free port"),
    ("--bind-cores", None, "bind each rank to its share of the cores, by NUMA node and cgroup limits"),
    ("--log-dir", "DIR", "where the logs go (default: ./ascend_keras_logs/<time>)"),
    ("--show", "RANKS", "whose output the terminal gets: all (default), or main for rank 0; the logs have everything"),
    ("--dry-run", None, "show each rank's environment and command, start nothing"),
    ("--max-restarts", "K", "start all ranks again when one fails, K times at most (default: 0)"),
    ("--timeout", "SECONDS", "for each rank to make its trainer, and for the machines to meet (default: none, 600)"),
    ("--env", "NAME=VALUE", "set a variable for all ranks; may be given again"),
]
_WITH_VALUE = {"-n"} | {flag for flag, metavar, _ in _FLAGS if metavar}


def split(argv: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Parts a command line into what is ours and the script with its arguments, which nobody may touch.

    Returns:
        `argv` and [] for any command but `launch`.
    """
    position = next((index for index, word in enumerate(argv) if not word.startswith("-")), len(argv))
    if list(argv[position : position + 1]) != ["launch"]:
        return list(argv), []
    own, position = list(argv[: position + 1]), position + 1
    while position < len(argv):
        word = argv[position]
        if word == "--":
            return own, list(argv[position + 1 :])
        if word == "-m" or not word.startswith("-") or word == "-":
            break
        # Python 3.7 does not take -n2 apart where abbreviations are off.
        words = ["-n", word[2:]] if word.startswith("-n") and len(word) > 2 else [word]
        if words[-1].replace("_", "-") in _WITH_VALUE:
            words += argv[position + 1 : position + 2]
            position += 1
        own += words
        position += 1
    return own, list(argv[position:])


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `launch` to the subparsers of the command line."""
    parser = commands.add_parser(
        "launch",
        allow_abbrev=False,
        help="N ranks of a script, started and ended together",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Numbers stay text here, so that all that is wrong is told at once.
    parser.add_argument("-n", dest="ranks", metavar="N", help="number of ranks on this machine")
    for flag, metavar, text in _FLAGS:
        if not metavar:
            parser.add_argument(flag, action="store_true", help=text)
        elif flag == "--env":
            parser.add_argument(flag, metavar=metavar, action="append", help=text)
        else:
            parser.add_argument(flag, metavar=metavar, help=text)
    parser.set_defaults(run=_launch)


def _launch(arguments: argparse.Namespace) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from ascend_keras.distributed.launch import settings

    values = {name: getattr(arguments, name) for name in settings.Request._fields}
    request = settings.Request(**{name: value for name, value in values.items() if value is not None})
    try:
        plan = settings.resolve(request)
    except settings.LaunchError as error:
        for line in str(error).splitlines():
            sys.stderr.write("ascend-keras launch: {}\n".format(line))
        return 2
    if arguments.dry_run:
        from ascend_keras.distributed.launch import dry_run

        sys.stdout.write(dry_run.text(plan, os.environ) + "\n")
        return 0
    from ascend_keras.distributed.launch import job

    return job.run(plan)
