"""The sum over ranks that callbacks use: its bits, its collectives, and how callbacks get it.

What is sent is the float64 itself, so every expected number is NumPy's own sum in rank order, to the bit; an exactly
rounded sum (math.fsum) checks that order of addition from outside.
"""

import hashlib
import inspect
import math

import numpy as np
import pytest

from ascend_keras import NPUTrainer, backends, compat
from ascend_keras.backends import npu_options
from ascend_keras.backends.base import Backend, Settings, add_in_order
from ascend_keras.compat import keras
from ascend_keras.distributed.cluster import Cluster

# Keras 3 compiles with XLA by default, which takes longer than the training here.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


def vectors(rank):
    """What each rank brings, in the order of the calls; runs in the ranks and in the test."""
    random = np.random.RandomState(rank)
    digits = random.randn(257) * 10.0 ** random.randint(-12, 12, 257)
    return [
        ("digits", digits),
        ("counts", np.array([2**24 + 1, 2**40 + rank, 7 * rank, 2**51 + 1], "int64")),
        # The last bit of a float64 and one in its middle: neither float32 nor two of them (48 bits) hold this number.
        ("last place", np.array([[1.0 + 2.0**-24 + 2.0**-52, -1.0, 0.0][rank]])),
        ("beyond float32", np.array([1e300, 5e-324, -1e-310, 1.7e308, 2.0**-1074 * rank])),
        ("special", np.array([[1.0, np.nan][rank == 1], [np.inf, -np.inf][rank % 2], [-np.inf, 1.0][rank > 0], -0.0])),
        ("empty", np.array([])),
        ("long", random.randn(100003)),
        ("digits again", 2 * digits),
    ]


def expected(ranks):
    """Name to float64 sum in rank order."""
    sums = {}
    for entries in zip(*[vectors(rank) for rank in range(ranks)]):
        total = entries[0][1].astype(np.float64)
        with np.errstate(all="ignore"):
            for _, vector in entries[1:]:
                total = total + vector
        sums[entries[0][0]] = np.where(np.isnan(total), np.nan, total)
    return sums


def digest(vector):
    """The bits of a float64 vector."""
    return hashlib.sha256(np.asarray(vector, np.float64).tobytes()).hexdigest()


PRELUDE = (
    "import hashlib, importlib, json, os, sys\nimport numpy as np\nimport tensorflow as tf\n"
    "from ascend_keras import NPUTrainer\nkeras = tf.keras\n\n"
    + inspect.getsource(vectors)
    + "\n\n"
    + inspect.getsource(digest)
)

SUMS = """
trainer = NPUTrainer("npu", precision_mode="force_fp16")
backend = trainer.backend
hccl_ops = importlib.import_module(
    {"npu_bridge": "npu_bridge.hccl.hccl_ops", "npu_device": "npu_device.distribute.hccl_ops"}[backend.name])
built, genuine = [], hccl_ops.allgather
def counted(tensor, *args, **kwargs):
    built.append(int(tensor.shape[0]))
    return genuine(tensor, *args, **kwargs)
hccl_ops.allgather = counted

seen = {"kinds": []}
for name, vector in vectors(int(os.environ.get("RANK_ID", "0"))):
    before = digest(vector)
    total = backend.sum_over_ranks(vector)
    seen[name] = digest(total)
    shared = np.may_share_memory(total, vector)
    seen["kinds"].append([str(total.dtype), list(total.shape), digest(vector) == before, shared])
    if len(total) < 10:
        seen["bits of " + name] = total.view(np.int64).tolist()
seen["built"] = built
print("RESULT " + json.dumps(seen))
"""


def run(adapter, text, ranks=1, **named):
    """The values of all ranks, and their collectives; every rank has to end well."""
    results = adapter.run(PRELUDE + text, ranks=ranks, **named)
    for rank, result in enumerate(results):
        assert result.returncode == 0, "rank {}:\n{}".format(rank, result.stderr[-3000:])
    fields = ("kind", "shape", "dtype", "reduction", "group", "size")
    recorded = [
        None if adapter.real else [{f: entry[f] for f in fields} for entry in adapter.collectives(rank)]
        for rank in range(ranks)
    ]
    return [result.value for result in results], recorded


