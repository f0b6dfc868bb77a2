"""The average that SWA takes, its samples and learning rates, against closed forms."""

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.swa.average import DeviceAverage, HostAverage
from ascend_keras.compat import keras

layers = keras.layers
X = np.random.RandomState(3).randn(24, 3).astype(np.float32)
Y = np.ones((24, 2), np.float32)
# Keras 3 compiles with XLA by default, which takes longer than these trainings.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        # On TF 1.15 all tests share a graph, which some of them finalize.
        keras.backend.clear_session()


class Script(keras.callbacks.Callback):
    """Gives the trainable weights the values of a function of the epoch, at its end; put it before SWA."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def on_epoch_end(self, epoch, logs=None):
        weights = self.model.trainable_weights
        compat.set_values(weights, [np.full(w.shape, self.value(epoch)).astype(dtype_name(w)) for w in weights])


def dtype_name(weight):
    return getattr(weight.dtype, "name", weight.dtype).replace("_ref", "")


class Rates(keras.callbacks.Callback):
    """The learning rate that the optimizer has in every batch, and after the training."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(compat.get_learning_rate(self.model.optimizer))


def make_model(optimizer=None, **options):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, **options)(layers.Dense(4, "tanh", **options)(inputs)))
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **QUICK)
    return model


def fit(model, swa, *callbacks, **options):
    options = dict(dict(epochs=8, batch_size=8, verbose=0, shuffle=False), **options)
    return model.fit(X, Y, callbacks=list(callbacks) + [swa], **options)


# --- the average ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, epochs",
    [
        (dict(start_epoch=3), [3, 4, 5, 6, 7, 8]),
        (dict(start_epoch=1), [1, 2, 3, 4, 5, 6, 7, 8]),
        (dict(start_epoch=2, swa_freq=3), [2, 5, 8]),
        (dict(start_epoch=2, swa_freq=2, lr_schedule="constant"), [2, 4, 6, 8]),
        (dict(start_epoch=2, swa_freq=2, lr_schedule="cyclic"), [3, 5, 7]),
        (dict(start_epoch=1, swa_freq=3, lr_schedule="cyclic"), [3, 6]),
        (dict(start_epoch=2, swa_freq=2, lr_schedule="cyclic", sample_at="keras_swa"), [2, 4, 6, 8]),
    ],
)
def test_average_of_a_line_is_exact(options, epochs):
    model, swa = make_model(), SWA(**options)
    fit(model, swa, Script(lambda epoch: 0.5 + 0.25 * (epoch + 1)))
    assert swa.sampled_epochs == epochs
    # Eighths and quarters are exact in binary; division by 3, 6 or 7 of their sum rounds once.
    expected = np.float32(sum(np.float32(0.5 + 0.25 * epoch) for epoch in epochs)) / np.float32(len(epochs))
    for weight in model.get_weights():
        np.testing.assert_array_equal(weight, np.full(weight.shape, expected, np.float32))


def test_average_of_any_weights_has_the_bits_of_numpy():
    model, swa = make_model(), SWA(2)
    shapes = [weight.shape for weight in model.get_weights()]
    random = np.random.RandomState(5)
    samples = [[random.randn(*shape).astype(np.float32) for shape in shapes] for _ in range(7)]

    class Write(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch >= 1:
                self.model.set_weights(samples[epoch - 1])

    fit(model, swa, Write())
    for index, weight in enumerate(model.get_weights()):
        total = np.zeros(shapes[index], np.float32)
        for sample in samples:
            total += sample[index]
        np.testing.assert_array_equal(weight, total / np.float32(7))
    for weight, last in zip(swa.raw_weights, samples[-1]):
        np.testing.assert_array_equal(weight, last)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2**-11), ("float64", 2**-52)])
