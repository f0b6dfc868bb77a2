"""SWA on two ranks: the same average and the same statistics on each, by one collective more than without.

With an adapter, two processes train on a shard each, and the fakes record every collective. Without one, two trainings
of one process stand for the ranks: the sum over both is worked out in a first round and handed out in a second.
"""

import inspect
import zlib

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA, agreement
from ascend_keras.compat import keras

layers = keras.layers
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
ROWS = 12


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def shard(rank, rows=12):
    """Inputs and targets of a rank; runs in the ranks and in the test."""
    random = np.random.RandomState(rank)
    return (5 + 3 * rank + random.randn(rows, 3)).astype("float32"), random.randn(rows, 2).astype("float32")


PRELUDE = (
    "import importlib, json, os, sys\nimport numpy as np\nimport tensorflow as tf\n"
    "from ascend_keras import NPUTrainer, compat, optimizers\nfrom ascend_keras.callbacks.swa import SWA\n"
    "keras = tf.keras\n\n" + inspect.getsource(shard)
)

TRAINING = """
rank = int(os.environ["RANK_ID"])
x, y = shard(rank)
results = {}
trainer = NPUTrainer("npu", loss_scale="dynamic")

def collectives():
    path = os.path.join(os.environ.get("FAKE_ASCEND_DIR", ""), "collectives.rank%d.jsonl" % rank)
    return sum(1 for _ in open(path)) if os.path.exists(path) else 0

def exactly(weights):
    return [np.asarray(w, np.float64).tolist() for w in weights]

class Record(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.epochs, self.steps = [], []
    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(exactly(compat.get_values(self.model.trainable_weights)))

def small(width, norm=True):
    inputs = keras.Input((3,))
    first, second = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
    hidden = keras.layers.Dense(width)(first(inputs) if norm else inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(second(hidden) if norm else hidden))
    random = np.random.RandomState(8)
    model.set_weights([abs(random.randn(*w.shape)).astype("f") for w in model.get_weights()])
    return model, [first, second] if norm else []

def train(name, callbacks, width=4, norm=True, x=x, repair_bn=False, first=()):
    seen = results[name] = {}
    model, norms = small(width, norm)
    record = Record()
    trainer.compile(model, keras.optimizers.SGD(0.125, momentum=0.5), "mse")
    begin = collectives()
    try:
        trainer.fit(model, x, y, batch_size=4, epochs=4, shuffle=False, verbose=0, validation_data=(x, y), shard=False,
                    callbacks=list(first) + [record] + callbacks, repair_bn=repair_bn)
    except Exception as error:
        seen["error"] = "%s: %s" % (type(error).__name__, error)
    seen.update(
        collectives=[begin, collectives()], epochs=record.epochs,
        weights=exactly(compat.get_values(model.trainable_weights)),
        statistics=exactly(compat.get_values([v for n in norms for v in (n.moving_mean, n.moving_variance)])))
    for callback in callbacks:
        if isinstance(callback, SWA):
            seen.update(
                summary=str(callback.bn_summary), sampled=[callback.sampled_epochs, callback.sampled_steps],
                storage=type(callback._average).__name__, raw=exactly(callback.raw_weights))
    return model

best = os.path.join(os.environ["FOLDER"], "best%d.npz")
train("none", [])
train("off", [SWA(2, bn="off", validate="raw")])
train("auto", [SWA(2, batch_size=4, save_best=best % rank)])
results["auto"]["saved"] = os.path.exists(best % rank)
train("uneven", [SWA(2, bn_data=shard(rank, rows=12 + 4 * rank), batch_size=4, validate="both", storage="device")])
bad = (x - 6) / 4
bad[6] = np.inf if rank == 1 else bad[6]
train("steps", [SWA(unit="step", start_step=3, validate="raw")], norm=False, x=bad)
results["steps"]["skipped"] = optimizers.skipped_steps(trainer.model.optimizer)
try:
    peer = importlib.import_module("swa.tfkeras")
    train("repaired", [peer.SWA(2, batch_size=4)], repair_bn=True)
except ImportError:
    pass

class Drift(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == 12 and rank == 1:  # the last one
            weight = self.model.trainable_weights[0]
            compat.set_values([weight], [np.asarray(compat.get_values([weight])[0]) * np.float32(1.25)])

os.environ["ASCEND_KERAS_DEBUG"] = "1"
train("debug", [SWA(2, batch_size=4)])
train("drift", [SWA(2, batch_size=4, validate="raw")], first=[Drift()])
del os.environ["ASCEND_KERAS_DEBUG"]

class Finalize(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if compat.TF1 and epoch == 1:  # Keras itself adds to the graph in the first validation
            compat.get_session().graph.finalize()

# Another width, as a sum of a length that was summed before is built already. Nothing can follow.
train("finalized", [SWA(2, batch_size=4)], width=5, first=[Finalize()])
print("RESULT " + json.dumps(results))
"""
# Per layer the count, and for each channel a sum and a sum of squares: in all 8 bytes a number, sent as int32.
WORDS = 2 * ((1 + 2 * 3) + (1 + 2 * 4))
# The ranks, and for each channel mean, variance and square of the mean.
MERGED = 2 * (1 + 3 * 3 + 3 * 4)
# Numbers of a log, and how many evaluations of the raw weights there are.
MESSAGE, RAW = 2 * 32, 3


