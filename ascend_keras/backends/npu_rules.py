"""The rules between adapter options: what excludes, needs or silences what. Imports no TensorFlow."""

import os
import re
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from ascend_keras.backends import npu_values

Condition = Dict[str, Callable[[Any], bool]]


def given(value):
    """Holds for every value that is set."""
    return True


def one_of(*values):
    """Holds for the listed values."""
    return lambda value: value in values


def none_of(*values):
    """Holds for every value that is set and not listed."""
    return lambda value: value not in values


def above(limit):
    """Holds for numbers greater than the limit."""
    return lambda value: value > limit


class Rule(NamedTuple):
    """Where `when` holds, one of `needs` must hold and no entry of `forbids` may; with neither, `when` is the fault.

    Conditions map canonical option names to predicates of the checked value. A rule with `notice` does not raise.
    """

    id: str
    when: Condition
    says: str
    remedy: str
    needs: Tuple[Condition, ...] = ()
    forbids: Optional[Condition] = None
    unless_env: Optional[str] = None
    notice: bool = False

    @property
    def options(self):
        """Names of all options that the rule speaks of."""
        names = list(self.when)
        for condition in self.needs + (self.forbids or {},):
            names.extend(name for name in condition if name not in names)
        return names


_MIXED = (
    {"precision_mode_v2": one_of("mixed_float16", "mixed_bfloat16", "mixed_hif8")},
    {"precision_mode": one_of("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16")},
)
_DUMPS = ({"enable_dump": one_of(True)}, {"enable_dump_debug": one_of(True)})
_PROFILES = ("input_shape", "dynamic_dims", "dynamic_node_type")
_ANY_PROFILE = dict.fromkeys(_PROFILES, given)
_CACHE = {"op_compiler_cache_mode": one_of("enable", "force"), "op_compiler_cache_dir": given}

