"""Metrics over several ranks with padded tails, and inside Keras."""

import json

import numpy as np
import pytest
from metrics_oracle import UPDATES, assign, batch, correct, cross_entropies, exact, state, update

from ascend_keras import compat, losses, metrics
from ascend_keras.compat import keras

# Keras 3 compiles with XLA by default, which takes longer than these trainings.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
# TF 1.15 puts this before the name of a weighted metric.
PREFIX = "weighted_" if compat.TF1 else ""


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    UPDATES.clear()
    if compat.TF1:
        keras.backend.clear_session()


# --- ranks ------------------------------------------------------------------------------------------------------------


def over_ranks(ranks):
    """reduce_over_ranks of each rank's metrics, with a sum that has seen all of them."""
    vectors = []
    for given in ranks:
        metrics.reduce_over_ranks(given, lambda vector: vectors.append(vector) or vector)
    results = [metrics.reduce_over_ranks(given, lambda vector: np.sum(vectors, axis=0)) for given in ranks]
    assert all(result == results[0] for result in results)
    return results[0]


def make():
    return [metrics.TopK(1, name="top1"), metrics.TopK(3, name="top3"), metrics.Mean(name="mean")]


@pytest.mark.parametrize("sizes", [(23, 17), (20, 19, 1), (40, 0)])
def test_ranks_with_uneven_tails_equal_one_rank(sizes):
    labels, scores = batch(size=40)
    values = (np.arange(40, dtype=np.float32) - 11) / 8
    whole = make()
    for metric in whole:
        update(metric, *((values,) if metric.name == "mean" else (labels, scores)))
    ranks, start = [], 0
    for size in sizes:
        ranks.append(make())
        # Each rank pads its share to 48 samples in batches of 16, the padding with what must not be looked at.
        part = slice(start, start + size)
        start += size
        pad = [(0, 48 - size)]
        y, w = np.pad(labels[part], pad, "constant"), np.pad(np.ones(size, np.float32), pad, "constant")
        x = np.pad(scores[part], pad + [(0, 0)], "constant", constant_values=np.nan)
        v = np.pad(values[part], pad, "constant", constant_values=np.nan)
        for first in range(0, 48, 16):
            rows = slice(first, first + 16)
            for metric in ranks[-1]:
                update(metric, *((v[rows], w[rows]) if metric.name == "mean" else (y[rows], x[rows], w[rows])))
    before = [state(metric) for metric in ranks[0]]
    result = over_ranks(ranks)
    hits = {k: sum(correct(label, row.tolist(), k) for label, row in zip(labels, scores)) for k in (1, 3)}
    assert result == dict(top1=hits[1] / 40, top3=hits[3] / 40, mean=8.5 / 8)
    assert list(result.values()) == exact(*whole)
    assert before == [state(metric) for metric in ranks[0]]


def test_counts_of_ranks_beyond_float32():
    ranks = [[metrics.Top1()], [metrics.Top1()]]
    assign(ranks[0][0], total=2**24, count=2**24 + 1)
    assign(ranks[1][0], total=1, count=2**30)
    assert over_ranks(ranks) == dict(top1=(2**24 + 1) / (2**24 + 1 + 2**30))


def test_means_of_keras_are_reduced_too():
    labels, scores = batch()
    parts = slice(0, 30), slice(30, 40)
    ranks = []
    for part in parts:
        ranks.append(
            [
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.Mean(name="mean"),
                keras.metrics.Sum(name="sum"),
            ]
        )
        update(ranks[-1][0], labels[part], scores[part])
        update(ranks[-1][1], np.arange(40, dtype=np.float32)[part])
        update(ranks[-1][2], np.arange(40, dtype=np.float32)[part])
    result = over_ranks(ranks)
    assert result == dict(accuracy=(scores.argmax(-1) == labels).mean(), mean=19.5, sum=780.0)


def test_other_states_are_refused_by_name():
    given = [metrics.Top1(), keras.metrics.RootMeanSquaredError(name="rmse"), keras.metrics.AUC(name="auc")]
    with pytest.raises(ValueError) as caught:
        metrics.reduce_over_ranks(given, lambda vector: vector)
    assert str(caught.value) == (
        "The result of these metrics is not total / count, so it cannot be had from sums over ranks. Received: rmse "
        "(RootMeanSquaredError), auc (AUC). Use ascend_keras.metrics, or a metric of Keras that is built on "
        "keras.metrics.Mean."
    )


def test_two_of_one_name_and_a_wrong_reduce():
    with pytest.raises(ValueError, match="^Metrics need names of their own. Received: top1 more than once.$"):
        metrics.reduce_over_ranks([metrics.Top1(), metrics.TopK(1)], lambda vector: vector)
    with pytest.raises(ValueError, match=r"Received: shape \(1,\) for shape \(2,\)\.$"):
        metrics.reduce_over_ranks([metrics.Top1()], lambda vector: vector[:1])
    assert metrics.reduce_over_ranks([], lambda vector: vector) == {}