@pytest.fixture(scope="module")
def ranks(module_adapter, tmp_path_factory):
    """What both ranks say, and what they sent: {name of a training: [collectives of rank 0, of rank 1]}."""
    folder = tmp_path_factory.mktemp("best")
    runs = module_adapter.run(PRELUDE + TRAINING, ranks=2, env={"FOLDER": str(folder)})
    for rank, run in enumerate(runs):
        assert run.returncode == 0, "rank {}:\n{}".format(rank, run.stderr[-3000:])
    values = [run.value for run in runs]
    sent = {}
    for name in values[0] if not module_adapter.real else ():
        bounds = [value[name]["collectives"] for value in values]
        recorded = [module_adapter.collectives(rank) for rank in range(2)]
        sent[name] = [
            [facts(entry) for entry in recorded[rank] if bounds[rank][0] <= entry["seq"] < bounds[rank][1]]
            for rank in range(2)
        ]
    return values, sent, [run.stderr for run in runs]


def facts(entry):
    return {field: entry[field] for field in ("kind", "shape", "dtype", "reduction", "group", "size")}


def mean(samples):
    """The float32 sum in order, and then the division."""
    averages = []
    for values in zip(*samples):
        total = np.zeros(np.shape(values[0]), np.float32)
        for value in values:
            total = total + np.float32(value)
        averages.append(total / np.float32(len(values)))
    return averages


def check_population(found, x):
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(found[0], x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[1], x.var(axis=0), rtol=1e-5)


