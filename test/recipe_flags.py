"""What each flag of a recipe's script does to its configuration, found out in one process of its own.

    python recipe_flags.py SCRIPT RANKS < cases.json

`cases` is a list of command lines; prints "RESULT" and a list of the configurations that follow, or of the texts of the
errors.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def resolve_all(script, cases, ranks=1):
    """The configurations of many command lines of a script, as dicts.

    Where one is refused, a text: the message of what the flags say together, or "exit N: " and what was printed.
    """
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), script, str(ranks)]
    done = subprocess.run(command, input=json.dumps(cases), env=environment, capture_output=True, text=True)
    assert "RESULT" in done.stdout, done.stderr
    return json.loads(done.stdout.partition("RESULT")[2])


def main(script, ranks):
    sys.path.insert(0, os.path.join(ROOT, "examples"))
    module = importlib.import_module(script)
    common = importlib.import_module("common")
    results = []
    for arguments in json.load(sys.stdin):
        common.FLAGS.unparse_flags()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):
                common.parse([script] + arguments)
            results.append(module.resolve(int(ranks)))
        except common.UsageError as error:
            results.append(str(error))
        except SystemExit as error:
            results.append("exit {}: {}".format(error.code, printed.getvalue()))
    print("RESULT" + json.dumps(results, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
