"""The parts that keep ranks together, one by one, in one process that plays the others."""

import zlib

import numpy as np
import pytest

from ascend_keras import callbacks, compat, metrics
from ascend_keras.callbacks import merged_statistics, rank_exchange, reduced_logs, synchronise
from ascend_keras.compat import keras
from ascend_keras.distributed.cluster import Cluster

pytestmark = pytest.mark.usefixtures("fresh_graph")
layers = keras.layers
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
LENGTH = rank_exchange.LENGTH


class Played:
    """A backend whose other ranks bring what functions make of what this one brings."""

    def __init__(self, *others, rank=0):
        self.others, self.sent, self.broadcast, self.prepared = others, [], [], []
        self.settings = self
        self.cluster = Cluster(1 + len(others), rank, 0, "rank_table")

    def gather_over_ranks(self, vector):
        self.sent.append(np.array(vector))
        rows = [other(np.array(vector)) for other in self.others]
        rows.insert(self.cluster.rank, np.array(vector))
        return np.array(rows)

    def sum_over_ranks(self, vector):
        return self.gather_over_ranks(vector).sum(axis=0)

    def gather_texts(self, text):
        return [text] + ["what rank {} says".format(rank + 1) for rank in range(len(self.others))]

    def prepare_sum(self, length):
        self.prepared.append(length)

    def synchronise(self, variables):
        self.broadcast.append(list(variables))


def alike(vector):
    return vector


def change(number):
    """Another rank, whose numbers of a message are other ones, but for the plan of a training."""
    plan = zlib.crc32(b"the plan of the training")

    def other(vector):
        if len(vector) == LENGTH and vector[0] != plan:
            vector[3:] *= number
        return vector

    return other


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, messages", [(0, 1), (1, 1), (29, 1), (30, 2), (61, 2), (62, 3)])
def test_messages_have_one_length(count, messages):
    backend = Played(change(2.0), alike)
    values = np.random.RandomState(count).randn(count)
    rows = rank_exchange.Exchange(backend).gather("numbers", ["n{}".format(at) for at in range(count)], values)
    assert [len(vector) for vector in backend.sent] == [LENGTH] * messages
    assert rows.shape == (3, count)
    np.testing.assert_array_equal(rows[0], values)
    np.testing.assert_array_equal(rows[1, :29], 2.0 * values[:29])
    np.testing.assert_array_equal(rows[2], values)


def test_a_number_may_be_anything():
    values = [np.nan, np.inf, -np.inf, 1e300, 2.0**53]
    rows = rank_exchange.Exchange(Played(alike)).gather("numbers", list("abcde"), values)
    np.testing.assert_array_equal(rows, [values, values])
    assert str(rank_exchange.add_over_ranks(rows).tolist()) == "[nan, inf, -inf, 2e+300, 1.8014398509481984e+16]"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_other_names_are_refused(place):
    def other(vector):
        vector[place] += 1.0
        return vector

    with pytest.raises(ValueError) as caught:
        rank_exchange.Exchange(Played(alike, other)).gather("logs", ["loss", "acc"], [1.0, 2.0])
    assert str(caught.value) == (
        "The ranks are at different places of the training, or have different models. Received:\n"
        "  rank 0: logs: loss, acc\n  rank 1: what rank 1 says\n  rank 2: what rank 2 says\n"
        "Run the same script with the same arguments on every rank."
    )


def test_what_has_to_be_equal():
    exchange = rank_exchange.Exchange(Played(alike, change(2.0)))
    exchange.require_equal("nothing", ["zero"], [0.0], "")
    with pytest.raises(ValueError) as caught:
        exchange.require_equal("the plan", ["zero", "steps"], [0.0, 7.0], "Do it alike.")
    assert str(caught.value) == (
        "The ranks differ in the plan. Received:\n  steps: 7 on rank 0, 7 on rank 1, 14 on rank 2\nDo it alike."
    )


