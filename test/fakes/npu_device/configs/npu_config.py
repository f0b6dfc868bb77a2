"""The tree behind global_options()."""

from npu_device.configs.option_base import config_class, deprecated, option

_BOOL = [True, False]
_PROFILING = (
    '{"output":".\\/","training_trace":"on","task_time":"on",'
    + " " * 45
    + '"hccl":"on","aicpu":"on","aic_metrics":"PipeUtilization",'
    + " " * 45
    + '"msproftx":"off"}'
)

NpuDumpConfig = config_class(
    "NpuDumpConfig",
    enable_dump=option(False, _BOOL),
    dump_path=option(),
    dump_step=option(),
    dump_mode=option("output", ["input", "output", "all"]),
    enable_dump_debug=option(False, _BOOL),
    dump_debug_mode=option("all", ["aicore_overflow", "atomic_overflow", "all"]),
    dump_data=option("tensor", ["tensor", "stats"]),
    dump_layer=option(),
)

NpuAoeConfig = config_class(
    "NpuAoeConfig", aoe_mode=option(None, ["1", "2", "4"]), work_path=option("./"), aoe_config_file=option()
)

NpuProfilingConfig = config_class(
    "NpuProfilingConfig", enable_profiling=option(False, _BOOL), profiling_options=option(_PROFILING)
)

MemoryConfig = config_class(
    "MemoryConfig",
    atomic_clean_policy=option(0, [0, 1]),
    static_memory_policy=option(0, [0, 1, 2, 3, 4]),
    variable_use_1g_huge_page=option(0, [0, 1, 2]),
)

NpuMultiBranchesConfig = config_class(
    "NpuMultiBranchesConfig", input_shape=option(), dynamic_node_type=option(None, ["0"]), dynamic_dims=option()
)

LogicalDeviceDeployConfig = config_class(
    "LogicalDeviceDeployConfig",
    logical_device_cluster_deploy_mode=option("LB", ["LB", "SINGLE"]),
    logical_device_id=option(),
)

ModelDeployConfig = config_class("ModelDeployConfig", model_deploy_mode=option(), model_deploy_devicelist=option())

GraphMemoryOptimizeConfig = config_class(
    "GraphMemoryOptimizeConfig", recompute=option(None, ["auto", "manual"]), graph_slice=option(None, ["auto"])
)

NpuExperimentalConfig = config_class(
    "NpuExperimentalConfig",
    multi_branches_config=NpuMultiBranchesConfig,
    logical_device_deploy_config=LogicalDeviceDeployConfig,
    model_deploy_config=ModelDeployConfig,
    graph_memory_optimize_config=GraphMemoryOptimizeConfig,
    resource_config_path=option(),
    graph_parallel_option_path=option(),
    enable_graph_parallel=option(False, _BOOL),
)

NpuConfig = config_class(
    "NpuConfig",
    graph_run_mode=option(1, [0, 1]),
    graph_memory_max_size=option(),
    variable_memory_max_size=option(),
    variable_format_optimize=deprecated(_BOOL),
    enable_scope_fusion_passes=option(),
    fusion_switch_file=option(),
    precision_mode=option(
        None,
        [
            "force_fp32",
            "allow_fp32_to_fp16",
            "force_fp16",
            "must_keep_origin_dtype",
            "allow_mix_precision",
            "cube_fp16in_fp32out",
            "allow_mix_precision_fp16",
            "allow_mix_precision_bf16",
            "allow_fp32_to_bf16",
        ],
    ),
    op_select_implmode=deprecated(["high_performance", "high_precision"], "op_precision_mode"),
    optypelist_for_implmode=deprecated(None, "op_precision_mode"),
    op_compiler_cache_mode=option("enable", ["enable", "disable", "force"]),
    op_compiler_cache_dir=option(),
    stream_max_parallel_num=option(),
    ac_parallel_enable=option(None, ["0", "1"]),
    quant_dumpable=option(None, ["0", "1"]),
    hcom_parallel=option(True, _BOOL),
    hcom_multi_mode=option(),
    is_tailing_optimization=option(False, _BOOL),
    op_debug_level=deprecated([0, 1, 2, 3, 4], "op_debug_config"),
    op_debug_config=option(),
    debug_dir=option(),
    modify_mixlist=option(),
    enable_exception_dump=option(2, [0, 1, 2]),
    dump_config=NpuDumpConfig,
    aoe_config=NpuAoeConfig,
    profiling_config=NpuProfilingConfig,
    enable_small_channel=option(False, _BOOL),
    deterministic=option(0, [0, 1]),
    op_precision_mode=option(),
    graph_exec_timeout=option(),
    topo_sorting_mode=option(None, [0, 1, None]),
    customize_dtypes=option(),
    overflow_flag=option(1, [0, 1]),
    stream_sync_timeout=option(-1),
    event_sync_timeout=option(-1),
    execute_times=option(-1),
    external_weight=option(False, _BOOL),
    memory_config=MemoryConfig,
    jit_compile=option("auto", ["true", "false", "auto"]),
    graph_compiler_cache_dir=option(),
    input_fusion_size=option(131072),
    compile_dynamic_mode=option(False, _BOOL),
    experimental=NpuExperimentalConfig,
    precision_mode_v2=option(
        None, ["fp16", "origin", "cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16", "cube_hif8", "mixed_hif8"]
    ),
    export_compile_stat=option(1, [0, 1, 2]),
    aicore_num=option(),
    oo_constant_folding=option(True, _BOOL),
    input_batch_cpy=option(False, _BOOL),
    shape_generalization_mode=option("STRICT", ["STRICT", "FULL", "ADAPTIVE"]),
    all_tensor_not_empty=option(False, _BOOL),
    auto_multistream_parallel_mode=option(),
    oo_level=option("O3", ["O0", "O1", "O2", "O3"]),
    optimization_switch=option(),
)
