"""Catalogue and validator of the options of both NPU adapters, TF 1.15 `npu_bridge` and TF 2.6 `npu_device`.

The native code ignores unknown names, reads wrong types as defaults and ends the process on some bad values. So every
option is checked here, before a device sees it, and all problems are reported at once. Imports no TensorFlow.
`python -m ascend_keras.backends.npu_options` prints the reference table docs/options.md.
"""

import atexit
import functools
import json
import numbers
import os
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping

from ascend_keras.backends import npu_options_page, npu_rules, npu_values
from ascend_keras.backends.npu_values import ADAPTERS, Option, problem

__all__ = ["ADAPTERS", "Option", "OptionSet", "catalogue", "from_arguments", "resolve", "reference_page"]

_PROFILE = {
    "output": "./profiling",
    "training_trace": "on",
    "task_time": "on",
    "hccl": "on",
    "aicpu": "on",
    "aic_metrics": "PipeUtilization",
    "msproftx": "off",
}
_DUMP_KEYS = OrderedDict((key, "dump_" + key) for key in ("path", "step", "mode", "layer", "data"))
_OVERFLOW_KEYS = OrderedDict([("path", "dump_path"), ("mode", "dump_debug_mode")])


def catalogue():
    """All options, an OrderedDict of canonical name to `Option`."""
    return OrderedDict(npu_values.options())


class OptionSet(Mapping):
    """Checked options: a mapping of canonical name to value, in catalogue order. Made by `resolve`."""

    def __init__(self, values, *, adapter=None, product=None, notices=()):
        self._values = OrderedDict((name, values[name]) for name in npu_values.options() if name in values)
        self.adapter = adapter
        self.product = product
        self.warnings = list(notices)

    def __getitem__(self, name):
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        return "OptionSet({!r}, adapter={!r})".format(dict(self._values), self.adapter)

    def parameter_map(self):
        """Entries of `parameter_map` for TF 1.15: a list of (key, field "b", "i" or "s", value); "s" holds bytes."""
        entries = []
        for option, value in self._on("tf115"):
            field = option.tf115.field
            entries.append((option.tf115.key, field, value.encode("utf-8") if field == "s" else value))
        return entries

    def global_options(self):
        """Assignments to `npu_device.global_options()` for TF 2.6: a list of (dotted path, value)."""
        convert = {"bool": bool, "int": int, "str": str}
        entries = []
        for option, value in self._on("tf26"):
            value = convert.get(option.tf26.type, lambda same: same)(value)
            if option.name == "optimization_switch" and not value.endswith(";"):
                value += ";"  # the adapter appends a pair of its own without a separator
            entries.append((option.tf26.path, value))
        return entries

    def process_wide(self, adapter):
        """Options that the adapter freezes once per process, as {canonical name: value}."""
        return {option.name: value for option, value in self._on(adapter) if "init" in option.stages(adapter)}

    def ignored_on_host(self):
        """Names of options that change nothing on a CPU or GPU host."""
        return [name for name in self if not npu_values.options()[name].host]

    def make_directories(self):
        """Creates the directories that the options write to and that need not exist before the run."""
        for name, value in self.items():
            if npu_values.options()[name].path == "creatable_dir":
                os.makedirs(value, exist_ok=True)
        output = json.loads(self.get("profiling_options", "{}")).get("output")
        if output:
            os.makedirs(output, exist_ok=True)

    def _on(self, adapter):
        if adapter not in ADAPTERS or self.adapter not in (None, adapter):
            raise ValueError(
                "These options were checked for another adapter. Received: adapter={!r}, resolved for {!r}. "
                "Call resolve(..., adapter={!r}).".format(adapter, self.adapter, adapter)
            )
        pairs = [(npu_values.options()[name], value) for name, value in self.items()]
        _raise([_lacking(option, adapter, value) for option, value in pairs if adapter not in option.carriers])
        return pairs


def _raise(problems):
    if len(problems) == 1:
        raise ValueError(problems[0])
    if problems:
        raise ValueError("\n".join(["{} problems:".format(len(problems))] + ["- " + text for text in problems]))


def resolve(values, *, adapter=None, product=None, problems=()):
    """Checks options and returns them in the types that the adapter wants.

    Args:
        values: mapping of option name to value. A name is the canonical one, the `parameter_map` key of TF 1.15, the
            dotted path of TF 2.6 or the last part of that path. None as value means not set.
        adapter: "tf115", "tf26", or None on a host, where whatever any adapter accepts is accepted.
        product: "910A", "A2", "A3", "950", or None where it is not known.
        problems: texts of problems found earlier, to be reported together with those found here.

    Returns:
        An `OptionSet`.

    Raises:
        ValueError: a list of all problems, one line each.
    """
    problems = list(problems)
    adapter = _known("adapter", adapter, ADAPTERS, problems)
    product = _known("product", product, npu_values.data()["products"], problems)
    named, found = _canonical_names(values)
    problems.extend(found)
    checked, broken = OrderedDict(), {}
    for name, raw in named.items():
        value, fault = _checked(name, raw, adapter, product)
        if fault is None:
            checked[name] = value
        else:
            broken[name] = raw
            problems.append(fault)
    between, notices = npu_rules.check(checked, broken, adapter=adapter, product=product)
    _raise(problems + between)
    return OptionSet(checked, adapter=adapter, product=product, notices=_notices(checked, adapter) + notices)