def test_other_dtypes_are_summed_up_wide_enough(dtype, tolerance):
    values = 1 + np.random.RandomState(1).rand(40)
    model = make_model(dtype=dtype)
    swa = SWA(1)
    model.fit(X, Y, epochs=40, batch_size=24, verbose=0, callbacks=[Script(lambda epoch: values[epoch]), swa])
    expected = values.astype(dtype).astype(np.float64).mean()
    for weight in model.get_weights():
        assert weight.dtype == dtype
        # Half a unit of the dtype around 1.5. Summed up in float16, 40 samples would be off by several.
        np.testing.assert_allclose(weight.astype(np.float64), expected, rtol=tolerance)
    assert {value.dtype for value in swa.raw_weights} == {np.dtype(dtype)}


def test_float16_does_not_overflow():
    model = make_model(dtype="float16")
    fit(model, SWA(1), Script(lambda epoch: 3e4))
    for weight in model.get_weights():
        np.testing.assert_array_equal(weight, np.full(weight.shape, 3e4, np.float16))


def test_only_trainable_weights_are_averaged_each_once():
    tied, frozen = layers.Dense(3, use_bias=False), layers.Dense(3, trainable=False)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(frozen(tied(tied(inputs)))))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = frozen.get_weights()
    fit(model, SWA(1), Script(lambda epoch: 1.0 + epoch))
    np.testing.assert_array_equal(tied.get_weights()[0], np.full((3, 3), 4.5, np.float32))
    # A mean of equal weights would be off by a rounding.
    for old, new in zip(before, frozen.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_integers_keep_their_last_value():
    class Counter(layers.Layer):
        def build(self, input_shape):
            self.number = self.add_weight(name="number", shape=(), dtype="int32", initializer="zeros", trainable=False)
            super().build(input_shape)

        def call(self, inputs):
            return inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            compat.set_values([counter.number], [np.int32(epoch)])

    counter, inputs = Counter(), keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(counter(inputs)))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    fit(model, SWA(1), Count())
    assert compat.get_values([counter.number])[0] == 7


def test_raw_and_average_can_be_exchanged_at_will():
    model, swa = make_model(), SWA(1)
    fit(model, swa, Script(lambda epoch: float(epoch)))
    for switch, expected in [(swa.use_raw, 7), (swa.use_raw, 7), (swa.use_average, 3.5), (swa.use_raw, 7)]:
        switch()
        assert {float(v) for w in model.get_weights() for v in w.ravel()} == {expected}
        assert {float(v) for w in swa.raw_weights for v in w.ravel()} == {7.0}


def test_second_fit_starts_a_new_average():
    model, swa = make_model(), SWA(3, "constant", 0.02)
    for shift in (0, 100):
        history = fit(model, swa, Script(lambda epoch, shift=shift: shift + epoch + 1.0))
        assert {float(v) for w in model.get_weights() for v in w.ravel()} == {shift + 5.5}
        assert compat.get_learning_rate(model.optimizer) == np.float32(0.1)
        assert len(history.history["lr"]) == len(history.history["loss"]) == 8
        assert len(swa.lr_trace) == 24


def test_no_average_before_training():
    with pytest.raises(RuntimeError, match="no average. Received: 0 samples"):
        SWA(2).use_average()


