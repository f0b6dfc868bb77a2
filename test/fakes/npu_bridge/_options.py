"""The parameter_map as the TF 1.15 native code reads it: fields, defaults, and the checks that it makes.

Unknown keys are ignored; a value in the wrong AttrValue field reads as the empty value of the right one. A check that
the native code does not make is not made here.
"""

import os
import re

import tensorflow as tf

PROFILING_DEFAULT = (
    '{"output":"./","training_trace":"on","task_time":"on","hccl":"on","aicpu":"on",'
    '"aic_metrics":"PipeUtilization","msproftx":"off"}'
)

# Options of the init stage (frozen when GE starts) and of all later stages, by AttrValue field.
_INIT = {
    "s": dict(
        precision_mode=None,
        precision_mode_v2=None,
        modify_mixlist=None,
        customize_dtypes=None,
        op_precision_mode=None,
        op_select_implmode=None,
        optypelist_for_implmode=None,
        HCCL_algorithm=None,
        enable_scope_fusion_passes=None,
        oo_level="O3",
        optimization_switch=None,
        op_compiler_cache_mode=None,
        op_compiler_cache_dir=None,
        aicore_num=None,
        fusion_switch_file=None,
        soc_config=None,
        device_type="default_device_type",
        dump_data="tensor",
        op_debug_config=None,
        debug_dir=None,
        profiling_options=PROFILING_DEFAULT,
        aoe_mode=None,
        work_path="./",
        aoe_config_file=None,
        distribute_config=None,
        auto_tune_mode=None,
        experimental_logical_device_cluster_deploy_mode="LB",
        experimental_logical_device_id=None,
        experimental_model_deploy_mode=None,
        experimental_model_deploy_devicelist=None,
    ),
    "i": dict(
        graph_run_mode=1,
        deterministic=0,
        static_memory_policy=0,
        variable_use_1g_huge_page=0,
        export_compile_stat=1,
        enable_exception_dump=2,
        op_debug_level=None,
        hccl_timeout=None,
        op_wait_timeout=None,
        op_execute_timeout=None,
        graph_exec_timeout=600000,
        stream_sync_timeout=-1,
        event_sync_timeout=-1,
    ),
    "b": dict(hcom_multi_mode=False, input_batch_cpy=False, oo_constant_folding=True, profiling_mode=False),
}
_LATER = {
    "s": dict(
        job="localhost",
        stream_max_parallel_num=None,
        ac_parallel_enable=None,
        variable_placement="Device",
        in_out_pair=None,
        const_input=None,
        auto_multistream_parallel_mode=None,
        jit_compile="auto",
        shape_generalization_mode="STRICT",
        experimental_accelerate_train_mode=None,
        memory_optimization_policy=None,
        graph_memory_max_size=None,
        variable_memory_max_size=None,
        graph_slice=None,
        input_shape=None,
        dynamic_dims=None,
        dynamic_graph_execute_mode="dynamic_execute",
        dynamic_inputs_shape_range=None,
        graph_compiler_cache_dir=None,
        buffer_optimize="l2_optimize",
        compress_weight_conf=None,
        insert_op_file=None,
        dump_path=None,
        dump_step=None,
        dump_mode="output",
        dump_layer=None,
        dump_debug_mode="all",
        quant_dumpable=None,
        local_device_list=None,
        resource_config_path=None,
        graph_parallel_option_path=None,
    ),
    "i": dict(
        session_device_id=-1,
        task_index=0,
        iterations_per_loop=1,
        enable_small_channel=0,
        graph_max_parallel_model_num=1,
        topo_sorting_mode=None,
        input_fusion_size=131072,
        atomic_clean_policy=0,
        dynamic_node_type=None,
        compile_hybrid_mode=0,
        local_rank_id=-1,
    ),
    "b": dict(
        use_off_line=True,
        enable_data_pre_proc=False,
        hcom_parallel=True,
        is_tailing_optimization=False,
        mix_compile_mode=False,
        in_out_pair_flag=True,
        frozen_variable=False,
        lower_functional_ops=False,
        variable_format_optimize=None,
        external_weight=False,
        compile_dynamic_mode=False,
        all_tensor_not_empty=False,
        dynamic_input=False,
        enable_compress_weight=False,
        enable_dump=False,
        enable_dump_debug=False,
        enable_graph_parallel=False,
    ),
}
INIT_NAMES = sorted(name for group in _INIT.values() for name in group)
FIELDS = {name: field for table in (_INIT, _LATER) for field, group in table.items() for name in group}
DEFAULTS = {name: value for table in (_INIT, _LATER) for group in table.values() for name, value in group.items()}
_NEVER_READ = ("enable_reduce_precision", "min_group_size")
# These keep their default when the AttrValue holds another field.
_FIELD_CHECKED_QUIETLY = ("export_compile_stat", "oo_constant_folding")

