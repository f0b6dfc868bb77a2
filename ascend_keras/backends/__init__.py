"""The ordered registry of backends: its order is the order in which `auto` asks them."""

import difflib
import importlib
from collections import OrderedDict
from typing import Any, Dict, List, Tuple

# Strings, so that nothing is imported before it is chosen.
_REGISTRY = OrderedDict(
    [
        ("npu_device", "ascend_keras.backends.npu_device:NpuDeviceBackend"),
        ("npu_bridge", "ascend_keras.backends.npu_bridge:NpuBridgeBackend"),
        ("host", "ascend_keras.backends.host:HostBackend"),
    ]
)


def names() -> List[str]:
    """The backends in the order in which `auto` asks them."""
    return list(_REGISTRY)


def register(name: str, target: str, before: str = "host") -> None:
    """Adds a backend, `target` being "module:Class", ahead of the backend `before`."""
    rest = [(key, _REGISTRY.pop(key)) for key in names()[names().index(before) :]]
    _REGISTRY[name] = target
    _REGISTRY.update(rest)


def load(name: str):
    """Imports and returns a backend class."""
    module, class_name = _REGISTRY[name].split(":")
    return getattr(importlib.import_module(module), class_name)


def availability() -> List[Tuple[str, bool, str]]:
    """For each backend: its name, whether it can be had, and the reason with its remedy."""
    rows = []
    for name in names():
        answer = load(name).availability()
        rows.append((name, answer.ok, " ".join(part for part in (answer.reason, answer.remedy) if part)))
    return rows


def choose(request: str) -> Tuple[str, List[str]]:
    """Turns "auto", "npu" or a backend's name into a backend's name.

    Returns:
        The name, and one line for each backend that was passed over, with its reason.

    Raises:
        ValueError: `request` is none of these.
        RuntimeError: an NPU, or the named backend, was asked for and cannot be had.
    """
    if request not in ["auto", "npu"] + names():
        raise ValueError(_unknown(request))
    if request == "auto":
        candidates = names()
    elif request == "npu":
        candidates = [name for name in names() if name != "host"]
    else:
        candidates = [request]
    passed_over = []
    for name in candidates:
        answer = load(name).availability()
        if answer.ok:
            return name, passed_over
        passed_over.append("{}: {} {}".format(name, answer.reason, answer.remedy).strip())
    raise RuntimeError(
        "No NPU backend can be had. Received: backend={!r}.\n  {}\n"
        "Use backend='host' to train on this host on purpose, or backend='auto' to allow it.".format(
            request, "\n  ".join(passed_over)
        )
    )


def _unknown(request):
    known = ["auto", "npu"] + names()
    near = difflib.get_close_matches(str(request), known, n=1)
    hint = " Did you mean {!r}?".format(near[0]) if near else ""
    return "Unknown backend.{} Received: backend={!r}. Available: {}.".format(hint, request, ", ".join(known))


# The backend that holds the device of this process, the options it fixed, and how many trainers use it.
_opened: Dict[str, Any] = {}


def open_backend(name: str, settings):
    """Checks the settings, opens the backend, and returns it; a second trainer with equal settings shares it.

    Raises:
        ValueError: the backend cannot run with these settings.
        RuntimeError: this process has fixed other options for the device already.
    """
    backend = load(name)(settings)
    problems = backend.check()
    if problems:
        raise ValueError("\n".join(problems))
    if not backend.process_wide:
        backend.open()
        return backend
    fixed = dict(backend.fixed_options(), backend=name)
    if _opened:
        _check_same(_opened["fixed"], fixed)
        if _opened["users"] or backend.stays_open:
            _check_same(_opened["all"], dict(settings.options))
            _opened["users"] += 1
            return _opened["backend"]
    backend.open()
    _opened.update(fixed=fixed, all=dict(settings.options), backend=backend, users=1)
    return backend


def close_backend(backend) -> None:
    """Closes a backend when the last trainer that uses it lets go."""
    if backend.process_wide:
        _opened["users"] -= 1
        if _opened["users"]:
            return
    backend.close()


def _check_same(fixed, wanted):
    differing = [key for key in sorted(set(fixed) | set(wanted)) if fixed.get(key) != wanted.get(key)]
    if differing:
        raise RuntimeError(
            "The device was opened once in this process, and what was fixed then stays. Received other values: {}. "
            "Give both trainers the same, or use a process of its own.".format(
                ", ".join("{}={!r} (was {!r})".format(k, wanted.get(k), fixed.get(k)) for k in differing)
            )
        )
