"""SWA by steps, moving averages, sums on the host and in float64, and what is kept, against closed forms."""

import numpy as np
import pytest

from ascend_keras import compat, optimizers
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.swa.average import DeviceAverage, HostAverage
from ascend_keras.compat import keras

layers = keras.layers
X = (5 + np.random.RandomState(3).randn(40, 3)).astype(np.float32)
Y = np.ones((40, 2), np.float32)
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


class Trace(keras.callbacks.Callback):
    """The trainable weights after every step, and after every epoch; put it before SWA."""

    def on_train_begin(self, logs=None):
        self.steps, self.epochs, self.rates = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(compat.get_values(self.model.trainable_weights))
        self.rates.append(compat.get_learning_rate(self.model.optimizer))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(compat.get_values(self.model.trainable_weights))


def make_model(optimizer=None, batch_norm=False):
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(inputs) if batch_norm else inputs
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(x)))
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **QUICK)
    return model


def fit(model, swa, **options):
    trace = Trace()
    options = dict(dict(epochs=6, batch_size=8, verbose=0), **options)
    model.fit(X, Y, callbacks=[trace, swa], **options)
    return trace


def mean(samples):
    """The sum in float32, one sample after the other, and then the division: the very bits that are promised."""
    totals = []
    for values in zip(*samples):
        total = np.zeros_like(values[0])
        for value in values:
            total = total + value
        totals.append(total / np.float32(len(values)))
    return totals


def ema(samples, decay):
    average = [value.astype(np.float64) for value in samples[0]]
    for sample in samples[1:]:
        average = [a + (1 - decay) * (w - a) for a, w in zip(average, sample)]
    return average


def check_equal(found, expected):
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


# --- kinds of average -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["device", "host"])
def test_ema_of_epochs(storage):
    model, swa = make_model(), SWA(2, average="ema", decay=0.7, storage=storage)
    trace = fit(model, swa)
    assert swa.sampled_epochs == [2, 3, 4, 5, 6]
    for found, expected in zip(compat.get_values(model.trainable_weights), ema(trace.epochs[1:], 0.7)):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_host_and_device_sums_have_the_same_bits():
    variables = [compat.make_accumulator((5, 3), "float32"), compat.make_accumulator((4,), "float16")]
    averages = [DeviceAverage(variables), HostAverage(variables)]
    averages += [DeviceAverage(variables, decay=0.9), HostAverage(variables, decay=0.9)]
    for average in averages:
        average.reset()
    random = np.random.RandomState(1)
    samples = []
    for _ in range(7):
        samples.append([random.randn(5, 3).astype(np.float32), random.randn(4).astype(np.float16)])
        compat.set_values(variables, samples[-1])
        for average in averages:
            average.add()
    for device, host in (averages[:2], averages[2:]):
        check_equal(device.sums(), host.sums())
    check_equal(averages[1].sums(), [np.sum([s[i].astype(np.float32) for s in samples], 0) for i in range(2)])


@pytest.mark.parametrize("storage", [DeviceAverage, HostAverage])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_lending_changes_neither_weights_nor_sums(storage, decay):
    random = np.random.RandomState(2)
    variables = [compat.make_accumulator((7, 3), "float32"), compat.make_accumulator((), "float32")]
    average = storage(variables, decay)
    average.reset()
    for _ in range(3):  # a third is not a binary fraction
        compat.set_values(variables, [random.randn(7, 3).astype(np.float32), np.float32(random.randn())])
        average.add()
    weights, sums = compat.get_values(variables), average.sums()
    average.lend()
    shown = [total / np.float32(3) for total in sums] if decay is None else sums
    check_equal(compat.get_values(variables), shown)
    check_equal(average.raw_values(), weights)
    average.take_back()
    check_equal(compat.get_values(variables), weights)
    check_equal(average.sums(), sums)
    average.install()
    check_equal(compat.get_values(variables), shown)
    check_equal(average.raw_values(), weights)
    average.exchange()
    check_equal(compat.get_values(variables), weights)
    check_equal(average.raw_values(), weights)