# fmt: off
RULES = (
    Rule("precision-exclusive", {"precision_mode": given}, "The two precision knobs exclude each other.",
         "Keep precision_mode_v2, the recommended one.", forbids={"precision_mode_v2": given}),
    Rule("mixlist-needs-mixed", {"modify_mixlist": given}, "A mixlist acts under mixed precision only.",
         'Add precision_mode_v2="mixed_float16" or drop the mixlist.', needs=_MIXED),
    Rule("dump-needs-path", {"enable_dump": one_of(True)}, "A dump needs a directory to write to.",
         "Set dump_path to an existing, writable directory.", needs=({"dump_path": given},)),
    Rule("dump-needs-path", {"enable_dump_debug": one_of(True)}, "An overflow dump needs a directory to write to.",
         "Set dump_path to an existing, writable directory.", needs=({"dump_path": given},)),
    Rule("dump-exclusive", {"enable_dump": one_of(True)}, "Data dump and overflow dump exclude each other.",
         "Run once with each of them.", forbids={"enable_dump_debug": one_of(True)}),
    Rule("hybrid-needs-placeholder", {"compile_hybrid_mode": one_of(1)},
         "Hybrid compilation works on profiles of placeholder inputs only.",
         "Set input_shape, dynamic_dims and dynamic_node_type=1, or leave compile_hybrid_mode out.",
         needs=({"dynamic_node_type": one_of(1), "input_shape": given, "dynamic_dims": given},)),
    Rule("loop-vs-mix", {"iterations_per_loop": above(1)}, "A loop on the device leaves no room for host operators.",
         "Set mix_compile_mode=False.", forbids={"mix_compile_mode": one_of(True)}),
    Rule("loop-needs-initializable-iterator", {"iterations_per_loop": above(1)},
         "A loop on the device needs an initialisable iterator, enable_data_pre_proc=True and a train op called "
         "IterationOp; Keras fit() builds none of them and runs one step per call on TF 1.15.",
         "Leave iterations_per_loop at 1; on TF 2.6 use compile(steps_per_execution=n)."),
    Rule("host-variables", {"variable_placement": one_of("Host")}, "Variables on the host need mixed compilation.",
         "Set mix_compile_mode=True.", needs=({"mix_compile_mode": one_of(True)},)),
    Rule("implmode-pair", {"optypelist_for_implmode": given}, "The list of types needs a mode to apply to them.",
         "Set op_select_implmode as well, or use op_precision_mode.", needs=({"op_select_implmode": given},)),
    Rule("compress-exclusive", {"enable_compress_weight": given}, "The two weight compressions exclude each other.",
         "Keep one of them; even enable_compress_weight=False ends the process here.",
         forbids={"compress_weight_conf": given}),
    Rule("aoe-path", {"aoe_mode": given}, "Automatic tuning needs a directory to work in.",
         "Set work_path to an existing, writable directory.", needs=({"work_path": given},)),
    Rule("generalisation-needs-jit", {"shape_generalization_mode": one_of("FULL", "ADAPTIVE")},
         "Shapes are generalised only when operators are compiled at run time.", 'Set jit_compile="true".',
         needs=({"jit_compile": one_of("true")},)),
    Rule("generalisation-needs-jit", {"shape_generalization_mode": one_of("FULL", "ADAPTIVE")},
         "Shapes that compile_dynamic_mode makes unknown are not generalised again.", "Keep one of the two.",
         forbids={"compile_dynamic_mode": one_of(True)}),
    Rule("accelerate-precision", {"experimental_accelerate_train_mode": given},
         "Acceleration starts from full precision only.", "Leave the precision knobs out.",
         forbids={"precision_mode": none_of("allow_fp32_to_fp16", "must_keep_origin_dtype"),
                  "precision_mode_v2": none_of("origin")}),
    Rule("small-channel-infer", {"graph_run_mode": one_of(0)}, "Inference graphs always use small-channel kernels.",
         "Leave enable_small_channel out, or keep graph_run_mode at 1.", forbids={"enable_small_channel": one_of(0)}),
    Rule("offline-switch", {"use_off_line": one_of(False)}, "This would train on the host without a word.",
         'Ask for the host by name: backend="host".'),
    Rule("dtypes-inert", {"customize_dtypes": given}, "Data types per operator are ignored when all dtypes are kept.",
         "Choose another precision, or drop customize_dtypes.",
         forbids={"precision_mode": one_of("must_keep_origin_dtype"), "precision_mode_v2": one_of("origin")}),
    Rule("op-precision-wins", {"op_precision_mode": given}, "op_precision_mode silences the older pair of options.",
         "Keep op_precision_mode alone.", forbids={"op_select_implmode": given, "optypelist_for_implmode": given}),
    Rule("mix-vs-profiles", {"mix_compile_mode": one_of(True)}, "Mixed compilation cannot take input profiles.",
         "Keep one of the two.", forbids=_ANY_PROFILE),
    Rule("dynamic-vs-profiles", {"compile_dynamic_mode": one_of(True)},
         "Input profiles and compile_dynamic_mode exclude each other.", "Keep one of the two.", forbids=_ANY_PROFILE),
    Rule("range-vs-profiles", {"dynamic_inputs_shape_range": given}, "dynamic_dims silences the shape ranges.",
         "Keep one of the two.", forbids={"dynamic_dims": given}),
    Rule("range-needs-dynamic", {"dynamic_inputs_shape_range": given}, "Shape ranges act on dynamic inputs only.",
         "Set dynamic_input=True.", needs=({"dynamic_input": one_of(True)},)),
    Rule("mode-needs-dynamic", {"dynamic_graph_execute_mode": given}, "This mode acts on dynamic inputs only.",
         "Set dynamic_input=True.", needs=({"dynamic_input": one_of(True)},)),
    Rule("pair-needs-mix", {"in_out_pair": given}, "Moving a part of the graph needs mixed compilation.",
         "Set mix_compile_mode=True.", needs=({"mix_compile_mode": one_of(True)},)),
    Rule("path-needs-dump", {"dump_path": given}, "Nothing is dumped.",
         "Set enable_dump=True or enable_dump_debug=True, or leave this option out.", needs=_DUMPS),
    Rule("layer-needs-dump", {"dump_layer": given}, "Nothing is dumped.",
         "Set enable_dump=True or enable_dump_debug=True, or leave this option out.", needs=_DUMPS),
    Rule("data-needs-dump", {"dump_data": given}, "Nothing is dumped.",
         "Set enable_dump=True or enable_dump_debug=True, or leave this option out.", needs=_DUMPS),
    Rule("step-needs-dump", {"dump_step": given}, "Steps are chosen for a data dump only.",
         "Set enable_dump=True, or leave dump_step out.", needs=_DUMPS[:1]),
    Rule("mode-needs-dump", {"dump_mode": given}, "The mode belongs to a data dump.",
         "Set enable_dump=True, or leave dump_mode out.", needs=_DUMPS[:1]),
    Rule("mode-needs-overflow-dump", {"dump_debug_mode": given}, "The mode belongs to an overflow dump.",
         "Set enable_dump_debug=True, or leave dump_debug_mode out.", needs=_DUMPS[1:]),
    Rule("options-need-profiling", {"profiling_options": given}, "No profile is collected.",
         "Set profiling_mode=True, or leave profiling_options out.", needs=({"profiling_mode": one_of(True)},)),
    Rule("path-needs-aoe", {"work_path": given}, "Nothing is tuned.", "Set aoe_mode, or leave work_path out.",
         needs=({"aoe_mode": given},), unless_env="AOE_MODE"),
    Rule("file-needs-aoe", {"aoe_config_file": given}, "Nothing is tuned.",
         "Set aoe_mode, or leave aoe_config_file out.", needs=({"aoe_mode": given},), unless_env="AOE_MODE"),
    Rule("distribute-needs-aoe", {"distribute_config": given}, "Nothing is tuned.",
         "Set aoe_mode, or leave distribute_config out.", needs=({"aoe_mode": given},), unless_env="AOE_MODE"),
    Rule("debug-vs-cache", {"op_debug_level": none_of(0)}, "Debugging switches the operator cache off.",
         "Leave the cache options out while debugging.", forbids=_CACHE),
    Rule("cache-off", {"op_compiler_cache_dir": given}, "The cache is switched off, so its directory means nothing.",
         "Keep one of the two.", forbids={"op_compiler_cache_mode": one_of("disable")}),
    Rule("inference-graph", {"graph_run_mode": one_of(0)}, "The graph gets inference semantics.",
         "Keep graph_run_mode at 1 for fit().", notice=True),
    Rule("fp16-inference", {"precision_mode": one_of("force_fp16")}, "force_fp16 is documented for inference only.",
         "Prefer allow_fp32_to_fp16 or mixed precision for training.", notice=True),
    Rule("hif8-unavailable", {"precision_mode_v2": one_of("cube_hif8", "mixed_hif8")},
         "hif8 is documented as not available yet.", "Expect an error from the device.", notice=True),
    Rule("cache-force", {"op_compiler_cache_mode": one_of("force")}, "The operator cache is emptied at the start.",
         "Use it with a single process only.", notice=True),
    Rule("ps-skips-npu", {"job": one_of("ps")}, "A parameter server runs no graph on the NPU.",
         "Set this on parameter servers only.", notice=True),
    Rule("cores-vs-binaries", {"aicore_num": given}, "Shipped binaries ignore the core limits in static graphs.",
         'Use jit_compile="true".', forbids={"jit_compile": one_of("false")}, notice=True),
    Rule("exception-dump-first", {"enable_exception_dump": one_of(1)},
         "In dynamic-shape graphs the exception dump leaves no other dump.", "Prefer enable_exception_dump=2.",
         forbids={"enable_dump": one_of(True), "enable_dump_debug": one_of(True)}, notice=True),
    Rule("fusion-vs-batch-copy", {"input_batch_cpy": one_of(True)}, "Merged inputs leave little to copy in a batch.",
         "Try input_fusion_size=0.", forbids={"input_fusion_size": above(0)}, notice=True),
)
GROUPS = (
    ("dynamic-profile-triple", _PROFILES, "These three options come together or not at all."),
    ("local-devices-pair", ("local_rank_id", "local_device_list"), "These two options come together or not at all."),
)
# Rules that take code of their own, as (id, options, what it says, remedy); the page docs/options.md lists them.
SPECIAL = (
    ("bf16-product", ("precision_mode", "precision_mode_v2"), "bfloat16 modes need product A2, A3 or 950.",
     "Choose another mode, or run on such a product."),
    ("stream-timeout-order", ("stream_sync_timeout", "hccl_timeout"),
     "A stream must wait longer (milliseconds) than a collective does (seconds, 0 for ever). "
     "Without hccl_timeout the environment variable HCCL_EXEC_TIMEOUT counts.",
     "Raise stream_sync_timeout, or set it to -1."),
    ("init-once", (), "Options marked once are frozen for the process when the device is opened.",
     "Use the same options in the whole process, or another process."),
    ("accelerate-environment", ("experimental_accelerate_train_mode",),
     "Acceleration reads its progress from the environment.",
     "Set STEP_NOW and TOTAL_STEP, or LOSS_NOW and TARGET_LOSS, and keep them current."),
    ("oom-alone", ("op_debug_config", "op_debug_level"),
     "The oom check goes neither with ccec_O0 or op_debug_level=2 nor with NPU_COLLECT_PATH set.",
     "Remove one of them."),
)
# fmt: on


