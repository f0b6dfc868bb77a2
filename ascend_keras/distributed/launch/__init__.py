"""Starts N ranks of a script and ends them together: `ascend-keras launch`. No TensorFlow.

    request -> settings.resolve -> Plan -> job.run -> front.run (the process at the terminal)
                                                       job.supervise (the process that the ranks are children of)

`launch` is the same from Python, for those who have no shell at hand.
"""

import os
import subprocess
import sys
from typing import Any, Dict, List, Optional, Sequence

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def launch(
    script: Sequence[str],
    ranks: Optional[int] = None,
    env: Optional[Dict[str, str]] = None,
    **settings: Any,
) -> int:
    """Runs `ascend-keras launch` as a process of its own, waits for it, and returns its exit status.

    Args:
        script: path and arguments of a script, or "-m", name and arguments of a module.
        ranks: number of ranks on this machine (-n).
        env: variables for all ranks (--env).
        **settings: the other flags, by name: backend, nnodes, node_rank, master, rank_table, devices, bind_cores,
            log_dir, dry_run, max_restarts, timeout, show. True is a flag without a value; None and False leave it out.

    Returns:
        0, that of the first rank that failed, 128 + signal, or 2 for settings that cannot be carried out, which are
        then listed on stderr.
    """
    process = subprocess.Popen(command_line(script, ranks, env, **settings), env=_importable())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C has gone to the launcher too; it ends the ranks, which takes its time.
            continue


def command_line(
    script: Sequence[str], ranks: Optional[int] = None, env: Optional[Dict[str, str]] = None, **settings: Any
) -> List[str]:
    """The command that `launch` runs."""
    flags = [] if ranks is None else ["-n", str(ranks)]
    for name, value in (env or {}).items():
        flags.append("--env={}={}".format(name, value))
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags.append("{}={}".format(flag, value))
    script = [script] if isinstance(script, (str, os.PathLike)) else script
    return [sys.executable, "-m", "ascend_keras", "launch"] + flags + [os.fspath(part) for part in script]


def _importable() -> Dict[str, str]:
    """The environment, with this very package in reach of a process that starts elsewhere."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths if _ROOT in paths else paths + [_ROOT]))
