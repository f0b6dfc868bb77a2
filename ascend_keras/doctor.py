"""Says what this machine can train on, why, and what to do about the rest. Imports no TensorFlow itself."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Sequence

from ascend_keras import backends
from ascend_keras.distributed import cluster

OK, WARN, FAIL, SKIP = "ok", "warn", "FAIL", "skip"
PYTHONS = ((3, 7), (3, 13))
# Seconds. A first import of TensorFlow from a slow disk takes a minute; a hanging driver takes for ever.
TIMEOUT = 180

# TensorFlow version: packages with the first version that breaks it, and what then happens.
PINS = {
    "1.15": [("protobuf", "3.21", "its import fails"), ("numpy", "1.24", "its import fails")]
    + [("h5py", "3.0", "weights in .h5 files cannot be loaded")],
    "2.6": [("protobuf", "3.21", "its import fails"), ("numpy", "1.24", "its import fails")]
    + [("keras", "2.7", "its import fails, as metrics are registered twice")],
}

# Versions come from the packages' metadata, since a wrong one of them makes the import of TensorFlow fail.
_TENSORFLOW_PROBE = """
import json, sys
try:
    from importlib.metadata import version
except ImportError:
    from pkg_resources import get_distribution
    version = lambda name: get_distribution(name).version
found = {}
for name in "tensorflow tensorflow-cpu tensorflow-gpu tensorflow-aarch64 keras protobuf numpy h5py".split():
    try:
        found[name] = version(name)
    except Exception:
        pass
try:
    import tensorflow
    found["imported"] = tensorflow.__version__
except ImportError as error:
    found["error"] = str(error)
except Exception as error:
    found["error"] = "{}: {}".format(type(error).__name__, error)
print("RESULT" + json.dumps(found))
"""
_BACKENDS_PROBE = """
import json
from ascend_keras import backends
print("RESULT" + json.dumps(backends.availability()))
"""


class Finding(NamedTuple):
    """One line of the doctor: what was looked at, `ok`, `warn`, `FAIL` or `skip`, why, and what to do."""

    subject: str
    status: str
    reason: str
    remedy: str = ""


def examine(backend: str = "auto") -> List[Finding]:
    """Looks at everything that decides whether `backend` can train here.

    Args:
        backend: "auto", "npu", or the name of a backend.

    Returns:
        The findings; `is_usable` reads the verdict from them.

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in ["auto", "npu"] + backends.names():
        raise ValueError(
            "Unknown backend. Received: backend={!r}. Available: auto, npu, {}.".format(
                backend, ", ".join(backends.names())
            )
        )
    return [_python()] + _tensorflow() + _backends(backend) + [_cann(), _npu_smi(), _ranks()]


def is_usable(findings: Sequence[Finding]) -> bool:
    """Whether the backend that was asked for can train; other failures are for the user to judge."""
    return any(finding.subject == "chosen backend" and finding.status == OK for finding in findings)


def text(findings: Sequence[Finding]) -> str:
    """The findings as a table for people, a remedy below its line."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for subject, status, reason, remedy in findings:
        lines.append("{:<{}}  {:<4}  {}".format(subject, width, status, reason))
        if remedy:
            lines.append("{:<{}}  {:<4}  -> {}".format("", width, "", remedy))
    return "\n".join(lines + ["", "Paste these lines into your issue when you ask for help."])


def as_json(findings: Sequence[Finding]) -> str:
    """The findings as JSON: `{"usable": ..., "findings": [...]}`."""
    rows = [dict(finding._asdict()) for finding in findings]
    return json.dumps({"usable": is_usable(findings), "findings": rows}, indent=2)


def _probe(code: str) -> Any:
    """Runs `code` in a process of its own, which may crash, hang or print what it likes; returns its RESULT.

    Raises:
        RuntimeError: it had none, with the reason.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError("no answer within {} s".format(TIMEOUT)) from None
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line[len("RESULT") :])
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise RuntimeError("the process ended with status {}: {}".format(done.returncode, last))


