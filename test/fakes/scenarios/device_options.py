"""global_options() of TF 2.6: what is checked, and what is not. Opens nothing."""

import json

import npu_device as npu

options = npu.global_options()
seen = {}


def assign(owner, name, value):
    try:
        setattr(owner, name, value)
    except (TypeError, ValueError) as error:
        return type(error).__name__
    entry = getattr(owner, name)
    return getattr(entry, "value", repr(entry))


seen["read"] = [type(options.precision_mode).__name__, options.precision_mode.value, options.hcom_parallel.value]
seen["unknown"] = assign(options, "auto_tune_mode", "RL,GA")
seen["outside the list"] = assign(options, "precision_mode", "mixed_float16")
seen["in the list"] = assign(options, "precision_mode", "allow_mix_precision")
seen["back to None"] = assign(options, "precision_mode", None)
seen["both precision modes"] = assign(options, "precision_mode_v2", "fp16")
seen["jit_compile bool"] = assign(options, "jit_compile", True)
seen["wrong type without default"] = assign(options, "ac_parallel_enable", 1)
seen["deterministic True"] = assign(options, "deterministic", True)
seen["enable_small_channel 1"] = assign(options, "enable_small_channel", 1)
seen["free option"] = assign(options, "dump_path", "x"), assign(options, "debug_dir", {"a": 1})
seen["free option to None"] = assign(options, "debug_dir", None)
seen["aoe_mode int"] = assign(options.aoe_config, "aoe_mode", 2)
seen["graph_slice manual"] = assign(options.experimental.graph_memory_optimize_config, "graph_slice", "manual")
seen["dump without path"] = assign(options.dump_config, "enable_dump", True)
flat = options.as_dict()
seen["flat"] = {
    name: flat.get(name)
    for name in (
        "enable_dump",
        "dump_mode",
        "hcom_parallel",
        "precision_mode",
        "dump_path",
        "input_fusion_size",
        "work_path",
    )
}
seen["group"] = assign(options, "dump_config", 3), assign(options, "experimental", None)
seen["after the group is gone"] = "enable_dump" in options.as_dict()
seen["count"] = len(flat)
print("RESULT " + json.dumps(seen))
