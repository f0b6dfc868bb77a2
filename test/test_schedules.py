"""Schedules against double-precision formulas, for every step from zero to far beyond the end."""

import json
import math
import os
import re

import numpy as np
import pytest

from ascend_keras import compat, optimizers, schedules
from ascend_keras.compat import keras, tf
from ascend_keras.schedules import SWAConstant, SWACyclic, WarmupCosine

FAR = [2**24 + 1, 2**31 - 1, 2**31, 2**40, 2**62]
# Keras 3 compiles with XLA by default, which takes longer than these trainings.
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
# One of each, none of whose rates are alike in the first twelve steps but for the plateaus.
EACH = [
    WarmupCosine(0.5, 12, 3, 0.01),
    WarmupCosine(0.5, total_epochs=4, warmup_epochs=1, steps_per_epoch=3, staircase=True, initial=0.125, start_step=1),
    SWAConstant(0.5, 0.01, 10),
    SWACyclic(0.5, 0.01, 0.25, start_epoch=3, cycle_epochs=2, steps_per_epoch=3),
]
NAMES = ["cosine", "stairs", "constant", "cyclic"]
each = pytest.mark.parametrize("schedule", EACH, ids=NAMES)


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    if compat.TF1:
        keras.backend.clear_session()


def run(value):
    return keras.backend.get_session().run(value) if compat.TF1 else np.asarray(value.numpy())


def evaluate(schedule, steps):
    return run(schedule(tf.constant(list(steps), tf.int64)))


# --- the formulas again, in double precision and exact integers -------------------------------------------------------


def cosine(step, peak, total, warmup, end, initial=0.0):
    if step < warmup:
        return initial + (peak - initial) * (step + 1) / warmup
    if step >= total:
        return end
    # 1 + cos(pi x) near x = 1 would cancel in double precision as well: use the half-angle form.
    return end + (peak - end) * math.sin(math.pi / 2 * (total - step) / (total - warmup)) ** 2