@pytest.mark.parametrize("storage", ["device", "host"])
def test_float64_sums_keep_what_float32_loses(storage):
    values = [2.0**24, 1.0, 1.0]  # in float32 the ones are lost, one by one

    class Script(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights = self.model.trainable_weights
            compat.set_values(weights, [np.full(w.shape, values[epoch], np.float32) for w in weights])

    for dtype, expected in (("float32", 2.0**24), ("float64", 2.0**24 + 2)):
        model = make_model()
        swa = SWA(1, storage=storage, dtype=dtype)
        model.fit(X, Y, epochs=3, batch_size=40, verbose=0, callbacks=[Script(), swa])
        assert model.get_weights()[0][0, 0] == np.float32(np.float64(expected) / 3)


def test_adapter_of_tf1_sums_on_the_host_by_epochs():
    kinds = {}
    for name, settings in (("epoch", dict(start_epoch=1)), ("step", dict(unit="step", start_step=1))):
        for backend in ("host", "npu_bridge", "npu_device"):
            swa = SWA(**settings)
            swa.set_backend(backend)
            kinds[name, backend] = swa._storage()
    assert kinds.pop(("epoch", "npu_bridge")) is HostAverage
    assert set(kinds.values()) == {DeviceAverage}


def test_raw_weights_need_not_be_kept():
    model, swa = make_model(batch_norm=True), SWA(2, keep_raw=False)
    trace = fit(model, swa)
    check_equal(compat.get_values(model.trainable_weights), mean(trace.epochs[1:]))
    for ask in (swa.use_raw, swa.use_average, lambda: swa.raw_weights):
        with pytest.raises(RuntimeError, match="not kept. Received: keep_raw=False"):
            ask()
    check_equal(compat.get_values(model.trainable_weights), mean(trace.epochs[1:]))
    trace = fit(model, swa)  # and a second average
    check_equal(compat.get_values(model.trainable_weights), mean(trace.epochs[1:]))


def test_weights_that_thaw_in_the_middle_are_refused():
    model = make_model()
    model.layers[1].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse", **QUICK)

    class Thaw(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.layers[1].trainable = True

    with pytest.raises(RuntimeError, match="changed in the middle.*Received: 2 variables at first, now 4"):
        model.fit(X, Y, epochs=5, verbose=0, callbacks=[Thaw(), SWA(2)])


def test_averaged_statistics():
    model, swa = make_model(batch_norm=True), SWA(3, bn="average")
    seen = []

    class Statistics(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(compat.get_values([model.layers[1].moving_mean, model.layers[1].moving_variance]))

    model.fit(X, Y, epochs=5, batch_size=8, verbose=0, callbacks=[Statistics(), swa])
    check_equal(compat.get_values([model.layers[1].moving_mean, model.layers[1].moving_variance]), mean(seen[2:]))
    assert swa.bn_summary is None
    swa.use_raw()
    check_equal(compat.get_values([model.layers[1].moving_mean, model.layers[1].moving_variance]), seen[-1])


def test_partial_pass_takes_sixteen_batches_or_bn_steps():
    for options, batches in ((dict(), 16), (dict(bn_steps=3), 3)):
        swa = SWA(2, bn="partial", **options)
        make_model(batch_norm=True).fit(X, Y, epochs=3, batch_size=2, verbose=0, callbacks=[swa])
        assert swa.bn_summary == (1, 0, batches, 2 * batches)


# --- by steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, sampled",
    [
        (dict(start_step=4), list(range(4, 31))),
        (dict(start_step=4, swa_freq=5), [4, 9, 14, 19, 24, 29]),
        (dict(start_epoch=3, swa_freq=4), [11, 15, 19, 23, 27]),
        (dict(start_step=7, swa_freq=4, lr_schedule="cyclic"), [10, 14, 18, 22, 26, 30]),
        (dict(start_step=7, swa_freq=4, lr_schedule="cyclic", sample_at="keras_swa"), [7, 11, 15, 19, 23, 27]),
    ],
)
def test_samples_of_steps(options, sampled):
    model, swa = make_model(), SWA(unit="step", **options)
    trace = fit(model, swa)
    assert swa.sampled_steps == sampled and swa.sampled_epochs == []
    check_equal(compat.get_values(model.trainable_weights), mean([trace.steps[step - 1] for step in sampled]))


def test_ema_of_steps():
    model, swa = make_model(), SWA(unit="step", start_step=6, average="ema", decay=0.9)
    trace = fit(model, swa)
    for found, expected in zip(compat.get_values(model.trainable_weights), ema(trace.steps[5:], 0.9)):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_learning_rate_of_every_step():
    swa = SWA(unit="step", start_step=11, lr_schedule="cyclic", swa_freq=4, swa_lr=0.01, swa_lr2=0.05)
    trace = fit(make_model(), swa)
    expected = []
    for step in range(30):
        if step < 10:
            part = step / 10
            slope = 0.1 * (1 - 0.9 * (part - 0.5) / 0.4)
            expected.append(0.1 if part <= 0.5 else 0.01 if part > 0.9 else slope)
        else:
            part = ((step - 10) % 4 + 1) / 4
            expected.append(0.05 * (1 - part) + 0.01 * part)
    np.testing.assert_allclose(swa.lr_trace, expected, rtol=1e-6)
    np.testing.assert_array_equal(np.float32(trace.rates), np.float32(swa.lr_trace))


def test_average_of_steps_is_known_where_the_length_of_an_epoch_is_not():
    def batches():
        for _ in range(6):
            yield X[:8], Y[:8]

    from ascend_keras.compat import tf

    shapes = (tf.TensorShape((8, 3)), tf.TensorShape((8, 2)))
    data = tf.data.Dataset.from_generator(batches, (tf.float32, tf.float32), shapes)
    swa = SWA(2, unit="step", swa_freq=2)
    make_model().fit(data, epochs=3, verbose=0, callbacks=[swa])
    assert swa.sampled_steps == [7, 9, 11, 13, 15, 17]


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 runs one step per call")
@pytest.mark.parametrize(
    "options, problem",
    [
        (dict(unit="step", start_step=4, swa_freq=2), None),
        (dict(unit="step", start_step=3, swa_freq=2), "first sample after step 3, swa_freq=2, 10 steps an epoch"),
        (dict(unit="step", start_step=4, swa_freq=3), "swa_freq=3"),
        (
            dict(start_epoch=2, lr_schedule="cyclic", swa_freq=2),
            "Received: lr_schedule='cyclic', steps_per_execution=2",
        ),
        (
            dict(unit="step", start_step=4, swa_freq=2, lr_schedule="constant"),
            "Received: lr_schedule='constant', steps",
        ),
        (dict(start_epoch=2, lr_schedule="constant"), None),
    ],
)
def test_several_steps_per_call(options, problem):
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=2, **QUICK)
    swa = SWA(**options)
    arguments = dict(epochs=3, batch_size=4, verbose=0, callbacks=[swa])
    if problem:
        with pytest.raises(ValueError, match=problem):
            model.fit(X, Y, **arguments)
        return
    model.fit(X, Y, **arguments)
    assert swa.sampled_steps == (list(range(4, 31, 2)) if "unit" in options else [])
    assert len(swa.lr_trace) == 30


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(start_step=31),
            "No sample is due before the training ends. Received: first sample after step 31, 30 steps",
        ),
        (dict(start_step=29, swa_freq=4, lr_schedule="cyclic"), "first sample after step 32, 30 steps"),
        (dict(start_step=3, swa_lr=0.2), "must not be above the optimizer's"),
    ],
)
def test_steps_that_contradict_the_training(options, message):
    with pytest.raises(ValueError, match=message):
        fit(make_model(), SWA(unit="step", **options))


# --- skipped steps --------------------------------------------------------------------------------------------------

# Of the 30 steps, those whose targets are infinite overflow.
BAD = (8, 9, 20)


def overflowing_data():
    targets = np.ones((30, 8, 2), np.float32)
    targets[[step - 1 for step in BAD]] = np.inf
    return np.concatenate([X[:8]] * 30), targets.reshape(-1, 2)


def check_skips(optimizer):
    model, swa = make_model(optimizer), SWA(unit="step", start_step=5, average="ema", decay=0.5)
    x, y = overflowing_data()
    trace = Trace()
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[trace, swa])
    sampled = [step for step in range(5, 31) if step not in BAD]
    assert swa.sampled_steps == sampled
    expected = ema([trace.steps[step - 1] for step in sampled], 0.5)
    for found, value in zip(compat.get_values(model.trainable_weights), expected):
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss_scale", ["dynamic", 8.0])
def test_skipped_steps_are_no_samples(loss_scale):
    check_skips(optimizers.scale_loss(keras.optimizers.SGD(0.1), loss_scale))


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 has no loss scaling of its own that tf.keras can compile and save")
def test_skipped_steps_of_plain_keras_are_no_samples():
    check_skips(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
