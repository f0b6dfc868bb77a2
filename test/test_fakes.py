"""The fakes against the recorded facts: "behaviour n.m" is item m of section n there, "contract n" a section."""

import pathlib

import harness
import pytest

SCENARIOS = pathlib.Path(__file__).resolve().parent / "fakes" / "scenarios"


@pytest.fixture
def bridge(adapter):
    """The TF 1.15 fake."""
    return _only(adapter, "npu_bridge")


@pytest.fixture
def device(adapter):
    """The TF 2.6 fake."""
    return _only(adapter, "npu_device")


def _only(adapter, name):
    if adapter.name != name:
        pytest.skip("This TensorFlow belongs to {}, not to {}.".format(adapter.name, name))
    if adapter.real:
        pytest.skip("Tests of the fakes themselves.")
    return adapter


def scenario(name):
    return str(SCENARIOS / (name + ".py"))


# --- TF 1.15 ----------------------------------------------------------------------------------------------------


INVALID, INTERNAL, ABORT, OK = "InvalidArgumentError", "InternalError", "SIGABRT", "ok"


def test_bridge_checks_options_at_the_first_run(bridge):
    """Behaviour 2.24 and the native checks of the option table."""
    assert bridge.run_one(scenario("bridge_options")) == {
        "precision_mode": INVALID,
        "precision_mode_v2": INVALID,
        "both precision modes": INTERNAL,
        "precision_mode as int": INVALID,
        "jit_compile value": INVALID,
        "jit_compile as bool": INVALID,
        "shape_generalization_mode as int": INVALID,
        "aoe_mode": INTERNAL,
        "aoe_mode without folder": ABORT,
        "dump without path": INTERNAL,
        "dump with missing path": INTERNAL,
        "dump with both modes": OK,
        "dump_step": INTERNAL,
        "dump_mode": ABORT,
        "dump_mode unused": OK,
        "mixlist alone": INTERNAL,
        "mixlist with wrong mode": INTERNAL,
        "mixlist with mixed mode": OK,
        "graph_run_mode": ABORT,
        "op_select_implmode": ABORT,
        "optypelist alone": ABORT,
        "buffer_optimize": ABORT,
        "variable_placement": ABORT,
        "iterations_per_loop": ABORT,
        "session_device_id": ABORT,
        "dynamic triple": ABORT,
        "compress pair": ABORT,
        "enable_exception_dump": INTERNAL,
        "export_compile_stat": INVALID,
        "export_compile_stat as text": OK,
        "unknown key": OK,
        "deterministic": OK,
        "hcom_parallel as int": OK,
        "oo_level": OK,
        "profiling alone": OK,
        "stream_max_parallel_num": OK,
    }


def test_bridge_sessions(bridge):
    """Contract 3.1, 3.2; behaviour 1(b), 2.20, 2.21, 2.24."""
    seen = bridge.run_one(scenario("bridge_sessions"))
    off, manual = 2, 2
    assert seen["session from before"] is False
    assert seen["session of nobody"] == [["NpuOptimizer", []]]
    assert (seen["memory when it adds"], seen["memory when it is there"]) == (manual, 0)
    assert seen["remapping when it is there"] == off
    assert seen["first"] == [True, ["typo"], "mixed_float16", 1, False, "O3"]
    assert seen["second"] == ["mixed_float16", True]
    assert seen["ignored"] == ["deterministic", "precision_mode_v2"]
    assert (seen["use_off_line false"], seen["use_off_line as int"], seen["job ps"]) == (False, False, False)
    assert seen["text for bytes"].startswith("TypeError")
    assert seen["keras session"] is True
    assert seen["after clear_session"] == [["NpuOptimizer", []]]
    assert seen["after npu_clear_session"] == [["NpuOptimizer", ["oo_level"]]]
    assert seen["proto is the caller's"] is True
    assert seen["tuple of callbacks"] == 1
    assert "_global_dict" in seen["rank before init_resource"]
    assert "get rank id error" in seen["rank api before init"]
    assert seen["ranks"] == [0, 1, 0, 1]
    assert "error" in seen["rank api after close"]
    assert seen["cached rank after close"] == 0
    assert seen["profiling"].startswith("ValueError: profiling_options")
    assert seen["gen ops"] is True
    assert seen["device op on the host"].startswith("InvalidArgumentError")
    assert seen["status"] == [0] * 8
    assert seen["closed"] == [True]
    assert seen["two sizes"].startswith("ValueError")