ONE_RANK = """
class Noted(keras.callbacks.Callback):
    def set_ranks(self, reduce, is_main):
        seen.update(reduce=reduce, is_main=is_main)

model = trainer.compile(keras.Sequential([keras.layers.Dense(1, input_shape=(3,))]), "sgd", "mse")
trainer.fit(model, np.zeros((4, 3), "f"), np.zeros((4, 1), "f"), verbose=0, callbacks=[Noted()])
print("RESULT " + json.dumps(seen))
"""


@pytest.fixture(scope="module", params=[2, 3])
def sums(request, module_adapter):
    """(ranks, values, collectives) of one run that several tests read."""
    return (request.param,) + run(module_adapter, SUMS, ranks=request.param)


class TestOnTheAdapters:
    def test_sums_have_the_bits_of_float64_on_every_rank(self, sums):
        ranks, values, _ = sums
        wanted = expected(ranks)
        assert sorted(wanted) == sorted(name for name, _ in vectors(0))
        for name, total in wanted.items():
            assert [value[name] for value in values] == [digest(total)] * ranks, name

    def test_nothing_of_a_float64_is_lost(self, sums):
        """By hand, where float32, and high and low parts in float32, would give other numbers."""
        ranks, values, _ = sums
        total = {
            name: np.array(values[0]["bits of " + name], np.int64).view(np.float64)
            for name in ("counts", "last place", "beyond float32")
        }
        assert total["counts"].tolist() == [
            ranks * (2**24 + 1),
            ranks * 2**40 + sum(range(ranks)),
            7 * sum(range(ranks)),
            ranks * (2**51 + 1),
        ]
        assert total["last place"].tolist() == [2.0**-24 + 2.0**-52]
        huge = total["beyond float32"]
        assert huge[0] == ranks * 1e300 and huge[1] == ranks * 5e-324 and huge[3] == np.inf
        assert huge[4] == sum(range(ranks)) * 2.0**-1074

    def test_nan_inf_and_zero_arrive_as_such(self, sums):
        _, values, _ = sums
        total = np.array(values[0]["bits of special"], np.int64).view(np.float64)
        assert np.isnan(total[0]), "NaN of rank 1"
        assert np.isnan(total[1]), "Inf on rank 0 and -Inf on rank 1"
        assert total[2] == -np.inf
        assert total[3] == 0 and np.signbit(total[3])

    def test_result_is_a_float64_of_its_own(self, sums):
        _, values, _ = sums
        for value in values:
            assert value["kinds"] == [["float64", [len(vector)], True, False] for _, vector in vectors(0)]

    def test_one_gather_a_sum_the_same_on_every_rank(self, sums, module_adapter):
        if module_adapter.real:
            pytest.skip("collectives are counted by the fakes")
        ranks, _, recorded = sums
        gather = dict(kind="HcomAllGather", dtype="int32", reduction=None, group="hccl_world_group", size=ranks)
        lengths = [len(vector) for _, vector in vectors(0) if len(vector)]
        for rank in range(ranks):
            assert recorded[rank] == [dict(gather, shape=[2 * length]) for length in lengths], "8 bytes a number"

    def test_graph_is_built_once_a_length(self, sums):
        _, values, _ = sums
        for value in values:
            assert value["built"] == [2 * length for length in (257, 4, 1, 5, 100003)], "not again for 257"

    def test_one_rank_takes_no_collective(self, adapter):
        (value,), (recorded,) = run(adapter, SUMS + ONE_RANK)
        for name, total in expected(1).items():
            assert value[name] == digest(total)
        assert value["built"] == []
        assert (value["reduce"], value["is_main"]) == (None, True)
        assert not recorded

    def test_prepared_lengths_are_summed_and_others_refused(self, adapter):
        # The ranks of a real adapter may wait for one another until HCCL_EXEC_TIMEOUT.
        values, recorded = run(adapter, PREPARE, ranks=2, env={"UNEQUAL": "" if adapter.real else "1"})
        assert [value["sum"] for value in values] == [[4.0, 6.0, 8.0]] * 2
        if not adapter.real:
            assert [entries[0]["shape"] for entries in recorded] == [[6], [6]]
            assert ["mismatch in HcomAllGather" in value["unequal"] for value in values] == [True, True]
            assert [len(entries) for entries in recorded] == [2, 2], "the sum, and the one that failed"
        if adapter.name == "npu_bridge":
            for value in values:
                assert "The graph is finalised" in value["unprepared"]
                assert "Received: length=5. Call prepare_sum(5)" in value["unprepared"]
                assert "no longer runs in the NPU's session" in value["replaced"]

    def test_callbacks_of_a_fit_sum_between_its_reductions(self, adapter):
        values, recorded = run(adapter, FIT, ranks=2)
        for rank, value in enumerate(values):
            assert value["is_main"] is (rank == 0)
            assert value["is_sum"] is True
            # Ranks bring their number plus one; the epoch ends after the batches 0 and 1.
            assert value["batches"] == [3.0, 3.0] * 2
            assert value["epochs"] == [[3.0, 4.0, 0.0], [3.0, 4.0, 2.0]]
            assert value["logged"] == [3.0, 3.0]
        if not adapter.real:
            assert recorded[0] == recorded[1], "the same collectives in the same order"
            gathers = [entry["shape"] for entry in recorded[0] if entry["kind"] == "HcomAllGather"]
            # By their lengths, two words a number, apart from those of the trainer itself.
            assert (gathers.count([2 * 19]), gathers.count([2 * 17])) == (1 + 2, 4)

    def test_rank_of_a_cm_launch_reaches_the_callbacks(self, adapter):
        if adapter.name != "npu_device":
            pytest.skip("on TF 1.15 a CM_* launch is refused")
        cm = dict.fromkeys(["RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE"])
        cm.update(CM_WORKER_SIZE=2, CM_CHIEF_IP="127.0.0.1", CM_CHIEF_PORT=6000, CM_CHIEF_DEVICE=0)
        values, _ = run(adapter, FIT, ranks=2, env=cm)
        assert [value["is_main"] for value in values] == [True, False]
        assert [value["batches"] for value in values] == [[3.0] * 4] * 2


