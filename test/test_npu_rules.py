"""The rules between adapter options: each one with options that break it and options that keep it."""

import warnings

import pytest

from ascend_keras.backends import npu_rules
from ascend_keras.backends.npu_options import resolve

ENVIRONMENT = (
    "AOE_MODE", "HCCL_EXEC_TIMEOUT", "NPU_COLLECT_PATH", "STEP_NOW", "TOTAL_STEP", "LOSS_NOW", "TARGET_LOSS"
)  # fmt: skip
MIX = {"modify_mixlist": "MIXLIST"}
DUMP = {"enable_dump": True, "dump_path": "DIR"}
OVERFLOW = {"enable_dump_debug": True, "dump_path": "DIR"}
PROFILES = {"input_shape": "x:-1", "dynamic_dims": "1;2", "dynamic_node_type": 1}
FULL = {"shape_generalization_mode": "FULL"}
FAST = {"experimental_accelerate_train_mode": "fast|step|0.9"}
RANGES = {"dynamic_inputs_shape_range": "getnext:[1]", "dynamic_input": True}

# id: (adapter, options that break the rule, options that keep it), several cases each.
RULES = {
    "precision-exclusive": [
        ("tf115", {"precision_mode": "force_fp32", "precision_mode_v2": "origin"}, {"precision_mode": "force_fp32"}),
        ("tf26", {"precision_mode": "force_fp32", "precision_mode_v2": "origin"}, {"precision_mode_v2": "origin"}),
        (None, {"precision_mode": "cube_fp16in_fp32out", "precision_mode_v2": "cube_fp16in_fp32out"}, {}),
    ],
    "mixlist-needs-mixed": [
        ("tf115", MIX, dict(MIX, precision_mode="allow_mix_precision")),
        ("tf115", dict(MIX, precision_mode="force_fp32"), dict(MIX, precision_mode="allow_mix_precision_fp16")),
        ("tf26", dict(MIX, precision_mode_v2="origin"), dict(MIX, precision_mode_v2="mixed_float16")),
        (None, dict(MIX, precision_mode_v2="fp16"), dict(MIX, precision_mode="allow_mix_precision_bf16")),
        (None, dict(MIX, precision_mode="must_keep_origin_dtype"), dict(MIX, precision_mode_v2="mixed_bfloat16")),
        (None, MIX, dict(MIX, precision_mode_v2="mixed_hif8")),
    ],
    "dump-needs-path": [
        ("tf115", {"enable_dump": True}, DUMP),
        ("tf26", {"enable_dump_debug": True}, OVERFLOW),
        (None, {"enable_dump": True}, {"enable_dump": False}),
    ],
    "dump-exclusive": [
        ("tf115", dict(DUMP, enable_dump_debug=True), dict(DUMP, enable_dump_debug=False)),
        ("tf26", dict(OVERFLOW, enable_dump=True), dict(OVERFLOW, enable_dump=False)),
    ],
    "dynamic-profile-triple": [
        ("tf115", {"input_shape": "x:-1"}, PROFILES),
        ("tf26", {"dynamic_dims": "1;2", "dynamic_node_type": 0}, dict(PROFILES, dynamic_node_type=0)),
    ],
    "hybrid-needs-placeholder": [
        ("tf115", dict(PROFILES, dynamic_node_type=0, compile_hybrid_mode=1), dict(PROFILES, compile_hybrid_mode=1)),
        ("tf115", {"compile_hybrid_mode": 1}, {"compile_hybrid_mode": 0}),
    ],
    "loop-vs-mix": [
        ("tf115", {"iterations_per_loop": 2, "mix_compile_mode": True},
         {"iterations_per_loop": 1, "mix_compile_mode": True}),
    ],
    "loop-needs-initializable-iterator": [
        ("tf115", {"iterations_per_loop": 2, "enable_data_pre_proc": True}, {"iterations_per_loop": 1}),
        (None, {"iterations_per_loop": 10}, {"iterations_per_loop": 1}),
    ],
    "host-variables": [
        ("tf115", {"variable_placement": "Host"}, {"variable_placement": "Host", "mix_compile_mode": True}),
        ("tf115", {"variable_placement": "Host", "mix_compile_mode": False}, {"variable_placement": "Device"}),
    ],
    "implmode-pair": [
        ("tf26", {"optypelist_for_implmode": "LRN"},
         {"optypelist_for_implmode": "LRN", "op_select_implmode": "high_precision"}),
    ],
    "compress-exclusive": [
        ("tf115", {"enable_compress_weight": False, "compress_weight_conf": "MIXLIST"},
         {"compress_weight_conf": "MIXLIST"}),
    ],
    "aoe-path": [("tf115", {"aoe_mode": "2"}, {"aoe_mode": 2, "work_path": "DIR"})],
    "bf16-product": [
        ("tf115", {"precision_mode": "allow_fp32_to_bf16"}, {"precision_mode": "allow_fp32_to_fp16"}),
        ("tf26", {"precision_mode": "allow_mix_precision_bf16"}, {"precision_mode": "allow_mix_precision_fp16"}),
        (None, {"precision_mode_v2": "mixed_bfloat16"}, {"precision_mode_v2": "mixed_float16"}),
    ],
    "generalisation-needs-jit": [
        ("tf115", dict(FULL, jit_compile="auto"), dict(FULL, jit_compile="true")),
        ("tf26", dict(FULL, jit_compile="true", compile_dynamic_mode=True),
         dict(FULL, jit_compile="true", compile_dynamic_mode=False)),
        ("tf26", FULL, {"shape_generalization_mode": "STRICT"}),
    ],
    "accelerate-precision": [
        ("tf115", dict(FAST, precision_mode="allow_mix_precision"), dict(FAST, precision_mode="allow_fp32_to_fp16")),
        ("tf115", dict(FAST, precision_mode_v2="fp16"), dict(FAST, precision_mode_v2="origin")),
        ("tf115", dict(FAST, precision_mode="force_fp32"), dict(FAST, precision_mode="must_keep_origin_dtype")),
        ("tf115", dict(FAST, precision_mode_v2="mixed_float16"), FAST),
    ],
    "small-channel-infer": [
        ("tf115", {"graph_run_mode": 0, "enable_small_channel": 0}, {"graph_run_mode": 0, "enable_small_channel": 1}),
        ("tf26", {"graph_run_mode": 0, "enable_small_channel": False},
         {"graph_run_mode": 1, "enable_small_channel": False}),
    ],
    "stream-timeout-order": [
        ("tf115", {"stream_sync_timeout": 60000, "hccl_timeout": 60},
         {"stream_sync_timeout": 60001, "hccl_timeout": 60}),
        ("tf115", {"stream_sync_timeout": 60000, "hccl_timeout": 0}, {"stream_sync_timeout": -1, "hccl_timeout": 0}),
    ],
    # Rules beyond the 18 of the adapters' own documents: options that would be dropped without a word.
    "offline-switch": [("tf115", {"use_off_line": False}, {"use_off_line": True})],
    "dtypes-inert": [
        ("tf26", {"customize_dtypes": "MIXLIST", "precision_mode_v2": "origin"},
         {"customize_dtypes": "MIXLIST", "precision_mode_v2": "fp16"}),
    ],
    "op-precision-wins": [
        ("tf26", {"op_precision_mode": "MIXLIST", "op_select_implmode": "high_precision"},
         {"op_precision_mode": "MIXLIST"}),
    ],
    "mix-vs-profiles": [("tf115", dict(PROFILES, mix_compile_mode=True), dict(PROFILES, mix_compile_mode=False))],
    "dynamic-vs-profiles": [
        ("tf115", dict(PROFILES, compile_dynamic_mode=True), dict(PROFILES, compile_dynamic_mode=False)),
    ],
    "range-vs-profiles": [("tf115", dict(PROFILES, **RANGES), RANGES)],
    "range-needs-dynamic": [("tf115", dict(RANGES, dynamic_input=False), RANGES)],
    "mode-needs-dynamic": [
        ("tf115", {"dynamic_graph_execute_mode": "dynamic_execute"},
         {"dynamic_graph_execute_mode": "dynamic_execute", "dynamic_input": True}),
    ],
    "pair-needs-mix": [
        ("tf115", {"in_out_pair": "[['a'], ['b']]"}, {"in_out_pair": "[['a'], ['b']]", "mix_compile_mode": True}),
    ],
    "path-needs-dump": [("tf26", {"dump_path": "DIR"}, OVERFLOW)],
    "layer-needs-dump": [("tf26", {"dump_layer": "conv1"}, dict(DUMP, dump_layer="conv1"))],
    "data-needs-dump": [("tf26", {"dump_data": "stats"}, dict(OVERFLOW, dump_data="stats"))],
    "step-needs-dump": [("tf26", dict(OVERFLOW, dump_step="1"), dict(DUMP, dump_step="1"))],
    "mode-needs-dump": [("tf26", {"dump_mode": "all"}, dict(DUMP, dump_mode="all"))],
    "mode-needs-overflow-dump": [("tf26", dict(DUMP, dump_debug_mode="all"), dict(OVERFLOW, dump_debug_mode="all"))],
    "options-need-profiling": [
        ("tf26", {"profiling_options": {"hccl": "on"}}, {"profiling_options": {"hccl": "on"}, "profiling_mode": True}),
    ],
    "path-needs-aoe": [("tf26", {"work_path": "DIR"}, {"work_path": "DIR", "aoe_mode": "4"})],
    "file-needs-aoe": [("tf26", {"aoe_config_file": "MIXLIST"}, {})],
    "distribute-needs-aoe": [("tf115", {"distribute_config": "MIXLIST"}, {})],
    "debug-vs-cache": [
        ("tf115", {"op_debug_level": 1, "op_compiler_cache_mode": "enable"},
         {"op_debug_level": 0, "op_compiler_cache_mode": "enable"}),
        ("tf26", {"op_debug_config": "DEBUG", "op_compiler_cache_dir": "DIR"}, {"op_debug_config": "DEBUG"}),
    ],
    "cache-off": [
        ("tf26", {"op_compiler_cache_dir": "DIR", "op_compiler_cache_mode": "disable"},
         {"op_compiler_cache_dir": "DIR", "op_compiler_cache_mode": "force"}),
    ],
    "local-devices-pair": [
        ("tf115", {"local_rank_id": 0}, {"local_rank_id": 0, "local_device_list": "0,1"}),
        ("tf115", {"local_device_list": "0"}, {"local_rank_id": 0, "local_device_list": "0"}),
    ],
    "oom-alone": [
        ("tf115", {"op_debug_config": "DEBUG", "op_debug_level": 2}, {"op_debug_config": "DEBUG", "op_debug_level": 1}),
    ],
    "accelerate-environment": [
        ("tf115", {"experimental_accelerate_train_mode": "fast|loss"},
         {"experimental_accelerate_train_mode": "fast1|step"}),
    ],
}  # fmt: skip
CASES = [(name, number) for name, cases in RULES.items() for number in range(len(cases))]
NOTICES = {
    "inference-graph": {"graph_run_mode": 0},
    "fp16-inference": {"precision_mode": "force_fp16"},
    "hif8-unavailable": {"precision_mode_v2": "cube_hif8"},
    "cache-force": {"op_compiler_cache_mode": "force"},
    "ps-skips-npu": {"job": "ps"},
    "cores-vs-binaries": {"aicore_num": "1|2", "jit_compile": "false"},
    "exception-dump-first": dict(DUMP, enable_exception_dump=1),
    "fusion-vs-batch-copy": {"input_batch_cpy": True, "input_fusion_size": 1024},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEP_NOW", "0")
    monkeypatch.setenv("TOTAL_STEP", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fill(tmp_path):
    (tmp_path / "mix.json").write_text('{"white-list": {"to-remove": ["Conv2D"]}}')
    (tmp_path / "debug.cfg").write_text("op_debug_config=oom,dump_cce\n")
    paths = {"DIR": tmp_path, "MIXLIST": tmp_path / "mix.json", "DEBUG": tmp_path / "debug.cfg"}
    return lambda values: {
        name: str(paths[value]) if isinstance(value, str) and value in paths else value
        for name, value in values.items()
    }


def error_of(values, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValueError, match="Received: ") as caught:
            resolve(values, **kwargs)
    return str(caught.value)


def test_every_rule_has_cases():
    ids = {rule.id for rule in npu_rules.RULES if not rule.notice}
    ids.update(group[0] for group in npu_rules.GROUPS)
    ids.update(special[0] for special in npu_rules.SPECIAL)
    assert ids == set(RULES) | {"init-once"}  # init-once: test_npu_options.py, process_wide
    assert {rule.id for rule in npu_rules.RULES if rule.notice} == set(NOTICES)


@pytest.mark.parametrize("name, number", CASES)
def test_broken(name, number, fill):
    adapter, bad, _ = RULES[name][number]
    product = "910A" if name == "bf16-product" else None
    lines = [line for line in error_of(fill(bad), adapter=adapter, product=product).split("\n") if name in line]
    assert len(lines) == 1
    received = lines[0].partition(" Received: ")[2]
    assert any("{}=".format(option) in received for option in bad)
    assert received.endswith(". [{}]".format(name))


@pytest.mark.parametrize("name, number", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kept(name, number, fill):
    adapter, _, good = RULES[name][number]
    product = "910A" if name == "bf16-product" else None
    assert set(resolve(fill(good), adapter=adapter, product=product)) == set(good)


@pytest.mark.parametrize("product", [None, "A2", "A3", "950"])
@pytest.mark.parametrize("mode", ["allow_mix_precision_bf16", "allow_fp32_to_bf16"])
def test_bf16_where_the_product_has_it(product, mode):
    assert resolve({"precision_mode": mode}, product=product)["precision_mode"] == mode
    assert resolve({"precision_mode_v2": "mixed_bfloat16"}, product=product)["precision_mode_v2"] == "mixed_bfloat16"


@pytest.mark.parametrize(
    "values, good, bad",
    [
        ({"variable_use_1g_huge_page": 1}, "A2", "910A"),
        ({"input_batch_cpy": True}, "950", "910A"),
        ({"aicore_num": "1|2"}, "A3", "950"),
        ({"aoe_mode": "1", "work_path": "."}, "910A", "A2"),
        ({"precision_mode_v2": "mixed_hif8"}, "950", "A2"),
        (dict(OVERFLOW, dump_debug_mode="atomic_overflow", dump_path="."), "910A", "A3"),
        (dict(PROFILES, dynamic_dims="1;" * 100 + "1"), "950", "A2"),
        ({"hccl_timeout": 0}, "A2", "910A"),
        ({"hccl_timeout": 17341}, "A2", "910A"),
    ],
)
def test_products(values, good, bad):
    assert set(resolve(values, product=good)) == set(resolve(values)) == set(values)
    assert "Received: " in error_of(values, product=bad)


@pytest.mark.parametrize("name", NOTICES)
def test_notices_do_not_raise(name, fill):
    options = resolve(fill(NOTICES[name]))
    (text,) = [text for text in options.warnings if text.endswith("[{}]".format(name))]
    assert " Received: " in text


def test_collective_timeouts_of_910a_come_in_steps_of_68_seconds():
    assert resolve({"hccl_timeout": 100}, product="910A").warnings == [
        "hccl_timeout=100 is lowered to 68, a multiple of 68 s, on 910A."
    ]
    assert resolve({"hccl_timeout": 136}, product="910A").warnings == []
    assert resolve({"hccl_timeout": 100}, product="A2").warnings == []


def test_stream_timeout_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "60")
    assert "more than 60000" in error_of({"stream_sync_timeout": 60000}, adapter="tf26")
    assert resolve({"stream_sync_timeout": 60001})["stream_sync_timeout"] == 60001
    assert resolve({"stream_sync_timeout": -1})["stream_sync_timeout"] == -1
    assert resolve({"stream_sync_timeout": 6000, "hccl_timeout": 5})["hccl_timeout"] == 5
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "a minute")
    assert "HCCL_EXEC_TIMEOUT='a minute'" in error_of({"stream_sync_timeout": 60000})


def test_tuning_may_be_switched_on_by_the_environment(monkeypatch, tmp_path):
    assert "[path-needs-aoe]" in error_of({"work_path": str(tmp_path)})
    monkeypatch.setenv("AOE_MODE", "2")
    assert resolve({"work_path": str(tmp_path)})["work_path"] == str(tmp_path)


def test_oom_check_goes_without_collection(monkeypatch, fill):
    assert "op_debug_config" in resolve(fill({"op_debug_config": "DEBUG"}))
    monkeypatch.setenv("NPU_COLLECT_PATH", "/collect")
    assert "[oom-alone]" in error_of(fill({"op_debug_config": "DEBUG"}))


def test_a_rule_is_silent_where_a_value_is_at_fault_itself(fill):
    text = error_of(fill(dict(MIX, precision_mode_v2="mixed_flaot16")))
    assert "\n" not in text
    assert "Did you mean 'mixed_float16'" in text


def test_what_is_given_counts_even_with_a_faulty_value():
    text = error_of({"precision_mode": "force_fp23", "precision_mode_v2": "origin"})
    assert "Did you mean 'force_fp32'" in text
    assert "[precision-exclusive]" in text
