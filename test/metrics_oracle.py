"""Counting by hand, and how a test gives batches to a metric on any stack."""

import math

import numpy as np

from ascend_keras import compat, metrics
from ascend_keras.compat import tf

PARTS = ("total", "total_part", "count", "count_part")
# The update of each metric and shape in the graph of TF 1.15.
UPDATES = {}


def update(metric, *arrays):
    """Gives a metric one batch."""
    if not compat.TF1:
        metric.update_state(*[None if array is None else tf.constant(array) for array in arrays])
        return
    arrays = [np.array(array) for array in arrays if array is not None]
    arrays = [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]
    key = (metric,) + tuple((array.dtype, array.shape) for array in arrays)
    if key not in UPDATES:
        places = [tf.placeholder(array.dtype, array.shape) for array in arrays]
        UPDATES[key] = places, metric.update_state(*places)
    places, done = UPDATES[key]
    compat.get_session().run(done, dict(zip(places, arrays)))


def state(metric):
    """The values of the variables of a metric."""
    return dict(zip(PARTS, (number.item() for number in compat.get_values(metric.variables))))


def assign(metric, **values):
    places = dict(zip(PARTS, metric.variables))
    compat.set_values([places[name] for name in values], [np.array(number) for number in values.values()])


def exact(*given):
    """The value of one metric, or of several, divided in float64."""
    reduced = metrics.reduce_over_ranks(given, lambda vector: vector)
    return list(reduced.values()) if len(given) > 1 else reduced[given[0].name]


def correct(label, scores, k, ties="in"):
    """One sample, counted in Python."""
    if not 0 <= label < len(scores) or not all(math.isfinite(score) for score in scores):
        return False
    ahead = sum(score > scores[label] for score in scores)
    if ties == "first":
        ahead += sum(score == scores[label] for score in scores[:label])
    return ahead < k


def batch(size=40, classes=7, seed=0, steps=None):
    """Labels and scores; with `steps` the scores are so coarse that many are equal."""
    random = np.random.RandomState(seed)
    scores = random.randn(size, classes).astype(np.float32)
    return random.randint(0, classes, size), scores if steps is None else np.round(scores * steps) / steps


def cross_entropies(labels, logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, labels[..., np.newaxis], -1)[..., 0]
