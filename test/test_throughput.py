"""Speed, computed from a clock that the tests set by hand."""

import itertools
import logging
import math

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.throughput import Throughput
from ascend_keras.compat import keras, tf


class HandClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def warnings(caplog):
    """Messages of the library's logger, which does not hand them on to pytest's by itself."""
    logger = logging.getLogger("ascend_keras")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def drive(callback, clock, epochs, steps=None):
    """Calls the hooks as Keras does. `epochs`: a list of (seconds, last step index) for each execution of each epoch;
    0.5 s pass between epochs. Returns the logs of the epochs."""
    callback.set_params({"steps": steps})
    callback.on_train_begin()
    all_logs = []
    for epoch, executions in enumerate(epochs):
        callback.on_epoch_begin(epoch)
        for seconds, index in executions:
            clock.now += seconds
            callback.on_train_batch_end(index)
        clock.now += 0.5
        logs = {"loss": 1.0}
        callback.on_epoch_end(epoch, logs)
        all_logs.append(logs)
    callback.on_train_end()
    return all_logs


def test_first_step_and_time_between_epochs_are_left_out():
    clock = HandClock()
    callback = Throughput(batch_size=8, clock=clock)
    logs = drive(callback, clock, [[(7.0, 0), (0.25, 1), (0.5, 2)], [(1.0, 0), (0.25, 1), (0.25, 2)]])
    assert callback.compile_seconds == 7.0
    assert (callback.total_steps, callback.steps, callback.samples) == (6, 5, 40)
    assert callback.seconds == 2.25
    assert callback.images_per_sec == 40 / 2.25
    assert callback.ms_per_step == 450.0
    assert [entry["images_per_sec"] for entry in logs] == [16 / 0.75, 24 / 1.5]


def test_several_steps_per_execution_are_counted_by_their_index():
    clock = HandClock()
    callback = Throughput(batch_size=10, clock=clock)
    drive(callback, clock, [[(5.0, 3), (2.0, 7)], [(2.0, 3), (2.0, 7)]], steps=8)
    assert (callback.total_steps, callback.steps, callback.samples) == (16, 12, 120)
    assert callback.images_per_sec == 20.0
    assert callback.ms_per_step == 500.0


def test_index_beyond_the_end_of_the_epoch_is_cut():
    clock = HandClock()
    callback = Throughput(batch_size=1, clock=clock)
    drive(callback, clock, [[(1.0, 2), (1.0, 5)]], steps=5)
    assert (callback.total_steps, callback.steps) == (5, 2)


def test_first_epoch_of_a_single_execution_has_no_speed_and_the_second_has():
    clock = HandClock()
    callback = Throughput(batch_size=4, clock=clock)
    first, second = drive(callback, clock, [[(3.0, 0)], [(2.0, 0)]])
    assert math.isnan(first["images_per_sec"])
    assert second["images_per_sec"] == 2.0
    assert callback.images_per_sec == 2.0


def test_nothing_measured_is_said(warnings):
    clock = HandClock()
    callback = Throughput(batch_size=4, clock=clock)
    drive(callback, clock, [[(3.0, 0)]])
    assert math.isnan(callback.images_per_sec)
    assert math.isnan(callback.ms_per_step)
    assert callback.compile_seconds == 3.0
    [record] = warnings.records
    assert "all of its 1 steps ran in the first execution" in record.getMessage()
    assert record.levelname == "WARNING"


def test_unknown_batch_size_is_said_and_the_step_time_is_known(warnings):
    clock = HandClock()
    callback = Throughput(clock=clock)
    drive(callback, clock, [[(3.0, 0), (0.5, 1)]])
    assert callback.ms_per_step == 500.0
    assert math.isnan(callback.images_per_sec)
    assert "Throughput(batch_size=...)" in warnings.records[-1].getMessage()


def test_batch_size_of_keras_is_taken_where_it_tells_it():
    clock = HandClock()
    callback = Throughput(clock=clock)
    callback.set_params({"batch_size": 16, "steps": None})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0)
    clock.now += 2.0
    callback.on_train_batch_end(1)
    assert callback.images_per_sec == 8.0


