"""Schedules against double-precision formulas, for every step from zero to far beyond the end."""

import math

import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.schedules import WarmupCosine


def evaluate(schedule, steps):
    with_steps = [schedule(tf.constant(step, tf.int64)) for step in steps]
    return np.array(compat.get_values(with_steps) if not compat.TF1 else keras.backend.get_session().run(with_steps))


def formula(step, peak, total, warmup, end):
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total:
        return end
    # 1 + cos(pi x) near x = 1 would cancel in double precision as well: use the half-angle form in exact integers.
    return end + (peak - end) * math.sin(math.pi / 2 * (total - step) / (total - warmup)) ** 2


@pytest.mark.parametrize("peak, total, warmup, end", [(0.06, 1000, 100, 0.0), (0.4, 10, 0, 4e-6), (1.0, 7, 6, 0.5)])
def test_every_step(peak, total, warmup, end):
    steps = list(range(total + 3)) + [10 * total, 2**31]
    expected = [formula(step, peak, total, warmup, end) for step in steps]
    np.testing.assert_allclose(evaluate(WarmupCosine(peak, total, warmup, end), steps), expected, rtol=1e-6)


def test_last_of_a_million_steps_keeps_its_digits():
    total = 1000000
    expected = [formula(step, 0.1, total, 5000, 0.0) for step in (total - 1, total - 2, total - 1000)]
    np.testing.assert_allclose(
        evaluate(WarmupCosine(0.1, total, 5000), [total - 1, total - 2, total - 1000]), expected, rtol=1e-6
    )


def test_half_way_is_half_of_the_peak():
    np.testing.assert_allclose(evaluate(WarmupCosine(0.5, 110, 10), [60]), [0.25], rtol=1e-6)


def test_config_round_trip():
    schedule = WarmupCosine(0.1, 100, 10, 0.01)
    assert WarmupCosine.from_config(schedule.get_config()).get_config() == schedule.get_config()


def test_all_problems_at_once():
    with pytest.raises(ValueError) as error:
        WarmupCosine(-1, 10, 10, end=2)
    for words in ("peak must be above 0. Received: peak=-1", "end=2, peak=-1", "warmup_steps=10, total_steps=10"):
        assert words in str(error.value)


def test_optimizer_follows_it_in_the_graph():
    schedule = WarmupCosine(0.5, 8, 2)
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", input_shape=(1,))])
    model.compile(keras.optimizers.SGD(schedule), lambda target, output: keras.backend.mean(output * target))
    model.fit(np.ones((12, 1), "float32"), np.ones((12, 1), "float32"), batch_size=1, verbose=0)
    expected = 1 - sum(formula(step, 0.5, 8, 2, 0.0) for step in range(12))
    np.testing.assert_allclose(model.get_weights()[0][0, 0], expected, rtol=1e-6)