def check(values, broken, *, adapter=None, product=None):
    """Applies every rule between options.

    Args:
        values: checked values by canonical name.
        broken: raw values by canonical name of options that have a problem of their own already; rules that hang on
            such a value stay silent.
        adapter: "tf115", "tf26" or None.
        product: product name or None.

    Returns:
        (problems, notices): two lists of one-line texts.
    """
    problems, notices = [], []
    for rule in RULES:
        culprits = _violates(rule, values, broken)
        if culprits is not None:
            (notices if rule.notice else problems).append(_text(rule, culprits, values, broken))
    problems.extend(_groups(values, broken))
    for special in (_stream_timeout, _acceleration, _operator_debugging):
        problems.extend(special(values, adapter))
    notices.extend(_timeout_notice(values, product))
    return problems, notices


def _holds(condition, values, broken):
    """True, False, or None where the answer hangs on a value that is itself at fault."""
    unknown = False
    for name, predicate in condition.items():
        if name in broken:
            unknown = unknown or predicate is not given
        elif name not in values or not predicate(values[name]):
            return False
    return None if unknown else True


def _violates(rule, values, broken):
    """Names of the options at fault besides those of `when`, None if the rule is kept."""
    if not _holds(rule.when, values, broken) or (rule.unless_env and os.environ.get(rule.unless_env)):
        return None
    if rule.needs:
        kept = any(_holds(one, values, broken) is not False for one in rule.needs)
        return None if kept else [name for one in rule.needs for name in one]
    if rule.forbids is None:
        return []
    found = [name for name, test in rule.forbids.items() if _holds({name: test}, values, broken)]
    return found or None


