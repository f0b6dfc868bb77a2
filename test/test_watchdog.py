"""The watchdog as a callback of Keras: its settings, its hooks, and trainings that hang."""

import re
import threading

import numpy as np
import pytest
from watched import ended, said, start

from ascend_keras.callbacks import watchdog
from ascend_keras.compat import keras
from ascend_keras.distributed.watch import EXIT_CODE, progress

# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, ranks, text, expected",
    [
        ("auto", 1, None, None),
        ("auto", 8, None, 600.0),
        (None, 8, None, None),
        (0, 8, None, None),
        (False, 8, "", None),
        (45, 1, None, 45.0),
        ("auto", 1, "30", 30.0),
        (45, 8, " 0 ", None),
        (None, 8, "1.5", 1.5),
    ],
)
def test_timeout_of(argument, ranks, text, expected):
    assert watchdog.timeout_of(argument, ranks, {} if text is None else {watchdog.VARIABLE: text}) == expected


@pytest.mark.parametrize("argument", [-1, "soon", True, float("nan"), float("inf"), [3], 10**9])
def test_timeout_of_refuses(argument):
    with pytest.raises(ValueError, match=r"or 'auto'. Received: watchdog=.*600 is a good number"):
        watchdog.timeout_of(argument, 2, {})


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf"])
def test_environment_is_checked(text):
    with pytest.raises(ValueError, match="Received: ASCEND_KERAS_WATCHDOG='{}'".format(text)):
        watchdog.timeout_of("auto", 2, {watchdog.VARIABLE: text})


def test_all_arguments_are_checked_at_once():
    with pytest.raises(ValueError, match="Received: timeout=None, compile_timeout=nan, report='x'"):
        watchdog.Watchdog(None, float("nan"), report="x")


@pytest.mark.parametrize("given, expected", [((), 3600.0), ((20,), 600.0), ((20, 30), 30.0), ((20, 10), 20.0)])
def test_seconds_for_compiling(given, expected):
    assert watchdog.Watchdog(*given)._watch._limits[1] == expected