def _python() -> Finding:
    version = "{}.{}.{}".format(*sys.version_info[:3])
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("python", OK, version)
    return Finding("python", WARN, version + " was never tried", "use Python 3.7 to 3.13")


def _tensorflow() -> List[Finding]:
    try:
        found = _probe(_TENSORFLOW_PROBE)
    except RuntimeError as error:
        return [Finding("tensorflow", FAIL, str(error), "import tensorflow by hand and mend what it says")]
    installed = [found[name] for name in found if name.startswith("tensorflow")]
    version = found.get("imported") or (installed[0] if installed else "")
    pins = _pins(version, found)
    if "imported" in found:
        return [Finding("tensorflow", OK, version)] + pins
    if not version:
        return [Finding("tensorflow", FAIL, "not installed", _install_line())]
    reason = "{} cannot be imported: {}".format(version, (found["error"].strip().splitlines() or [""])[0])
    remedy = "mend the versions below" if any(pin.status == FAIL for pin in pins) else "reinstall it"
    return [Finding("tensorflow", FAIL, reason, remedy)] + pins


def _install_line() -> str:
    extra = "tf1" if sys.version_info < (3, 8) else "tf2" if sys.version_info < (3, 10) else "host"
    return "activate the adapter's environment; or, on a host, in the checkout: pip install '.[{}]'".format(extra)


def _pins(version: str, found: Dict[str, str]) -> List[Finding]:
    findings = []
    for name, first_bad, consequence in PINS.get(".".join(version.split(".")[:2]), []):
        if name not in found:
            continue
        if _numbers(found[name]) < _numbers(first_bad):
            findings.append(Finding(name, OK, found[name]))
        else:
            reason = "{}: with TensorFlow {} {}".format(found[name], version, consequence)
            findings.append(Finding(name, FAIL, reason, "pip install '{}<{}'".format(name, first_bad)))
    return findings


def _numbers(version: str) -> List[int]:
    return [int(part) for part in version.split(".")[:2] if part.isdigit()]


def _backends(request: str) -> List[Finding]:
    try:
        rows = _probe(_BACKENDS_PROBE)
    except RuntimeError as error:
        return [Finding("chosen backend", FAIL, "none can be examined: {}".format(error), "see tensorflow above")]
    asked = {"auto": [row[0] for row in rows], "npu": [row[0] for row in rows if row[0] != "host"]}
    candidates = asked.get(request, [request])
    findings = []
    for name, available, reason in rows:
        missing = FAIL if request != "auto" and name in candidates else WARN
        findings.append(Finding("backend " + name, OK if available else missing, reason))
    chosen = [name for name, available, _ in rows if available and name in candidates]
    if chosen:
        return findings + [Finding("chosen backend", OK, '{} by backend="{}"'.format(chosen[0], request))]
    remedy = "mend one of the backends above, or train with another one"
    return findings + [Finding("chosen backend", FAIL, 'none can be had for backend="{}"'.format(request), remedy)]


def _cann() -> Finding:
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH"):
        path = os.environ.get(name)
        if path and os.path.isdir(path):
            return Finding("CANN", OK, "{}={}".format(name, path))
        if path:
            return Finding("CANN", WARN, "{}={} is no folder".format(name, path), "source set_env.sh of CANN")
    if os.path.isdir("/usr/local/Ascend"):
        return Finding("CANN", WARN, "in /usr/local/Ascend, but its environment is not set", "source its set_env.sh")
    return Finding("CANN", SKIP, "not on this machine")


def _npu_smi() -> Finding:
    path = shutil.which("npu-smi")
    return Finding("npu-smi", OK, path) if path else Finding("npu-smi", SKIP, "not on PATH: no NPU driver here")


def _ranks() -> Finding:
    try:
        found = cluster.from_environment()
    except ValueError as error:
        return Finding("device and ranks", FAIL, " ".join(str(error).split()), "correct or unset these variables")
    if found.size == 1:
        return Finding("device and ranks", OK, "a single device, number {}".format(found.device_id))
    reason = "rank {} of {}, device {}, by {}".format(found.rank, found.size, found.device_id, found.mode)
    return Finding("device and ranks", OK, reason)
