"""Named arguments, names, messages and the OptionSet of npu_options."""

import json
import os
import pathlib
import re
import stat

import pytest

from ascend_keras.backends.npu_options import from_arguments, resolve

DEFAULT_PROFILE = {
    "output": "./profiling",
    "training_trace": "on",
    "task_time": "on",
    "hccl": "on",
    "aicpu": "on",
    "aic_metrics": "PipeUtilization",
    "msproftx": "off",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("AOE_MODE", "HCCL_EXEC_TIMEOUT", "NPU_COLLECT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def lines_of(values, **kwargs):
    with pytest.raises(ValueError, match="Received: ") as caught:
        resolve(values, **kwargs)
    return str(caught.value).split("\n")


def lowered(**arguments):
    values, problems = from_arguments(**arguments)
    return resolve(values, problems=problems)


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_nothing_given_is_nothing_set():
    assert from_arguments() == ({}, [])
    options = resolve({})
    assert (len(options), dict(options), options.warnings) == (0, {}, [])
    assert options.parameter_map() == options.global_options() == options.ignored_on_host() == []


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"precision_mode": "force_fp32"}, {"precision_mode": "force_fp32"}),
        ({"precision_mode_v2": b"mixed_float16"}, {"precision_mode_v2": "mixed_float16"}),
        ({"deterministic": True}, {"deterministic": 1}),
        ({"deterministic": False}, {"deterministic": 0}),
        ({"deterministic": 1}, {"deterministic": 1}),
        ({"hcom_parallel": False}, {"hcom_parallel": False}),
        ({"profiling": None, "dump": None, "overflow_dump": None}, {}),
        ({"profiling": False}, {"profiling_mode": False}),
        ({"dump": False, "overflow_dump": False}, {"enable_dump": False, "enable_dump_debug": False}),
        ({"dump": "."}, {"enable_dump": True, "dump_path": "."}),
        (
            {"dump": {"path": ".", "step": [0, 5, "7-9"], "mode": "all", "layer": "conv1", "data": "stats"}},
            {"enable_dump": True, "dump_path": ".", "dump_step": "0|5|7-9", "dump_mode": "all", "dump_layer": "conv1",
             "dump_data": "stats"},
        ),
        ({"dump": {"path": ".", "step": 3}}, {"enable_dump": True, "dump_path": ".", "dump_step": "3"}),
        ({"overflow_dump": "."}, {"enable_dump_debug": True, "dump_path": "."}),
        (
            {"overflow_dump": {"path": ".", "mode": "all"}},
            {"enable_dump_debug": True, "dump_path": ".", "dump_debug_mode": "all"},
        ),
        ({"op_cache": "cache"}, {"op_compiler_cache_dir": "cache", "op_compiler_cache_mode": "enable"}),
        (
            {"op_cache": "cache", "options": {"op_compiler_cache_mode": "force"}},
            {"op_compiler_cache_dir": "cache", "op_compiler_cache_mode": "force"},
        ),
        ({"options": {"jit_compile": "auto", "oo_level": None}}, {"jit_compile": "auto"}),
        ({"hcom_parallel": True, "options": {"hcom_parallel": 1}}, {"hcom_parallel": True}),
        ({"deterministic": True, "options": {"deterministic": 1}}, {"deterministic": 1}),
    ],
)  # fmt: skip
def test_arguments_become_options(arguments, expected):
    assert dict(lowered(**arguments)) == expected


@pytest.mark.parametrize("directory", [str, pathlib.Path])
def test_profiling(directory, tmp_path):
    options = lowered(profiling=True)
    assert options["profiling_mode"] is True
    assert json.loads(options["profiling_options"]) == DEFAULT_PROFILE
    options = lowered(profiling=directory(tmp_path / "profile"))
    assert json.loads(options["profiling_options"]) == dict(DEFAULT_PROFILE, output=str(tmp_path / "profile"))
    options = lowered(profiling={"task_trace": "l1", "fp_point": "", "aic_metrics": "Custom:0x49"})
    assert json.loads(options["profiling_options"]) == {
        "output": "./profiling", "task_trace": "l1", "fp_point": "", "aic_metrics": "Custom:0x49"
    }  # fmt: skip
    assert lowered(profiling={"output": directory(tmp_path)})["profiling_options"] == json.dumps(
        {"output": str(tmp_path)}
    )


