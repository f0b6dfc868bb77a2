"""The options of the two NPU adapters as data, and the check of one option's value. Imports no TensorFlow."""

import difflib
import functools
import json
import numbers
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Dict, NamedTuple, Optional, Tuple

ADAPTERS = ("tf115", "tf26")
ADAPTER_TITLES = {"tf115": "TF 1.15 (npu_bridge)", "tf26": "TF 2.6 (npu_device)"}
_KINDS = {"b": "bool", "i": "int", "s": "str"}


class SessionField(NamedTuple):
    """Place of an option in `parameter_map` of TF 1.15; `key` is None where only NPURunConfig can carry it."""

    key: Optional[str]
    field: Optional[str]
    stages: Tuple[str, ...]
    default: Any
    bad_value: str


class GlobalPath(NamedTuple):
    """Place of an option in `npu_device.global_options()` of TF 2.6."""

    path: str
    type: str
    stages: Tuple[str, ...]
    default: Any
    bad_value: str


class Option(NamedTuple):
    """One adapter option; `allowed` maps each adapter to its tuple of values, or is None."""

    name: str
    scope: str
    purpose: str
    tf115: Optional[SessionField]
    tf26: Optional[GlobalPath]
    allowed: Optional[Dict[str, tuple]] = None
    range: Optional[Dict[str, int]] = None
    product_range: Optional[Dict[str, Dict[str, int]]] = None
    pattern: Optional[str] = None
    form: Optional[str] = None
    path: Optional[str] = None
    check: Optional[str] = None
    product_values: Optional[Dict[str, list]] = None
    deprecated: Tuple[str, ...] = ()
    replacement: Optional[str] = None
    instead: Optional[str] = None
    host: bool = False

    @property
    def kind(self):
        """Type of the checked value: "bool", "int" or "str"."""
        if self.tf115 is not None and self.tf115.field is not None:
            return _KINDS[self.tf115.field]
        return self.tf26.type if self.tf26 is not None else "str"

    @property
    def carriers(self):
        """Adapters that act on the option when a session config or the global options hold it."""
        session = self.tf115 is not None and self.tf115.key is not None
        # Inside "run_context" the adapter reads it from npu_run_context only, which Keras never enters.
        device = self.tf26 is not None and "run_context" not in self.tf26.stages
        found = (("tf115", session), ("tf26", device))
        return tuple(adapter for adapter, has_it in found if has_it and self.scope != "no_effect")

    def place(self, adapter):
        """Key (TF 1.15) or dotted path (TF 2.6) of the option, None if the adapter has none."""
        if adapter == "tf115":
            return self.tf115.key if self.tf115 else None
        return self.tf26.path if self.tf26 else None

    def stages(self, adapter):
        """Stages in which the adapter reads the option."""
        field = getattr(self, adapter)
        return field.stages if field else ()

    def allowed_values(self, adapter=None):
        """Values that the adapter accepts, of all adapters when it is None; None if they cannot be listed."""
        if self.allowed is None:
            return None
        adapters = ADAPTERS if adapter is None else (adapter,)
        return tuple(OrderedDict.fromkeys(value for one in adapters for value in self.allowed[one]))


@functools.lru_cache(maxsize=None)
def data():
    """The parsed npu_options.json, the data file beside this module."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "npu_options.json"), encoding="utf-8") as file:
        return json.load(file)


@functools.lru_cache(maxsize=None)
def options():
    """All options by canonical name; shared, so not to be changed."""
    return OrderedDict((entry["name"], _option(entry)) for entry in data()["options"])


def _option(entry):
    entry = dict(entry)
    allowed = entry.pop("allowed", None)
    if allowed is not None:
        per_adapter = allowed if isinstance(allowed, dict) else dict.fromkeys(ADAPTERS, allowed)
        entry["allowed"] = {adapter: tuple(values) for adapter, values in per_adapter.items()}
    name, session, device = entry["name"], entry.pop("tf115", None), entry.pop("tf26", None)
    entry["deprecated"] = tuple(entry.get("deprecated", ()))
    return Option(
        tf115=session and SessionField(session.get("key", name), session.get("field"), *_timing(session)),
        tf26=device and GlobalPath(device.get("path", name), device["type"], *_timing(device)),
        **entry,
    )


def _timing(field):
    return tuple(field["stages"]), field.get("default"), field.get("bad_value", "ignored")


def problem(what, name, value, remedy):
    """One line that says what is wrong, what was received and how to mend it."""
    return "{} Received: {}={}. {}".format(what, name, show(value), remedy).replace("\n", " ")


def show(value):
    """repr of a value, cut where it would hide the rest of the message."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = object.__repr__(value)
    return text if len(text) <= 300 else text[:297] + "..."