MIXED_V1 = ("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16")
MIXED_V2 = ("mixed_float16", "mixed_bfloat16", "mixed_hif8")
_ALLOWED = {
    "precision_mode": (
        "force_fp32",
        "allow_fp32_to_fp16",
        "force_fp16",
        "must_keep_origin_dtype",
        "allow_mix_precision",
        "cube_fp16in_fp32out",
        "allow_mix_precision_fp16",
        "allow_mix_precision_bf16",
        "allow_fp32_to_bf16",
    ),
    "precision_mode_v2": (
        "fp16",
        "origin",
        "cube_fp16in_fp32out",
        "mixed_float16",
        "mixed_bfloat16",
        "cube_hif8",
        "mixed_hif8",
    ),
    "variable_use_1g_huge_page": (0, 1, 2),
    "export_compile_stat": (0, 1, 2),
    "jit_compile": ("true", "false", "auto"),
    "shape_generalization_mode": ("STRICT", "FULL", "ADAPTIVE"),
}


def raw(entries):
    """Every entry of the parameter map as [field, value], for a test to compare with what it asked for."""
    result = {}
    for entry in entries:
        for key, value in entry.parameter_map.items():
            field = value.WhichOneof("value")
            content = getattr(value, field) if field else None
            result[key] = [field, content.decode() if isinstance(content, bytes) else content]
    return result


def unknown(entries):
    """Keys that nothing reads."""
    return sorted(
        key for entry in entries for key in entry.parameter_map if key not in FIELDS and key not in _NEVER_READ
    )


def read(entries):
    """Effective options of one session, or the error that the native code raises, or the end of the process."""
    given = {}
    for entry in entries:
        given.update(entry.parameter_map)
    options = dict(DEFAULTS)
    present = {}
    for name, attr in given.items():
        if name in FIELDS and not _ignored(name, attr):
            options[name] = present[name] = _value(name, attr)
    _check_fields(given)
    if "aoe_mode" not in present and os.environ.get("AOE_MODE"):
        options["aoe_mode"] = present["aoe_mode"] = os.environ["AOE_MODE"]
    for check in (
        _check_dump,
        _check_run_mode,
        _check_aoe,
        _check_allowed,
        _check_integers,
        _check_strings,
        _check_pairs,
        _check_dynamic_profile,
        _check_mixlist,
        _check_both_precisions,
        _check_acceleration,
    ):
        check(options, present)
    if options["graph_run_mode"] == 0:
        options["enable_small_channel"] = 1
    options["input_fusion_size"] = min(max(options["input_fusion_size"], 0), 33554432)
    return options


def _ignored(name, attr):
    return name in _FIELD_CHECKED_QUIETLY and attr.WhichOneof("value") != FIELDS[name]


def _value(name, attr):
    content = getattr(attr, FIELDS[name])
    return content.decode() if isinstance(content, bytes) else content


def _fatal(message):
    from npu_bridge import _native

    _native.fatal(message)


def _internal(message):
    raise tf.errors.InternalError(None, None, message)


def _invalid(message):
    raise tf.errors.InvalidArgumentError(None, None, message)


def _is_folder(path):
    return bool(path) and os.path.isdir(path) and os.access(path, os.R_OK | os.W_OK)


def _check_fields(given):
    for name in ("jit_compile", "shape_generalization_mode"):
        if name in given and given[name].WhichOneof("value") != "s":
            _invalid("The data type of {} is invalid. Expected string type.".format(name))


def _check_dump(options, present):
    if not (options["enable_dump"] or options["enable_dump_debug"]):
        return
    if "dump_path" not in present:
        _internal("if use dump function, dump_path must be set.")
    if not _is_folder(present["dump_path"]):
        _internal("the path {} is not directory.".format(present["dump_path"]))
    if options["enable_dump"] and "dump_step" in present:
        _check_dump_step(present["dump_step"])
    if options["enable_dump"] and options["dump_mode"] not in ("input", "output", "all"):
        _fatal("dump mode should be one of the list:[input, output, all]")
    if options["enable_dump_debug"] and options["dump_debug_mode"] not in ("aicore_overflow", "atomic_overflow", "all"):
        _fatal("dump debug mode should be one of the list:[aicore_overflow, atomic_overflow, all]")


def _check_dump_step(text):
    parts = text.split("|") if text else []
    if len(parts) > 100:
        _internal("dump_step only support dump <= 100 sets of data")
    for part in parts:
        match = re.match(r"^(\d+)(?:-(\d+))?$", part)
        if match is None:
            _internal("dump_step string style is error, correct example:'0|5|10|50-100'")
        if match.group(2) and int(match.group(1)) >= int(match.group(2)):
            _internal("in range steps, the first step is >= second step, correct example:'0|5|10-20'")


def _check_run_mode(options, present):
    if options["graph_run_mode"] > 1:
        _fatal("graph_run_mode value must be 0 or 1")


def _check_aoe(options, present):
    if not options["aoe_mode"]:
        return
    if options["aoe_mode"] not in ("1", "2", "4"):
        _internal(
            "aoe mode:{} is invalid, aoe mode should be one of the list:['1', '2', '4']".format(options["aoe_mode"])
        )
    if not _is_folder(options["work_path"]):
        _fatal("the path {} is not directory.".format(options["work_path"]))


