"""What NPUTrainer does to an adapter: options, device, session, optimizer, collectives.

The scenarios run in processes of their own, against the fakes or, with --adapter=real, against the real packages.
"""

import json
import os

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
USER_SCRIPT = os.path.join(HERE, "e2e", "user_script.py")

PRELUDE = """
import json, os, sys
import numpy as np
import tensorflow as tf
from ascend_keras import NPUTrainer, optimizers, compat
keras = tf.keras

def result(**values):
    print("RESULT " + json.dumps(values, default=str))

def small():
    return keras.Sequential([
        keras.layers.Dense(4, activation="relu", kernel_initializer="ones", input_shape=(3,)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1, kernel_initializer="ones"),
    ])

X = np.arange(24, dtype="float32").reshape(8, 3) / 24
Y = np.ones((8, 1), "float32")
"""


@pytest.fixture
def scenario(adapter):
    """Runs a scenario after the prelude; returns the values of all ranks, which have to end well."""

    def run(text, ranks=1, **named):
        results = adapter.run(PRELUDE + text, ranks=ranks, **named)
        for rank, result in enumerate(results):
            assert result.returncode == 0, "rank {}:\n{}".format(rank, result.stderr[-3000:])
        return [result.value for result in results]

    return run


@pytest.fixture
def tf115(adapter):
    if adapter.name != "npu_bridge":
        pytest.skip("npu_bridge is the adapter of TF 1.15")
    return adapter


@pytest.fixture
def tf26(adapter):
    if adapter.name != "npu_device":
        pytest.skip("npu_device is the adapter of TF 2.6")
    return adapter


# --- both adapters ----------------------------------------------------------------------------------------------


def test_the_users_script_runs_unchanged(adapter):
    on_npu, on_host = [
        adapter.run_one(USER_SCRIPT, args=[json.dumps(dict(backend=name, loss_scale=None))]) for name in ("npu", "host")
    ]
    assert on_npu["backend"] == adapter.name
    assert on_host["backend"] == "host"
    if not adapter.real:
        # The fake device computes on the CPU; so the same bits come out, unless the trainer changes the training.
        assert on_npu["loss"] == on_host["loss"]
        assert on_npu["weights"] == on_host["weights"]
        assert on_npu["predicted"] == on_host["predicted"]


def test_auto_takes_the_npu_and_says_so(adapter, scenario):
    (value,) = scenario("with NPUTrainer() as t: result(backend=t.backend.name, **{'stated': t.describe()})")
    assert value["backend"] == adapter.name
    assert value["stated"]["device"] == "NPU 0"


def test_a_missing_package_is_never_the_cpu(adapter):
    environment = {"PYTHONPATH": os.path.dirname(HERE)}
    (asked,) = adapter.run(PRELUDE + "NPUTrainer('npu')", env=environment)
    assert asked.returncode != 0
    assert "No module named '{}'".format(adapter.name) in asked.stderr
    (auto,) = adapter.run(PRELUDE + "result(backend=NPUTrainer('auto').backend.name)", env=environment)
    assert auto.value == {"backend": "host"}
    assert "passed over" in auto.stderr and "No module named '{}'".format(adapter.name) in auto.stderr


def test_a_broken_library_is_never_the_cpu(adapter):
    if adapter.real:
        pytest.skip("needs an adapter whose libraries are missing")
    (broken,) = adapter.run(PRELUDE + "NPUTrainer('auto')", env={"FAKE_ASCEND_BROKEN": "1"})
    assert broken.returncode != 0
    assert "{} is installed but".format(adapter.name) in broken.stderr
    assert "source its set_env.sh" in broken.stderr


def test_trainer_after_the_model_is_refused(adapter):
    (late,) = adapter.run(PRELUDE + "model = small()\nNPUTrainer('npu')")
    assert late.returncode != 0
    assert "before any variable exists" in late.stderr and "Create NPUTrainer first" in late.stderr


def test_a_second_trainer_shares_or_raises(adapter, scenario):
    (value,) = scenario(
        """
first = NPUTrainer("npu", precision_mode="allow_mix_precision")
second = NPUTrainer("npu", precision_mode="allow_mix_precision")
try:
    NPUTrainer("npu", precision_mode="force_fp16")
except RuntimeError as error:
    result(shared=first.backend is second.backend, error=str(error))
"""
    )
    assert value["shared"] is True
    assert "opened once in this process" in value["error"]
    assert "precision_mode='force_fp16' (was 'allow_mix_precision')" in value["error"]


