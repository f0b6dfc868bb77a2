"""Each of the 114 adapter options on each adapter, by a table of places that was written apart from the catalogue."""

import os
import random
import re
import subprocess
import sys
from collections import OrderedDict

import pytest

from ascend_keras.backends import npu_options, npu_options_page
from ascend_keras.backends.npu_options import resolve

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TITLES = {"tf115": "TF 1.15 (npu_bridge)", "tf26": "TF 2.6 (npu_device)"}
OTHER = {"tf115": "tf26", "tf26": "tf115"}
ENVIRONMENT = (
    "AOE_MODE", "HCCL_EXEC_TIMEOUT", "NPU_COLLECT_PATH", "STEP_NOW", "TOTAL_STEP", "LOSS_NOW", "TARGET_LOSS"
)  # fmt: skip


def read_places():
    with open(os.path.join(HERE, "data", "npu_option_fields.txt"), encoding="utf-8") as file:
        rows = [[cell.strip() for cell in line.split(" | ")] for line in file if not line.startswith("#")]
    return OrderedDict((row[0], row[1:]) for row in rows)


PLACES = read_places()
# Options that can act through neither adapter under Keras.
REFUSED = {
    "enable_reduce_precision": "Use precision_mode_v2.",
    "graph_memory_max_size": "static_memory_policy",
    "variable_memory_max_size": "static_memory_policy",
    "auto_tune_mode": "Use aoe_mode",
    "min_group_size": "Leave it out.",
    "recompute": "npu_run_context",
    "horovod_mode": "the trainer broadcasts",
    "distribute": "ascend-keras launch",
    "save_checkpoints_steps": "checkpoint callback",
}
# A good value of every option. FILE, JSON, MIXLIST, DEBUG and DIR become paths.
GOOD = {
    "graph_run_mode": 1, "session_device_id": 3, "deterministic": 1, "use_off_line": True, "job": "worker",
    "task_index": 2, "precision_mode": "allow_fp32_to_fp16", "precision_mode_v2": "mixed_float16",
    "modify_mixlist": "MIXLIST", "customize_dtypes": "FILE", "op_precision_mode": "FILE",
    "op_select_implmode": "high_precision", "optypelist_for_implmode": "Pooling,SoftmaxV2", "overflow_flag": 0,
    "iterations_per_loop": 1, "enable_data_pre_proc": True, "hcom_parallel": False, "is_tailing_optimization": True,
    "hcom_multi_mode": True, "HCCL_algorithm": "ring", "enable_small_channel": 1,
    "enable_scope_fusion_passes": "ScopeA,ScopeB", "stream_max_parallel_num": "DNN_VM_AICPU:10,AIcoreEngine:1",
    "ac_parallel_enable": "1", "variable_placement": "Host", "mix_compile_mode": True, "in_out_pair_flag": False,
    "in_out_pair": "[['a'], ['b']]", "frozen_variable": True, "graph_max_parallel_model_num": 4, "const_input": "x",
    "lower_functional_ops": True, "topo_sorting_mode": 1, "variable_format_optimize": False,
    "input_fusion_size": 25600, "input_batch_cpy": True, "oo_level": "O1", "optimization_switch": "a:on;b:off",
    "oo_constant_folding": False, "auto_multistream_parallel_mode": "MainStream:64", "jit_compile": "false",
    "shape_generalization_mode": "ADAPTIVE", "experimental_accelerate_train_mode": "fast|loss|1.05",
    "atomic_clean_policy": 1, "static_memory_policy": 4, "memory_optimization_policy": "MemoryPriority",
    "variable_use_1g_huge_page": 2, "external_weight": True, "graph_slice": "auto", "input_shape": "x:-1,3;y:4",
    "dynamic_dims": "1;2", "dynamic_node_type": 0, "compile_hybrid_mode": 1, "compile_dynamic_mode": True,
    "all_tensor_not_empty": True, "dynamic_input": True, "dynamic_graph_execute_mode": "lazy_recompile",
    "dynamic_inputs_shape_range": "getnext:[8,3~5],[-1];data:[8]", "op_compiler_cache_mode": "force",
    "op_compiler_cache_dir": "DIR", "graph_compiler_cache_dir": "DIR", "aicore_num": "24|48",
    "export_compile_stat": 2, "fusion_switch_file": "JSON", "buffer_optimize": "off_optimize",
    "enable_compress_weight": True, "compress_weight_conf": "FILE", "insert_op_file": "FILE", "soc_config": "Ascend910",
    "device_type": "default_device_type", "enable_dump": True, "dump_path": "DIR", "dump_step": "0|5|10-12",
    "dump_mode": "all", "dump_data": "stats", "dump_layer": "conv1 fc8", "enable_dump_debug": True,
    "dump_debug_mode": "aicore_overflow", "quant_dumpable": "1", "enable_exception_dump": 0, "op_debug_config": "DEBUG",
    "op_debug_level": 3, "debug_dir": "DIR", "profiling_mode": True, "profiling_options": '{"output": "./p"}',
    "aoe_mode": "2", "work_path": "DIR", "aoe_config_file": "JSON", "distribute_config": "FILE", "hccl_timeout": 1836,
    "op_wait_timeout": 120, "op_execute_timeout": 600, "graph_exec_timeout": 600000, "stream_sync_timeout": 5000,
    "event_sync_timeout": -1, "execute_times": 7, "local_rank_id": 7, "local_device_list": "0,1",
    "logical_device_cluster_deploy_mode": "SINGLE", "logical_device_id": "0:0", "model_deploy_mode": "SPMD",
    "model_deploy_devicelist": "0~3", "resource_config_path": "FILE", "graph_parallel_option_path": "FILE",
    "enable_graph_parallel": True,
}  # fmt: skip
# Values of the right type that are still wrong; every option gets values of a wrong type as well.
BAD = {
    "graph_run_mode": [2, -1], "session_device_id": [-1], "deterministic": [2], "job": ["default"], "task_index": [-1],
    "precision_mode": ["fp16", "allow_mix_precission"], "precision_mode_v2": ["force_fp32", ""],
    "modify_mixlist": ["/no/such.json", "FILE", "JSON"], "customize_dtypes": ["/no/such.cfg", "DIR"],
    "op_precision_mode": ["/no/such.ini"], "op_select_implmode": ["fast"], "optypelist_for_implmode": ["A;B", ",A"],
    "overflow_flag": [2], "iterations_per_loop": [0], "HCCL_algorithm": [""], "enable_small_channel": [2],
    "enable_scope_fusion_passes": ["A,,B"], "stream_max_parallel_num": ["AIcoreEngine", "AIcoreEngine:0"],
    "ac_parallel_enable": ["2", 2], "variable_placement": ["host"], "in_out_pair": ["a,b"],
    "graph_max_parallel_model_num": [0], "const_input": [" "], "topo_sorting_mode": [2],
    "input_fusion_size": [-1, 33554433], "oo_level": ["O9", "O4"], "optimization_switch": ["a", "a:yes"],
    "auto_multistream_parallel_mode": ["cv:2", "MainStream", "MainStream:65", "LoadBalance:0"],
    "jit_compile": [True, False, "True"], "shape_generalization_mode": ["strict"],
    "experimental_accelerate_train_mode": ["fast", "slow|step", "fast|step|0.95", "fast|loss|1.6", "fast|loss|1.0"],
    "atomic_clean_policy": [2], "static_memory_policy": [5, True], "memory_optimization_policy": [""],
    "variable_use_1g_huge_page": [3], "graph_slice": ["off"], "input_shape": ["x", "x:a"],
    "dynamic_dims": ["1", "1;" * 300 + "1"], "dynamic_node_type": [2], "compile_hybrid_mode": [2],
    "dynamic_graph_execute_mode": ["lazy"], "dynamic_inputs_shape_range": ["x:[1]", "data:1"],
    "op_compiler_cache_mode": ["on"], "op_compiler_cache_dir": ["a b", "FILE"],
    "graph_compiler_cache_dir": ["/no/such", "FILE"], "aicore_num": ["24", "0|48"], "export_compile_stat": [3],
    "fusion_switch_file": ["/no/such.cfg", "FILE"], "buffer_optimize": ["l1_optimize"],
    "compress_weight_conf": ["/no/such"], "insert_op_file": ["/no/such"], "soc_config": [""], "device_type": [""],
    "dump_path": ["/no/such", "FILE"], "dump_step": ["5-3", "4-4", "1,2", "|".join("1" * 101)], "dump_mode": ["both"],
    "dump_data": ["tensors"], "dump_layer": ["  "], "dump_debug_mode": ["aicore"], "quant_dumpable": ["yes", 2],
    "enable_exception_dump": [3], "op_debug_config": ["/no/such", "FILE"], "op_debug_level": [5],
    "debug_dir": ["FILE"], "profiling_options": ["training_trace", "[]", '{"outputs": "."}', '{"hccl": "yes"}',
                                                 '{"hccl": 1}', '{"output": ""}', '{"aic_metrics": "All"}'],
    "aoe_mode": ["3", 3], "work_path": ["/no/such"], "aoe_config_file": ["/no/such", "FILE"],
    "distribute_config": ["/no/such"], "hccl_timeout": [-1], "op_wait_timeout": [-1], "op_execute_timeout": [-1],
    "graph_exec_timeout": [-2], "stream_sync_timeout": [-2], "event_sync_timeout": [-2], "execute_times": [-2],
    "local_rank_id": [8, -1], "local_device_list": ["0,", "a"], "logical_device_cluster_deploy_mode": ["lb"],
    "logical_device_id": [""], "model_deploy_mode": [""], "model_deploy_devicelist": [""],
    "resource_config_path": ["/no/such"], "graph_parallel_option_path": ["/no/such"],
}  # fmt: skip
WRONG_TYPE = {"b": ["yes", 2, 0.5, []], "i": ["many", 1.5, [1]], "s": [3.5, ["x"], {"x": 1}, b"\xff"]}
PROFILES = {"input_shape": "x:-1", "dynamic_dims": "1;2", "dynamic_node_type": 0}
AOE = {"aoe_mode": "2", "work_path": "DIR"}
# What the rules between options demand beside an option.
COMPANIONS = {
    "modify_mixlist": {"precision_mode_v2": "mixed_float16"},
    "optypelist_for_implmode": {"op_select_implmode": "high_precision"},
    "variable_placement": {"mix_compile_mode": True},
    "in_out_pair": {"mix_compile_mode": True},
    "shape_generalization_mode": {"jit_compile": "true"},
    "compile_hybrid_mode": {"input_shape": "x:-1", "dynamic_dims": "1;2", "dynamic_node_type": 1},
    "dynamic_graph_execute_mode": {"dynamic_input": True},
    "dynamic_inputs_shape_range": {"dynamic_input": True},
    "profiling_options": {"profiling_mode": True},
    "dump_debug_mode": {"enable_dump_debug": True, "dump_path": "DIR"},
    "enable_dump_debug": {"dump_path": "DIR"},
    "local_rank_id": {"local_device_list": "0,1"},
    "local_device_list": {"local_rank_id": 0},
}
COMPANIONS.update((name, PROFILES) for name in PROFILES)
COMPANIONS.update((name, AOE) for name in ("aoe_mode", "work_path", "aoe_config_file", "distribute_config"))
for _name in ("enable_dump", "dump_path", "dump_step", "dump_mode", "dump_data", "dump_layer"):
    COMPANIONS[_name] = {"enable_dump": True, "dump_path": "DIR"}
