"""Renders docs/options.md, the reference table of all adapter options and rules, from the catalogue."""

from ascend_keras.backends import npu_rules, npu_values

_SCOPES = (
    ("training", "Training"),
    ("debug", "Debugging and profiling"),
    ("inference_only", "Documented for online inference only"),
    ("reserved", "Undocumented, or for other products"),
    ("no_effect", "Without effect: refused"),
)
_INTRO = """# Options of the NPU adapters

This page is generated: `python -m ascend_keras.backends.npu_options > docs/options.md`. Do not edit it.

Pass options as `NPUTrainer(options={{"name": value}})`. A name may be the one in the first column, the TF 1.15 key, the
TF 2.6 path, or the last part of that path. There are {count} options and {rules} rules between them; every problem is
reported at once, before a device sees any of the values.

- "Key" is the entry of `parameter_map` on TF 1.15 (`npu_bridge`) with its field: `b` bool, `i` int, `s` bytes.
- "Path" is the attribute of `npu_device.global_options()` on TF 2.6 with its type.
- "Once" marks options that are frozen for the process when the device is opened.
- "Bad value" is what the adapters themselves do with one: abort (the process ends), error, or ignored.
- Products: {products}. Stated limits apply when the product is known.
"""
_HEAD = (
    "| option | purpose | values | TF 1.15: key | TF 2.6: path | default | once | bad value | remarks |\n"
    + "|---" * 9
    + "|"
)


def render():
    """Text of the page."""
    options = npu_values.options()
    rules = _rule_rows()
    products = ", ".join(npu_values.data()["products"])
    parts = [_INTRO.format(count=len(options), rules=len(rules), products=products)]
    for scope, title in _SCOPES:
        rows = [_row(option) for option in options.values() if option.scope == scope]
        parts.append("\n".join(["## " + title, "", _HEAD] + rows) + "\n")
    head = ["## Rules", "", "| rule | options | what it says | remedy |", "|---|---|---|---|"]
    return "\n".join(parts + ["\n".join(head + rules) + "\n"])


def _row(option):
    fields = (option.tf115, option.tf26)
    cells = [
        "`{}`".format(option.name),
        option.purpose,
        _values(option),
        _key(option.tf115),
        "`{0.path}` ({0.type})".format(option.tf26) if option.tf26 else "-",
        _each(fields, lambda field: _code(field.default)),
        _each(fields, lambda field: "yes" if "init" in field.stages else "no"),
        _each(fields, lambda field: field.bad_value),
        _remarks(option),
    ]
    return "| {} |".format(" | ".join(cell.replace("|", "\\|") for cell in cells))


def _key(field):
    if field is None:
        return "-"
    return "only NPURunConfig" if field.key is None else "`{0.key}` ({0.field})".format(field)


def _code(value):
    return "unset" if value is None else "`{!r}`".format(value)


def _each(fields, text):
    """One text if both adapters agree or only one has the option, else "TF 1.15 / TF 2.6"."""
    texts = [text(field) for field in fields if field is not None]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _values(option):
    if option.allowed is not None:
        lists = [", ".join(_code(value) for value in option.allowed[adapter]) for adapter in npu_values.ADAPTERS]
        return lists[0] if lists[0] == lists[1] else "TF 1.15: {}; TF 2.6: {}".format(*lists)
    if option.range is not None:
        text = "{min} to {max}".format(**option.range)
        for product, limits in (option.product_range or {}).items():
            text += "; on {}: {min} to {max}".format(product, **limits)
        return text
    if option.path is not None:
        return npu_values.requirement(option).replace("must be the ", "")
    if option.form is not None:
        return "`{}`".format(option.form)
    return "JSON text" if option.check == "profiling" else "text"


def _remarks(option):
    remarks = []
    for value, products in (option.product_values or {}).items():
        subject = "only" if value == "*" else "`{}` only".format(value)
        remarks.append("{} on {}".format(subject, ", ".join(products)))
    if option.deprecated:
        remarks.append("deprecated" + (": use {}".format(option.replacement) if option.replacement else ""))
    if option.instead:
        remarks.append("where it is missing: " + option.instead.rstrip("."))
    if option.host:
        remarks.append("acts on a host too")
    return "; ".join(remarks) or "-"


def _rule_rows():
    rows = [(rule.id, rule.options, rule.says, rule.remedy) for rule in npu_rules.RULES]
    rows.extend((name, members, says, "Set all of them.") for name, members, says in npu_rules.GROUPS)
    rows.extend(npu_rules.SPECIAL)
    return ["| {} | {} | {} | {} |".format(one, _names(names), says, remedy) for one, names, says, remedy in rows]


def _names(names):
    return ", ".join("`{}`".format(name) for name in names)
