"""The learning rate over ranks: factors by hand, in the optimizer and in the steps it makes."""

import json
import math

import numpy as np
import pytest
from played_ranks import kept_log

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras, tf
from ascend_keras.optimizers import ScaledSchedule, scale_learning_rate
from ascend_keras.schedules import WarmupCosine

pytestmark = pytest.mark.usefixtures("fresh_graph")

QUICK = dict(jit_compile=False) if compat.KERAS3 else {}
FACTORS = [
    ("linear", 2, 2.0),
    ("linear", 8, 8.0),
    ("sqrt", 4, 2.0),
    ("sqrt", 8, math.sqrt(8)),
    ("sqrt", 3, math.sqrt(3)),
]
scaled = pytest.mark.parametrize("rule, ranks, factor", FACTORS)


def exponential():
    return keras.optimizers.schedules.ExponentialDecay(0.5, 3, 0.5)


def evaluate(schedule, steps):
    rates = [schedule(tf.constant(step, tf.float32)) for step in steps]
    return compat.get_session().run(rates) if compat.TF1 else [rate.numpy() for rate in rates]


def rates_used(optimizer, steps, changed=None):
    """The rate of every step of SGD, whose gradient is one; `changed` is what a callback sets after half of them."""
    layer = keras.layers.Dense(1, use_bias=False, input_shape=(1,))
    model = keras.Sequential([layer])
    model.compile(optimizer, lambda target, output: keras.backend.mean(output * target), **QUICK)
    one, rates = np.ones((1, 1), "float32"), []
    for step in range(steps):
        if changed and 2 * step == steps:
            compat.set_learning_rate(optimizer, changed)
        model.set_weights([np.zeros((1, 1), "float32")])
        model.train_on_batch(one, one)
        rates.append(-float(model.get_weights()[0][0, 0]))
    return rates


@pytest.fixture
def log():
    with kept_log() as found:
        yield found


@scaled
@pytest.mark.parametrize("kind", ["SGD", "Adam", "Momentum"])
def test_a_number(rule, ranks, factor, kind, log):
    make = optimizers.Momentum if kind == "Momentum" else getattr(keras.optimizers, kind)
    optimizer = make(0.1)
    assert scale_learning_rate(optimizer, ranks, rule) is optimizer
    expected = float(np.float32(np.float64(np.float32(0.1)) * factor))
    assert compat.get_learning_rate(optimizer) == expected
    assert log == [("INFO", "learning rate: {:g} instead of 0.1 ({} rule, {} ranks)".format(expected, rule, ranks))]
    assert scale_learning_rate(optimizer, ranks, rule) is optimizer, "once"
    assert compat.get_learning_rate(optimizer) == expected
    assert len(log) == 1


@pytest.mark.parametrize("loss_scale", [None, "dynamic", 1024])
def test_steps_are_longer(loss_scale):
    optimizer = keras.optimizers.SGD(0.25)
    optimizer = optimizers.scale_loss(optimizer, loss_scale) if loss_scale else optimizer
    scale_learning_rate(optimizer, 8, "linear")
    assert rates_used(optimizer, 4, changed=0.5) == [2.0, 2.0, 0.5, 0.5]


@pytest.mark.parametrize("loss_scale", [None, "dynamic"])
def test_a_schedule_step_by_step(loss_scale, log):
    optimizer = keras.optimizers.SGD(exponential())
    optimizer = optimizers.scale_loss(optimizer, loss_scale) if loss_scale else optimizer
    scale_learning_rate(optimizer, 4, "linear")
    np.testing.assert_allclose(rates_used(optimizer, 6), [4 * 0.5 * 0.5 ** (k / 3) for k in range(6)], rtol=1e-6)
    assert compat.has_schedule(optimizer)
    np.testing.assert_allclose(compat.get_learning_rate(optimizer), 4 * 0.5 * 0.5**2, rtol=1e-6)
    assert log == [("INFO", "learning rate: ExponentialDecay times 4 (linear rule, 4 ranks)")]
    scale_learning_rate(optimizer, 4, "linear")
    assert len(log) == 1 and not isinstance(compat.learning_rate_source(optimizer).schedule, ScaledSchedule)


@scaled
def test_a_schedule_of_ours(rule, ranks, factor):
    plain = WarmupCosine(0.5, 12, 3, 0.01)
    optimizer = scale_learning_rate(keras.optimizers.Adam(plain), ranks, rule)
    found, before = (evaluate(schedule, range(14)) for schedule in (compat.learning_rate_source(optimizer), plain))
    np.testing.assert_array_equal(found, np.array(before, "float32") * np.float32(factor))