PREPARE = """
trainer = NPUTrainer("npu")
backend, seen = trainer.backend, {}
for length in (3, 4, 0):
    backend.prepare_sum(length)
if backend.name == "npu_bridge":
    tf.get_default_graph().finalize()
rank = int(os.environ["RANK_ID"])
seen["sum"] = backend.sum_over_ranks([1.0 + 2 * rank, 2.0 + 2 * rank, 3.0 + 2 * rank]).tolist()

def error_of(length):
    try:
        backend.sum_over_ranks(np.zeros(length))
    except (RuntimeError, tf.errors.InternalError) as error:
        return str(error)

if os.environ["UNEQUAL"]:
    seen["unequal"] = error_of(3 + rank)
if backend.name == "npu_bridge":
    seen["unprepared"] = error_of(5)
    keras.backend.clear_session()
    seen["replaced"] = error_of(3)
print("RESULT " + json.dumps(seen))
"""

FIT = """
from ascend_keras.backends.base import RankSum

seen = {}

class Summing(keras.callbacks.Callback):
    def set_ranks(self, reduce, is_main):
        self.reduce = reduce
        self.mine = 1.0 + int(os.environ["ASCEND_DEVICE_ID"])
        seen.update(is_main=is_main, is_sum=isinstance(reduce, RankSum), batches=[], epochs=[])

    def on_train_begin(self, logs=None):
        self.reduce(np.zeros(19))

    def on_batch_end(self, batch, logs=None):
        seen["batches"] += self.reduce([self.mine] * 17).tolist()[-1:]

    def on_epoch_end(self, epoch, logs=None):
        seen["epochs"].append(self.reduce([self.mine, 2, epoch] + [0] * 16).tolist()[:3])
        logs["summed"] = seen["epochs"][-1][0]

x = np.arange(24, dtype="float32").reshape(8, 3) / 24  # 4 rows a rank
with NPUTrainer("npu", loss_scale=None) as trainer:
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones", input_shape=(3,))])
    trainer.compile(model, keras.optimizers.SGD(0.1), "mse")
    history = trainer.fit(model, x, np.ones((8, 1), "f"), batch_size=2, epochs=2, shuffle=False, verbose=0,
                          callbacks=Summing())
print("RESULT " + json.dumps(dict(seen, logged=history.history["summed"])))
"""