def test_faulty_profiling_keys_get_near_matches():
    values, problems = from_arguments(profiling={"trainingtrace": "on"})
    (line,) = lines_of(values, problems=problems)
    assert "Unknown key 'trainingtrace'. Did you mean 'training_trace' or 'task_trace'?" in line
    values, problems = from_arguments(profiling=7)
    assert "Received: profiling_mode=7. Write True or False." in lines_of(values, problems=problems)[0]


def test_directories_are_made_only_on_request(tmp_path):
    options = lowered(profiling="out/profile", op_cache="out/cache", options={"debug_dir": "out/debug"})
    assert not (tmp_path / "out").exists()
    options.make_directories()
    options.make_directories()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cache", "debug", "profile"]
    resolve({}).make_directories()


def test_mixlist_as_a_dict_becomes_a_private_file():
    lists = {"black-list": {"to-add": ["MatMul"], "to-remove": ()}, "white-list": {"to-add": ("Cast",)}}
    options = lowered(mixlist=lists, precision_mode_v2="mixed_float16")
    path = options["modify_mixlist"]
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == {
            "black-list": {"to-add": ["MatMul"], "to-remove": []}, "white-list": {"to-add": ["Cast"]}
        }  # fmt: skip
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert lowered(mixlist=lists, precision_mode_v2="mixed_float16")["modify_mixlist"] == path


@pytest.mark.parametrize(
    "lists, remedy",
    [
        ({}, "Write an object"),
        ([], "Write it as text"),
        ({"blacklist": {}}, "Unknown list 'blacklist'"),
        ({"black-list": {"add": ["Cast"]}}, "Give 'black-list' an object"),
        ({"black-list": {"to-add": "Cast"}}, "a list of operator types"),
        ({"white-list": {"to-remove": [1]}}, "a list of operator types"),
    ],
)
def test_faulty_mixlists(lists, remedy, tmp_path):
    values, problems = from_arguments(mixlist=lists, precision_mode_v2="mixed_float16")
    assert remedy in lines_of(values, problems=problems)[0]
    path = write_json(tmp_path / "mix.json", lists)
    if lists:
        values, problems = from_arguments(mixlist=path, precision_mode_v2="mixed_float16")
        (line,) = lines_of(values, problems=problems)
        assert "Received: modify_mixlist=" in line


def test_files_by_argument(tmp_path):
    switches = write_json(tmp_path / "fusion.cfg", {"Switch": {}})
    mixlist = write_json(tmp_path / "mix.json", {"white-list": {"to-add": ["Cast"]}})
    options = lowered(fusion_switch=switches, mixlist=mixlist, precision_mode="allow_mix_precision")
    assert options["fusion_switch_file"] == str(switches)
    assert options["modify_mixlist"] == str(mixlist)


def test_the_same_option_twice():
    _, problems = from_arguments({"precision_mode": "force_fp32"}, precision_mode="force_fp16")
    assert problems == [
        "`precision_mode` is given twice, by options and by precision_mode. "
        "Received: precision_mode='force_fp32' and 'force_fp16'. Keep one of them."
    ]
    _, problems = from_arguments({"profiling_mode": True, "enable_profiling": False})
    assert "by options and by options" in problems[0]
    assert len(problems) == 1
    _, problems = from_arguments({"enable_profiling": False}, profiling=True)
    assert "by options and by profiling" in problems[0]
    assert from_arguments({"profiling_mode": 1, "profiling_config.enable_profiling": True})[1] == []
    assert "given twice" in lines_of({"oo_level": "O1", "hcom_parallel": True, "HCCL_algorithm": "a", "aoe_mode": "1",
                                      "work_path": ".", "aoe_config.aoe_mode": "2"})[0]  # fmt: skip