def test_bridge_optimizers(bridge):
    """Contract 3.3, 3.4; behaviour 2.13, 2.15, 2.16, 2.21, 2.26."""
    seen = bridge.run_one(scenario("bridge_optimizers"))
    assert seen["alone"] == [0, 0.5]
    assert seen["wrapper of a name"] == "SGD"
    assert seen["keras wrapper and schedule"] == 'ValueError: Optimizer must have a "lr" attribute.'
    assert seen["keras wrapper of a name"].startswith("AttributeError: 'str' object has no attribute 'get_gradients'")
    assert seen["keras wrapper config"] == "SGD"
    assert seen["scaler of a keras optimizer"].startswith("AttributeError")
    assert "compute_gradients" in seen["scaler of a keras optimizer"]
    assert seen["scaler name"] == "NPULossScaleOptimizermodule"
    assert seen["scaler with exponential manager"].startswith("FailedPreconditionError")
    assert seen["scale below 1"] == "ValueError: loss scale must be at least 1."
    assert seen["size was read when wrapping"] == ["no error", 0]
    assert seen["no job id"] == "AttributeError: 'NoneType' object has no attribute '_rank_size'"
    assert seen["float64"].startswith("TypeError")
    assert "float64" in seen["float64"]
    assert seen["reduction mean"].startswith("ValueError")
    assert seen["broadcast of a tensor"].startswith("TypeError")
    assert seen["gather of a scalar"].startswith("ValueError")
    assert seen["dropout float64"].startswith("TypeError")
    assert seen["dropout keep 0"].startswith("ValueError")


def test_bridge_float_status_and_loss_scale(bridge):
    """Contract 3.4, 7.4; behaviour 2.16: register, blind finite test, skipped step, scale trajectory."""
    seen = bridge.run_one(scenario("bridge_overflow"), env={"FAKE_ASCEND_PRODUCT": "910A"})
    assert (seen["inf_nan"], seen["inf_nan after asking for it"]) == (False, False)
    assert seen["shape"] == ["int32", [8], "Operation"]
    assert (seen["clean"], seen["until cleared"], seen["cleared"]) == (0, [1, 1], 0)
    assert seen["inf through the device"] == [1]
    assert seen["finite test is blind"] is True
    # Scale 8, doubled after two good steps, halved by the bad one, which neither applies nor counts.
    assert seen["training"] == [[8.0, 0.5, 1], [16.0, 0.0, 2], [8.0, 0.0, 2], [8.0, -0.5, 3]]


def test_bridge_two_ranks(bridge):
    """Contract 3.3; behaviour 2.2, 2.12, 2.14: who reduces what, how often."""
    ranks = [result.value for result in bridge.run(scenario("bridge_ranks"), ranks=2, env={"JOB_ID": "job"})]
    assert None not in ranks
    # y = w.x with w = 1, target 0: dL/dw_i = 2 * (2x) * x, so 4 on rank 0 (x=1) and 16 on rank 1 (x=2); mean 10.
    for rank, seen in enumerate(ranks):
        assert seen["once"] == [1, [[[pytest.approx(0.0, abs=1e-6)], [pytest.approx(0.0, abs=1e-6)]]]]
        assert seen["twice"][0] == 2
        assert seen["twice"][1] == seen["once"][1]
        # Equal directions here, so clip-then-average gives 0.01 / sqrt(2) in each component.
        assert seen["clipnorm"][1][0][0] == [pytest.approx(1 - 0.01 / 2**0.5, abs=1e-6)]
        assert seen["callback on a fresh model"] == [0, [[[float(rank)], [float(rank)]]]]
        assert seen["callback after get_session"][0] >= 1
        assert seen["callback after get_session"][1] == [[[0.0], [0.0]]]
        # Word 0 on rank 0, word 1 on rank 1, gradient 2 each: two gathers, mean, rate 0.1.
        assert seen["embedding"] == [2, [[[pytest.approx(0.9)], [pytest.approx(0.9)], [1.0]]]]
        assert seen["broadcast from 1"] == [1.0, 1.0]
        assert seen["rank"] == [rank, 2, rank]
    kinds = [entry["kind"] for entry in bridge.collectives(0)]
    assert kinds.count("HcomAllGather") == 2
    assert kinds == [entry["kind"] for entry in bridge.collectives(1)]