@pytest.mark.parametrize("count", [0, 1, 32, 33])
def test_sums_in_messages(count):
    sent = []
    values = np.arange(count, dtype=float)
    found = rank_exchange.add_in_messages(lambda vector: sent.append(len(vector)) or 2 * vector, values)
    np.testing.assert_array_equal(found, 2 * values)
    assert sent == [LENGTH] * (-(-count // LENGTH))


# --- statistics -------------------------------------------------------------------------------------------------------


def normed(frozen=False):
    inputs = keras.Input((3,))
    norm, dense = layers.BatchNormalization(), layers.Dense(2)
    model = keras.Model(inputs, layers.Dense(2)(dense(norm(inputs))))
    if frozen:
        dense.trainable = False
    model.compile(keras.optimizers.SGD(0.5), "mse", **QUICK)
    return model, norm


def test_statistics_by_the_law_of_total_variance():
    random = np.random.RandomState(0)
    means, variances = random.randn(3, 3).astype("float32"), random.rand(3, 3).astype("float32")
    means[:, 2], variances[:, 2] = 1.1, 0.3  # alike on all ranks

    def other(rank):
        def vector(sent):
            own = [np.asarray(part[rank], np.float64) for part in (means, variances)]
            return np.concatenate([[1.0], own[0], own[1], own[0] ** 2])

        return vector

    model, norm = normed(frozen=True)
    statistics = merged_statistics.MergedStatistics(model)
    backend = Played(other(1), other(2))
    compat.set_values([norm.moving_mean, norm.moving_variance], [means[0], variances[0]])
    statistics.merge(backend.sum_over_ranks)
    mean, variance = compat.get_values([norm.moving_mean, norm.moving_variance])
    wide = means.astype(np.float64), variances.astype(np.float64)
    expected = wide[1].mean(axis=0) + wide[0].var(axis=0)
    np.testing.assert_array_max_ulp(mean, wide[0].mean(axis=0).astype(np.float32), 1)
    np.testing.assert_allclose(variance, expected, rtol=1e-7)
    assert (mean[2], variance[2]) == (np.float32(1.1), np.float32(0.3)), "what is equal keeps its bits"
    assert [len(vector) for vector in backend.sent] == [statistics.length] == [1 + 3 * 3], "no weight is sent"


def test_statistics_stay_where_all_have_them():
    model, norm = normed()
    random = np.random.RandomState(1)
    for size in (2, 3, 7):
        values = [1e3 * random.randn(3).astype("f"), 1e-3 * random.rand(3).astype("f")]
        compat.set_values([norm.moving_mean, norm.moving_variance], values)
        merged_statistics.MergedStatistics(model).merge(Played(*[alike] * (size - 1)).sum_over_ranks)
        for found, value in zip(compat.get_values([norm.moving_mean, norm.moving_variance]), values):
            np.testing.assert_array_equal(found, value)


def test_nothing_to_merge_is_no_collective():
    model = keras.Sequential(
        [layers.Dense(2, input_shape=(3,))] if compat.TF1 else [keras.Input((3,)), layers.Dense(2)]
    )
    statistics = merged_statistics.MergedStatistics(model)
    backend = Played(alike)
    statistics.prepare(backend.sum_over_ranks)
    statistics.merge(backend.sum_over_ranks)
    assert statistics.length == 0 and not backend.sent


# --- logs -------------------------------------------------------------------------------------------------------------


def test_evaluation_of_two_ranks_is_that_of_one():
    random = np.random.RandomState(2)
    x, y = random.randn(11, 3).astype("f"), random.randint(0, 4, 11)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(4)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy", metrics.Top1()], **QUICK)
    names = ["loss"] + [name for name, _ in compat.named_metrics(model.metrics) if name != "loss"]
    brought, parts = [], (slice(0, 8), slice(8, 11))

    def evaluate(part):
        values = dict(zip(names, model.evaluate(x[part], y[part], batch_size=4, verbose=0)))
        add = lambda given, numbers: brought.append((given, numbers)) or numbers  # noqa: E731
        return reduced_logs.reduce_evaluation(model, values, add, float(part.stop - part.start))

    local = [evaluate(part) for part in parts]
    assert brought[0][0] == brought[1][0]
    total = [a + b for a, b in zip(brought[0][1], brought[1][1])]
    model.evaluate(x[parts[1]], y[parts[1]], batch_size=4, verbose=0)
    found = reduced_logs.reduce_evaluation(model, dict.fromkeys(names, 0.0), lambda given, numbers: total, 3.0)
    whole = dict(zip(names, model.evaluate(x, y, batch_size=4, verbose=0)))
    assert list(found) == names and local[0] != local[1]
    for name in names:
        assert found[name] == pytest.approx(whole[name], rel=1e-6), name
        assert type(found[name]) is float


def test_logs_that_are_no_numbers_are_left_out():
    logs = {"a": np.float32(0.5), "b": 2, "c": np.ones(3), "d": None, "e": np.array([1.5]), "f": "text", "g": True}
    logs["h"] = np.array([[1, 2]])
    found = reduced_logs.reduce_training(logs, rank_exchange.Exchange(Played(change(3.0))))
    assert {name: type(found[name]) for name in "abg"} == dict.fromkeys("abg", float)
    expected = {"a": 1.0, "b": 4.0, "c": [2.0] * 3, "e": [3.0], "g": 2.0, "h": [[2.0, 4.0]]}
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == expected
    assert reduced_logs.reduce_training(None, rank_exchange.Exchange(Played(alike))) == {}


class Seen(keras.callbacks.Callback):
    """The logs as a callback behind sees them."""

    def on_train_begin(self, logs=None):
        self.epochs, self.ended = [], None

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({name: logs[name] for name in ("loss", "val_loss")})

    def on_train_end(self, logs=None):
        self.ended = logs


@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("quiet", [False, True])
def test_all_see_the_same_numbers(verbose, quiet, capsys):
    model, _ = normed()
    seen = Seen()
    # On Keras 2 the logs are other objects where all callbacks can do with tensors.
    seen._supports_tf_logs = quiet
    x, y = np.ones((4, 3), "f"), np.zeros((4, 2), "f")
    plain, _ = normed()
    plain.set_weights(model.get_weights())
    alone = plain.fit(x, y, batch_size=2, epochs=2, verbose=0, shuffle=False, validation_data=(x, y)).history
    used = [callbacks.Synchronise(Played(change(3.0))), seen]
    found = model.fit(
        x, y, batch_size=2, epochs=2, verbose=verbose, shuffle=False, validation_data=(x, y), callbacks=used
    ).history
    # Training logs are means of 1 and 3 times the number; of totals and counts, both are 4 times as large.
    np.testing.assert_allclose(found["loss"], 2.0 * np.array(alone["loss"]), rtol=1e-6)
    np.testing.assert_allclose(found["val_loss"], alone["val_loss"], rtol=1e-6)
    assert all(type(value) is float for value in found["loss"] + found["val_loss"])
    assert seen.epochs == [dict(loss=found["loss"][at], val_loss=found["val_loss"][at]) for at in (0, 1)]
    if not compat.TF1:
        assert {name: seen.ended[name] for name in ("loss", "val_loss")} == seen.epochs[-1]
    if verbose:
        told = capsys.readouterr().out.replace("\r", "\n").replace("\x08", "\n")
        for value in found["loss"]:
            assert " loss: {:.4f}".format(value) in told


def test_begins_with_slots_and_learning_rate():
    model, _ = normed()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.5), "mse", **QUICK)
    backend = Played(alike)
    x, y = np.ones((4, 3), "f"), np.zeros((4, 2), "f")
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[callbacks.Synchronise(backend)])
    assert len(backend.broadcast) == 2
    first, second = backend.broadcast
    assert [id(v) for v in first] == [id(v) for v in second]
    assert [id(v) for v in first[: len(model.weights)]] == [id(v) for v in model.weights]
    state = [id(variable) for _, variable in compat.optimizer_state(model.optimizer)]
    assert [id(v) for v in first[len(model.weights) :]] == state
    # A momentum for each weight, the steps and, where it is a variable, the learning rate.
    assert len(state) >= len(model.trainable_weights) + 1