def test_both_dumps_are_reported_as_such():
    values, problems = from_arguments(dump=".", overflow_dump="/")
    (line,) = lines_of(values, problems=problems)
    assert line.endswith("[dump-exclusive]")


def test_a_dump_without_a_path():
    values, problems = from_arguments(dump=True)
    assert "Received: enable_dump=True, dump_path=(not set)." in lines_of(values, problems=problems)[0]
    values, problems = from_arguments(dump={"steps": 1, "path": "."})
    assert lines_of(values, problems=problems)[0].endswith("Did you mean 'step'?")
    values, problems = from_arguments(overflow_dump={"path": "/no/such"})
    assert "mkdir -p" in lines_of(values, problems=problems)[0]


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_unwritable_directories_are_seen_by_root_too(mode, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    try:
        for values in (
            {"dump_path": str(folder), "enable_dump": True},
            {"work_path": str(folder), "aoe_mode": "2"},
            {"graph_compiler_cache_dir": str(folder)},
            {"debug_dir": str(folder / "new" / "folder")},
            {"op_compiler_cache_dir": str(folder)},
        ):
            (line,) = lines_of(values)
            assert "Grant this user permission to read and write the directory." in line
            assert str(folder) in line
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    "name, canonical",
    [
        ("profiling_mode", "profiling_mode"),
        ("profiling_config.enable_profiling", "profiling_mode"),
        ("enable_profiling", "profiling_mode"),
        ("experimental_logical_device_id", "logical_device_id"),
        ("experimental.logical_device_deploy_config.logical_device_id", "logical_device_id"),
        ("memory_config.static_memory_policy", "static_memory_policy"),
        ("HCCL_algorithm", "HCCL_algorithm"),
    ],
)
def test_names(name, canonical):
    value = {"profiling_mode": True, "static_memory_policy": 2}.get(canonical, "x")
    assert dict(resolve({name: value})) == {canonical: value}


@pytest.mark.parametrize(
    "name, near",
    [
        ("precison_mode", "'precision_mode'"),
        ("enable_profilling", "'enable_profiling'"),
        ("hccl_algorithm", "'HCCL_algorithm'"),
        ("nable_scope_fusion_passes", "'enable_scope_fusion_passes'"),
        ("qqq", "See docs/options.md"),
        (7, "See docs/options.md"),
        (None, "See docs/options.md"),
    ],
)
def test_unknown_names_get_near_matches(name, near):
    values, problems = from_arguments({name: 1})
    (line,) = lines_of(values, problems=problems)
    assert re.match(r"There is no NPU option .*{0}.* Received: {0}=1\. ".format(name), line)
    assert near in line


def test_options_must_be_a_mapping():
    for wrong in ([("precision_mode", "force_fp32")], "precision_mode", 3):
        values, problems = from_arguments(wrong)
        (line,) = lines_of(values, problems=problems)
        assert line == "`options` must be a mapping. Received: options={!r}. Write {{name: value}}.".format(wrong)
        assert lines_of(wrong) == [line]


def test_remedies_name_what_to_use_instead():
    assert 'precision_mode_v2="mixed_float16"' in lines_of({"precision_mode": "mixed_float16"})[0]
    assert 'precision_mode="force_fp32"' in lines_of({"precision_mode_v2": "force_fp32"})[0]
    assert 'write "true"' in lines_of({"jit_compile": True})[0]
    assert 'write "false"' in lines_of({"jit_compile": False}, adapter="tf26")[0]
    assert "aoe_mode" in lines_of({"auto_tune_mode": "RL,GA"}, adapter="tf26")[0]
    assert "HCCL_EXEC_TIMEOUT" in lines_of({"hccl_timeout": 10}, adapter="tf26")[0]
    assert "steps_per_execution" in lines_of({"iterations_per_loop": 10}, adapter="tf26")[0]
    assert "steps_per_execution" in lines_of({"iterations_per_loop": 10}, adapter="tf115")[0]
    assert "compile_dynamic_mode" in lines_of({"dynamic_input": True}, adapter="tf26")[0]
    assert "NPURunConfig" in lines_of({"horovod_mode": True}, adapter="tf115")[0]
    assert "Write True without quotes." in lines_of({"hcom_parallel": "true"})[0]


