"""What SWA costs, counted and not timed: work for the device at each event, the graph of TF 1.15, traces of TF 2."""

import contextlib

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.swa.average import DeviceAverage
from ascend_keras.compat import keras, tf

layers = keras.layers
X = (5 + np.random.RandomState(3).randn(40, 3)).astype(np.float32)
Y = np.random.RandomState(4).randn(40, 2).astype(np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
]


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def make_model(norm=False, optimizer=None, loss="mse"):
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(inputs) if norm else inputs
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(x)))
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **QUICK)
    return model


def fit(model, *callbacks, **options):
    options = dict(dict(epochs=6, batch_size=8, verbose=0), **options)
    return model.fit(X, Y, callbacks=list(callbacks), **options)


class Meter:
    """Counts what each event of a callback asks of TensorFlow: runs of the session, or operations outside of a graph.

    `counts` has, for each event, a list with the number for each call. Calls of a `tf.function` count as one.
    """

    def __init__(self, callback, monkeypatch):
        self.counts = {name: [] for name in HOOKS}
        self._now = 0
        self._monkeypatch = monkeypatch
        for name in HOOKS:
            monkeypatch.setattr(callback, name, self._counting(name, getattr(callback, name)))

    def _counting(self, name, hook):
        def counting(*args, **kwargs):
            self._now = 0
            with self._watched():
                hook(*args, **kwargs)
            self.counts[name].append(self._now)

        return counting

    @contextlib.contextmanager
    def _watched(self):
        if not compat.TF1:
            from tensorflow.python.framework import op_callbacks

            op_callbacks.add_op_callback(self._see)
            try:
                yield
            finally:
                op_callbacks.remove_op_callback(self._see)
            return
        from tensorflow.python.client import session

        with self._monkeypatch.context() as patch:
            run = session.BaseSession.run

            def counted(*args, **kwargs):
                self._now += 1
                return run(*args, **kwargs)

            patch.setattr(session.BaseSession, "run", counted)
            yield

    def _see(self, op_type, inputs, attrs, outputs, op_name=None, graph=None):
        self._now += graph is None


@pytest.fixture
def graph_calls(monkeypatch):
    """The calls of all GraphOps, as the names of what they were built by."""
    calls, call = [], compat.GraphOp.__call__

    def noted(op):
        calls.append(getattr(op._build, "__name__", ""))
        return call(op)

    monkeypatch.setattr(compat.GraphOp, "__call__", noted)
    return calls


@pytest.fixture
def rates(monkeypatch):
    """The names of all accesses to the learning rate."""
    seen = []
    for name in ("get_learning_rate", "set_learning_rate"):
        access = getattr(compat, name)

        def noted(*args, _name=name, _access=access):
            seen.append(_name)
            return _access(*args)

        monkeypatch.setattr(compat, name, noted)
    return seen


# --- nothing is due -------------------------------------------------------------------------------------------------


def test_the_meter_counts(monkeypatch):
    class Busy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for _ in range(epoch):
                compat.get_values(self.model.weights[:1])

    busy = Busy()
    meter = Meter(busy, monkeypatch)
    fit(make_model(), busy, epochs=3)
    assert [count > 0 for count in meter.counts["on_epoch_begin"]] == [False, True, True]
    assert meter.counts["on_epoch_begin"][2] == 2 * meter.counts["on_epoch_begin"][1]
    assert set(meter.counts["on_epoch_end"]) == {0}