def test_evaluate_returns_what_keras_returns():
    x, y = np.ones((4, 3), "f"), np.zeros((4, 2), "f")
    model, _ = normed()
    assert synchronise.evaluate(Played(alike), model, x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0), rel=1e-6
    )
    model.compile("sgd", "mse", metrics=["mae", keras.metrics.RootMeanSquaredError(name="a_root")], **QUICK)
    expected = model.evaluate(x, y, verbose=0)
    found = synchronise.evaluate(Played(alike), model, x, y, verbose=0, callbacks=Seen())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    named = synchronise.evaluate(Played(alike), model, x, y, verbose=0, return_dict=True)
    assert sorted(named.values()) == sorted(found) and set(named) >= {"loss", "a_root"}


def test_evaluate_weighs_arrays_by_samples(caplog, monkeypatch):
    if not hasattr(keras.metrics, "F1Score"):
        pytest.skip("Keras has no metric that is an array")
    monkeypatch.setattr(reduced_logs.logger, "propagate", True)
    model, _ = normed()
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score(name="f1_of_each", threshold=0.5)], **QUICK)
    x, y = np.random.RandomState(0).randn(6, 3).astype("f"), np.eye(2, dtype="f")[[0, 1, 1, 0, 1, 1]]
    own = model.evaluate(x, y, verbose=0)[1]
    assert own.shape == (2,)

    def other(vector):
        # Total and count of both elements, with 18 samples.
        vector[3:7] = 18 * 0.5, 18, 18 * 0.125, 18
        return vector

    with caplog.at_level("INFO"):
        found = synchronise.evaluate(Played(other), model, x, y, verbose=0)
    assert len(found) == 2 and found[1].shape == (2,)
    np.testing.assert_allclose(found[1], (6 * own + 18 * np.array([0.5, 0.125])) / 24, rtol=1e-6)
    assert sum("f1_of_each: the mean over the ranks" in record.getMessage() for record in caplog.records) == 1