@pytest.mark.parametrize(
    "case, text",
    [("shape", "mismatch in HcomAllReduce"), ("length", "mismatch in HcomAllGather"), ("steps", "HCCL timeout")],
)
def test_bridge_ranks_that_do_not_fit(bridge, case, text):
    """Behaviour 2.3, 2.12: different shapes, lengths or numbers of steps."""
    results = bridge.run(scenario("bridge_mismatch"), ranks=2, args=[case], env={"FAKE_ASCEND_TIMEOUT": "2"})
    assert text in results[1].value
    assert ("no error" if case == "steps" else text) in results[0].value


def test_bridge_without_its_library(bridge):
    """Contract 2: the loader error is printed, the name that is missing fails the import."""
    (result,) = bridge.run("import npu_bridge.npu_init", env={"FAKE_ASCEND_BROKEN": "1"})
    assert result.returncode == 1
    assert "cannot open shared object file" in result.stdout
    assert "cannot import name 'npu_bridge_handle'" in result.stderr


# --- TF 2.6 -----------------------------------------------------------------------------------------------------


def test_device_options(device):
    """Contract 4.2; behaviour 2.23."""
    seen = device.run_one(scenario("device_options"))
    assert seen["read"] == ["OptionValue", None, "1"]
    assert seen["unknown"] == "ValueError"
    assert seen["outside the list"] == "ValueError"
    assert seen["in the list"] == "allow_mix_precision"
    assert seen["back to None"] == "ValueError"
    assert seen["both precision modes"] == "fp16"
    assert seen["jit_compile bool"] == "TypeError"
    assert seen["wrong type without default"] == "ValueError"
    assert seen["deterministic True"] == "1"
    assert seen["enable_small_channel 1"] == "1"
    assert seen["free option"] == ["ValueError", "{'a': 1}"]
    assert seen["free option to None"] is None
    assert seen["aoe_mode int"] == "ValueError"
    assert seen["graph_slice manual"] == "ValueError"
    assert seen["dump without path"] == "1"
    assert seen["flat"] == {
        "enable_dump": "1",
        "dump_mode": "output",
        "hcom_parallel": "1",
        "dump_path": None,
        "precision_mode": "allow_mix_precision",
        "input_fusion_size": "131072",
        "work_path": "./",
    }
    assert seen["group"] == ["3", "None"]
    assert seen["after the group is gone"] is False
    assert seen["count"] == 34 + 2  # 34 options have a default, two were set


def test_device_open(device):
    """Contract 4.1, 4.3, 7.4; behaviour 2.6, 2.11, 2.19, 2.21, 2.22, 2.26."""
    seen = device.run_one(scenario("device_open"))
    for case in ("nothing", "both modes", "no rank", "no port", "bad table", "no card"):
        assert seen[case].startswith("RuntimeError: "), case
    assert seen["both sizes"].startswith("ValueError")
    assert "EI0004" in seen["bad table"]
    assert "Failed open npu device 0" in seen["no card"]
    assert "get rank id error" in seen["rank before open"]
    assert seen["rank"] == 0
    assert seen["same"] is True
    assert seen["other id"].startswith("RuntimeError")
    assert seen["frozen"] == ["mixed_float16"]
    assert seen["handle"] == ["/job:localhost/replica:0/task:0/device:NPU:0", 1, 0, False]
    assert seen["default before"] is True
    assert seen["as_default"] is True
    assert seen["old variable"].startswith("FailedPreconditionError")
    assert "_AnonymousVar" in seen["old variable"]
    assert (seen["new variable"], seen["scope"]) == (3.0, 1.0)
    assert seen["outside of a cluster"] == [3, ["data", 7]]
    assert seen["top level"] == [False, False]
    assert seen["dropout rate 1"].startswith("ValueError")
    assert "TypeError" in seen["dropout float64"]
    assert seen["eager dropout float64"] == "no error"
    assert seen["dropout values"] == [0.0, 1.3333]
    assert seen["nested, without XLA"] == [2]
    assert seen["finite test is blind"] is True
    assert seen["finite test sees"] is True
    assert [seen["fit 1/1"], seen["fit 2/2"], seen["fit 1/2"]] == ["no error"] * 3
    for case in ("fit 2/1", "fit 2/4", "fit 3/3"):
        assert "stall: the loop of train_function" in seen[case], case
    assert len(device.events("stall")) == 3