@pytest.mark.parametrize(
    "environ, given, expected",
    [
        ({}, {}, (0, 1)),
        ({"RANK_SIZE": "4", "RANK_ID": "2"}, {}, (2, 4)),
        ({"RANK_SIZE": "4", "RANK_ID": "2"}, {"rank": 1, "ranks": 3}, (1, 3)),
    ],
)
def test_ranks(environ, given, expected, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    watch = watchdog.Watchdog(**given)._watch
    assert (watch._rank, watch._ranks) == expected


def test_a_rank_that_the_launcher_alone_knows(monkeypatch, tmp_path):
    cm = dict(CM_CHIEF_IP="10.0.0.1", CM_CHIEF_PORT="6000", CM_CHIEF_DEVICE="0", CM_WORKER_SIZE="8")
    for name, value in dict(cm, ASCEND_KERAS_LOG_DIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    watch = watchdog.Watchdog()._watch
    assert (watch._rank, watch._ranks, watch._folder) == (None, 8, None)
    monkeypatch.setenv("ASCEND_KERAS_RANK", "5")
    watch = watchdog.Watchdog()._watch
    assert (watch._rank, watch._ranks, watch._folder) == (5, 8, str(tmp_path))


# --- hooks --------------------------------------------------------------------------------------------------------


class Heard:
    """In place of the thread: what it is told."""

    def __init__(self):
        self.told, self.running, self.starts = [], False, 0

    def start(self):
        self.starts += not self.running
        self.running = True

    def stop(self, finished=False):
        self.running = False
        self.finished = finished

    def at(self, position, compiled):
        assert self.running
        self.told.append((position, compiled))

    def steps(self):
        return ["{}{}".format(p, "" if done else " compiles") for p, done in self.told if p.in_step]


@pytest.fixture
def model(fresh_graph):
    net = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
    net.compile("sgd", "mse")
    return net


def data(rows=4):
    return np.zeros((rows, 3), "float32"), np.zeros((rows, 1), "float32")


@pytest.fixture
def heard():
    callback = watchdog.Watchdog()
    callback._watch = Heard()
    return callback


def test_hooks_of_a_fit_with_validation(model, heard):
    x, y = data()
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, validation_data=(x, y), callbacks=[heard])
    assert heard._watch.steps() == [
        "the begin of epoch 1 compiles",
        "step 1 of epoch 1",
        "the begin of the validation of epoch 1 compiles",
        "step 1 of the validation of epoch 1",
        "the begin of epoch 2",
        "step 1 of epoch 2",
        "the begin of the validation of epoch 2",
        "step 1 of the validation of epoch 2",
    ]
    events = [position.events for position, _ in heard._watch.told]
    assert events == list(range(1, len(events) + 1))
    last = heard._watch.told[-1][0]
    assert (str(last), last.in_step) == ("step 2 of epoch 2", False)
    assert (heard._watch.running, heard._watch.starts) == (False, 1)


def test_hooks_of_evaluate_and_predict(model, heard):
    x, y = data()
    model.evaluate(x, y, batch_size=2, verbose=0, callbacks=[heard])
    assert heard._watch.steps() == ["the begin of the evaluation compiles", "step 1 of the evaluation"]
    model.predict(x, batch_size=2, verbose=0, callbacks=[heard])
    assert heard._watch.steps()[2:] == ["the begin of the prediction compiles", "step 1 of the prediction"]
    assert (heard._watch.running, heard._watch.starts) == (False, 2)


def test_who_starts_it_ends_it(model, heard):
    x, y = data()
    heard.start()
    model.fit(x, y, verbose=0, callbacks=[heard])
    model.evaluate(x, y, verbose=0, callbacks=[heard])
    assert (heard._watch.running, heard._watch.starts) == (True, 1)
    heard.release()
    assert (heard._watch.running, heard._watch.finished) == (False, False)


def test_a_run_that_ends_by_itself_has_finished(monkeypatch):
    watches = []
    monkeypatch.setattr(watchdog, "Watch", lambda *arguments: watches.append(Heard()) or watches[-1])
    stops = []
    monkeypatch.setattr(Heard, "stop", lambda self, finished=False: stops.append(finished))
    with watchdog.watched(60.0, 0, 2):
        pass
    assert stops[0] is True
    del stops[:]
    with pytest.raises(KeyboardInterrupt):
        with watchdog.watched(60.0, 0, 2):
            raise KeyboardInterrupt
    assert stops == [False]


class Orders(keras.callbacks.Callback):
    """Notes how far the process is at each step of the training, from the begin of the run on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        self.found.append(progress.order()[1:])


def test_ranks_with_unequal_parts_of_a_validation_are_at_the_same_place_in_the_next_epoch(model):
    x, y = data()
    found = []
    for rows in (4, 6):
        callbacks = [watchdog.Watchdog(60, folder=None), Orders()]
        held_out = data(rows)
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, validation_data=held_out, callbacks=callbacks)
        found.append(callbacks[1].found)
    # Marks: start, on_train_begin, on_epoch_begin; on_test_begin, on_test_end, on_epoch_end, on_epoch_begin.
    assert found == [[(3, 1), (3, 3), (7, 1), (7, 3)]] * 2


def threads():
    return [thread for thread in threading.enumerate() if "watchdog" in thread.name]


class Failing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        assert threads()
        raise KeyboardInterrupt


def test_the_thread_ends_with_the_run_and_after_an_exception(model):
    x, y = data()
    callback = watchdog.Watchdog(60)
    model.fit(x, y, verbose=0, callbacks=[callback])
    assert not threads()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[callback, Failing()])
    callback.release()
    callback.release()
    assert not threads()
    with watchdog.watched(60.0, 0, 1) as first:
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, verbose=0, callbacks=first + [Failing()])
        assert threads()
    assert not threads()
    with watchdog.watched(None) as none:
        assert none == [] and not threads()


def test_keras_2_fetches_no_numbers_for_it(heard):
    assert heard._supports_tf_logs is True


# --- Keras ----------------------------------------------------------------------------------------------------------

TRAINING = """
import sys, time
import numpy as np
from ascend_keras.callbacks import watchdog
from ascend_keras.compat import keras, tf
kind = sys.argv[1]

def batches():
    for number in range(8):
        if kind == "data" and number == 5:
            time.sleep(300)
        if kind == "validation":
            time.sleep(2.5 if number == 0 else 0.3)
        yield np.zeros((2, 3), "float32"), np.zeros((2, 1), "float32")

class Sleeper(keras.callbacks.Callback):
    def on_test_batch_begin(self, batch, logs=None):
        if kind == "validation" and batch == 1:
            time.sleep(300)

model = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
model.compile("sgd", "mse")
types = tf.float32, tf.float32
data = tf.data.Dataset.from_generator(batches, types, (tf.TensorShape([2, 3]), tf.TensorShape([2, 1])))
held_out = tf.data.Dataset.from_tensor_slices((np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32"))).batch(2)
with watchdog.watched(1.5, 0, 1, compile_timeout=100.0, report=0.5) as first:
    model.fit(data, steps_per_epoch=8, epochs=1, verbose=0, callbacks=first + [Sleeper()],
              validation_data=held_out, validation_steps=2)
print("done")
"""


@pytest.fixture(scope="module")
def trainings():
    started = {kind: start(TRAINING, kind) for kind in ("data", "validation")}
    return {kind: ended(process) for kind, process in started.items()}


def test_a_hang_in_the_data(trainings):
    code, out, err = trainings["data"]
    assert (code, out) == (EXIT_CODE, ""), err[-3000:]
    own, _ = said(err)
    step = re.match(r"rank 0 made no step for \d+ s: last step (\d) of epoch 1, in training, at batches \(<", own)
    assert step and int(step.group(1)) <= 5
    assert '"<string>", line' in err and "in batches" in err


def test_a_hang_of_a_callback_in_the_validation_after_a_slow_training_that_is_left_alone(trainings):
    code, out, err = trainings["validation"]
    assert (code, out) == (EXIT_CODE, ""), err[-3000:]
    assert "compiling, " in err
    place = r"last step 1 of the validation of epoch 1, in validation, at on_test_batch_begin \(<string>:"
    assert re.match(r"rank 0 made no step for \d+ s: " + place, said(err)[0])