def test_no_rule_or_one_rank(log):
    for ranks, rule in ((8, None), (1, "linear"), (1, "sqrt")):
        optimizer = scale_learning_rate(keras.optimizers.SGD(0.25), ranks, rule)
        assert compat.get_learning_rate(optimizer) == 0.25
    assert log == []


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_a_schedule_that_was_scaled_is_put_back_on_one_rank(rule, log):
    plain = exponential()
    optimizer = keras.optimizers.SGD(ScaledSchedule(ScaledSchedule(plain, 4), 2))
    scale_learning_rate(optimizer, 1, rule)
    assert compat.learning_rate_source(optimizer) is plain
    assert log == [("INFO", "learning rate: ExponentialDecay times 1 ({} rule, 1 rank)".format(rule))]
    np.testing.assert_allclose(rates_used(optimizer, 4), [0.5 * 0.5 ** (k / 3) for k in range(4)], rtol=1e-6)
    kept = keras.optimizers.SGD(ScaledSchedule(plain, 8))
    assert evaluate(compat.learning_rate_source(scale_learning_rate(kept, 1, None)), [0]) == [4.0]


def test_a_schedule_that_was_scaled_is_scaled_anew():
    optimizer = keras.optimizers.SGD(ScaledSchedule(exponential(), 8))
    scale_learning_rate(optimizer, 2, "linear")
    assert evaluate(compat.learning_rate_source(optimizer), [0]) == [1.0]


@pytest.mark.parametrize("plain", [exponential(), WarmupCosine(0.5, 12, 3, 0.01)], ids=["keras", "ours"])
def test_config_round_trip(plain):
    schedule = ScaledSchedule(plain, 8)
    config = json.loads(json.dumps(schedule.get_config()))
    for again in (
        ScaledSchedule.from_config(config),
        keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule)),
    ):
        assert type(again) is ScaledSchedule and type(again.schedule) is type(plain) and again.factor == 8.0
        np.testing.assert_array_equal(evaluate(again, range(14)), evaluate(schedule, range(14)))


def test_saved_model_goes_on_where_it_was(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, input_shape=(1,))])
    optimizer = scale_learning_rate(keras.optimizers.SGD(exponential()), 4, "linear")
    model.compile(optimizer, "mse", **QUICK)
    zero = np.zeros((1, 1), "float32")
    for _ in range(3):
        model.train_on_batch(zero, zero)
    path = str(tmp_path / ("model.keras" if compat.KERAS3 else "model.h5"))
    model.save(path)
    again = keras.models.load_model(path)
    again.set_weights([zero])
    again.train_on_batch(zero + 1, zero + 0.5)  # (w - 0.5)^2 from 0 has slope -1
    np.testing.assert_allclose(again.get_weights()[0][0, 0], 4 * 0.5 * 0.5, rtol=1e-6)
    scale_learning_rate(again.optimizer, 4, "linear")
    assert compat.learning_rate_source(again.optimizer).factor == 4.0, "not sixteen"


def test_another_scaling_is_refused():
    optimizer = scale_learning_rate(keras.optimizers.SGD(0.25), 8, "linear")
    with pytest.raises(ValueError) as error:
        scale_learning_rate(optimizer, 8, "sqrt")
    assert str(error.value) == (
        "The learning rate is scaled already. Received: rule='sqrt' for 8 ranks, after 'linear' for 8. Make a new "
        "optimizer."
    )
    assert compat.get_learning_rate(optimizer) == 2.0


def test_arguments():
    with pytest.raises(ValueError) as error:
        scale_learning_rate(keras.optimizers.SGD(0.25), 0, "cubic")
    assert str(error.value) == (
        "`ranks` must be a whole number >= 1. Received: ranks=0.\n"
        "The rule must be None, 'linear' or 'sqrt'. Received: rule='cubic'."
    )
    with pytest.raises(ValueError, match=r"`schedule` must be a LearningRateSchedule. Received: schedule=0.5.\nfactor"):
        ScaledSchedule(0.5, 0)


@pytest.mark.skipif(compat.NEW_OPTIMIZERS, reason="the optimizers of Keras 2.11 and later take no function")
def test_a_function_is_refused():
    optimizer = keras.optimizers.SGD(lambda: 0.25)
    with pytest.raises(ValueError, match="A function as learning rate cannot be scaled. Received: learning_rate=<func"):
        scale_learning_rate(optimizer, 8, "linear")
