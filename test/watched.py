"""Processes that the watchdog ends, for its tests."""

import os
import subprocess
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIMIT = 120  # seconds that a test waits for what has to end by itself


def start(script, *args, **environ):
    full = {key: value for key, value in os.environ.items() if not key.startswith(("RANK_", "CM_", "ASCEND_KERAS_"))}
    full.pop("TF_CONFIG", None)
    full.update(
        PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3", PYTHONWARNINGS="ignore", CUDA_VISIBLE_DEVICES="-1", **environ
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)] + list(args),
        env=full,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def ended(process):
    """Return code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def said(stderr):
    """The lines of the watchdog, which are the last."""
    lines = stderr.strip().split("\n")
    mine = [line for line in lines if "watchdog: " in line]
    assert mine and mine == lines[-len(mine) :], stderr[-3000:]
    return [line.partition("watchdog: ")[2] for line in mine]