def _text(rule, culprits, values, broken):
    names = list(rule.when) + [name for name in culprits if name not in rule.when]
    return "{} Received: {}. {} [{}]".format(rule.says, _received(names, values, broken), rule.remedy, rule.id)


def _received(names, values, broken):
    every = dict(broken, **values)
    shown = ["{}={}".format(one, npu_values.show(every[one]) if one in every else "(not set)") for one in names]
    return ", ".join(shown).replace("\n", " ")


def _groups(values, broken):
    for name, members, says in GROUPS:
        present = [one for one in members if one in values or one in broken]
        if present and len(present) < len(members):
            missing = ", ".join(one for one in members if one not in present)
            received = _received(members, values, broken)
            yield "{} Received: {}. Set {} as well. [{}]".format(says, received, missing, name)


def _stream_timeout(values, adapter):
    limit = values.get("stream_sync_timeout", -1)
    if limit == -1:
        return
    source, seconds = "hccl_timeout", values.get("hccl_timeout")
    if seconds is None:
        source, seconds = "HCCL_EXEC_TIMEOUT", os.environ.get("HCCL_EXEC_TIMEOUT", "")
        if re.fullmatch("[0-9]{0,10}", seconds) is None:
            yield npu_values.problem(
                "HCCL_EXEC_TIMEOUT must be whole seconds.",
                source,
                seconds,
                "Correct this environment variable. [stream-timeout-order]",
            )
            return
        if not seconds:
            return
    if int(seconds) == 0 or limit <= int(seconds) * 1000:
        received = "stream_sync_timeout={}, {}={}".format(limit, source, seconds)
        wanted = "-1" if int(seconds) == 0 else "-1 or more than {}".format(int(seconds) * 1000)
        yield (
            "A stream must wait longer (milliseconds) than a collective does (seconds, 0 for ever). "
            "Received: {}. Set stream_sync_timeout to {}. [stream-timeout-order]"
        ).format(received, wanted)


def _acceleration(values, adapter):
    mode = values.get("experimental_accelerate_train_mode")
    if mode is None or adapter != "tf115":
        return
    names = ("STEP_NOW", "TOTAL_STEP") if "|step" in mode else ("LOSS_NOW", "TARGET_LOSS")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        yield npu_values.problem(
            "Acceleration reads its progress from the environment.",
            "experimental_accelerate_train_mode",
            mode,
            "Set {} and keep them current. [accelerate-environment]".format(" and ".join(missing)),
        )


def _operator_debugging(values, adapter):
    path = values.get("op_debug_config")
    if path is None:
        return
    settings = npu_values.op_debug_settings(path)
    switches = [one.strip() for one in settings.get("op_debug_config", "").split(",")]
    bare = "ccec_O0" in switches or values.get("op_debug_level") == 2 or os.environ.get("NPU_COLLECT_PATH")
    if "oom" in switches and bare:
        yield npu_values.problem(
            "The oom check goes neither with ccec_O0 or op_debug_level=2 nor with NPU_COLLECT_PATH set.",
            "op_debug_config",
            path,
            "Remove one of them. [oom-alone]",
        )
    cached = [name for name, test in _CACHE.items() if name in values and test(values[name])]
    if cached and not settings.get("op_debug_list"):
        yield npu_values.problem(
            "op_debug_config without op_debug_list switches the operator cache off.",
            "op_debug_config",
            path,
            "Name operators in op_debug_list, or leave {} out. [debug-vs-cache]".format(" and ".join(cached)),
        )


def _timeout_notice(values, product):
    seconds = values.get("hccl_timeout")
    if product == "910A" and seconds is not None and seconds % 68:
        yield "hccl_timeout={} is lowered to {}, a multiple of 68 s, on 910A.".format(seconds, seconds - seconds % 68)
