"""Runs a script as N ranks of the host engine: plain processes that find each other by TF_CONFIG."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import harness

# Seconds that the other ranks get to end by themselves after one has failed; survivors hang on TF 1.15.
GRACE = 10.0
ENDED = -signal.SIGKILL


def free_ports(count):
    """Ports of the loopback that are free now, below those that the system gives to outgoing connections."""
    found, sockets = [], []
    candidate = 12000 + os.getpid() * 37 % 18000
    try:
        while len(found) < count:
            candidate = candidate + 1 if candidate < 32000 else 12000
            one = socket.socket()
            sockets.append(one)
            try:
                one.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            found.append(candidate)
    finally:
        for one in sockets:
            one.close()
    return found


def tf_config(ports, index):
    """The value of TF_CONFIG of one rank."""
    workers = ["127.0.0.1:{}".format(port) for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def environment(ports, index, *changes):
    """The environment of one rank, without what the caller's says of a cluster; a change of None removes."""
    full = {key: value for key, value in os.environ.items() if not harness._CLUSTER.match(key)}
    paths = [str(harness.HERE.parent), str(harness.HERE)] + [full.get("PYTHONPATH", "")]
    full["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    full.update(TF_CPP_MIN_LOG_LEVEL="3", PYTHONUNBUFFERED="1", PYTHONWARNINGS="ignore", CUDA_VISIBLE_DEVICES="-1")
    if ports:
        full["TF_CONFIG"] = tf_config(ports, index)
    for change in changes:
        for key, value in (change or {}).items():
            full[key] = value
    return {key: str(value) for key, value in full.items() if value is not None}


def run_host(script, ranks, env=None, rank_env=None, args=(), timeout=180, folder=None, grace=GRACE, ports=None):
    """Runs a script on `ranks` processes of this host and waits for all of them.

    Args:
        script: path of a Python file (ends in .py), or its text. Its last line "RESULT <json>" on stdout becomes
            `Result.value`.
        ranks: number of processes; each gets TF_CONFIG with free loopback ports. 1: no TF_CONFIG at all.
        env: variables to set on all ranks; a value of None removes the variable.
        rank_env: a list of such dictionaries, one a rank.
        args: arguments of the script.
        timeout: seconds for the whole; afterwards every rank is ended.
        folder: working directory of all ranks; a temporary one unless given.
        grace: seconds for the other ranks to end, once one has failed.
        ports: ports of the ranks, instead of free ones.

    Returns:
        A list of `harness.Result`, one a rank; the return code of a rank that had to be ended is -9.
    """
    if ports is None:
        ports = free_ports(ranks) if ranks > 1 else []
    with tempfile.TemporaryDirectory() as aside:
        path = str(script)
        if not path.endswith(".py"):
            path = os.path.join(aside, "scenario.py")
            with open(path, "w", encoding="utf-8") as file:
                file.write(textwrap.dedent(script))
        processes = []
        try:
            for rank in range(ranks):
                full = environment(ports, rank, env, rank_env[rank] if rank_env else None)
                command = [sys.executable, os.path.abspath(path)] + [str(one) for one in args]
                processes.append(_start(command, full, folder or aside, os.path.join(aside, str(rank))))
            _wait(processes, timeout, grace)
        finally:
            _end(processes)
        return [_result(process, os.path.join(aside, str(rank))) for rank, process in enumerate(processes)]


def values(results):
    """What the ranks printed as RESULT; all of them have to have succeeded."""
    for rank, result in enumerate(results):
        if result.returncode != 0:
            texts = ["rank {}: code {}\n{}".format(i, r.returncode, r.stderr[-3000:]) for i, r in enumerate(results)]
            raise AssertionError("rank {} failed\n{}".format(rank, "\n".join(texts)))
    return [result.value for result in results]


def _start(command, env, folder, stem):
    with open(stem + ".out", "wb") as out, open(stem + ".err", "wb") as err:
        return subprocess.Popen(
            command, env=env, cwd=str(folder), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )


def _wait(processes, timeout, grace):
    """Until all have ended, or time is up; the first failure leaves the others `grace` seconds."""
    deadline = time.monotonic() + timeout
    failed = False
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if not failed and any(process.poll() not in (None, 0) for process in processes):
            failed, deadline = True, min(deadline, time.monotonic() + grace)
        time.sleep(0.05)


def _end(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # it and its children are gone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _result(process, stem):
    texts = []
    for ending in (".out", ".err"):
        with open(stem + ending, "rb") as file:
            texts.append(file.read().decode(errors="replace"))
    found = re.findall(r"^RESULT (.*)$", texts[0], re.MULTILINE)
    return harness.Result(process.returncode, texts[0], texts[1], json.loads(found[-1]) if found else None)