@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize(
    "options",
    [
        dict(start_epoch=5),
        dict(start_epoch=5, lr_schedule="constant", swa_lr=0.01),
        dict(start_epoch=5, unit="step", validate="both"),
        dict(start_step=21, unit="step", swa_freq=3),
    ],
)
def test_nothing_is_done_before_averaging(options, storage, monkeypatch, graph_calls):
    swa = SWA(storage=storage, **options)
    meter = Meter(swa, monkeypatch)
    before = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: before.append(len(graph_calls)))
    fit(make_model(), watch, swa, validation_data=(X, Y))
    first = 4  # epochs
    for name in ("on_train_batch_begin", "on_train_batch_end"):
        assert meter.counts[name][: 5 * first] == [0] * 5 * first
    for name in ("on_test_begin", "on_test_end", "on_epoch_end"):
        assert meter.counts[name][:first] == [0] * first
    assert before[first - 1] == before[0]
    assert sum(meter.counts["on_test_begin"][first:]) > 0


def test_learning_rate_is_looked_up_once_an_epoch_or_not_at_all(rates, monkeypatch):
    """Once where others set it, since the history has it; where SWA holds it, it is written when it changes."""
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.clear(), on_epoch_end=lambda epoch, logs: seen.append(list(rates))
    )
    fit(make_model(), watch, SWA(2), epochs=3)
    assert seen == [["get_learning_rate"]] * 3
    del seen[:]
    # Of 8 epochs before averaging, the rate falls in those from 5 to 8: above 0.5 of the way, and to the end at 0.9.
    fit(make_model(), watch, SWA(9, "constant", 0.01), epochs=11)
    assert seen[1:5] == [[]] * 4 and seen[9:] == [[]] * 2
    assert seen[5:9] == [["set_learning_rate"]] * 4
    assert not any("get_learning_rate" in names for names in seen)


@pytest.mark.parametrize("storage", ["device", "host"])
def test_steps_between_samples_cost_nothing(storage, monkeypatch):
    swa = SWA(unit="step", start_step=4, swa_freq=5, storage=storage)
    meter = Meter(swa, monkeypatch)
    fit(make_model(), swa, epochs=4)
    assert swa.sampled_steps == [4, 9, 14, 19]
    busy = [step + 1 for step, count in enumerate(meter.counts["on_train_batch_end"]) if count]
    assert busy == swa.sampled_steps
    assert set(meter.counts["on_train_batch_begin"]) == {0}
    assert set(meter.counts["on_epoch_end"]) == {0}


# --- something is due -----------------------------------------------------------------------------------------------


def test_one_call_an_event(monkeypatch, graph_calls):
    swa = SWA(2, swa_freq=2)
    meter = Meter(swa, monkeypatch)
    fit(make_model(), swa, epochs=7)
    assert swa.sampled_epochs == [2, 4, 6]
    # A later call is nothing but the call; the first one builds.
    assert meter.counts["on_epoch_end"][3] == meter.counts["on_epoch_end"][5] == 1
    assert meter.counts["on_epoch_end"][2] == meter.counts["on_epoch_end"][4] == 0
    assert [name for name in graph_calls if name == "_build_sum"] == ["_build_sum"] * 3
    assert [name for name in graph_calls if name == "_build_put"] == ["_build_put"]
    assert len(graph_calls) <= 3 + 1 + 1, "samples, the end, and zeros at the start"
    del graph_calls[:]
    swa.use_raw()
    swa.use_raw()
    swa.use_average()
    assert graph_calls == ["_build_swap"] * 2


def test_one_call_to_take_the_average_out(monkeypatch, graph_calls):
    swa = SWA(2)
    meter = Meter(swa, monkeypatch)
    shown = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: shown.append(list(graph_calls)))
    fit(make_model(), watch, swa, epochs=6, validation_data=(X, Y))
    assert meter.counts["on_test_end"][2:] == [1] * 4
    # After the first epochs, which build: a sample, and the average put in its place.
    for one, other in zip(shown[3:], shown[4:]):
        names = other[len(one) :]
        assert names.count("_build_sum") == names.count("_build_show") == 1
        assert len(names) <= 4, "with the weights set aside and put back"
    assert len(set(meter.counts["on_test_begin"][2:])) == 1


# --- the graph of TF 1.15 --------------------------------------------------------------------------------------------