def test_device_two_ranks(device):
    """Contract 4.4; behaviour 2.1, 2.5, 2.6, 2.14, 2.18, 2.19."""
    ranks = [result.value for result in device.run(scenario("device_ranks"), ranks=2)]
    assert None not in ranks
    for rank, seen in enumerate(ranks):
        assert seen["before as_default"] == seen["opened only"] == float(rank)
        # As on TF 1.15: dL/dw_i is 4 and 16, the mean 10.
        assert seen["once"] == [1, [[pytest.approx(0.0, abs=1e-6)] * 2]]
        assert seen["twice"] == 2
        # Averaged first, then clipped to norm 0.01.
        assert seen["clipnorm"] == [1, [[pytest.approx(1 - 0.01 / 2**0.5, abs=1e-6)] * 2]]
        assert seen["callback"] == [0, [[float(rank)] * 2]]
        # The root asked for was 1; it is dropped, and the moving mean is not trainable.
        assert seen["broadcast_keras_model"] == {
            "kernel:0": [0.0, 0.0],
            "beta:0": [0.0],
            "gamma:0": [1.0],
            "moving_mean:0": [float(rank)],
            "moving_variance:0": [1.0],
        }
        assert seen["broadcast from 1"] == 1.0
        assert seen["mean of ints"] == ["float64", 1.5, None]
        assert seen["shard"] == [[rank, rank + 2], 3]
        assert "divisible" in seen["uneven batch"]
        assert seen["loaded"] == 0
        assert seen["handle"] == [2, rank, True]


@pytest.mark.parametrize("order, mode", [("D(L)", "INF/NAN"), ("D(L)", "saturation"), ("L(D)", "saturation")])
def test_device_overflow_on_one_rank(device, order, mode):
    """Contract 4.5; behaviour 2.10: these orders skip the step on both ranks."""
    results = device.run(scenario("device_overflow"), ranks=2, args=[order, mode])
    for result in results:
        assert result.returncode == 0, result.stderr[-2000:]
        assert result.value["error"] is None
        # Weight falls by 0.5 a step, but for step 2, where the scale is halved and iterations advance.
        assert result.value["steps"] == [[0.5, 8.0, 1], [0.5, 4.0, 2], [0.0, 4.0, 3], [-0.5, 4.0, 4]]
        assert result.value["last_step_finite"] is (mode == "saturation")
    counts = [len(device.collectives(rank)) for rank in (0, 1)]
    # One gradient a step; in saturation mode also the status; L(D) does not reduce the gradient of the step it skips.
    assert counts == [{"INF/NAN": 4, "saturation": 8 if order == "D(L)" else 7}[mode]] * 2


@pytest.mark.parametrize("order", ["L(D)", "stock L(D)", "policy"])
def test_device_skipped_collective(device, order):
    """Contract 4.5; behaviour 2.9, 2.10: the rank that saw Inf leaves out its all-reduce, its peer waits in vain."""
    env = {"FAKE_ASCEND_TIMEOUT": "4"}
    results = device.run(scenario("device_overflow"), ranks=2, args=[order, "INF/NAN"], env=env)
    assert results[0].value["optimizer"] == "NpuLossScaleOptimizer" or order != "L(D)"
    assert results[0].value["error"] is None
    assert results[0].value["steps"][1][0] == 0.5
    assert "InternalError" in results[1].value["error"]
    assert "HCCL timeout" in results[1].value["error"]
    assert [len(device.collectives(rank)) for rank in (0, 1)] == [3, 4]
    assert device.events("hccl_timeout", rank=1)[0]["waited_for"] == 0


# --- any TensorFlow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["npu_bridge", "npu_device"])
def test_import_on_another_tensorflow(name, tmp_path):
    """Contract 2: an adapter imports on its own TensorFlow only."""
    tf = pytest.importorskip("tensorflow")
    (result,) = harness.Adapter(name, False, tmp_path).run("import {}".format(name))
    if harness.adapter_of(tf.__version__) == name:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode == 1
        assert "ImportError" in result.stderr


def test_device_without_its_library(device):
    (result,) = device.run("import npu_device", env={"FAKE_ASCEND_BROKEN": "1"})
    assert result.returncode == 1
    assert "ImportError: libge_runner.so" in result.stderr
