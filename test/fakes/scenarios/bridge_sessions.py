"""Sessions of TF 1.15: who is patched, what is kept, what is frozen, when the rank API works."""

# ruff: noqa: E402, F403, F405, I001 (the star import is what users write)

import json
import os

import tensorflow as tf

seen = {}
ERRORS = (AttributeError, NameError, TypeError, ValueError, tf.errors.OpError)
K = tf.keras.backend
before = tf.Session()

from npu_bridge.npu_init import *
import fake_ascend


def npu_config(**options):
    config = tf.ConfigProto()
    custom = config.graph_options.rewrite_options.custom_optimizers.add()
    custom.name = "NpuOptimizer"
    for key, value in options.items():
        field = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "s"
        setattr(custom.parameter_map[key], field, value)
    return config


def entries(session):
    return [
        [entry.name, sorted(entry.parameter_map)]
        for entry in session._config.graph_options.rewrite_options.custom_optimizers
    ]


def run(session):
    session.run(tf.constant(1.0))
    return fake_ascend.recorded("session")[-1]


def message(function):
    try:
        function()
    except ERRORS as error:
        return "{}: {}".format(type(error).__name__, error)
    return "no error"


seen["session from before"] = run(before)["offloaded"]
plain = tf.Session()
seen["session of nobody"] = entries(plain)
seen["memory when it adds"] = plain._config.graph_options.rewrite_options.memory_optimization
given = npu_config(precision_mode_v2=b"mixed_float16", deterministic=1, typo=b"x", hcom_parallel=1)
first = tf.Session(config=given)
seen["memory when it is there"] = given.graph_options.rewrite_options.memory_optimization
seen["remapping when it is there"] = given.graph_options.rewrite_options.remapping
event = run(first)
seen["first"] = [
    event["offloaded"],
    event["unknown"],
    event["options"]["precision_mode_v2"],
    event["options"]["deterministic"],
    event["options"]["hcom_parallel"],
    event["options"]["oo_level"],
]
event = run(tf.Session(config=npu_config(precision_mode_v2=b"fp16", is_tailing_optimization=True)))
seen["second"] = [event["options"]["precision_mode_v2"], event["options"]["is_tailing_optimization"]]
seen["ignored"] = fake_ascend.recorded("ge_already_initialised")[-1]["ignored"]
seen["use_off_line false"] = run(tf.Session(config=npu_config(use_off_line=False)))["offloaded"]
config = npu_config()
config.graph_options.rewrite_options.custom_optimizers[0].parameter_map["use_off_line"].i = 1
seen["use_off_line as int"] = run(tf.Session(config=config))["offloaded"]
seen["job ps"] = run(tf.Session(config=npu_config(job=b"ps")))["offloaded"]
seen["text for bytes"] = message(lambda: npu_config(dump_path="x"))

K.set_session(first)
seen["keras session"] = K.get_session() is first
K.clear_session()
seen["after clear_session"] = entries(K.get_session())
npu_clear_session(npu_config(oo_level=b"O1"))
seen["after npu_clear_session"] = entries(K.get_session())
caller = tf.ConfigProto()
seen["proto is the caller's"] = npu_config_proto(caller) is caller
seen["tuple of callbacks"] = len(npu_callbacks_append((1, 2)))

seen["rank before init_resource"] = message(get_npu_rank_id)
seen["rank api before init"] = message(get_rank_id)
session, shutdown = init_resource()
seen["ranks"] = [get_npu_rank_id(), get_npu_rank_size(), get_rank_id(), get_rank_size()]
close_session(session)
seen["rank api after close"] = message(get_rank_size)
seen["cached rank after close"] = get_npu_rank_id()

seen["profiling"] = message(lambda: npu_plugin.npu_resource_init(enable_profiling=True))
seen["gen ops"] = hasattr(__import__("npu_bridge").helper.get_gen_ops(), "npu_get_float_status_v2")
host = tf.Graph()
with host.as_default():
    status = npu_bridge_status = __import__("npu_bridge").helper.get_gen_ops().npu_get_float_status_v2()
    with tf.Session(config=npu_config(use_off_line=False)) as session:
        seen["device op on the host"] = message(lambda: session.run(status))
    seen["status"] = tf.Session().run(status).tolist()
closed = len(fake_ascend.recorded("session_close"))
first.close()
seen["closed"] = [event["offloaded"] for event in fake_ascend.recorded("session_close")[closed:]]
os.environ["CM_WORKER_SIZE"] = os.environ["RANK_SIZE"] = "1"
seen["two sizes"] = message(util.get_ranksize)
print("RESULT " + json.dumps(seen))