class Freeze(keras.callbacks.Callback):
    """Finalizes the graph at the beginning of an epoch; Keras itself adds to it in the first validation."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.size = len(compat.get_session().graph.get_operations())
            compat.get_session().graph.finalize()


def schedule():
    return keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.05]))


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


@pytest.mark.skipif(not compat.TF1, reason="TF 2 has no graph that grows")
@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("validation", ["none", "average", "both", "both, a dataset"])
def test_graph_is_complete_when_training_begins(validation, storage, tmp_path):
    options, arguments = {}, {}
    if validation != "none":
        options = dict(validate=validation.split(",")[0], save_best=str(tmp_path / "best.npz"))
        arguments = dict(validation_data=dataset() if "dataset" in validation else (X, Y))
    swa, model = SWA(3, storage=storage, **options), make_model(norm=True)
    # With "both" the second validation is another: it takes place once there is an average.
    freeze = Freeze({"none": 0, "average": 1}.get(validation, 1))
    states = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: swa.state_dict())
    fit(model, freeze, swa, states, **arguments)
    assert swa.sampled_epochs == [3, 4, 5, 6] and swa.bn_summary.layers == 1
    assert len(compat.get_session().graph.get_operations()) == freeze.size
    swa.use_raw()
    assert len(swa.raw_weights) == len(model.weights)
    swa.use_average()


@pytest.mark.skipif(not compat.TF1, reason="TF 2 has no graph that grows")
@pytest.mark.parametrize(
    "make, options",
    [
        (schedule, dict(start_epoch=2)),
        (None, dict(start_epoch=3, lr_schedule="cyclic", swa_freq=2)),
        (None, dict(unit="step", start_step=3, average="ema")),
        (schedule, dict(unit="step", start_step=3, swa_freq=2)),
    ],
)
def test_graph_is_complete_with_every_learning_rate(make, options):
    swa, freeze = SWA(**options), Freeze(0)
    fit(make_model(optimizer=make and make()), freeze, swa)
    assert len(swa.sampled_epochs + swa.sampled_steps) > 1
    assert len(compat.get_session().graph.get_operations()) == freeze.size


# --- the traces of TF 2 ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 builds one graph and traces nothing")
@pytest.mark.parametrize(
    "options", [dict(start_epoch=2), dict(start_step=3, unit="step"), dict(start_epoch=2, bn="off")]
)
def test_training_is_not_traced_again(options):
    traces = []

    def loss(expected, found):
        traces.append(None)
        return tf.reduce_mean(tf.square(expected - found))

    fit(make_model(True, loss=loss), validation_data=(X, Y))
    plain = len(traces)
    assert plain > 0
    del traces[:]
    model, swa = make_model(True, loss=loss), SWA(validate="both", **options)
    fit(model, swa, validation_data=(X, Y))
    assert len(traces) == plain
    swa.use_raw()
    swa.use_average()
    fit(model, swa, validation_data=(X, Y))
    assert len(traces) == plain, "and not by a second training either"


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 builds one graph and traces nothing")
def test_own_graphs_are_traced_once(monkeypatch):
    built = []
    for name in ("_build_zero", "_build_sum", "_build_put", "_build_swap", "_build_show"):
        build = getattr(DeviceAverage, name)

        def counted(self, _name=name, _build=build):
            built.append(_name)
            return _build(self)

        monkeypatch.setattr(DeviceAverage, name, counted)
    model, swa = make_model(True), SWA(2)
    for _ in range(2):
        fit(model, swa, epochs=4, validation_data=(X, Y))
        swa.use_raw()
        swa.use_average()
    # tf.function itself traces a function twice, if it may make variables; never more with more events.
    counts = {name: built.count(name) for name in built}
    assert set(counts) == {"_build_zero", "_build_sum", "_build_put", "_build_swap", "_build_show"}
    assert max(counts.values()) <= 2
    del built[:]
    fit(model, swa, epochs=5, validation_data=(X, Y))
    assert built == []