def _check_allowed(options, present):
    for name, allowed in _ALLOWED.items():
        if name in present and present[name] not in allowed:
            _invalid(
                "{} is invalid, it should be one of the list:[{}]".format(
                    present[name], ", ".join(str(value) for value in allowed)
                )
            )


def _check_integers(options, present):
    if options["graph_max_parallel_model_num"] < 1:
        _internal("graph_max_parallel_model_num should not be less than 1")
    if not 0 <= options["enable_exception_dump"] <= 2:
        _internal("enable_exception_dump should be one of 0, 1 and 2.")
    if "local_rank_id" in present and not 0 <= present["local_rank_id"] <= 7:
        _internal("local rank id should be in [0,7]")
    if "session_device_id" in present and present["session_device_id"] < 0:
        _fatal("session_device_id must be nonnegative integer.")
    if options["iterations_per_loop"] < 1:
        _fatal("iterations_per_loop should be greater than or equal to 1")
    if options["task_index"] < 0:
        _fatal("task_index should be >= 0")


def _check_strings(options, present):
    if options["dump_data"] not in ("tensor", "stats"):
        _internal("dump_data should be 'tensor' or 'stats'.")
    if "graph_slice" in present and present["graph_slice"] not in ("auto", "manual"):
        _internal("graph_slice must be in ['auto', 'manual']")
    if options["buffer_optimize"] not in ("l2_optimize", "off_optimize"):
        _fatal("buffer_optimize is invalid, should be one of [l2_optimize, off_optimize]")
    if options["variable_placement"] not in ("Host", "Device"):
        _fatal("variable placement should be one of the list:[Host, Device]")
    if options["dynamic_input"] and options["dynamic_graph_execute_mode"] not in ("lazy_recompile", "dynamic_execute"):
        _internal("dynamic_graph_execute_mode should be lazy_recompile or dynamic_execute.")
    if "local_device_list" in present and not re.match(r"^(\d+,)+$", present["local_device_list"] + ","):
        _internal("local_device_list style is invalid, example:'1,2,3'")


def _check_pairs(options, present):
    modes = ("high_precision", "high_performance", "high_precision_for_all", "high_performance_for_all")
    if "op_select_implmode" in present:
        if present["op_select_implmode"] not in modes:
            _fatal("op select impl mode should be one of the list:[{}]".format(", ".join(modes)))
    elif "optypelist_for_implmode" in present:
        _fatal("when use optypelist_for_implmode, op_select_implmode must be set.")
    if "enable_compress_weight" in present and "compress_weight_conf" in present:
        _fatal("enable_compress_weight can not use with compress_weight_conf.")


def _check_dynamic_profile(options, present):
    count = sum(name in present for name in ("input_shape", "dynamic_dims", "dynamic_node_type"))
    hybrid = options["compile_hybrid_mode"]
    if count == 0:
        if hybrid == 1:
            _internal("input_shape, dynamic_dims and dynamic_node_type should be set when compile_hybrid_mode is 1")
        return
    if count < 3:
        _fatal("input_shape, dynamic_dims and dynamic_node_type should use together.")
    if not all(re.match(r"^[\s\S]+:(-?\d+,)+$", part + ",") for part in present["input_shape"].split(";")):
        _fatal("input_shape string style is invalid")
    if not all(re.match(r"^(\d+,)+$", part + ",") for part in present["dynamic_dims"].split(";")):
        _fatal("dynamic_dims string style is invalid")
    if present["dynamic_node_type"] not in (0, 1):
        _fatal("dynamic_node_type should be 0 or 1.")
    if hybrid not in (0, 1):
        _internal("compile_hybrid_mode should be 0 or 1")
    if hybrid == 1 and present["dynamic_node_type"] != 1:
        _internal("When compile_hybrid_mode set, dynamic_node_type should be 1.")


def _check_mixlist(options, present):
    if "modify_mixlist" not in present:
        return
    if "precision_mode" in present:
        fits, name, modes = present["precision_mode"] in MIXED_V1, "precision_mode", MIXED_V1
    else:
        fits, name, modes = present.get("precision_mode_v2") in MIXED_V2, "precision_mode_v2", MIXED_V2
    if not fits:
        _internal(
            "modify_mixlist is assigned, please ensure that {} is assigned to one of {}".format(name, ", ".join(modes))
        )


def _check_both_precisions(options, present):
    if "precision_mode" in present and "precision_mode_v2" in present:
        _internal("'precision_mode' and 'precision_mode_v2' can not be assigned at the same time.")


def _check_acceleration(options, present):
    text = options["experimental_accelerate_train_mode"]
    if not text:
        return
    needed = ("LOSS_NOW", "TARGET_LOSS") if "loss" in text else ("STEP_NOW", "TOTAL_STEP")
    for name in needed:
        if not os.environ.get(name):
            _invalid("{} is not set, which is needed when accelerate the train".format(name))