def stairs(step, peak, epochs, warmup_epochs, per_epoch, end=0.0):
    """The table of the AlexNet recipe, entry by entry."""
    if step < warmup_epochs * per_epoch:
        return peak * (step + 1) / (warmup_epochs * per_epoch)
    if step >= epochs * per_epoch:
        return end
    return end + (peak - end) * (1 + math.cos(math.pi * (step // per_epoch) / epochs)) / 2


def approach(position, start, initial, swa_lr):
    """keras-swa's rate before averaging, of an epoch or of a step."""
    t = position / start if start else 1.0
    if t <= 0.5:
        return initial
    if t > 0.9:
        return swa_lr
    return initial * (1.0 - (1.0 - swa_lr / initial) * (t - 0.5) / 0.4)


def cycle(step, length, swa_lr, swa_lr2):
    t = (step % length + 1) / length
    return (1 - t) * swa_lr2 + t * swa_lr


def expected_of(schedule, step):
    index = EACH.index(schedule)
    if index == 0:
        return cosine(step, 0.5, 12, 3, 0.01)
    if index == 1:
        step += 1
        return 0.125 + 0.375 * (step + 1) / 3 if step < 3 else stairs(step, 0.5, 4, 1, 3)
    if index == 2:
        return approach(step, 10, 0.5, 0.01)
    return approach(step // 3, 2, 0.5, 0.01) if step < 6 else cycle(step - 6, 6, 0.01, 0.25)


# --- warm-up and cosine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peak, total, warmup, end, initial",
    [(0.06, 1000, 100, 0.0, 0.0), (0.4, 10, 0, 4e-6, 0.0), (1.0, 7, 6, 0.5, 0.25), (0.5, 9, 4, 0.5, 0.5)],
)
def test_every_step(peak, total, warmup, end, initial):
    steps = list(range(total + 3)) + [10 * total] + FAR
    expected = [cosine(step, peak, total, warmup, end, initial) for step in steps]
    schedule = WarmupCosine(peak, total, warmup, end, initial=initial)
    np.testing.assert_allclose(evaluate(schedule, steps), expected, rtol=1e-6)


@pytest.mark.parametrize("end", [0.0, 1e-6])
def test_a_million_steps_keep_their_digits(end):
    total = 1000000
    steps = list(range(0, total, 997)) + [total - 1000, total - 2, total - 1, total]
    expected = [cosine(step, 0.1, total, 5000, end) for step in steps]
    np.testing.assert_allclose(evaluate(WarmupCosine(0.1, total, 5000, end), steps), expected, rtol=1e-6)
    assert expected[-2] < end + 1e-12, "the last step is where a cosine in float32 gives zero"


def test_end_is_exact():
    np.testing.assert_array_equal(evaluate(WarmupCosine(0.3, 100, 7, 0.1), [100, 101]), np.float32([0.1, 0.1]))


def test_half_way_is_half_of_the_peak():
    np.testing.assert_allclose(evaluate(WarmupCosine(0.5, 110, 10), [60]), [0.25], rtol=1e-6)


@pytest.mark.parametrize("peak, epochs, warmup, per_epoch, end", [(0.06, 150, 5, 1251, 0.0), (0.5, 7, 0, 3, 0.125)])
def test_staircase_is_the_table_of_alexnet(peak, epochs, warmup, per_epoch, end):
    schedule = WarmupCosine(
        peak, end=end, total_epochs=epochs, warmup_epochs=warmup, steps_per_epoch=per_epoch, staircase=True
    )
    # The recipe runs 50 steps beyond its table.
    steps = list(range(epochs * per_epoch + 50)) + FAR
    expected = [stairs(step, peak, epochs, warmup, per_epoch, end) for step in steps]
    np.testing.assert_allclose(evaluate(schedule, steps), expected, rtol=1e-6)


def test_figures_of_the_alexnet_recipe():
    schedule = WarmupCosine(0.06, total_epochs=150, warmup_epochs=5, steps_per_epoch=1251, staircase=True)
    epochs = evaluate(schedule, [1251 * epoch for epoch in (5, 50, 100, 149)])
    assert ["{:.6g}".format(rate) for rate in epochs[:3]] == ["0.0598357", "0.045", "0.015"]
    assert "{:.3g}".format(epochs[3]) == "6.58e-06"
    # The log shows the rate that a step was made with, and counts steps from 1.
    assert ["{:7.5f}".format(rate) for rate in evaluate(schedule, [699, 1799])] == ["0.00671", "0.01727"]


def test_figures_of_the_page():
    with open(os.path.join(os.path.dirname(__file__), "..", "docs", "schedules.md"), encoding="utf-8") as page:
        rows = re.findall(r"^\| (\d+) \| (\d+|after) \| (\S+) \|$", page.read(), re.MULTILINE)
    schedule = WarmupCosine(0.06, total_epochs=150, warmup_epochs=5, steps_per_epoch=1251, staircase=True)
    steps = [int(step) for step, _, _ in rows]
    for rate, (_, _, printed) in zip(evaluate(schedule, steps), rows):
        assert printed in ("{:.6g}".format(rate), "{:.3g}".format(rate))
    assert [step // 1251 + 1 for step in steps[:-1]] == [int(epoch) for _, epoch, _ in rows[:-1]]
    assert len(rows) == 7


@pytest.mark.parametrize("start_epoch", [1, 3, 250])
def test_inception_resnet_v2(start_epoch):
    per_epoch, epochs, warmup = 11, 250, 2
    schedule = schedules.inception_resnet_v2(4e-5, 0.4, 4e-6, warmup, epochs, per_epoch, start_epoch)
    table = []
    for i in range(epochs * per_epoch):
        if i < warmup * per_epoch:
            table.append(4e-5 + (0.4 - 4e-5) / (warmup * per_epoch) * (i + 1))
        else:
            share = (i - warmup * per_epoch) / ((epochs - warmup) * per_epoch)
            table.append(4e-6 + (0.4 - 4e-6) * 0.5 * (1 + math.cos(math.pi * share)))
    table = table[per_epoch * (start_epoch - 1) :]
    assert len(table) == per_epoch * (251 - start_epoch)
    np.testing.assert_allclose(evaluate(schedule, range(len(table) + 9)), table + 9 * [4e-6], rtol=1e-6)


def test_durations_in_epochs_are_those_in_steps():
    in_steps = WarmupCosine(0.1, 700, 200, steps_per_epoch=100, start_step=300)
    in_epochs = WarmupCosine(0.1, total_epochs=7, warmup_epochs=2, steps_per_epoch=100, start_epoch=4)
    mixed = WarmupCosine(0.1, 700, warmup_epochs=2.0, steps_per_epoch=np.int32(100), start_epoch=np.int64(4))
    assert in_steps.get_config() == in_epochs.get_config() == mixed.get_config()
    cyclic = SWACyclic(0.1, 0.01, 0.05, 300, 200, steps_per_epoch=100).get_config()
    assert cyclic == SWACyclic(0.1, 0.01, 0.05, start_epoch=4, cycle_epochs=2, steps_per_epoch=100).get_config()
    constant = SWAConstant(0.1, 0.01, 0, steps_per_epoch=100).get_config()
    assert constant == SWAConstant(0.1, 0.01, start_epoch=1, steps_per_epoch=100).get_config()


# --- weight averaging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_epoch, per_epoch", [(1, 4), (2, 3), (11, 7), (75, 8), (20, 1)])
@pytest.mark.parametrize("initial, swa_lr", [(0.1, 0.01), (1.0, 1e-6), (0.3, 0.3)])
def test_constant_is_the_rate_of_the_callback_in_every_batch(start_epoch, per_epoch, initial, swa_lr):
    schedule = SWAConstant(initial, swa_lr, start_epoch=start_epoch, steps_per_epoch=per_epoch)
    start = start_epoch - 1
    steps = list(range((start_epoch + 3) * per_epoch))
    expected = [approach(min(step // per_epoch, start), start, initial, swa_lr) for step in steps]
    np.testing.assert_allclose(evaluate(schedule, steps), expected, rtol=1e-6)
    np.testing.assert_array_equal(evaluate(schedule, FAR), np.full(len(FAR), swa_lr, np.float32))


@pytest.mark.parametrize("start", [0, 1, 2, 9, 10, 1000])
def test_constant_without_epochs_goes_by_the_step(start):
    schedule = SWAConstant(0.2, 0.05, start)
    steps = list(range(start + 5))
    expected = [approach(min(step, start), start, 0.2, 0.05) for step in steps]
    np.testing.assert_allclose(evaluate(schedule, steps), expected, rtol=1e-6)


@pytest.mark.parametrize("start_epoch, freq, per_epoch", [(1, 2, 3), (5, 3, 8), (4, 1, 2)])
def test_cyclic_is_the_rate_of_the_callback_in_every_batch(start_epoch, freq, per_epoch):
    schedule = SWACyclic(0.1, 0.001, 0.03, start_epoch=start_epoch, cycle_epochs=freq, steps_per_epoch=per_epoch)
    start, expected = start_epoch - 1, []
    for epoch in range(start + 4 * freq):
        for batch in range(per_epoch):
            if epoch < start:
                expected.append(approach(epoch, start, 0.1, 0.001))
            else:
                expected.append(cycle((epoch - start) % freq * per_epoch + batch, freq * per_epoch, 0.001, 0.03))
    rates = evaluate(schedule, range(len(expected)))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    ends = range(start * per_epoch + freq * per_epoch - 1, len(expected), freq * per_epoch)
    assert {float(rates[end]) for end in ends} == {float(np.float32(0.001))}, "exactly the lowest"


def test_cyclic_before_averaging_goes_by_the_step_without_epochs():
    rates = evaluate(SWACyclic(0.1, 0.01, 0.05, 10, 4), range(30))
    expected = [approach(step, 10, 0.1, 0.01) if step < 10 else cycle(step - 10, 4, 0.01, 0.05) for step in range(30)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_averaging_by_the_callback_at_the_cycle_ends():
    from ascend_keras.callbacks import SWA

    schedule = SWACyclic(0.1, 0.01, 0.05, start_epoch=3, cycle_epochs=2, steps_per_epoch=3)
    model, swa = one_weight(keras.optimizers.SGD(schedule), "mse"), SWA(start_epoch=4, lr_schedule="manual", swa_freq=2)
    model.fit(np.ones((3, 1), "float32"), np.ones((3, 1), "float32"), 1, epochs=8, verbose=0, callbacks=[swa])
    assert swa.sampled_epochs == [4, 6, 8]
    lowest = evaluate(schedule, [3 * epoch - 1 for epoch in swa.sampled_epochs])
    np.testing.assert_array_equal(lowest, np.full(3, 0.01, np.float32))


# --- the step ---------------------------------------------------------------------------------------------------------


def test_whole_epochs_and_cycles_are_exact_far_beyond_float32():
    # In float32 all of these steps round to a multiple of the epoch, or lose their place in the cycle.
    epoch = 10**8
    steps = [5 * epoch - 1, 5 * epoch, 6 * epoch - 1, 7 * epoch - 1, 2**31 + 1]
    schedule = WarmupCosine(0.1, total_epochs=30, steps_per_epoch=epoch, staircase=True)
    np.testing.assert_allclose(
        evaluate(schedule, steps), [stairs(step, 0.1, 30, 0, epoch) for step in steps], rtol=1e-6
    )
    constant = SWAConstant(0.1, 0.01, start_epoch=11, steps_per_epoch=epoch)
    expected = [approach(min(step // epoch, 10), 10, 0.1, 0.01) for step in steps]
    np.testing.assert_allclose(evaluate(constant, steps), expected, rtol=1e-6)
    steps = [base + offset for base in (2**24, 2**31, 2**40, 2**53, 2**62 - 8) for offset in range(8)]
    expected = [cycle(step - 5, 7, 0.01, 0.05) for step in steps]
    schedule = SWACyclic(0.1, 0.01, 0.05, 5, 7)
    np.testing.assert_allclose(evaluate(schedule, steps), expected, rtol=1e-6)
    np.testing.assert_allclose(run(schedule(tf.constant(steps[:24], tf.float64))), expected[:24], rtol=1e-6)


@each
def test_first_steps_and_far_ones(schedule):
    steps = list(range(40)) + FAR
    np.testing.assert_allclose(evaluate(schedule, steps), [expected_of(schedule, step) for step in steps], rtol=1e-6)


@each
def test_the_step_may_be_of_any_type(schedule):
    expected = evaluate(schedule, [5])[0]
    given = [5, 5.0, np.int32(5), np.float32(5), np.array(5, np.int64), np.array(5.0, np.float64)]
    types = ["int32", "int64", "float16", "float32", "float64"]
    given += [tf.constant(5, dtype) for dtype in types] + [keras.backend.variable(5, dtype) for dtype in types[:-1]]
    for step in given:
        rate = schedule(step)
        assert rate.dtype == tf.float32
        assert run(rate) == expected, repr(step)
    assert run(schedule(tf.constant([[5], [5]]))).tolist() == [[expected]] * 2


@each
def test_infinity_is_a_late_step(schedule):
    last = evaluate(schedule, [2**62])[0]
    for step in [math.inf, np.inf, 2**80, tf.constant(np.inf), tf.constant(np.inf, tf.float16), tf.constant(1e30)]:
        assert run(schedule(step)) == last, repr(step)


@each
def test_in_a_graph_with_a_variable_that_counts(schedule):
    if compat.TF1:
        step = tf.compat.v1.placeholder(tf.int64, [])
        rate = schedule(step)
        rates = [keras.backend.get_session().run(rate, {step: value}) for value in range(20)]
    else:
        step = tf.Variable(0, dtype=tf.int64)

        @tf.function
        def advance():
            rate = schedule(step)
            step.assign_add(1)
            return rate

        rates = [advance().numpy() for _ in range(20)]
        assert advance.experimental_get_tracing_count() == 1
    # Not bit by bit: TensorFlow makes a multiplication of a division by a constant.
    np.testing.assert_allclose(rates, [expected_of(schedule, step) for step in range(20)], rtol=1e-6)


@pytest.mark.skipif(compat.TF1, reason="TF 1.15's Keras has no jit_compile")
@each
def test_compiled_by_xla(schedule):
    compiled = tf.function(schedule, jit_compile=True)
    rates = [compiled(tf.constant(step, tf.int64)).numpy() for step in range(20)]
    np.testing.assert_allclose(rates, [expected_of(schedule, step) for step in range(20)], rtol=1e-6)


# --- in an optimizer --------------------------------------------------------------------------------------------------


def one_weight(optimizer, loss=None, model=None):
    """A model whose gradient is its input, where `loss` is not given."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", input_shape=(1,))
    model = model or keras.Sequential([layer])
    model.compile(optimizer, loss or (lambda target, output: keras.backend.mean(output * target)), **QUICK)
    return model


def rates_used(model, inputs):
    """The rate of every step: how far it takes the weight from zero, over the gradient; 0 for a skipped step."""
    one, rates = np.ones((1, 1), "float32"), []
    for value in inputs:
        model.set_weights([np.zeros((1, 1), "float32")])
        model.train_on_batch(value * one, one)
        rates.append(-float(model.get_weights()[0][0, 0]))
    return rates


@each
def test_optimizer_follows_it(schedule):
    rates = rates_used(one_weight(keras.optimizers.SGD(schedule)), 20 * [1.0])
    np.testing.assert_allclose(rates, [expected_of(schedule, step) for step in range(20)], rtol=1e-6)


def test_fit_follows_it():
    model = one_weight(keras.optimizers.SGD(WarmupCosine(0.5, 8, 2)))
    model.fit(np.ones((12, 1), "float32"), np.ones((12, 1), "float32"), batch_size=1, verbose=0)
    expected = 1 - sum(cosine(step, 0.5, 8, 2, 0.0) for step in range(12))
    np.testing.assert_allclose(model.get_weights()[0][0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("loss_scale, schedule", [("dynamic", one) for one in EACH] + [(1024, EACH[3])])
def test_skipped_steps_count(loss_scale, schedule):
    inputs = [1, 1, np.inf, 1, np.nan, np.inf, 1, 1, 1, -np.inf, 1, 1]
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(schedule), loss_scale)
    rates = rates_used(one_weight(optimizer), inputs)
    expected = [expected_of(schedule, step) if np.isfinite(value) else 0.0 for step, value in enumerate(inputs)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert optimizers.skipped_steps(optimizer) == 4
    np.testing.assert_allclose(compat.get_learning_rate(optimizer), expected_of(schedule, 12), rtol=1e-6)


@pytest.mark.skipif(not compat.KERAS3, reason="only Keras 3 accumulates gradients")
def test_accumulated_batches_count_one_by_one():
    optimizer = keras.optimizers.SGD(EACH[0], gradient_accumulation_steps=3)
    rates = rates_used(one_weight(optimizer), 9 * [1.0])
    assert int(optimizer.iterations) == 3, "Keras counts updates here"
    expected = [expected_of(EACH[0], step) if step % 3 == 2 else 0.0 for step in range(9)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


# --- files ------------------------------------------------------------------------------------------------------------


@each
def test_config_round_trip(schedule):
    config = json.loads(json.dumps(schedule.get_config()))
    again = type(schedule).from_config(config)
    assert again.get_config() == schedule.get_config() == config
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert again.get_config() == config
    np.testing.assert_array_equal(evaluate(again, range(30)), evaluate(schedule, range(30)))


def test_config_of_the_first_version_is_still_read():
    old = {"peak": 0.5, "total_steps": 12, "warmup_steps": 3, "end": 0.01, "name": "WarmupCosine"}
    np.testing.assert_array_equal(evaluate(WarmupCosine.from_config(old), range(30)), evaluate(EACH[0], range(30)))


@each
def test_saved_model_goes_on_where_it_was(schedule, tmp_path):
    model = one_weight(keras.optimizers.SGD(schedule), "mse")
    zero = np.zeros((1, 1), "float32")
    for _ in range(4):
        model.train_on_batch(zero, zero)
    path = str(tmp_path / ("model.keras" if compat.KERAS3 else "model.h5"))
    model.save(path)
    again = keras.models.load_model(path)
    # The loss of the other tests is a lambda, which no file holds; that of this one: (w - 0.5)^2 from 0 has slope -1.
    again.set_weights([zero])
    again.train_on_batch(zero + 1, zero + 0.5)
    np.testing.assert_allclose(again.get_weights()[0][0, 0], expected_of(schedule, 4), rtol=1e-6)
