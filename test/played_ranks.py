"""Several ranks played in one process, one after the other, and data for them.

What a rank sends is recorded first, and all of it is handed out in a second round.
"""

import contextlib
import logging

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import shards
from ascend_keras.distributed.cluster import Cluster
from ascend_keras.log import logger


class Sent(Exception):
    pass


def play(size, call, mode="tf_config"):
    """The results of `call(cluster, gather)` on all ranks; an exception stands for itself."""
    clusters = [Cluster(size, rank, mode=mode) for rank in range(size)]
    sent = []

    def keep(vector):
        sent.append(vector)
        raise Sent

    for cluster in clusters:
        with pytest.raises(Sent):
            call(cluster, keep)
    table = np.stack(sent)
    assert table.dtype == np.float64, "the collective takes float64"
    results = []
    for cluster in clusters:
        calls = []

        def hand_out(vector, calls=calls, rank=cluster.rank):
            calls.append(rank)
            assert np.array_equal(vector, table[rank])
            return table

        try:
            results.append(call(cluster, hand_out))
        except Exception as error:  # noqa: BLE001 - what a rank raises is its result
            results.append(error)
        assert len(calls) == 1, "one collective, whatever happens"
    return results


def fit(size, x, y=None, validation_data=None, mode="tf_config", **arguments):
    return play(size, lambda *ranks: shards.for_fit(x, y, validation_data, arguments, *ranks), mode)


def evaluate(size, x, y=None, mode="tf_config", **arguments):
    return play(size, lambda *ranks: shards.for_evaluate(x, y, arguments, *ranks), mode)


def predict(size, x, mode="tf_config", **arguments):
    return play(size, lambda *ranks: shards.for_predict(x, arguments, *ranks), mode)


def fit_each(ranks, **arguments):
    """As `fit`, with the keyword arguments of each rank in a list."""

    def call(cluster, gather):
        own = dict({"x": None, "y": None, "validation_data": None}, **arguments)
        own.update(ranks[cluster.rank])
        x, y, validation_data = own.pop("x"), own.pop("y"), own.pop("validation_data")
        return shards.for_fit(x, y, validation_data, own, cluster, gather)

    return play(len(ranks), call)


def message_of(results):
    """The text of the ValueError that all ranks raise."""
    assert {type(result) for result in results} == {ValueError}, results
    assert len({str(result) for result in results}) == 1, "the same on all ranks"
    return str(results[0])


def rows(count, width=3):
    return np.arange(count * width, dtype="float32").reshape(count, width)


def read(dataset, limit=None):
    """The batches of a dataset as nested NumPy arrays."""
    dataset = dataset if limit is None else dataset.take(limit)
    return [tf.nest.map_structure(np.asarray, batch) for batch in compat.open_dataset(dataset)()]


def same(found, expected):
    tf.nest.assert_same_structure(found, expected)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected)):
        np.testing.assert_array_equal(one, other)


@contextlib.contextmanager
def kept_log():
    """What is logged inside: pairs of level and text."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append((record.levelname, record.getMessage()))

    handler, level = Keep(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def dataset_of(examples, batch, fixed=False, length="known"):
    whole = (rows(examples), np.arange(examples))
    dataset = tf.data.Dataset.from_tensor_slices(whole).batch(batch, drop_remainder=fixed)
    if length == "unknown":
        return dataset.filter(lambda *_: True)
    return dataset.repeat() if length == "endless" else dataset


def full_batches(examples, batch):
    return [
        (rows(examples)[first : first + batch], np.arange(first, first + batch))
        for first in range(0, examples - batch + 1, batch)
    ]


class Numbers(keras.utils.Sequence):
    ends = 0

    def __init__(self, examples, batch):
        super().__init__(**({"workers": 3, "max_queue_size": 5} if compat.KERAS3 else {}))
        self._examples, self._batch = examples, batch

    def __len__(self):
        return -(-self._examples // self._batch)

    def __getitem__(self, index):
        ids = np.arange(index * self._batch, min((index + 1) * self._batch, self._examples))
        return rows(self._examples)[ids], ids

    def on_epoch_end(self):
        self.ends += 1


class Lists(Numbers):
    def __getitem__(self, index):
        return list(super().__getitem__(index))


def as_sequence(x, y, batch):
    class Both(Numbers):
        def __getitem__(self, index):
            chosen = slice(index * batch, (index + 1) * batch)
            return x[chosen], y[chosen]

    return Both(len(x), batch)