def test_losses_of_outputs_are_weighed_by_samples():
    inputs = keras.Input((3,))
    outputs = [layers.Dense(2, name="a")(inputs), layers.Dense(1, name="b")(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["mse", "mse"], **QUICK)
    random = np.random.RandomState(3)
    x, y = random.randn(8, 3).astype("f"), [random.randn(8, 2).astype("f"), 5 + random.randn(8, 1).astype("f")]
    brought, found_by = [], []
    for part in (slice(0, 2), slice(2, 8)):  # a batch each
        values = model.evaluate(x[part], [a[part] for a in y], batch_size=8, verbose=0)
        values = dict(zip(["loss", "a_loss", "b_loss"], values))
        found_by.append(values)
        add = lambda names, numbers: brought.append((names, numbers)) or numbers  # noqa: E731
        reduced_logs.reduce_evaluation(model, values, add, float(part.stop - part.start))
    assert brought[0][0] == brought[1][0]
    totals = [a + b for a, b in zip(brought[0][1], brought[1][1])]
    found = reduced_logs.reduce_evaluation(model, found_by[1], lambda names, numbers: totals, 6.0)
    for name, (first, second) in {name: [by[name] for by in found_by] for name in found}.items():
        assert found[name] == pytest.approx((2 * first + 6 * second) / 8, rel=1e-6), name
        assert abs(first / second - 1) > 1e-3, "else any weights would do"


def test_steps_are_reported_over_ranks():
    lines = []

    class Lines(callbacks.StepReport):
        def report(self, line):
            lines.append(line)

    reports = [Lines(1, batch_size=4, epoch_samples=8, clock=iter(range(100)).__next__) for _ in range(2)]
    reports[1].set_ranks(lambda vector: vector * [4.0, 2.0], True)
    x, y = np.ones((4, 3), "f"), np.zeros((4, 2), "f")
    for report in reports:
        model, _ = normed()
        model.set_weights([np.full(w.shape, 0.5, "f") for w in model.get_weights()])
        model.fit(x, y, batch_size=2, verbose=0, shuffle=False, callbacks=[report])
    half = len(lines) // 2
    assert half >= 1
    for alone, together in zip(lines[:half], lines[half:]):
        assert together.loss == pytest.approx(2 * alone.loss, rel=1e-12)


def test_throughput_of_the_batch_that_keras_tells():
    callback = callbacks.Throughput(clock=iter(range(100)).__next__)
    callback.set_ranks(lambda vector: 8 * vector, True)
    callback.set_params({"batch_size": 4, "samples": 10})
    callback.on_train_begin()
    assert callback.batch_size == 32
    for batch in range(3):
        callback.on_train_batch_end(batch)
    assert callback.samples == 80 - 32, "the first step is not measured"
