"""Process-wide GE, saturation mode, and the end of the process."""

import fake_ascend

from npu_bridge import _native
from npu_bridge.estimator.npu import util


def npu_resource_init(
    graph_run_mode=1,
    op_debug_level=0,
    enable_profiling=False,
    profiling_options=None,
    precision_mode=None,
    enable_scope_fusion_passes=None,
    enable_exception_dump=2,
    aoe_mode=None,
    work_path=None,
    op_compiler_cache_mode=None,
    op_compiler_cache_dir=None,
    debug_dir=None,
    hcom_multi_mode=False,
    distribute_config=None,
    aoe_config_file=None,
    precision_mode_v2=None,
    export_compile_stat=1,
    aicore_num=None,
    oo_constant_folding=True,
    input_batch_cpy=False,
    oo_level="O3",
    optimization_switch=None,
):
    """Starts GE for the process; options of sessions that come later no longer reach it."""
    arguments = dict(locals())
    for name in ("graph_run_mode", "enable_exception_dump", "op_debug_level"):
        util.check_nonnegative_integer(arguments[name], name)
    if graph_run_mode > 1:
        raise ValueError('"graph_run_mode" value must be 0 or 1')
    for name in ("enable_profiling", "hcom_multi_mode", "oo_constant_folding", "input_batch_cpy"):
        util.check_bool_type(arguments[name], name)
    if enable_profiling and profiling_options is None:
        raise ValueError("profiling_options must be set when use profiling")
    if aoe_mode is not None:
        if aoe_mode not in ("1", "2", "4"):
            raise ValueError("aoe_mode:{} is invalid, should be in ['1', '2', '4']".format(aoe_mode))
        arguments["work_path"] = util.check_path(work_path or "./")
    arguments["aoe_config_file"] = str(aoe_config_file)
    arguments["profiling_mode"] = arguments.pop("enable_profiling")
    _native.start_engine(arguments)


def npu_resource_shutdown():
    _native.stop_engine()


def npu_close():
    fake_ascend.record("npu_close")
    fake_ascend.state.hccl_owner = None


def set_device_sat_mode(mode):
    """0 saturation, 1 INF/NAN. Returns nothing, also when the device refuses."""
    fake_ascend.set_sat_mode(mode)


def is_inf_nan_enabled():
    return fake_ascend.state.sat_mode == fake_ascend.INF_NAN
