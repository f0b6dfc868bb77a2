"""Options and fixtures of the whole test suite."""

import os
import threading

import harness
import pytest

# TensorFlow and pytest set these themselves.
_NOT_OURS = (
    "PYTEST_CURRENT_TEST",
    "TF2_BEHAVIOR",
    "ENABLE_RUNTIME_UPTIME_TELEMETRY",
    "KMP_INIT_AT_FORK",
    "KMP_DUPLICATE_LIB_OK",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "HDF5_PLUGIN_PATH",
    "TPU_ML_PLATFORM",
    "TPU_ML_PLATFORM_VERSION",
)


# With --all-stacks, a test runs on those stacks that can tell something new: one that needs no TensorFlow on the oldest
# and the newest Python, one of TensorFlow without Keras on those with an adapter and on the newest. On a single stack
# everything runs.
WITHOUT_TENSORFLOW = {"cli", "cli_data", "cli_rank_table", "cluster", "env", "npu_options", "rank_table", "recipes"}
WITHOUT_TENSORFLOW |= {"launch", "launch_callers", "launch_cores", "launch_failures", "launch_messages", "launch_nodes"}
WITHOUT_TENSORFLOW |= {"launch_npus", "launch_output", "launch_settings"}
WITHOUT_TENSORFLOW |= {"report", "run_tests", "scripts", "scripts_8p", "tfrecord_plan", "watch"}
WITHOUT_KERAS = {"augment", "cats_vs_dogs", "colour", "data_check", "data_progress", "image_files", "image_ops"}
WITHOUT_KERAS |= {"pipeline", "pipeline_order", "record_format", "records", "sources", "tfds", "to_tfrecord"}
WITHOUT_KERAS |= {"to_tfrecord_resume"}
# Of processes, signals and the runtime below Keras.
OF_PROCESSES = {"ranks_killed"}


def pytest_addoption(parser):
    parser.addoption(
        "--one-of-all",
        metavar="STACK",
        help="leave out what other stacks of a run with --all-stacks test as well (test/run_tests.sh gives it)",
    )
    parser.addoption(
        "--adapter",
        choices=("fake", "real"),
        default="fake",
        help="which Ascend adapter the contract tests run against",
    )


def pytest_collection_modifyitems(config, items):
    stack = config.getoption("--one-of-all")
    elsewhere = set()
    if stack in ("tf265", "tf215", "tf221-legacy"):
        elsewhere |= WITHOUT_TENSORFLOW
    if stack in ("tf215", "tf221-legacy"):
        elsewhere |= WITHOUT_KERAS | OF_PROCESSES
    left_out = [item for item in items if item.module.__name__[len("test_") :] in elsewhere]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def adapter_name(request):
    """The adapter made for this TensorFlow; tests that need one are skipped on every other version."""
    tf = pytest.importorskip("tensorflow")
    name = harness.adapter_of(tf.__version__)
    if name is None:
        pytest.skip("TensorFlow {} has no Ascend adapter (only 1.15 and 2.6 have).".format(tf.__version__))
    if request.config.getoption("--adapter") == "real":
        harness.check_real(name)
    return name


@pytest.fixture
def adapter(request, adapter_name, tmp_path):
    """Runs scenarios against the adapter; see harness.Adapter."""
    return harness.Adapter(adapter_name, request.config.getoption("--adapter") == "real", tmp_path)


@pytest.fixture(scope="module")
def module_adapter(request, adapter_name, tmp_path_factory):
    """As `adapter`, for scenarios whose result several tests of a module share."""
    real = request.config.getoption("--adapter") == "real"
    return harness.Adapter(adapter_name, real, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def fresh_graph():
    """A seed, and on TF 1.15 a graph of its own."""
    from ascend_keras import compat

    compat.set_seed(0)
    yield
    if compat.TF1:
        compat.keras.backend.clear_session()


def _environment():
    return {key: value for key, value in os.environ.items() if key not in _NOT_OURS}


def _children():
    """Living processes whose parent is this one, without Python's own helpers."""
    found = set()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not entry.isdigit():
            continue
        try:
            with open("/proc/{}/stat".format(entry)) as stream:
                state, parent = stream.read().rpartition(")")[2].split()[:2]
            with open("/proc/{}/cmdline".format(entry)) as stream:
                command = stream.read()
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z" and "_tracker" not in command:
            found.add(entry)
    return found


@pytest.fixture(autouse=True)
def no_leaks():
    """Fails a test that leaves environment variables, processes or threads behind."""
    environment, children, threads = _environment(), _children(), set(threading.enumerate())
    yield
    after = _environment()
    changed = sorted(key for key in set(environment) | set(after) if environment.get(key) != after.get(key))
    assert not changed, "The test changed environment variables: {}".format(changed)
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive() and not thread.daemon]
    assert not left, "The test left threads: {}".format(left)
    assert not _children() - children, "The test left processes: {}".format(sorted(_children() - children))