TRAIN = """
arguments = json.loads(os.environ.get("ARGUMENTS", "{}"))
with NPUTrainer("npu", **arguments) as trainer:
    with trainer.scope():
        model = small()
    optimizer = keras.optimizers.SGD(0.125, momentum=0.5)
    trainer.compile(model, optimizer, "mse")
    x = X.copy()
    if os.environ.get("INF_ON_RANK") == os.environ.get("RANK_ID", "0"):
        x[2] = np.inf
    history = trainer.fit(model, x, Y, batch_size=2, epochs=1, shuffle=False, verbose=0, shard=False)
    result(
        weights=[w.tolist() for w in model.get_weights()], scale=optimizers.current_loss_scale(model.optimizer),
        skipped=optimizers.skipped_steps(model.optimizer), logs=history.history,
        iterations=int(compat.get_values([model.optimizer.iterations])[0]),
        optimizer=type(model.optimizer).__name__, rate=compat.get_learning_rate(model.optimizer),
    )
"""
TRAINABLES = 6  # two kernels, two biases, gamma, beta


def train(scenario, ranks=1, arguments=None, env=None, **named):
    environment = dict(env or {}, ARGUMENTS=json.dumps(arguments or {}))
    return scenario(TRAIN, ranks=ranks, env=environment, **named)


def test_loss_scale_defaults_to_dynamic_where_float16_is_computed(scenario):
    assert train(scenario, arguments={"precision_mode": "allow_mix_precision"})[0]["scale"] == 32768.0
    assert train(scenario, arguments={"precision_mode": "must_keep_origin_dtype"})[0]["scale"] is None


@pytest.mark.parametrize("loss_scale, scale", [("dynamic", 16384.0), (1024, 1024.0)])
def test_inf_is_skipped_in_inf_nan_mode(scenario, loss_scale, scale):
    (value,) = train(
        scenario, arguments={"loss_scale": loss_scale}, env={"FAKE_ASCEND_PRODUCT": "A2", "INF_ON_RANK": "0"}
    )
    assert (value["scale"], value["skipped"], value["iterations"]) == (scale, 1, 4)
    assert value["logs"]["skipped_steps"] == [1]
    assert np.isfinite(value["weights"][0]).all()


SATURATED = (
    "import sys; sys.path.insert(0, os.environ['FAKES'])\n"
    "import fake_ascend\n"
    "fake_ascend.inject_overflow(int(os.environ.get('OVERFLOWS_ON_' + os.environ.get('RANK_ID', '0'), '0')))\n"
)


@pytest.mark.parametrize("loss_scale, scale", [("dynamic", 8192.0), (1024, 1024.0)])
def test_saturation_mode_reads_the_register(adapter, scenario, loss_scale, scale):
    if adapter.real:
        pytest.skip("the overflow is injected into the fake's register")
    environment = {"FAKE_ASCEND_PRODUCT": "910A", "FAKES": os.path.join(HERE, "fakes"), "OVERFLOWS_ON_0": "2"}
    environment["ARGUMENTS"] = json.dumps({"loss_scale": loss_scale})
    (value,) = scenario(SATURATED + TRAIN, env=environment)
    assert (value["scale"], value["skipped"], value["iterations"]) == (scale, 2, 4), "finite gradients, and yet skipped"


def kinds(adapter, ranks):
    return [[(entry["kind"], entry["shape"]) for entry in adapter.collectives(rank)] for rank in range(ranks)]


def all_reduces(collectives):
    return [entry for entry in collectives if "reduce" in entry[0].lower()]


@pytest.mark.parametrize("product", ["A2", "910A"])
@pytest.mark.parametrize("loss_scale", ["dynamic", 1024, None])
def test_every_rank_takes_part_in_every_collective_under_inf(adapter, scenario, product, loss_scale):
    if adapter.real:
        pytest.skip("collectives are counted by the fakes")
    environment = {"FAKE_ASCEND_PRODUCT": product, "FAKES": os.path.join(HERE, "fakes")}
    environment["ARGUMENTS"] = json.dumps({"loss_scale": loss_scale})
    # On the A2 rank 1 meets Inf in its second step; on the 910A its register tells, the gradients stay finite.
    environment["INF_ON_RANK" if product == "A2" else "OVERFLOWS_ON_1"] = "1"
    first, second = scenario(SATURATED + TRAIN, ranks=2, env=environment)
    counted = kinds(adapter, 2)
    assert counted[0] == counted[1], "the same collectives in the same order"
    status = 4 if product == "910A" and loss_scale is not None else 0
    assert len(all_reduces(counted[0])) == 4 * TRAINABLES + status, "one a gradient and step, one a float status"
    assert (first["scale"], first["skipped"]) == (second["scale"], second["skipped"])
    if loss_scale is not None:
        assert first["skipped"] == 1
        assert first["weights"][0] == second["weights"][0]
        assert np.isfinite(first["weights"][0]).all()