@pytest.mark.skipif(not compat.TF1, reason="TF 2 has no graph that grows")
def test_graph_is_complete_when_training_begins():
    model = make_model()
    fit(model, SWA(7), epochs=8)
    swa = SWA(2, "cyclic", swa_freq=2)

    class Finalize(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            keras.backend.get_session().graph.finalize()

    model.fit(X, Y, epochs=6, batch_size=8, verbose=0, callbacks=[swa, Finalize()])
    assert swa.sampled_epochs == [3, 5]


@pytest.mark.parametrize("storage", [DeviceAverage, HostAverage])
def test_average_knows_its_variables(storage):
    first, second = make_model(), make_model()
    average = storage(first.trainable_weights)
    assert average.covers(first.trainable_weights)
    assert not average.covers(second.trainable_weights)
    assert not average.covers(first.trainable_weights[1:])


# --- learning rates -------------------------------------------------------------------------------------------------


def constant(epoch, start, initial, low):
    """The published form, written down again: knees at 0.5 and 0.9 of the way to averaging."""
    if epoch >= start or epoch > 0.9 * start:
        return low
    if epoch <= 0.5 * start:
        return initial
    return initial + (low - initial) * (epoch / start - 0.5) / 0.4


def cyclic(epoch, batch, start, freq, steps, low, high):
    done = ((epoch - start) % freq) * steps + batch + 1
    return high + (low - high) * done / (freq * steps)


@pytest.mark.parametrize(
    "options",
    [
        dict(start_epoch=12, lr_schedule="constant", swa_lr=0.02),
        dict(start_epoch=11, lr_schedule="constant"),
        dict(start_epoch=1, lr_schedule="constant", swa_lr=0.02),
        dict(start_epoch=9, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=0.04, swa_freq=3),
        dict(start_epoch=1, lr_schedule="cyclic", swa_lr=0.01, swa_lr2=0.04, swa_freq=5),
        dict(start_epoch=9, lr_schedule="cyclic", swa_freq=2),
        dict(start_epoch=9, lr_schedule="cyclic", swa_lr=0.005, swa_lr2=None, swa_freq=2),
        dict(start_epoch=5),
    ],
)
def test_learning_rate_of_every_batch(options):
    model, swa, rates = make_model(), SWA(**options), Rates()
    history = fit(model, swa, rates, epochs=20)
    initial, start, freq = float(np.float32(0.1)), options["start_epoch"] - 1, options.get("swa_freq", 1)
    low = options.get("swa_lr", 0.1 * initial)
    high = options.get("swa_lr2", low + 0.25 * (initial - low))
    high = 10 * low if high is None else high
    expected = []
    for epoch in range(20):
        for batch in range(3):
            if options.get("lr_schedule", "manual") == "manual":
                expected.append(initial)
            elif options["lr_schedule"] == "cyclic" and epoch >= start:
                expected.append(cyclic(epoch, batch, start, freq, 3, low, high))
            else:
                expected.append(constant(epoch, start, initial, low))
    np.testing.assert_allclose(swa.lr_trace, expected, rtol=1e-14)
    np.testing.assert_array_equal(np.float32(rates.seen), np.float32(swa.lr_trace))
    assert history.history["lr"] == swa.lr_trace[2::3]
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.1)


def test_samples_are_taken_at_the_minimum_of_the_cycle():
    swa = SWA(3, "cyclic", 0.01, 0.04, 3)
    history = fit(make_model(), swa, epochs=12)
    assert swa.sampled_epochs == [5, 8, 11]
    assert [history.history["lr"][epoch - 1] for epoch in swa.sampled_epochs] == [0.01] * 3
    assert min(swa.lr_trace) == 0.01


def test_rate_changed_by_others_is_traced_and_kept():
    model, swa = make_model(), SWA(3)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    history = fit(model, swa, lower)
    np.testing.assert_allclose(history.history["lr"], [0.1 / (epoch + 1) for epoch in range(8)], rtol=1e-7)
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.1 / 8)


def test_rate_comes_back_after_an_interrupted_training():
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 6:
                raise KeyboardInterrupt

    model, swa = make_model(), SWA(4, "constant", 0.01)
    with pytest.raises(KeyboardInterrupt):
        fit(model, swa, Interrupt())
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.01)
    fit(model, swa)
    assert swa.lr_trace[0] == np.float32(0.1)
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.1)


def test_loss_scaled_optimizer():
    if compat.TF1:
        pytest.skip("TF 1.15 has no Keras loss-scale optimizer; test_loss_scale covers the one of this library")
    model = make_model(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    swa = SWA(4, "constant", 0.01)
    fit(model, swa, Script(lambda epoch: float(epoch)))
    assert swa.lr_trace[-1] == 0.01
    assert compat.get_learning_rate(model.optimizer) == np.float32(0.1)
    assert {float(v) for w in model.get_weights() for v in w.ravel()} == {5.0}
