"""Metrics against counting by hand, on every stack: top k and means."""

import math

import numpy as np
import pytest
from losses_oracle import value
from metrics_oracle import UPDATES, assign, batch, correct, cross_entropies, exact, state, update

from ascend_keras import compat, metrics
from ascend_keras.compat import keras, tf


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    UPDATES.clear()
    if compat.TF1:
        keras.backend.clear_session()


# --- top k ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", ["in", "first"])
@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_top_k_counts_as_by_hand(k, ties):
    labels, scores = batch(steps=1)
    labels[:3] = -1, 7, 2**30
    scores[3, 0], scores[4, labels[4]], scores[5, 1] = np.nan, np.inf, -np.inf
    metric = metrics.TopK(k, ties=ties)
    update(metric, labels, scores)
    expected = [correct(label, row.tolist(), k, ties) for label, row in zip(labels.tolist(), scores)]
    assert not any(expected[:6])
    assert exact(metric) == sum(expected) / 40
    assert value(metric.result()) == np.float32(sum(expected)) / np.float32(40)
    if ties == "in":
        peer = (
            value(tf.nn.in_top_k(tf.constant(scores), tf.constant(labels.astype(np.int32)), k))
            if compat.TF1
            else (tf.nn.in_top_k(labels.astype(np.int32), scores, k).numpy())
        )
        assert peer.tolist() == expected
    elif k == 1:
        found = np.where(np.isfinite(scores).all(-1), scores.argmax(-1), -2)
        assert (found == labels).tolist() == expected


def test_one_score_for_all_classes():
    labels, scores = np.arange(7), np.zeros((7, 7), np.float32)
    pair = [metrics.Top1(), metrics.Top1(name="strict", ties="first")]
    for metric in pair:
        update(metric, labels, scores)
    assert exact(*pair) == [1.0, 1 / 7]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_scores_of_every_float_type(dtype):
    labels, scores = batch(seed=1)
    cast = tf.cast(tf.constant(scores), dtype)
    rounded = value(tf.cast(cast, tf.float64))
    expected = sum(correct(label, row.tolist(), 2) for label, row in zip(labels, rounded))
    metric = metrics.TopK(2)
    done = metric.update_state(tf.constant(labels), cast)
    if compat.TF1:
        compat.get_session().run(done)
    assert exact(metric) == expected / 40


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_labels_and_weights_with_and_without_an_axis_of_one(shape, dtype):
    labels, scores = batch()
    weights = (np.arange(40) % 3 > 0).astype(np.float32)
    hits = np.array([correct(label, row.tolist(), 3) for label, row in zip(labels, scores)])
    metric = metrics.TopK(3)
    update(metric, labels.reshape(shape).astype(dtype), scores, weights.reshape(shape))
    assert exact(metric) == hits[weights > 0].sum() / 26


def test_weights_that_are_no_counts():
    labels, scores = batch()
    weights = np.random.RandomState(3).rand(40).astype(np.float32) * 3
    hits = np.array([correct(label, row.tolist(), 3) for label, row in zip(labels, scores)])
    metric = metrics.TopK(3)
    update(metric, labels, scores, weights)
    wide = weights.astype(np.float64)
    assert abs(exact(metric) - (wide * hits).sum() / wide.sum()) < 1e-7
    assert abs(value(metric.result()) - (wide * hits).sum() / wide.sum()) < 1e-6
    before = exact(metric)
    update(metric, labels, scores, np.float32(0.0))  # one weight for all
    assert exact(metric) == before


def test_nothing_seen_is_zero_and_reset_starts_over():
    metric = metrics.Top1()
    assert value(metric.result()) == exact(metric) == 0.0
    update(metric, [0, 1], [[1.0, 0.0], [1.0, 0.0]])
    assert exact(metric) == 0.5
    metric.reset_states() if compat.TF1 else metric.reset_state()
    assert set(state(metric).values()) == {0}
    update(metric, [0], [[1.0, 0.0]])
    assert exact(metric) == 1.0


def test_more_samples_than_float32_can_count():
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)
    metric = metrics.Top1()
    assign(metric, total=2**24, count=2**24)
    for weights in (None, np.ones(1, np.float32)):
        for row in ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0]):
            update(metric, [0], [row], weights)
    assert state(metric)["total"] == 2**24 + 2
    assert state(metric)["count"] == 2**24 + 6
    assert exact(metric) == (2**24 + 2) / (2**24 + 6)
    assign(metric, total=2**40 + 1, count=2**41)
    assert exact(metric) == (2**40 + 1) / 2**41


def test_shapes_known_only_at_run_time():
    labels, scores = batch()
    metric = metrics.TopK(2)
    arrays = [labels.astype(np.int32), scores, np.ones(40, np.float32)]
    if compat.TF1:
        places = [tf.placeholder(array.dtype, None) for array in arrays]
        compat.get_session().run(metric.update_state(*places), dict(zip(places, arrays)))
    else:
        signature = [tf.TensorSpec(None, array.dtype) for array in arrays]
        tf.function(lambda *given: metric.update_state(*given) and None, input_signature=signature)(*arrays)
    assert exact(metric) == sum(correct(label, row.tolist(), 2) for label, row in zip(labels, scores)) / 40