def test_ranks_start_from_the_weights_of_rank_zero(adapter, scenario):
    text = TRAIN.replace(
        "    optimizer =",
        "    model.set_weights([w + int(os.environ['RANK_ID']) for w in model.get_weights()])\n    optimizer =",
    )
    first, second = scenario(text, ranks=2)
    assert first["weights"] == second["weights"]
    if not adapter.real:
        broadcasts = [[e["shape"] for e in adapter.collectives(r) if "broadcast" in e["kind"].lower()] for r in (0, 1)]
        assert broadcasts[0] == broadcasts[1]
        assert broadcasts[0][:8] == [[3, 4], [4], [4], [4], [4], [4], [4, 1], [1]], "all variables, in list order"


UNBUILT = """
class Sub(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
    def call(self, inputs):
        return self.dense(inputs)

tf.compat.v1.set_random_seed(int(os.environ["RANK_ID"]))
with NPUTrainer("npu") as trainer:
    model = Sub() if os.environ["KIND"] == "subclass" else keras.Sequential([keras.layers.Dense(1)])
    trainer.compile(model, keras.optimizers.SGD(0.01), "mse")
    trainer.fit(model, X, Y, batch_size=2, shuffle=False, verbose=0)
    result(weights=[w.tolist() for w in model.get_weights()])
"""


@pytest.mark.parametrize("kind", ["subclass", "sequential"])
def test_models_without_weights_start_equal_too(scenario, kind):
    first, second = scenario(UNBUILT, ranks=2, env={"KIND": kind})
    assert first["weights"] == second["weights"]


def test_ranks_without_a_table_are_refused(adapter):
    (alone,) = adapter.run(PRELUDE + "NPUTrainer('npu')", env={"RANK_SIZE": 2, "RANK_ID": 0, "RANK_TABLE_FILE": None})
    assert alone.returncode != 0
    assert "2 ranks find each other by a rank table. Received: RANK_TABLE_FILE=''" in alone.stderr


def test_compiling_again_reduces_once(adapter, scenario):
    if adapter.real:
        pytest.skip("collectives are counted by the fakes")
    again = TRAIN.replace("    x = X", "    trainer.compile(model, model.optimizer, 'mse')\n    x = X")
    scenario(again, ranks=2, env={"ARGUMENTS": json.dumps({"loss_scale": "dynamic"})})
    assert len(all_reduces(kinds(adapter, 1)[0])) == 4 * TRAINABLES


def test_saved_model_loads_without_adapter_and_library(adapter, scenario, tmp_path):
    path = str(tmp_path / "model.h5")
    save = TRAIN.replace("    result(", "    trainer.save(model, os.environ['FILE'])\n    result(")
    (value,) = scenario(save, env={"FILE": path, "ARGUMENTS": json.dumps({"loss_scale": "dynamic"})})
    plain = (
        "import json, os, tensorflow as tf\n"
        "model = tf.keras.models.load_model(os.environ['FILE'])\n"
        "print('RESULT ' + json.dumps(dict(weights=[w.tolist() for w in model.get_weights()],"
        " optimizer=type(model.optimizer).__name__, slots=len(model.optimizer.get_weights()))))\n"
    )
    loaded = adapter.run_one(plain, env={"FILE": path, "PYTHONPATH": None})
    assert loaded["weights"] == value["weights"]
    assert loaded == dict(weights=value["weights"], optimizer="SGD", slots=TRAINABLES + 1)


# --- npu_bridge -------------------------------------------------------------------------------------------------