def _known(what, value, known, problems):
    if value is None or value in known:
        return value
    problems.append(problem("Unknown {}.".format(what), what, value, "Use None or one of {}.".format(", ".join(known))))
    return None


def _checked(name, raw, adapter, product):
    option = npu_values.options()[name]
    if not option.carriers or (adapter is not None and adapter not in option.carriers):
        return raw, _lacking(option, adapter, raw)
    return npu_values.read_value(option, raw, adapter, product)


def _lacking(option, adapter, value):
    """The problem of an option that cannot act on the adapter (None: on none of them)."""
    titles = npu_values.ADAPTER_TITLES
    remedy = option.instead or "Leave it out{}.".format(" for " + titles[adapter] if adapter else "")
    if option.scope == "no_effect":
        what = "`{}` has no effect: the adapters ignore it.".format(option.name)
    elif not option.carriers:
        what = "`{}` can be carried only by NPUEstimator and its NPURunConfig, not by Keras.".format(option.name)
        if option.tf26 is not None:
            what = "`{}` does not act through session config or global options.".format(option.name)
    else:
        has_it = titles[option.carriers[0]]
        what = "`{}` exists on {} only; this run is for {}.".format(option.name, has_it, titles[adapter])
    if option.replacement and option.replacement not in remedy:
        remedy = "Use {} instead.".format(option.replacement)
    return problem(what, option.name, value, remedy)


def _notices(checked, adapter):
    """Texts about deprecated and inference-only options; the former are warned about as well."""
    texts = []
    for name in checked:
        option = npu_values.options()[name]
        if set(option.deprecated) & set(ADAPTERS if adapter is None else (adapter,)):
            hint = "use {} instead".format(option.replacement) if option.replacement else "it has no replacement"
            texts.append("`{}` is deprecated: {}.".format(name, hint))
            warnings.warn(texts[-1], DeprecationWarning, stacklevel=3)
        if option.scope == "inference_only":
            texts.append("`{}` is documented for online inference only.".format(name))
    return texts


def _aliases():
    """{every name an option may be called by: canonical name}."""
    names = {}
    leaves = [option.tf26.path.split(".")[-1] for option in npu_values.options().values() if option.tf26]
    for name, option in npu_values.options().items():
        leaf = option.tf26.path.split(".")[-1] if option.tf26 else None
        if leaf is not None and leaves.count(leaf) == 1:
            names.setdefault(leaf, name)
        for place in (option.place("tf115"), option.place("tf26")):
            if place is not None:
                names[place] = name
    names.update((name, name) for name in npu_values.options())
    return names


def _canonical_names(values):
    """Returns ({canonical name: raw value}, problems); values that are None are left out."""
    if not isinstance(values, Mapping):
        return OrderedDict(), [problem("`options` must be a mapping.", "options", values, "Write {name: value}.")]
    aliases, named, problems = _aliases(), OrderedDict(), []
    for given, raw in values.items():
        name = aliases.get(given) if isinstance(given, str) else None
        if name is None:
            close = npu_values.nearest(given, aliases) or "See docs/options.md for all names."
            shown = given if isinstance(given, str) else npu_values.show(given)
            problems.append(problem("There is no NPU option {!r}.".format(shown), shown, raw, close))
        elif name in named and not _same(name, named[name], raw):
            problems.append(_twice(name, named[name], raw, "options", "options"))
        elif raw is not None:
            named[name] = raw
    return named, problems


def _same(name, first, second):
    option = npu_values.options()[name]
    texts = [npu_values.show(npu_values.read_value(option, raw)[0]) for raw in (first, second)]
    return texts[0] == texts[1]


def _twice(name, first, second, source, other):
    what = "`{}` is given twice, by {} and by {}.".format(name, source, other)
    shown = "{} and {}".format(npu_values.show(first), npu_values.show(second))
    return "{} Received: {}={}. Keep one of them.".format(what, name, shown)