# --- any TensorFlow ---------------------------------------------------------------------------------------------


class Ranks(Backend):
    """The backend of one rank whose peers' vectors the test knows."""

    name = "ranks"

    def __init__(self, vectors):
        super().__init__(Settings(npu_options.resolve({}), Cluster(size=len(vectors))))
        self.words = [np.array(vector, np.float64).view(np.int32) for vector in vectors]
        self.made = []
        self.sent = []

    def make_gather(self, count):
        self.made.append(count)

        def gather(words):
            self.sent.append((words.dtype.name, words.tolist()))
            return np.concatenate([entry[:count] for entry in self.words])

        return gather


class TestSum:
    @pytest.mark.parametrize("size", [2, 3, 8])
    def test_within_the_rounding_of_its_additions(self, size):
        random = np.random.RandomState(size)
        rows = random.randn(size, 1000) * 10.0 ** random.randint(-12, 12, (size, 1000))
        total = Ranks(rows).sum_over_ranks(rows[0])
        for column, value in zip(rows.T, total):
            # Each of size - 1 additions rounds once, by at most 2**-53 of what it has so far (Higham 2002, 4.2).
            error = abs(math.fsum(list(column) + [-value]))
            assert error <= (size - 1) * 2.0**-53 * math.fsum(abs(column)) * (1 + 1e-12)
            assert size > 2 or value == math.fsum(column), "of two numbers: the exact sum, rounded once"

    def test_adds_in_rank_order(self):
        small = 2.0**-53
        assert Ranks([[1.0], [small], [small]]).sum_over_ranks([1.0]).tolist() == [1.0]
        assert Ranks([[small], [small], [1.0]]).sum_over_ranks([small]).tolist() == [1.0 + 2 * small]

    def test_sends_the_bits(self):
        ranks = Ranks([[1.0, -2.0], [0.5, 0.0]])
        ranks.sum_over_ranks(np.array([1.0, 9.0, -2.0, 9.0])[::2])
        # 1.0 is 0x3FF0000000000000 and -2.0 is 0xC000000000000000, the low word first.
        assert ranks.sent == [("int32", [0, 0x3FF00000, 0, 0xC0000000 - 2**32])]

    def test_every_nan_becomes_one(self):
        odd = np.array([0x7FF8000000000123, 0xFFF8000000000456 - 2**64], np.int64).view(np.float64)
        for rows in ([[odd[0]], [odd[1]]], [[odd[1]], [1.0]], [[np.inf], [-np.inf]]):
            (bits,) = add_in_order(np.array(rows)).view(np.int64).tolist()
            assert bits == 0x7FF8000000000000

    def test_built_once_a_length(self):
        ranks = Ranks([np.ones(4), np.ones(4)])
        ranks.prepare_sum(4)
        ranks.prepare_sum(0)
        assert (ranks.made, ranks.sent) == ([8], [])
        for length in (4, 3, 4, 0, 3):
            assert ranks.sum_over_ranks(np.ones(length)).tolist() == [2.0] * length
        assert (ranks.made, len(ranks.sent)) == ([8, 6], 4)

    @pytest.mark.parametrize(
        "vector, problems",
        [
            (np.zeros((2, 3)), ["one axis. Received: shape=(2, 3). Give array.ravel()"]),
            (1.0, ["one axis. Received: shape=()."]),
            ([1j], ["real numbers. Received: dtype=complex128. Give array.astype('float64')"]),
            ([2**70], ["real numbers. Received: dtype=object."]),
            ([["a"]], ["Received: shape=(1, 1)", "Received: dtype=<U1"]),
        ],
    )
    def test_what_is_no_vector_is_refused(self, vector, problems):
        for backend in (Ranks([[1.0]]), Ranks([[1.0], [1.0]])):
            with pytest.raises(ValueError) as error:
                backend.sum_over_ranks(vector)
            assert len(str(error.value).split("\n")) == len(problems)
            assert all(problem in str(error.value) for problem in problems)
            assert not backend.made

    def test_a_backend_without_collectives_says_so(self):
        alone = Backend(Settings(npu_options.resolve({}), Cluster(size=2)))
        with pytest.raises(NotImplementedError, match="has no collectives, so it runs one rank only"):
            alone.sum_over_ranks([1.0])


