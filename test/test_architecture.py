"""The house plan of docs/architecture.md, held by the imports themselves."""

import ast
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = os.path.join(ROOT, "ascend_keras")

# From the ground up; a module may import from its own floor and from those below. The longest prefix counts.
FLOORS = [
    ["log", "compat", "backends.npu_", "distributed.cluster", "distributed.cores", "distributed.launch_marks"]
    + ["distributed.rank_table", "distributed.texts", "distributed.watch"],
    ["callbacks", "optimizers", "schedules", "losses", "metrics", "data", "models", "export", "report", "saving"]
    + ["distributed.launch", "distributed.collectives", "distributed.peers", "distributed.fingerprint"]
    + ["distributed.parts", "distributed.agreement", "distributed.shards"]
    + ["recipes", "checkpoint_files"],
    ["backends"],
    ["trainer", "together", "doctor", "study"],
    ["cli", "cli_data", "cli_rank_table", "cli_launch", "__main__"],
]
# Backends of the two adapters share the prefix of the option catalogue, which stands on the ground floor.
EXCEPTIONS = {"backends.npu_bridge": 2, "backends.npu_device": 2}


def modules():
    found = {}
    for folder, _, files in os.walk(PACKAGE):
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                dotted = os.path.relpath(path, PACKAGE)[:-3].replace(os.sep, ".")
                found[re.sub(r"(^|\.)__init__$", "", dotted)] = path
    return found


MODULES = modules()


def parse(path):
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def imports(path):
    """Modules of the package that a file imports, as dotted names below the package."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "{}: relative import".format(path)
            for alias in node.names:
                dotted = "{}.{}".format(node.module, alias.name)
                inside = dotted.replace("ascend_keras.", "", 1) in MODULES
                found.add(dotted if inside else node.module)
    ours = {name for name in found if name.split(".")[0] == "ascend_keras"}
    return {name.partition(".")[2] for name in ours if "." in name}


def floor(module):
    if module in EXCEPTIONS:
        return EXCEPTIONS[module]
    fitting = [
        (len(prefix), level)
        for level, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        if module == prefix or module.startswith(prefix if prefix.endswith("_") else prefix + ".")
    ]
    assert fitting, "{} stands on no floor of the plan".format(module)
    return max(fitting)[1]


GRAPH = {name: imports(path) for name, path in MODULES.items() if name not in ("", "distributed")}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_no_arrow_runs_up(module):
    upward = sorted(target for target in GRAPH[module] if target in GRAPH and floor(target) > floor(module))
    assert not upward, "{} imports from a floor above: {}".format(module, upward)


def test_no_circle():
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, "circle: {}".format(" -> ".join(open_ + [module]))
        if module in done:
            return
        open_.append(module)
        for target in sorted(GRAPH.get(module, ())):
            # A module of a package and the package itself are one room.
            if target in GRAPH and not module.startswith(target + "."):
                visit(target)
        done.add(open_.pop())

    for name in sorted(GRAPH):
        visit(name)


FORBIDDEN = [r"__version__", r"compat\.v1", r"hasattr\(\w*optimizer"]
FREE = {"backends.npu_bridge", "backends.npu_device", "", "cli", "doctor"} | {
    name for name in MODULES if name.split(".")[0] == "compat"
}


@pytest.mark.parametrize("module", sorted(set(MODULES) - FREE))
def test_versions_are_known_in_one_place(module):
    with open(MODULES[module], encoding="utf-8") as file:
        source = file.read()
    allowed = source.replace("tf.__version__", "") if module.startswith("backends") else source
    assert not [pattern for pattern in FORBIDDEN if re.search(pattern, allowed)]


def test_no_assert_in_the_library():
    found = [name for name, path in MODULES.items() for node in ast.walk(parse(path)) if isinstance(node, ast.Assert)]
    assert not found


def test_import_loads_no_tensorflow_and_no_adapter():
    code = (
        "import sys, ascend_keras, ascend_keras.backends, ascend_keras.backends.npu_options, ascend_keras.report\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'npu_bridge', 'npu_device', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stderr


def test_unknown_public_name_is_an_attribute_error():
    import ascend_keras

    with pytest.raises(AttributeError, match="no attribute 'NPUTrainr'"):
        _ = ascend_keras.NPUTrainr
    assert "NPUTrainer" in dir(ascend_keras)


def test_every_public_name_exists():
    import ascend_keras

    for name in ascend_keras.__all__:
        assert getattr(ascend_keras, name) is not None