class TestOnTheAdapters:
    @pytest.mark.parametrize("name", ["none", "off", "auto", "uneven", "steps", "repaired", "finalized"])
    def test_training_ends_well(self, ranks, name):
        for value in ranks[0]:
            if name in value:
                assert value[name].get("error") is None

    @pytest.mark.parametrize("name", ["off", "auto", "uneven", "finalized"])
    def test_average_has_the_same_bits_on_every_rank(self, ranks, name):
        first, second = (value[name] for value in ranks[0])
        assert first["epochs"] == second["epochs"], "gradients are reduced"
        assert first["weights"] == second["weights"]
        assert first["sampled"] == second["sampled"] == [[2, 3, 4], []]
        for found, expected in zip(first["weights"], mean(first["epochs"][1:])):
            np.testing.assert_array_equal(np.float32(found), expected)

    def test_averages_do_not_depend_on_where_the_sums_are(self, ranks, module_adapter):
        for value in ranks[0]:
            assert value["off"]["weights"] == value["auto"]["weights"] == value["uneven"]["weights"]
            assert value["uneven"]["storage"] == "DeviceAverage"
            on_host = module_adapter.name == "npu_bridge"
            assert value["auto"]["storage"] == ("HostAverage" if on_host else "DeviceAverage")

    @pytest.mark.parametrize("name, rows", [("auto", (12, 12)), ("uneven", (12, 16)), ("finalized", (12, 12))])
    def test_statistics_are_those_of_both_shards_on_every_rank(self, ranks, name, rows):
        first, second = (value[name] for value in ranks[0])
        assert first["statistics"] == second["statistics"]
        check_population(first["statistics"][:2], np.concatenate([shard(rank, n)[0] for rank, n in enumerate(rows)]))

    def test_statistics_of_one_shard_would_be_others(self, ranks):
        # Else the test above could not fail.
        assert abs(shard(0)[0].mean(axis=0) - shard(1)[0].mean(axis=0)).min() > 2

    def test_without_re_estimation_both_ranks_have_one_statistic(self, ranks):
        first, second = (value["off"]["statistics"] for value in ranks[0])
        assert first == second
        assert first[0] != ranks[0][0]["auto"]["statistics"][0]

    def test_raw_weights_are_those_of_the_last_epoch(self, ranks):
        for value in ranks[0]:
            raw = value["auto"]["raw"]
            assert [w for w in raw if w in value["auto"]["epochs"][-1]] == value["auto"]["epochs"][-1]
            # With the statistics that training has left, merged over the ranks.
            assert value["off"]["statistics"][0] in raw

    def test_both_ranks_send_the_same(self, ranks, module_adapter):
        if module_adapter.real:
            pytest.skip("collectives are counted by the fakes")
        for name, (first, second) in ranks[1].items():
            assert first == second, name
            assert len(first) > 20, name

    def test_one_collective_more_and_that_for_the_statistics(self, ranks, module_adapter):
        if module_adapter.real:
            pytest.skip("collectives are counted by the fakes")
        gather = dict(kind="HcomAllGather", shape=[WORDS], dtype="int32", reduction=None, group="hccl_world_group")
        for rank in range(2):
            # The last one is that in which the ranks wait for each other when a fit has ended.
            plain, end = ranks[1]["none"][rank][:-1], ranks[1]["none"][rank][-1:]
            merged = [dict(gather, shape=[MERGED], size=2)]
            assert ranks[1]["off"][rank] == plain + merged + end, "averaging sends nothing"
            assert ranks[1]["auto"][rank] == plain + [dict(gather, size=2)] + end
            # validate="both" evaluates the raw weights as well in the epochs in which there is an average.
            assert sorted(map(str, ranks[1]["uneven"][rank])) == sorted(
                map(str, plain + end + [dict(gather, size=2)] + RAW * [dict(gather, shape=[MESSAGE], size=2)])
            )

    def test_debugging_costs_one_collective_more(self, ranks, module_adapter):
        if module_adapter.real:
            pytest.skip("collectives are counted by the fakes")
        # One, four bytes and their squares, each 8 bytes, sent as int32.
        gather = dict(kind="HcomAllGather", shape=[18], dtype="int32", reduction=None, group="hccl_world_group", size=2)
        for rank in range(2):
            auto = ranks[1]["auto"][rank]
            assert ranks[1]["debug"][rank] == auto[:-1] + [gather] + auto[-1:]

    def test_debugging_finds_a_rank_that_is_off(self, ranks):
        first, second = (value["drift"] for value in ranks[0])
        assert first["weights"] != second["weights"]
        for text in ranks[2]:
            # Of the two trainings with it, the one that drifts.
            assert text.count("SWA: the average is not the same on all 2 ranks") == 1

    def test_rank_zero_alone_writes_the_best(self, ranks):
        assert [value["auto"]["saved"] for value in ranks[0]] == [True, False]

    def test_a_step_that_one_rank_overflows_is_no_sample_of_any(self, ranks):
        # The second of three batches has Inf on rank 1, so that steps 2, 5, 8 and 11 are skipped on both.
        for value in ranks[0]:
            assert value["steps"]["sampled"] == [[], [3, 4, 6, 7, 9, 10, 12]]
            assert value["steps"]["skipped"] == 4
        assert ranks[0][0]["steps"]["weights"] == ranks[0][1]["steps"]["weights"]

    def test_keras_swa_is_repaired_by_both_shards(self, ranks, module_adapter):
        first, second = (value.get("repaired") for value in ranks[0])
        if first is None:
            pytest.skip("keras-swa is not installed")
        assert first["weights"] == second["weights"]
        assert first["statistics"] == second["statistics"]
        check_population(first["statistics"][:2], np.concatenate([shard(0)[0], shard(1)[0]]))


# --- any TensorFlow -------------------------------------------------------------------------------------------------


class Written(keras.callbacks.Callback):
    """Gives the trainable weights the same values on every rank, as reduced gradients would; put it before SWA."""

    def on_train_batch_end(self, batch, logs=None):
        random = np.random.RandomState(batch)
        weights = self.model.trainable_weights
        compat.set_values(weights, [random.randn(*w.shape).astype(np.float32) for w in weights])