def test_session_config_entry_by_entry(tf115, scenario, tmp_path):
    mixlist = tmp_path / "mix.json"
    mixlist.write_text('{"black-list": {"to-add": ["Conv2D"]}}')
    arguments = dict(
        precision_mode="allow_mix_precision",
        deterministic=True,
        hcom_parallel=False,
        mixlist=str(mixlist),
        overflow_dump=str(tmp_path),
        options={"op_execute_timeout": 600, "jit_compile": "false"},
    )
    (value,) = scenario(
        """
with NPUTrainer("npu", **json.loads(os.environ["ARGUMENTS"])) as trainer:
    model = small()
    config = keras.backend.get_session()._config
    rewrite = config.graph_options.rewrite_options
    (entry,) = rewrite.custom_optimizers
    model.compile("sgd", "mse"); model.fit(X, Y, verbose=0)
    result(
        name=entry.name, remapping=rewrite.remapping, memory=rewrite.memory_optimization,
        jit=config.graph_options.optimizer_options.global_jit_level,
        soft=config.allow_soft_placement, log=config.log_device_placement,
        parameters={
            key: [value.WhichOneof("value"), getattr(value, value.WhichOneof("value"))]
            for key, value in entry.parameter_map.items()
        },
        others=[rewrite.constant_folding, rewrite.arithmetic_optimization, rewrite.disable_model_pruning],
        kept=keras.backend.get_session() is trainer.backend._session,
    )
""",
        env={"ARGUMENTS": json.dumps(arguments)},
    )
    assert value["name"] == "NpuOptimizer"
    assert (value["remapping"], value["memory"], value["jit"]) == (2, 2, -1)
    assert (value["soft"], value["log"]) == (True, False)
    assert value["others"] == [0, 0, False], "left to TensorFlow's defaults"
    assert value["kept"] is True
    assert value["parameters"] == {
        "use_off_line": ["b", True],
        "precision_mode": ["s", "b'allow_mix_precision'"],
        "deterministic": ["i", 1],
        "hcom_parallel": ["b", False],
        "modify_mixlist": ["s", "b'{}'".format(mixlist)],
        "enable_dump_debug": ["b", True],
        "dump_path": ["s", "b'{}'".format(tmp_path)],
        "op_execute_timeout": ["i", 600],
        "jit_compile": ["s", "b'false'"],
    }


def test_a_config_with_npu_optimizer_is_completed(tf115, scenario):
    (value,) = scenario(
        """
base = tf.ConfigProto(inter_op_parallelism_threads=3)
entry = base.graph_options.rewrite_options.custom_optimizers.add()
entry.name = "NpuOptimizer"
entry.parameter_map["enable_data_pre_proc"].b = True
before = base.SerializeToString()
with NPUTrainer("npu", session_config=base, deterministic=True):
    config = keras.backend.get_session()._config
rewrite = config.graph_options.rewrite_options
result(
    count=len(rewrite.custom_optimizers), keys=sorted(rewrite.custom_optimizers[0].parameter_map),
    memory=rewrite.memory_optimization, remapping=rewrite.remapping, threads=config.inter_op_parallelism_threads,
    untouched=base.SerializeToString() == before,
)
"""
    )
    assert value == dict(
        count=1,
        keys=["deterministic", "enable_data_pre_proc", "use_off_line"],
        memory=2,
        remapping=2,
        threads=3,
        untouched=True,
    )


def test_job_id_is_defaulted_and_kept(tf115, scenario):
    text = "NPUTrainer('npu'); result(job=os.environ['JOB_ID'])"
    assert scenario(text, env={"JOB_ID": None}) == [{"job": "ascend_keras"}]
    assert scenario(text, env={"JOB_ID": "mine"}) == [{"job": "mine"}]


def test_adapter_is_imported_only_when_chosen(tf115, scenario):
    (value,) = scenario(
        "NPUTrainer('host'); from ascend_keras import backends; backends.availability()\n"
        "result(imported='npu_bridge' in sys.modules)"
    )
    assert value == {"imported": False}


def test_session_is_closed_at_the_end(tf115, scenario):
    (value,) = scenario(
        """
with NPUTrainer("npu") as trainer:
    session = keras.backend.get_session()
try:
    session.run(tf.constant(1))
except RuntimeError as error:
    result(error=str(error))
"""
    )
    assert "closed" in value["error"]


def test_a_replaced_session_is_noticed(tf115, scenario):
    (value,) = scenario(
        """
trainer = NPUTrainer("npu")
keras.backend.clear_session()
model = trainer.compile(small(), "sgd", "mse")
try:
    trainer.fit(model, X, Y, verbose=0)
except RuntimeError as error:
    result(error=str(error))
"""
    )
    assert "no longer runs in the NPU's session" in value["error"]