def nearest(word, words):
    """A question that names the words nearest to a mistyped one, or an empty text."""
    if not isinstance(word, str):
        return ""
    lower = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.6)
    return "Did you mean {}?".format(" or ".join(repr(lower[one]) for one in close)) if close else ""


def read_value(option, raw, adapter=None, product=None):
    """Converts a value to the option's type and checks it.

    Args:
        option: the `Option`.
        raw: what the user gave; paths, bytes and NumPy scalars are fine.
        adapter: "tf115", "tf26", or None for whatever any adapter accepts.
        product: one of `data()["products"]`, or None where it is not known.

    Returns:
        (value, None), or (raw, the problem in one line).
    """
    value, remedy = _READERS[option.kind](option, _plain(raw), adapter)
    if remedy is None:
        remedy = _fault(option, value, adapter, product)
    if remedy is not None:
        return raw, problem("`{}` {}.".format(option.name, requirement(option, adapter)), option.name, raw, remedy)
    fault = _product_fault(option, value, product)
    return (raw, fault) if fault else (value, None)


def requirement(option, adapter=None):
    """What the option's value must be, as the end of a sentence."""
    allowed = option.allowed_values(adapter)
    if allowed is not None:
        return "must be one of {}".format(", ".join(repr(value) for value in allowed))
    if option.range is not None:
        return "must be a whole number in [{min}, {max}]".format(**option.range)
    if option.path is not None:
        return _PATHS[option.path][0]
    if option.check == "profiling":
        return "must be a JSON object with keys of PROFILING_OPTIONS"
    return "must have the form {}".format(option.form) if option.form else "must be text that is not empty"


def _plain(raw):
    if isinstance(raw, os.PathLike):
        raw = os.fspath(raw)
    if getattr(raw, "ndim", None) == 0 and hasattr(raw, "item"):
        raw = raw.item()
    if isinstance(raw, (bytes, bytearray)):
        try:
            return bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            return raw
    return raw


def _read_bool(option, value, adapter):
    if isinstance(value, numbers.Integral) and value in (0, 1):
        return bool(value), None
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value, "Write {} without quotes.".format(value.capitalize())
    return value, "Write True or False."


def _read_int(option, value, adapter):
    allowed = option.allowed_values()
    if isinstance(value, bool) and (allowed is None or set(allowed) != {0, 1}):
        return value, "Write a number; True and False stand for 0 and 1 only."
    if isinstance(value, numbers.Integral):
        return int(value), None
    as_text = option.tf26 is not None and option.tf26.type == "str"
    if as_text and isinstance(value, str) and value in [str(one) for one in allowed]:
        return int(value), None
    return value, "Write a whole number, without quotes or decimal point."


def _read_str(option, value, adapter):
    allowed = option.allowed_values() or ()
    if option.check == "profiling" and isinstance(value, Mapping):
        return _profiling_text(value)
    if isinstance(value, bool) and str(value).lower() in allowed:
        return value, 'This option takes text: write "{}".'.format(str(value).lower())
    switch = not isinstance(value, bool) or set(allowed) == {"0", "1"}
    if isinstance(value, numbers.Integral) and switch and value in [int(one) for one in allowed if one.isdigit()]:
        return str(int(value)), None
    if not isinstance(value, str):
        return value, "Write it as text."
    return value, _text_fault(value)


def _text_fault(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "Remove the characters that have no UTF-8 form."
    if text.strip() and "\0" not in text:
        return None
    return "Give a text without NUL characters, or leave the option out."


_READERS = {"bool": _read_bool, "int": _read_int, "str": _read_str}


def _profiling_text(mapping):
    try:
        return json.dumps({key: _plain(value) for key, value in mapping.items()}), None
    except (TypeError, ValueError) as error:
        return mapping, "Use text for keys and values ({}).".format(error)


def _fault(option, value, adapter, product):
    """The remedy for a value of the right type that the option does not accept, or None."""
    allowed = option.allowed_values(adapter)
    if allowed is not None and value not in allowed:
        return _list_remedy(option, value, allowed)
    limits = (option.product_range or {}).get(product, option.range)
    if limits is not None and not limits["min"] <= value <= limits["max"]:
        return "Give a number from {min} to {max}.".format(**limits)
    if option.pattern is not None and re.fullmatch(option.pattern, value, re.ASCII) is None:
        return "Write it like this: {}.".format(option.form)
    fault = _PATHS[option.path][1](value) if option.path is not None else None
    if fault is None and option.check is not None:
        fault = _CHECKS[option.check](value, product)
    return fault


def _list_remedy(option, value, allowed):
    for other in ("precision_mode", "precision_mode_v2"):
        if option.name.startswith("precision_mode") and value in options()[other].allowed_values():
            return 'That value belongs to {0}: write {0}="{1}".'.format(other, value)
    return nearest(value, [str(one) for one in allowed]) or "Choose one of these values."


def _product_fault(option, value, product):
    needed = option.product_values or {}
    needed = needed.get("*", needed.get(str(value)))
    if product is None or needed is None or product in needed:
        return None
    rule = " [bf16-product]" if "bf16" in str(value) or "bfloat16" in str(value) else ""
    what = "`{}` cannot have this value on product {}; it needs {}.".format(option.name, product, " or ".join(needed))
    return problem(what, option.name, value, "Choose another value, or run on such a product." + rule)


def _file_fault(path):
    if not os.path.isfile(path):
        return "There is no such file: create it or correct the path."
    return None if os.access(path, os.R_OK) else "Grant this user permission to read the file."


def _json_fault(path):
    return _file_fault(path) or _read_json(path)[1]


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file), None
    except (OSError, ValueError, RecursionError) as error:
        return None, "The file holds no valid JSON: {}.".format(error)