def test_a_second_training_starts_from_zero():
    clock = HandClock()
    callback = Throughput(batch_size=2, clock=clock)
    drive(callback, clock, [[(9.0, 0), (9.0, 1)]])
    drive(callback, clock, [[(4.0, 0), (1.0, 1)]])
    assert (callback.compile_seconds, callback.steps, callback.seconds) == (4.0, 1, 1.0)


def test_logs_may_be_missing():
    clock = HandClock()
    callback = Throughput(batch_size=2, clock=clock)
    callback.set_params({})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0)
    callback.on_epoch_end(0)
    assert callback.total_steps == 1


def test_a_smaller_last_batch_is_counted_as_it_is():
    clock = HandClock()
    callback = Throughput(batch_size=8, epoch_samples=19, clock=clock)
    logs = drive(callback, clock, [[(9.0, 0), (1.0, 1), (1.0, 2)], [(1.0, 0), (1.0, 1), (1.0, 2)]])
    # 8 + 3 of the first epoch, whose first batch is not measured, and 8 + 8 + 3 of the second.
    assert (callback.samples, callback.seconds) == (30, 5.0)
    assert [entry["images_per_sec"] for entry in logs] == [5.5, 19 / 3]


@pytest.mark.parametrize("counts", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.5}, {"epoch_samples": 0}])
def test_wrong_counts_are_refused(counts):
    [(name, value)] = counts.items()
    with pytest.raises(ValueError, match="whole numbers >= 1. Received: {}={}. Give".format(name, value)):
        Throughput(**counts)


def fit(callback, steps_per_execution=1, **arguments):
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,))])
    settings = {} if compat.TF1 else {"steps_per_execution": steps_per_execution}
    model.compile("sgd", "mse", **settings)
    return model.fit(epochs=2, verbose=0, callbacks=[callback], **arguments)


def ticking():
    """A clock on which one second passes between two looks at it."""
    count = itertools.count()
    return lambda: float(next(count))


def test_in_a_real_fit_on_arrays_with_validation():
    x, y = np.zeros((22, 2), "float32"), np.zeros((22, 1), "float32")
    callback = Throughput(batch_size=2, epoch_samples=22, clock=ticking())
    history = fit(callback, x=x, y=y, batch_size=2, validation_data=(x, y))
    assert callback.compile_seconds == 1.0
    assert (callback.total_steps, callback.steps, callback.samples, callback.seconds) == (22, 21, 42, 21.0)
    assert history.history["images_per_sec"] == [2.0, 2.0]


@pytest.mark.skipif(not compat.TF1, reason="from TF 2 on Keras does not tell the batch size")
def test_in_a_real_fit_that_tells_the_batch_size():
    callback = Throughput(clock=ticking())
    fit(callback, x=np.zeros((5, 2), "float32"), y=np.zeros((5, 1), "float32"), batch_size=2)
    assert (callback.steps, callback.samples, callback.seconds) == (5, 8, 5.0)


def test_in_a_real_fit_on_an_endless_dataset():
    data = tf.data.Dataset.from_tensors((np.zeros(2, "float32"), np.zeros(1, "float32"))).repeat()
    callback = Throughput(batch_size=5, clock=ticking())
    history = fit(callback, x=data.batch(5, drop_remainder=True), steps_per_epoch=4)
    assert (callback.total_steps, callback.steps, callback.samples, callback.seconds) == (8, 7, 35, 7.0)
    assert history.history["images_per_sec"] == [5.0, 5.0]


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 runs one step per execution")
def test_in_a_real_fit_with_a_shorter_last_execution():
    data = tf.data.Dataset.from_tensors((np.zeros(2, "float32"), np.zeros(1, "float32"))).repeat()
    callback = Throughput(batch_size=5, clock=ticking())
    fit(callback, x=data.batch(5, drop_remainder=True), steps_per_epoch=11, steps_per_execution=3)
    # Executions of 3 + 3 + 3 + 2 steps, twice; the first is left out.
    assert (callback.total_steps, callback.steps, callback.samples, callback.seconds) == (22, 19, 95, 7.0)