def test_use_off_line_false_and_cm_mode_are_refused(tf115):
    (off,) = tf115.run(PRELUDE + "NPUTrainer('npu', options={'use_off_line': False})")
    assert "use_off_line=False" in off.stderr and 'backend="host"' in off.stderr and off.returncode != 0
    cm = {"CM_WORKER_SIZE": 2, "CM_CHIEF_IP": "127.0.0.1", "CM_CHIEF_PORT": 6000, "CM_CHIEF_DEVICE": 0}
    (ranks,) = tf115.run(PRELUDE + "NPUTrainer('npu')", env=cm)
    assert "Launch with a rank table" in ranks.stderr and ranks.returncode != 0


# --- npu_device -------------------------------------------------------------------------------------------------


def test_global_options_entry_by_entry(tf26, scenario, tmp_path):
    mixlist = tmp_path / "mix.json"
    mixlist.write_text('{"black-list": {"to-add": ["Conv2D"]}}')
    arguments = dict(
        precision_mode_v2="mixed_float16",
        deterministic=True,
        hcom_parallel=False,
        mixlist=str(mixlist),
        dump=dict(path=str(tmp_path), step="0|5", mode="all"),
        profiling=str(tmp_path),
        options={"jit_compile": "false", "optimization_switch": "a:on", "static_memory_policy": 2},
    )
    (value,) = scenario(
        """
trainer = NPUTrainer("npu", **json.loads(os.environ["ARGUMENTS"]))
import npu_device
options = npu_device.global_options()
def read(path):
    value = options
    for part in path.split("."):
        value = getattr(value, part)
    return value.value
paths = ["precision_mode_v2", "deterministic", "hcom_parallel", "modify_mixlist", "dump_config.enable_dump",
         "dump_config.dump_path", "dump_config.dump_step", "dump_config.dump_mode", "profiling_config.enable_profiling",
         "jit_compile", "optimization_switch", "memory_config.static_memory_policy", "precision_mode"]
result(read={p: read(p) for p in paths}, profile=read("profiling_config.profiling_options"))
""",
        env={"ARGUMENTS": json.dumps(arguments)},
    )
    assert {path: str(text) for path, text in value["read"].items()} == {
        "precision_mode_v2": "mixed_float16",
        "deterministic": "1",
        "hcom_parallel": "0",
        "modify_mixlist": str(mixlist),
        "dump_config.enable_dump": "1",
        "dump_config.dump_path": str(tmp_path),
        "dump_config.dump_step": "0|5",
        "dump_config.dump_mode": "all",
        "profiling_config.enable_profiling": "1",
        "jit_compile": "false",
        "optimization_switch": "a:on;",
        "memory_config.static_memory_policy": "2",
        "precision_mode": "None",
    }
    assert json.loads(value["profile"])["output"] == str(tmp_path)


def test_device_is_opened_with_the_options_and_made_default(tf26, scenario):
    (value,) = scenario(
        """
trainer = NPUTrainer("npu", deterministic=True)
import npu_device
from npu_device.npu_device import global_npu_ctx
result(name=global_npu_ctx().name(), deterministic=str(npu_device.global_options().deterministic.value))
""",
        env={"ASCEND_DEVICE_ID": "3"},
    )
    assert "3" in value["name"]
    assert value["deterministic"] == "1"
    if not tf26.real:
        (opened,) = tf26.events("open", rank=3)  # the fakes name their records after the device
        assert opened["device_id"] == 3
        assert opened["options"]["deterministic"] == "1", "set before the device was opened"


def test_the_device_stays_open_and_its_options_with_it(tf26, scenario):
    (value,) = scenario(
        """
losses = []
for _ in range(2):
    with NPUTrainer("npu") as trainer:
        model = trainer.compile(small(), "sgd", "mse")
        losses.append(trainer.fit(model, X, Y, verbose=0).history["loss"])
try:
    NPUTrainer("npu", options={"hcom_parallel": False})
except RuntimeError as error:
    result(losses=losses, error=str(error))
"""
    )
    assert len(value["losses"]) == 2
    assert "hcom_parallel=False (was None)" in value["error"]


CM = {"RANK_SIZE": None, "RANK_ID": None, "RANK_TABLE_FILE": None, "CM_WORKER_SIZE": 2, "CM_CHIEF_IP": "127.0.0.1"}
CM.update({"CM_CHIEF_PORT": 6000, "CM_CHIEF_DEVICE": 0})