def from_arguments(options=None, *, precision_mode=None, precision_mode_v2=None, deterministic=None, profiling=None,
                   dump=None, overflow_dump=None, mixlist=None, fusion_switch=None, hcom_parallel=None,
                   op_cache=None):  # fmt: skip
    """Merges the named arguments of the trainer with its `options` mapping.

    Args:
        options: mapping of option name to value, as in `resolve`.
        precision_mode, precision_mode_v2, hcom_parallel: the options of the same name.
        deterministic: bool, or 0 and 1.
        profiling: bool, the output directory, or a mapping with the keys of PROFILING_OPTIONS.
        dump: output directory, or a mapping with path, step (int, list or text), mode, layer and data.
        overflow_dump: output directory, or a mapping with path and mode.
        mixlist: path of a JSON file, or its content, which is then written to a private temporary file.
        fusion_switch: path of a JSON file.
        op_cache: directory of the operator cache, which is then switched on.

    Returns:
        (values, problems) for `resolve(values, problems=problems)`; unknown names are left for it to report.
    """
    problems = []
    lowered = [
        ("precision_mode", {"precision_mode": precision_mode}),
        ("precision_mode_v2", {"precision_mode_v2": precision_mode_v2}),
        ("deterministic", {"deterministic": deterministic}),
        ("profiling", _profiling(profiling)),
        ("dump", _dump("dump", dump, "enable_dump", _DUMP_KEYS, problems)),
        ("overflow_dump", _dump("overflow_dump", overflow_dump, "enable_dump_debug", _OVERFLOW_KEYS, problems)),
        ("mixlist", {"modify_mixlist": _mixlist(mixlist, problems)}),
        ("fusion_switch", {"fusion_switch_file": fusion_switch}),
        ("hcom_parallel", {"hcom_parallel": hcom_parallel}),
        ("op_cache", {"op_compiler_cache_dir": op_cache}),
    ]
    merged = _merge(options, lowered, problems)
    if op_cache is not None:
        merged.setdefault("op_compiler_cache_mode", "enable")
    return merged, problems


def _merge(options, lowered, problems):
    options = {} if options is None else options
    merged, found = _canonical_names(options)
    if not isinstance(options, Mapping):
        problems.extend(found)
        options = {}
    problems.extend(text for text in found if " is given twice" in text)
    aliases = _aliases()
    for given, raw in options.items():
        if not isinstance(given, str) or given not in aliases:
            merged[given] = raw
    sources = dict.fromkeys(merged, "options")
    for source, values in lowered:
        for name, value in values.items():
            # Both dumps have a path; their clash is reported as what it is, two dumps at once.
            both_dumps = source == "overflow_dump" and sources.get(name) == "dump"
            if value is None or both_dumps:
                continue
            if name in merged and not _same(name, merged[name], value):
                problems.append(_twice(name, merged[name], value, sources[name], source))
            else:
                merged[name] = value
                sources.setdefault(name, source)
    return merged


def _profiling(profiling):
    if isinstance(profiling, Mapping):
        content = {"output": _PROFILE["output"]}
        content.update(profiling)
    elif isinstance(profiling, (str, os.PathLike)):
        content = dict(_PROFILE, output=os.fspath(profiling))
    elif isinstance(profiling, numbers.Integral) and profiling == 1:
        content = dict(_PROFILE)
    else:
        return {"profiling_mode": profiling}
    return {"profiling_mode": True, "profiling_options": content}


def _dump(argument, dump, switch, keys, problems):
    if dump is None or isinstance(dump, bool):
        return {switch: dump}
    if not isinstance(dump, Mapping):
        return OrderedDict([(switch, True), ("dump_path", dump)])
    values = OrderedDict([(switch, True)])
    for key, value in dump.items():
        if key not in keys:
            close = npu_values.nearest(key, keys) or "Use {}.".format(", ".join(keys))
            problems.append(problem("`{}` has no key {!r}.".format(argument, key), argument, dump, close))
        else:
            values[keys[key]] = _steps(value) if key == "step" else value
    return values


def _steps(steps):
    """Text of dump_step for an int, a list of ints and ranges, or text."""
    if isinstance(steps, (list, tuple)):
        return "|".join(str(step) for step in steps)
    return str(steps) if isinstance(steps, numbers.Integral) and not isinstance(steps, bool) else steps


def _mixlist(mixlist, problems):
    if not isinstance(mixlist, Mapping):
        return mixlist
    fault = npu_values.mixlist_fault(mixlist)
    if fault is not None:
        problems.append(problem("`mixlist` does not describe a mixlist.", "mixlist", mixlist, fault))
        return None
    text = json.dumps({name: {move: list(types) for move, types in moves.items()} for name, moves in mixlist.items()})
    return _private_file(text)


@functools.lru_cache(maxsize=None)
def _private_file(text):
    """Path of a file with this text, the same each time, so that equal mixlists stay equal options."""
    directory = tempfile.TemporaryDirectory(prefix="ascend_keras_mixlist_")
    atexit.register(directory.cleanup)
    path = os.path.join(directory.name, "mixlist.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def reference_page():
    """Text of docs/options.md: every option and every rule."""
    return npu_options_page.render()


if __name__ == "__main__":
    sys.stdout.write(reference_page())