ON_TF26 = {"enable_small_channel": True, "dynamic_node_type": "0", "optimization_switch": "a:on;b:off;"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOSS_NOW", "7.0")
    monkeypatch.setenv("TARGET_LOSS", "3.0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fill(tmp_path):
    """Replaces the names of paths in values by paths that exist."""
    paths = {"DIR": tmp_path, "FILE": tmp_path / "plain.txt", "JSON": tmp_path / "a.json"}
    paths.update(MIXLIST=tmp_path / "mix.json", DEBUG=tmp_path / "debug.cfg")
    paths["FILE"].write_text("plain text")
    paths["JSON"].write_text('{"Switch": {"GraphFusion": {"ALL": "off"}}}')
    paths["MIXLIST"].write_text('{"black-list": {"to-add": ["MatMul"]}}')
    paths["DEBUG"].write_text("op_debug_config = ccec_g,oom\nop_debug_list=GatherV2\n")
    return lambda value: str(paths[value]) if isinstance(value, str) and value in paths else value


def with_companions(name, value, fill):
    values = dict(COMPANIONS.get(name, {}))
    values[name] = value
    return {key: fill(one) for key, one in values.items()}


def problems_of(*args, **kwargs):
    with pytest.raises(ValueError, match="Received: ") as caught:
        resolve(*args, **kwargs)
    lines = str(caught.value).split("\n")
    if len(lines) == 1:
        return lines
    assert lines[0] == "{} problems:".format(len(lines) - 1)
    return [line[2:] for line in lines[1:]]


def assert_says(line, name, value):
    """The line names the option, the value as received, and ends with a remedy."""
    shown = repr(value) if len(repr(value)) <= 300 else repr(value)[:297] + "..."
    found = re.match(r".*{}.* Received: {}={}\. [^ ].+".format(name, name, re.escape(shown)), line)
    assert found, line


def test_the_catalogue_has_all_options_in_their_order():
    assert len(PLACES) == 114
    assert list(npu_options.catalogue()) == list(PLACES)
    assert set(GOOD) == set(PLACES) - set(REFUSED)


@pytest.mark.parametrize("name", PLACES)
def test_place_of_option(name):
    key, field, path, kind, once = PLACES[name]
    option = npu_options.catalogue()[name]
    session, device = option.tf115, option.tf26
    assert (session is None or session.key is None) == (key == "-")
    assert session is None or key == "-" or (session.key, session.field) == (key, field)
    assert (device is None) == (path == "-")
    assert device is None or (device.path, device.type) == (path, kind)
    assert [adapter for adapter in TITLES if "init" in option.stages(adapter)] == once.replace("-", "").split()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_good_value_on_tf115(name, fill):
    key, field, _, _, once = PLACES[name]
    value = fill(GOOD[name])
    values = with_companions(name, value, fill)
    if key == "-":
        (line,) = problems_of(values, adapter="tf115")
        assert_says(line, name, value)
        assert TITLES["tf26"] in line
        return
    expected = value.encode("utf-8") if field == "s" else value
    options = resolve(values, adapter="tf115")
    ((_, found_field, found),) = [entry for entry in options.parameter_map() if entry[0] == key]
    assert (found_field, found, type(found)) == (field, expected, {"b": bool, "i": int, "s": bytes}[field])
    assert options.process_wide("tf115").get(name) == (value if "tf115" in once else None)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_good_value_on_tf26(name, fill):
    _, _, path, kind, once = PLACES[name]
    value = fill(GOOD[name])
    values = with_companions(name, value, fill)
    if path == "-":
        (line,) = [line for line in problems_of(values, adapter="tf26") if "`{}`".format(name) in line]
        assert_says(line, name, value)
        assert TITLES["tf115"] in line
        return
    expected = ON_TF26.get(name, value)
    options = resolve(values, adapter="tf26")
    ((_, found),) = [entry for entry in options.global_options() if entry[0] == path]
    assert (found, type(found)) == (expected, {"bool": bool, "int": int, "str": str, "any": bool}[kind])
    assert options.process_wide("tf26").get(name) == (value if "tf26" in once else None)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_good_value_on_a_host(name, fill):
    value = fill(GOOD[name])
    options = resolve(with_companions(name, value, fill))
    assert options[name] == value
    assert (name in options.ignored_on_host()) == (name not in ("precision_mode", "precision_mode_v2", "deterministic"))


@pytest.mark.parametrize("adapter", ["tf115", "tf26", None])
@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_act_are_refused(name, adapter):
    (line,) = problems_of({name: "x"}, adapter=adapter)
    assert_says(line, name, "x")
    assert REFUSED[name] in line


@pytest.mark.parametrize("adapter", ["tf115", "tf26"])
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bad_values(name, adapter, fill):
    key, field, path, kind, _ = PLACES[name]
    field = field if field != "-" else {"int": "i", "bool": "b", "str": "s"}[kind]
    if (key if adapter == "tf115" else path) == "-":
        adapter = OTHER[adapter]
    wrong_type = [value for value in WRONG_TYPE[field] if not (name == "profiling_options" and isinstance(value, dict))]
    for value in [fill(one) for one in BAD.get(name, [])] + wrong_type:
        lines = problems_of(with_companions(name, value, fill), adapter=adapter)
        assert_says(lines[0], name, value)
        assert len(lines) == 1, lines


@pytest.mark.parametrize(
    "name, adapter, good, bad",
    [
        ("op_select_implmode", "tf115", "high_precision_for_all", None),
        ("op_select_implmode", "tf26", None, "high_precision_for_all"),
        ("graph_slice", "tf115", "manual", None),
        ("graph_slice", "tf26", None, "manual"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lists_that_differ_between_the_adapters(name, adapter, good, bad):
    if good is not None:
        assert resolve({name: good}, adapter=adapter)[name] == resolve({name: good})[name] == good
    else:
        assert_says(problems_of({name: bad}, adapter=adapter)[0], name, bad)


def test_tf26_has_dataset_profiles_only():
    (line,) = problems_of(dict(PROFILES, dynamic_node_type=1), adapter="tf26")
    assert_says(line, "dynamic_node_type", 1)
    assert resolve(dict(PROFILES, dynamic_node_type="0"), adapter="tf26")["dynamic_node_type"] == 0
    assert resolve(dict(PROFILES, dynamic_node_type=1), adapter="tf115")["dynamic_node_type"] == 1


NAMES = sorted(set(GOOD) | set(REFUSED))
VALUES = [
    None, True, False, 0, 1, -1, 2, 10**30, 10**5000, 1.5, float("nan"), "", "x", "true", "1", "\0", "\ud800", "/",
    "a" * 5000, "[" * 100000, "9" * 5000, b"\xff", b"origin", [], {}, {"a": object()}, (1, 2), object(), type, "1-2|2",
    "{}", '{"output": "a\\u0000"}', '{"output": "\\ud800"}', "mixed_float16", "allow_mix_precision", "1;2", "x:-1",
    "fast|step|0.9",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_but_valueerror_escapes(seed, fill):
    dice = random.Random(seed)
    outcomes = set()
    for _ in range(25):
        values = {dice.choice(NAMES + ["no_such", 7]): fill(dice.choice(VALUES + ["DIR", "FILE", "JSON", "DEBUG"]))
                  for _ in range(dice.randint(0, 4))}  # fmt: skip
        adapter = dice.choice([None, "tf115", "tf26"])
        try:
            options = resolve(values, adapter=adapter, product=dice.choice([None, "910A", "A2", "950", "B7"]))
        except ValueError as error:
            outcomes.add("refused" if "Received: " in str(error) else str(error))
        else:
            outcomes.add("accepted")
            (options.global_options if adapter == "tf26" else options.ignored_on_host)()
    assert outcomes == {"accepted", "refused"}


def test_the_reference_page_is_up_to_date():
    with open(os.path.join(ROOT, "docs", "options.md"), "rb") as file:
        committed = file.read()
    command = [sys.executable, "-m", "ascend_keras.backends.npu_options"]
    assert subprocess.check_output(command, cwd=ROOT) == committed
    assert npu_options_page.render().encode("utf-8") == committed
    for name in PLACES:
        assert "| `{}` |".format(name).encode("utf-8") in committed


def test_imports_no_tensorflow():
    code = (
        "import sys; from ascend_keras.backends import npu_options; npu_options.catalogue(); print(sorted(sys.modules))"
    )
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).decode()
    assert "'ascend_keras.backends.npu_options'" in modules
    assert "'tensorflow'" not in modules
    assert "'numpy'" not in modules
