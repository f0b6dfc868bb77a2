"""One session for each line of CASES, each in a forked process; prints how its first run ended."""

# ruff: noqa: F403 (the star import is what users write)

import json
import os
import signal
import tempfile

import tensorflow as tf
from npu_bridge.npu_init import *

FOLDER = tempfile.mkdtemp().encode()
CASES = [
    ("precision_mode", [("precision_mode", "s", b"fp16")]),
    ("precision_mode_v2", [("precision_mode_v2", "s", b"mixed_fp16")]),
    ("both precision modes", [("precision_mode", "s", b"force_fp16"), ("precision_mode_v2", "s", b"fp16")]),
    ("precision_mode as int", [("precision_mode", "i", 1)]),
    ("jit_compile value", [("jit_compile", "s", b"on")]),
    ("jit_compile as bool", [("jit_compile", "b", True)]),
    ("shape_generalization_mode as int", [("shape_generalization_mode", "i", 1)]),
    ("aoe_mode", [("aoe_mode", "s", b"3")]),
    ("aoe_mode without folder", [("aoe_mode", "s", b"2"), ("work_path", "s", b"/nowhere")]),
    ("dump without path", [("enable_dump", "b", True)]),
    ("dump with missing path", [("enable_dump", "b", True), ("dump_path", "s", b"/nowhere")]),
    (
        "dump with both modes",
        [("enable_dump", "b", True), ("enable_dump_debug", "b", True), ("dump_path", "s", FOLDER)],
    ),
    ("dump_step", [("enable_dump", "b", True), ("dump_path", "s", FOLDER), ("dump_step", "s", b"9-3")]),
    ("dump_mode", [("enable_dump", "b", True), ("dump_path", "s", FOLDER), ("dump_mode", "s", b"both")]),
    ("dump_mode unused", [("dump_mode", "s", b"both")]),
    ("mixlist alone", [("modify_mixlist", "s", b"a.json")]),
    ("mixlist with wrong mode", [("modify_mixlist", "s", b"a.json"), ("precision_mode_v2", "s", b"fp16")]),
    ("mixlist with mixed mode", [("modify_mixlist", "s", b"a.json"), ("precision_mode_v2", "s", b"mixed_float16")]),
    ("graph_run_mode", [("graph_run_mode", "i", 2)]),
    ("op_select_implmode", [("op_select_implmode", "s", b"fast")]),
    ("optypelist alone", [("optypelist_for_implmode", "s", b"Pooling")]),
    ("buffer_optimize", [("buffer_optimize", "s", b"l1_optimize")]),
    ("variable_placement", [("variable_placement", "s", b"CPU")]),
    ("iterations_per_loop", [("iterations_per_loop", "i", 0)]),
    ("session_device_id", [("session_device_id", "i", -2)]),
    ("dynamic triple", [("input_shape", "s", b"x:-1,3")]),
    ("compress pair", [("enable_compress_weight", "b", True), ("compress_weight_conf", "s", b"x")]),
    ("enable_exception_dump", [("enable_exception_dump", "i", 3)]),
    ("export_compile_stat", [("export_compile_stat", "i", 3)]),
    ("export_compile_stat as text", [("export_compile_stat", "s", b"3")]),
    ("unknown key", [("presicion_mode", "s", b"fp16")]),
    ("deterministic", [("deterministic", "i", 2)]),
    ("hcom_parallel as int", [("hcom_parallel", "i", 1)]),
    ("oo_level", [("oo_level", "s", b"O9")]),
    ("profiling alone", [("profiling_mode", "b", True)]),
    ("stream_max_parallel_num", [("stream_max_parallel_num", "s", b"nonsense")]),
]


def first_run(entries):
    config = tf.ConfigProto()
    custom = config.graph_options.rewrite_options.custom_optimizers.add()
    custom.name = "NpuOptimizer"
    for key, field, value in entries:
        setattr(custom.parameter_map[key], field, value)
    with tf.Session(config=config) as session:
        session.run(tf.constant(1))


def outcome(entries):
    child = os.fork()
    if child == 0:
        try:
            first_run(entries)
            os._exit(0)
        except tf.errors.InvalidArgumentError:
            os._exit(10)
        except tf.errors.InternalError:
            os._exit(11)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return {0: "ok", 10: "InvalidArgumentError", 11: "InternalError"}.get(os.WEXITSTATUS(status), "other")


print("RESULT " + json.dumps({label: outcome(entries) for label, entries in CASES}))