def test_unknown_adapter_and_product():
    lines = lines_of({"hcom_parallel": True}, adapter="tf210", product="910B")
    assert lines == [
        "2 problems:",
        "- Unknown adapter. Received: adapter='tf210'. Use None or one of tf115, tf26.",
        "- Unknown product. Received: product='910B'. Use None or one of 910A, A2, A3, 950.",
    ]


def test_all_problems_at_once(tmp_path):
    values, problems = from_arguments(
        {"precison_mode": "force_fp32", "hcom_parallel": "yes", "oo_level": "O9", "min_group_size": True, "oo_lvl": 1},
        precision_mode="fp16",
        dump={"path": str(tmp_path / "none"), "stp": 1},
        mixlist={"grey-list": {}},
        deterministic=2,
    )
    lines = lines_of(values, adapter="tf26", problems=["One more. Received: backend='x'. Choose another."] + problems)
    received = [line.partition("Received: ")[2].partition("=")[0] for line in lines[1:]]
    assert lines[0] == "11 problems:"
    assert received == [
        "backend", "dump", "mixlist", "precison_mode", "oo_lvl", "hcom_parallel", "oo_level", "min_group_size",
        "precision_mode", "deterministic", "dump_path",
    ]  # fmt: skip


def test_deprecated_options_warn_and_name_their_replacement():
    with pytest.warns(
        DeprecationWarning, match="`op_debug_level` is deprecated: use op_debug_config instead"
    ) as caught:
        options = resolve({"op_debug_level": 1})
    assert caught[0].filename == __file__
    assert options.warnings == ["`op_debug_level` is deprecated: use op_debug_config instead."]
    with pytest.warns(DeprecationWarning, match="it has no replacement"):
        resolve({"variable_format_optimize": True}, adapter="tf26")
    assert resolve({"frozen_variable": True}).warnings == ["`frozen_variable` is documented for online inference only."]


def test_an_option_set_is_a_mapping_in_the_order_of_the_catalogue():
    options = resolve({"jit_compile": "auto", "hcom_parallel": True, "precision_mode_v2": "origin"}, adapter="tf115")
    assert list(options.items()) == [("precision_mode_v2", "origin"), ("hcom_parallel", True), ("jit_compile", "auto")]
    assert "oo_level" not in options
    assert options.get("oo_level") is None
    assert options.parameter_map() == [
        ("precision_mode_v2", "s", b"origin"),
        ("hcom_parallel", "b", True),
        ("jit_compile", "s", b"auto"),
    ]
    assert options == dict(options)
    assert repr(resolve({"oo_level": "O1"})) == "OptionSet({'oo_level': 'O1'}, adapter=None)"


def test_an_option_set_serves_its_own_adapter_only():
    with pytest.raises(ValueError, match="Received: adapter='tf26', resolved for 'tf115'"):
        resolve({}, adapter="tf115").global_options()
    with pytest.raises(ValueError, match="Received: adapter='tf27'"):
        resolve({}).process_wide("tf27")
    with pytest.raises(ValueError, match="`mix_compile_mode` exists on TF 1"):
        resolve({"mix_compile_mode": True}).global_options()
    assert resolve({"oo_level": "O1"}).process_wide("tf26") == {"oo_level": "O1"}


def test_the_last_pair_of_an_optimization_switch_is_closed_for_tf26():
    for text in ("a:on", "a:on;"):
        values = {"optimization_switch": text}
        assert resolve(values, adapter="tf26").global_options() == [("optimization_switch", "a:on;")]
        assert resolve(values, adapter="tf115").parameter_map() == [("optimization_switch", "s", text.encode())]