class States(keras.callbacks.Callback):
    """The samples, the sums and the weights of the model when validation begins, where there is an average."""

    def __init__(self, swa):
        super().__init__()
        self.swa, self.seen = swa, []

    def on_test_begin(self, logs=None):
        state = self.swa.state_dict()
        if "names" in state:
            # Copies, as those on the host go on.
            sums = {name: np.array(state["sum_{:05d}".format(at)]) for at, name in enumerate(state["names"])}
            weights = zip(map(compat.weight_path, self.model.weights), compat.get_values(self.model.weights))
            self.seen.append((len(self.swa.sampled_steps), sums, dict(weights)))


def make_model():
    inputs = keras.Input((3,))
    x = layers.Dense(4)(layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization()(x)))
    model.compile(keras.optimizers.SGD(0.05), "mse", **QUICK)
    return model


class Rank:
    """One rank: the vectors that it brings to a sum, and what it is told the sum is."""

    def __init__(self, is_main, rows=None, **options):
        self.brought, self.model = [], make_model()
        self.swa = SWA(2, batch_size=4, **options)
        self.swa.set_ranks(self.reduce, is_main)
        self.x, self.y = shard(0 if is_main else 1, rows or ROWS)
        self.told = None

    def reduce(self, vector):
        self.brought.append(np.array(vector))
        return vector if self.told is None else self.told

    def train(self):
        self.brought = []
        # As many steps on every rank, whatever the rows; the statistics are those of all rows.
        self.model.fit(
            self.x[:ROWS],
            self.y[:ROWS],
            batch_size=4,
            epochs=4,
            verbose=0,
            validation_data=(self.x, self.y),
            callbacks=[Written(), self.swa],
        )
        return [w.tolist() for w in self.model.get_weights()]


def train_both(one, other):
    """Both ranks, with sums over both; returns the weights of each."""
    for rank in (one, other):
        rank.train()
        assert len(rank.brought) == 1, "one sum a training"
    total = one.brought[0] + other.brought[0]
    one.told = other.told = total
    weights = [one.train(), other.train()]
    np.testing.assert_array_equal(one.brought[0] + other.brought[0], total)
    return weights


def statistics(model):
    norms = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    return compat.get_values([v for norm in norms for v in (norm.moving_mean, norm.moving_variance)])


@pytest.mark.parametrize("size, odd", [(1, None), (2, None), (3, None), (2, 1), (3, 0), (8, 5), (64, 63)])
def test_hash_over_ranks(size, odd, caplog, monkeypatch):
    monkeypatch.setattr(agreement.logger, "propagate", True)
    values = [np.arange(6, dtype=np.float32).reshape(2, 3) for _ in range(size)]
    if odd is not None:
        values[odd][1, 1] = np.nextafter(np.float32(4), np.float32(5))
    brought = []
    for value in values:
        monkeypatch.setattr(compat, "stream_values", lambda _, value=value: iter([value, np.ones(2)]))
        agreement.compare([], lambda vector: brought.append(vector) or vector)
    assert {vector.shape for vector in brought} == {(agreement.LENGTH,)}
    caplog.clear()
    assert agreement.compare([], lambda _: sum(brought)) is (odd is None)
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    crc = zlib.crc32(values[-1].tobytes() + np.ones(2).tobytes())
    start = "SWA: the average is not the same on all {} ranks; here its CRC-32 is {:08x}. ".format(size, crc)
    assert [text[: len(start)] for text in told] == ([] if odd is None else [start])


@pytest.mark.parametrize("text, answer", [("", False), ("0", False), ("false", False), ("1", True), ("yes", True)])
def test_switch_of_the_comparison(monkeypatch, text, answer):
    monkeypatch.setenv("ASCEND_KERAS_DEBUG", text)
    assert agreement.wanted() is answer
    monkeypatch.delenv("ASCEND_KERAS_DEBUG")
    assert agreement.wanted() is False