def _directory_fault(path):
    if not os.path.isdir(path):
        return "There is no such directory: create it first (mkdir -p)."
    # root passes os.access on a directory whose owner took all write permission away, so the mode is read as well.
    if os.access(path, os.R_OK | os.W_OK | os.X_OK) and os.stat(path).st_mode & 0o222:
        return None
    return "Grant this user permission to read and write the directory."


def _creatable_fault(path):
    parent = os.path.abspath(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    fault = _directory_fault(parent)
    return fault and "{} Nearest existing path: {}.".format(fault, parent)


_PATHS = {
    "existing_file": ("must be the path of a file that exists", _file_fault),
    "existing_json": ("must be the path of a JSON file", _json_fault),
    "existing_dir_rw": ("must be the path of an existing, writable directory", _directory_fault),
    "creatable_dir": ("must be the path of a directory that can be written or created", _creatable_fault),
}


def mixlist_fault(lists):
    """What is wrong with the content of a mixlist, or None."""
    if not isinstance(lists, Mapping) or not lists:
        return 'Write an object with "black-list" and/or "white-list".'
    for name, moves in lists.items():
        if name not in ("black-list", "white-list"):
            return 'Unknown list {!r}: use "black-list" and "white-list".'.format(name)
        if not isinstance(moves, Mapping) or not moves or set(moves) - {"to-add", "to-remove"}:
            return 'Give {!r} an object with "to-add" and/or "to-remove".'.format(name)
        for move, types in moves.items():
            texts = isinstance(types, (list, tuple)) and all(isinstance(one, str) and one for one in types)
            if not texts:
                return "Give {!r} of {!r} a list of operator types.".format(move, name)
    return None


def profiling_fault(text):
    """What is wrong with the JSON text of profiling_options, or None."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return "The text holds no valid JSON: {}.".format(error)
    if not isinstance(content, dict) or not content:
        return 'Write a JSON object such as {"output": "./profiling", "training_trace": "on"}.'
    known = data()["profiling_keys"]
    for key, value in content.items():
        if key not in known:
            return "Unknown key {!r}. {}".format(key, nearest(key, known) or "Use one of: {}.".format(", ".join(known)))
        if not isinstance(value, str):
            return "Write the value of {!r} as text.".format(key)
        custom = key == "aic_metrics" and value.startswith("Custom:")
        if known[key] is not None and value not in known[key] and not custom:
            return "Give {!r} one of {}.".format(key, ", ".join(known[key]))
    output = content.get("output", "./")
    return _text_fault(output) or _creatable_fault(output)


def _dump_step_fault(text, product):
    for item in text.split("|"):
        first, _, last = item.partition("-")
        if last and not int(first) < int(last):
            return "Write the range {!r} with the smaller step first.".format(item)
    return None


def _profiles_fault(text, product):
    most = 100 if product in ("910A", "A2", "A3") else 256
    return None if text.count(";") < most else "Give at most {} profiles.".format(most)


def op_debug_settings(path):
    """Content of an op_debug_config file, as {key: value text}; lines that hold no `=` are left out."""
    with open(path, encoding="utf-8", errors="replace") as file:
        pairs = [line.partition("=") for line in file if "=" in line]
    return {key.strip(): value.strip() for key, _, value in pairs}


def _op_debug_fault(path, product):
    switches = op_debug_settings(path).get("op_debug_config", "")
    known = ("oom", "dump_cce", "dump_loc", "ccec_O0", "ccec_g", "check_flag")
    unknown = [one for one in switches.split(",") if one.strip() not in known]
    return (
        "Put a line op_debug_config=... into the file, with some of {}.".format(", ".join(known)) if unknown else None
    )


_CHECKS = {
    "mixlist": lambda path, product: mixlist_fault(_read_json(path)[0]),
    "profiling": lambda text, product: profiling_fault(text),
    "dump_step": _dump_step_fault,
    "profiles": _profiles_fault,
    "op_debug": _op_debug_fault,
}