@pytest.mark.skipif(compat.TF_VERSION < (2, 15), reason="No XLA for the CPU before TF 2.15.")
def test_xla_counts_the_same():
    labels, scores = batch()
    weights = (np.arange(40) < 33).astype(np.float32)
    pair = metrics.TopK(2), metrics.SparseCategoricalCrossentropy(True, name="ce")

    @tf.function(jit_compile=True)
    def step(*given):
        for metric in pair:
            metric.update_state(*given)

    step(tf.constant(labels), tf.constant(scores), tf.constant(weights))
    hits = [correct(label, row.tolist(), 2) for label, row in zip(labels, scores)]
    top, entropy = exact(*pair)
    assert top == sum(hits[:33]) / 33
    assert abs(entropy - cross_entropies(labels, scores)[:33].mean()) < 1e-6


def test_graph_has_nothing_an_npu_would_leave_to_the_host():
    graph = tf.Graph()
    with graph.as_default():
        placeholder = tf.placeholder if compat.TF1 else tf.compat.v1.placeholder
        given = placeholder(tf.int32, (8,)), placeholder(tf.float32, (8, 7)), placeholder(tf.float32, (8,))
        metrics.in_top_k(given[0], given[1], 5, "first")
        if compat.TF1:  # elsewhere Keras itself puts the training step into a function
            metrics.TopK().update_state(*given)
            metrics.SparseCategoricalCrossentropy(True, ignore_class=1).update_state(*given)
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"Where", "GatherNd", "GatherV2", "OneHot", "StatefulPartitionedCall", "PartitionedCall"}, kinds
    outputs = [output for operation in graph.get_operations() for output in operation.outputs]
    assert tf.float64 not in {output.dtype for output in outputs}


def test_what_top_k_refuses():
    with pytest.raises(ValueError) as caught:
        metrics.TopK(0, ties="out")
    assert str(caught.value).splitlines() == [
        "k must be an integer of at least 1. Received: k=0.",
        "ties must be 'in' or 'first'. Received: ties='out'.",
    ]
    with pytest.raises(ValueError, match=r"predictions of shape \(batch, classes\). Received: shape \(2, 3, 4\)"):
        update(metrics.TopK(), np.zeros((2, 3)), np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="Labels must be class numbers"):
        update(metrics.TopK(), np.zeros((2, 4)), np.zeros((2, 4)))


# --- means ------------------------------------------------------------------------------------------------------------


def test_mean_of_samples_and_weights():
    values, weights = np.array([1.0, 2.0, 4.0, 8.0], np.float32), np.array([1.0, 0.5, 0.0, 2.0], np.float32)
    metric = metrics.Mean()
    update(metric, values)
    assert exact(metric) == 15 / 4
    update(metric, values, weights)
    assert exact(metric) == (15 + 18) / (4 + 3.5)
    update(metric, np.float32(3.0), np.float32(0.5))  # a mean of a batch with its size
    assert exact(metric) == value(metric.result()) == (15 + 18 + 1.5) / 8


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 3, 2), ()])
def test_weights_of_the_first_axes_hold_for_all_inside(shape):
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    weights = (np.random.RandomState(0).rand(*shape) > 0.4).astype(np.float32) if shape else np.float32(1.0)
    if shape == (4, 1):
        shape = (4, 1, 1)
    wide = np.broadcast_to(np.reshape(weights, shape + (1,) * (3 - len(shape))), values.shape)
    metric = metrics.Mean()
    update(metric, values, weights)
    assert wide.sum() > 0
    assert exact(metric) == float((values * wide).sum()) / float(wide.sum())


def test_mean_does_not_look_at_padding():
    metric = metrics.Mean()
    update(metric, np.array([1.0, np.nan, np.inf], np.float32), np.array([1.0, 0.0, 0.0], np.float32))
    assert exact(metric) == 1.0
    update(metric, np.array([np.inf], np.float32))
    assert math.isnan(exact(metric))


def test_mean_keeps_what_float32_rounds_away():
    metric = metrics.Mean()
    assign(metric, total=np.float32(2**24))
    for _ in range(3):
        update(metric, np.float32(1.0))
    assert exact(metric) * 3 == 2**24 + 3
    metric = metrics.Mean(name="tenths")
    plain = np.float32(0)
    for _ in range(300):
        update(metric, np.float32(0.1))
        plain += np.float32(0.1)
    tenth = float(np.float32(0.1))
    assert abs(exact(metric) - tenth) < 1e-14
    assert abs(float(plain) / 300 - tenth) > 1e-8


@pytest.mark.parametrize("from_logits", [True, False])
def test_cross_entropy_counts_real_samples(from_logits):
    labels, logits = batch(size=12)
    labels = labels.reshape(4, 3)
    logits = logits.reshape(4, 3, 7)
    expected = cross_entropies(labels, logits)
    given = logits if from_logits else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels[0, 0] = -1
    weights = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    metric = metrics.SparseCategoricalCrossentropy(from_logits, ignore_class=-1)
    update(metric, labels, given, weights)
    assert abs(exact(metric) - expected[:3].ravel()[1:].mean()) < 1e-6
    assert state(metric)["count"] == 8