class TestAsTwoInOne:
    def test_ranks_end_equal_and_with_the_population_of_both(self, tmp_path):
        best = str(tmp_path / "best{}.npz")
        one = Rank(True, save_best=best.format(0), storage="host")
        other = Rank(False, save_best=best.format(1))
        first, second = train_both(one, other)
        assert first == second
        assert one.brought[0].dtype == np.float64 and one.brought[0].shape == (WORDS // 2,)
        assert one.brought[0][0] == other.brought[0][0] == ROWS
        check_population(statistics(one.model)[:2], np.concatenate([one.x, other.x]))
        assert [path.name for path in tmp_path.iterdir()] == ["best0.npz"]

    def test_a_rank_with_one_batch_more(self):
        one, other = Rank(True, bn_data=shard(0)), Rank(False, 16, bn_data=shard(1, 16))
        assert train_both(one, other)[0] == one.train()
        assert [rank.brought[0][0] for rank in (one, other)] == [12, 16]
        assert [rank.swa.bn_summary.batches for rank in (one, other)] == [3, 4]
        for rank in (one, other):
            check_population(statistics(rank.model)[:2], np.concatenate([shard(0)[0], shard(1, 16)[0]]))

    @pytest.mark.parametrize("options", [dict(bn="off"), dict(bn="average")])
    def test_statistics_are_merged_where_nothing_is_re_estimated(self, options):
        random = np.random.RandomState(3)
        means, variances = random.randn(2, 7), random.rand(2, 7)
        rank = Rank(True, **options)
        rank.told = np.concatenate([[2.0], means.sum(axis=0), variances.sum(axis=0), (means**2).sum(axis=0)])
        rank.train()
        assert [len(vector) for vector in rank.brought] == [MERGED // 2]
        first, second = slice(0, 3), slice(3, 7)
        merged = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
        expected = [part[channels] for channels in (first, second) for part in merged]
        for found, value in zip(statistics(rank.model), expected):
            np.testing.assert_allclose(found, value, rtol=1e-6)

    @pytest.mark.parametrize("storage", ["device", "host"])
    @pytest.mark.parametrize("average, decay", [("equal", 0.999), ("ema", 0.75)])
    def test_statistics_sampled_by_steps_are_merged_before_they_are_seen(self, storage, average, decay):
        options = dict(unit="step", bn="average", average=average, decay=decay, storage=storage)
        rank = Rank(True, **options)
        before, after = States(rank.swa), States(rank.swa)

        def reduce(vector):
            # Of the other rank the means are higher by 1, the variances by 2.
            rank.brought.append(np.array(vector))
            means, variances = vector[1:8], vector[8:15]
            return vector + np.concatenate([[1.0], means + 1, variances + 2, (means + 1) ** 2])

        rank.swa.set_ranks(reduce, True)
        data = dict(batch_size=4, epochs=4, verbose=0, validation_data=(rank.x, rank.y))
        rank.model.fit(rank.x, rank.y, callbacks=[Written(), before, rank.swa, after], **data)
        assert {len(vector) for vector in rank.brought} == {MERGED // 2}
        assert len(rank.brought) == 3 + 1, "the end of each epoch with samples, and that of the training"
        assert [count for count, _, _ in before.seen] == [3, 6, 9]
        for (count, own, _), (_, merged, lent) in zip(before.seen, after.seen):
            n = 1 if average == "ema" else count
            for name in own:
                # The variance between means that are 1 apart is 1/4.
                shift = 0.5 if "moving_mean" in name else 1.25 if "moving_variance" in name else 0.0
                np.testing.assert_allclose(merged[name] / n, own[name] / n + shift, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(lent[name], merged[name] / n, rtol=1e-5, atol=1e-6)
            assert sum("moving_" in name for name in own) == 4

    def test_nan_of_another_rank_is_refused_on_every_rank(self):
        """All have to notice, or those that do not would wait for the others at the next collective."""
        rank = Rank(True)
        rank.told = np.full(WORDS // 2, np.nan)
        with pytest.raises(ValueError, match="not finite. Received: NaN or infinity in layers"):
            rank.train()
        assert len(rank.brought) == 1 and np.isfinite(rank.brought[0]).all()

    @pytest.mark.parametrize("kind", ["crash", "empty"])
    def test_rank_whose_data_fails_does_not_leave_the_others_waiting(self, kind):
        def batches():
            if kind == "crash":
                raise OSError("disk full")
            yield from ()

        rank = Rank(True, bn_data=batches(), bn_steps=3)
        error, message = {"crash": (OSError, "disk full"), "empty": (ValueError, "0 batches")}[kind]
        with pytest.raises(error, match=message):
            rank.train()
        assert len(rank.brought) == 1, "it takes part in the sum before it gives up"