def test_reduce_gets_float64_once():
    seen = []
    metrics.reduce_over_ranks(make(), lambda vector: seen.append(vector) or vector)
    assert [(vector.dtype, vector.shape) for vector in seen] == [(np.float64, (6,))]


# --- in Keras ---------------------------------------------------------------------------------------------------------


def compiled():
    place = keras.Input((4,))
    model = keras.Model(place, keras.layers.Dense(7)(place))
    ours = [metrics.Top1(), metrics.TopK(3), metrics.SparseCategoricalCrossentropy(True, name="ce")]
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1)
    model.compile("sgd", loss, metrics=["accuracy"], weighted_metrics=ours, **QUICK)
    return model


def by_hand(model, x, y):
    logits = model.predict(x, verbose=0)
    hits = {k: sum(correct(label, row.tolist(), k) for label, row in zip(y, logits)) for k in (1, 3)}
    return {"top1": hits[1] / len(y), "top3": hits[3] / len(y), "ce": cross_entropies(y, logits).mean()}


def test_evaluate_counts_no_padding():
    random = np.random.RandomState(0)
    x, y = random.randn(48, 4).astype(np.float32), random.randint(0, 7, 48)
    weights = (np.arange(48) < 37).astype(np.float32)
    model = compiled()
    found = model.evaluate(x, y, sample_weight=weights, batch_size=16, verbose=0)
    reduced = metrics.reduce_over_ranks(model.metrics, lambda vector: 2 * vector)
    expected = by_hand(model, x[:37], y[:37])
    for name, number in expected.items():
        assert abs(reduced[PREFIX + name] - number) < (1e-6 if name == "ce" else 1e-15)
        assert any(abs(entry - number) < 1e-6 for entry in found)
    assert abs(reduced[compat.accuracy_key(reduced)] - by_hand(model, x, y)["top1"]) < 1e-7  # padding and all


def test_fit_logs_them_and_starts_over_each_epoch():
    random = np.random.RandomState(0)
    x, y = random.randn(20, 4).astype(np.float32), random.randint(0, 7, 20)
    model = compiled()
    model.optimizer.learning_rate = 0.0
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, validation_data=(x[:9], y[:9])).history
    for name, number in by_hand(model, x, y).items():
        np.testing.assert_allclose(history[PREFIX + name], [number] * 2, rtol=1e-6)
    for name, number in by_hand(model, x[:9], y[:9]).items():
        np.testing.assert_allclose(history["val_" + PREFIX + name], [number] * 2, rtol=1e-6)


def test_saved_model_comes_back_with_its_metrics(tmp_path):
    x, y = np.random.RandomState(0).randn(6, 4).astype(np.float32), np.array([0, 1, 2, 3, 4, 5])
    model = compiled()
    expected = model.evaluate(x, y, verbose=0)
    path = str(tmp_path / ("model.keras" if compat.TF_VERSION >= (2, 15) else "model.h5"))
    model.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.evaluate(x, y, verbose=0) == expected
    kinds = [type(metric) for name, metric in compat.named_metrics(loaded.metrics)]
    assert kinds[-3:] == [metrics.Top1, metrics.TopK, metrics.SparseCategoricalCrossentropy]


METRICS = [
    (metrics.TopK, dict(k=3, name="mine", ties="first")),
    (metrics.Top1, dict(name="mine", ties="first")),
    (metrics.Mean, dict(name="mine")),
    (metrics.SparseCategoricalCrossentropy, dict(from_logits=True, ignore_class=-1, axis=1, name="mine")),
]


@pytest.mark.parametrize("cls, options", METRICS)
def test_configuration_comes_back(cls, options):
    config = cls(**options).get_config()
    assert dict(config, **options) == config
    again = keras.metrics.deserialize(json.loads(json.dumps(keras.metrics.serialize(cls(**options)))))
    assert type(again) is cls
    assert again.get_config() == config


@pytest.mark.parametrize("name", ["Mean", "SparseCategoricalCrossentropy"])
def test_the_metrics_of_keras_keep_their_name(name):
    theirs = getattr(keras.metrics, name)
    assert type(keras.metrics.deserialize(keras.metrics.serialize(theirs()))) is theirs


def test_default_names():
    given = metrics.TopK(), metrics.TopK(2), metrics.Top1(), metrics.Mean(), metrics.SparseCategoricalCrossentropy()
    assert [metric.name for metric in given] == ["top5", "top2", "top1", "mean", "sparse_categorical_crossentropy"]