class Noted(keras.callbacks.Callback):
    """Notes the calls that it gets."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def set_ranks(self, reduce, is_main):
        self.calls.append((reduce, is_main))

    def on_train_begin(self, logs=None):
        self.calls.append("train")


class TestHost:
    @pytest.mark.parametrize(
        "vector",
        [[0.1, np.nan, np.inf, -0.0], np.array([1, 2**53], "int64"), np.float32([0.1]), [True], [], np.ones(4)[::2]],
    )
    def test_one_rank_gets_its_vector_back(self, vector):
        backend = backends.open_backend("host", Settings(npu_options.resolve({}), Cluster()))
        backend.prepare_sum(len(vector))
        total = backend.sum_over_ranks(vector)
        assert total.dtype == np.float64
        assert total.tobytes() == np.array(vector, np.float64).tobytes()
        assert not np.may_share_memory(total, vector)

    @pytest.mark.parametrize("in_a_list", [True, False])
    def test_callbacks_hear_of_one_rank_before_training(self, in_a_list):
        noted = Noted()
        with NPUTrainer("host") as trainer:
            model = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
            trainer.compile(model, "sgd", "mse", **QUICK)
            given = [keras.callbacks.Callback(), noted] if in_a_list else noted
            trainer.fit(model, np.zeros((4, 3), "f"), np.zeros((4, 1), "f"), verbose=0, callbacks=given)
        if compat.TF1:
            keras.backend.clear_session()
        assert noted.calls == [(None, True), "train"]


GATHERS = """
trainer = NPUTrainer("npu")
backend = trainer.backend
rank = int(os.environ["RANK_ID"])
rows = backend.gather_over_ranks([rank + 0.1, float("inf")])
texts = [backend.gather_texts(text) for text in ("equal", "rank %d" % rank * (1 + 300 * rank), "")]
print("RESULT " + json.dumps({"rows": rows.tolist(), "texts": texts, "rank": trainer.describe()["rank"]}))
"""


def test_vectors_and_texts_of_all_ranks(module_adapter):
    values, collectives = run(module_adapter, GATHERS, ranks=2)
    for rank, value in enumerate(values):
        assert value["rows"] == [[0.1, float("inf")], [1.1, float("inf")]]
        assert value["texts"] == [["equal"] * 2, ["rank 0", "rank 1" * 301], ["", ""]]
        assert value["rank"] == "{} of 2".format(rank)
    if not module_adapter.real:
        # Equal texts take one collective, others a second one, here of 6 * 301 bytes in whole kB.
        assert [entry["shape"] for entry in collectives[0]] == [[4], [4], [4], [512], [4]]


def test_one_rank_gathers_nothing():
    backend = backends.load("host")(Settings(npu_options.resolve({}), Cluster()))
    assert backend.gather_over_ranks([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert backend.gather_over_ranks([]).shape == (1, 0)
    assert backend.gather_texts("alone") == ["alone"]
    with pytest.raises(ValueError, match=r"gather_over_ranks takes an array with one axis. Received: shape=\(1, 1\)"):
        backend.gather_over_ranks([[1.0]])