def test_ranks_of_a_cm_launch_are_those_of_the_runtime(tf26, scenario, tmp_path):
    text = """
ids = []
def data(context):
    ids.append(context.input_pipeline_id)
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
with NPUTrainer("npu", loss_scale=None) as trainer:
    model = trainer.compile(small(), "sgd", "mse")
    trainer.fit(model, data, verbose=0)
    path = trainer.save(model, os.path.join(os.environ["FOLDER"], "rank%s.npz" % os.environ["ASCEND_DEVICE_ID"]))
    result(rank=trainer.settings.cluster.rank, ids=ids, saved=os.path.exists(path))
"""
    values = scenario(text, ranks=2, env=dict(CM, FOLDER=str(tmp_path)))
    assert values == [dict(rank=0, ids=[0], saved=True), dict(rank=1, ids=[1], saved=False)]


WRAPPED_BY_THE_USER = TRAIN.replace(
    "    trainer.compile(",
    "    import npu_device\n"
    "    optimizer = npu_device.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)\n    trainer.compile(",
)


def test_a_script_that_wraps_by_itself_reduces_once(tf26, scenario):
    if tf26.real:
        pytest.skip("collectives are counted by the fakes")
    scenario(WRAPPED_BY_THE_USER, ranks=2, env={"ARGUMENTS": json.dumps({"loss_scale": "dynamic"})})
    assert len(all_reduces(kinds(tf26, 1)[0])) == 4 * TRAINABLES


def test_a_file_of_the_host_goes_on_training_on_the_npu(adapter, scenario, tmp_path):
    path = str(tmp_path / "model.h5")
    save = TRAIN.replace('NPUTrainer("npu"', 'NPUTrainer("host"').replace(
        "    result(", "    trainer.save(model, PATH)\n    result("
    )
    environment = {"ARGUMENTS": json.dumps({"loss_scale": "dynamic"})}
    scenario("PATH = {!r}\n".format(path) + save, env=environment)
    load = TRAIN.replace(
        "    trainer.compile(model, optimizer",
        "    model = keras.models.load_model(PATH)\n    trainer.compile(model, model.optimizer",
    )
    (value,) = scenario("PATH = {!r}\n".format(path) + load, env=environment)
    assert (value["iterations"], value["scale"], value["skipped"]) == (8, 32768.0, 0)


LOOP = """
with NPUTrainer("npu") as trainer:
    model = trainer.compile(small(), "sgd", "mse", steps_per_execution=int(os.environ["STEPS"]))
    try:
        history = trainer.fit(model, X, Y, batch_size=2, epochs=2, shuffle=False, verbose=0, validation_data=(X, Y))
        result(losses=len(history.history["loss"]), weights=[w.tolist() for w in model.get_weights()])
    except ValueError as error:
        result(error=str(error))
"""


def test_loop_size_follows_steps_per_execution(tf26, scenario):
    (by_one,), (by_two,) = scenario(LOOP, env={"STEPS": 1}), scenario(LOOP, env={"STEPS": 2})
    assert by_one["losses"] == by_two["losses"] == 2
    for one, two in zip(by_one["weights"], by_two["weights"]):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_steps_that_do_not_divide_are_refused(tf26, scenario):
    (value,) = scenario(LOOP, env={"STEPS": 3})
    assert "must be a multiple of 3" in value["error"]
    assert "test steps=4, train steps=4" in value["error"]


def test_steps_are_counted_as_keras_cuts(tf26, scenario):
    fit = """
with NPUTrainer("npu") as trainer:
    model = trainer.compile(small(), "sgd", "mse", steps_per_execution=2)
    other = trainer.compile(small(), "sgd", "mse")
    errors = []
    for arguments in (dict(validation_split=0.25), dict(validation_data=(X, Y), validation_batch_size=8),
                      dict(validation_split=0.5)):
        try:
            trainer.fit(model, X, Y, batch_size=2, verbose=0, **arguments)
            errors.append("")
        except ValueError as error:
            errors.append(str(error))
    predicted = trainer.predict(model, X, batch_size=2)
    result(errors=errors, predicted=len(predicted), ok=trainer.evaluate(model, X, Y, batch_size=2, verbose=0))
"""
    (value,) = scenario(fit)
    assert "test steps=1, train steps=3" in value["errors"][0]
    assert "test steps=1" in value["errors"][1]
    assert value["errors"][2] == "", "the model compiled last has no say in it"
    assert value["predicted"] == 8


def test_an_option_this_release_lacks_is_named(tf26, scenario):
    (value,) = scenario(
        """
from ascend_keras.backends.npu_device import apply_global_options
import npu_device
try:
    apply_global_options(npu_device.global_options(), [("precision_mode", "force_fp16"), ("invented", 1)])
except RuntimeError as error:
    result(error=str(error))
"""
    )
    assert "invented=1:" in value["error"] and "precision_mode='force_fp16':" not in value["error"]
