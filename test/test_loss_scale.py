"""Loss scaling against a NumPy account of the same steps, on every stack."""

import numpy as np
import pytest

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras, tf
from ascend_keras.optimizers import loss_scale

if compat.TF1:
    from ascend_keras.optimizers import loss_scale_tf1

INPUTS = [1, 1, np.inf, 1, 1, 1, np.inf, np.nan, 1, 1, -np.inf, 1, 1]


def reference(inputs, scale, growth_steps, fixed, rate=0.125, momentum=0.5):
    """Scale, skipped steps, iterations and weight after each step; the gradient of mean(w * x) is x."""
    weight, velocity, good, skipped, rows = 1.0, 0.0, 0, 0, []
    for step, gradient in enumerate(inputs):
        if np.isfinite(gradient):
            velocity = momentum * velocity - rate * gradient
            weight += velocity
            good += 1
            if not fixed and good == growth_steps:
                scale, good = scale * 2, 0
        else:
            skipped, good = skipped + 1, 0
            scale = scale if fixed else max(scale / 2, 1.0)
        rows.append((scale, skipped, step + 1, weight))
    return rows


def one_weight(optimizer, model=None):
    model = model or keras.Sequential(
        [keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", input_shape=(1,))]
    )
    model.compile(optimizer=optimizer, loss=lambda target, output: keras.backend.mean(output * target))
    return model


def run(optimizer, inputs, model=None):
    model, rows = one_weight(optimizer, model), []
    for value in inputs:
        model.train_on_batch(np.full((1, 1), value, "float32"), np.ones((1, 1), "float32"))
        iterations = int(compat.get_values([optimizer.iterations])[0])
        scale, skipped = optimizers.current_loss_scale(optimizer), optimizers.skipped_steps(optimizer)
        rows.append((scale, skipped, iterations, float(model.get_weights()[0][0, 0])))
    return rows


def dynamic(inner, initial_scale, growth_steps, monkeypatch):
    monkeypatch.setattr(loss_scale, "INITIAL_SCALE", initial_scale)
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", growth_steps)
    if compat.TF1:
        return loss_scale_tf1.LossScaleOptimizer(inner, "dynamic", initial_scale, growth_steps)
    return optimizers.scale_loss(inner, "dynamic")


@pytest.mark.parametrize("initial_scale, growth_steps", [(4.0, 2), (2.0**15, 3), (1.0, 100), (2.0, 1)])
def test_dynamic_trajectory(initial_scale, growth_steps, monkeypatch):
    optimizer = dynamic(keras.optimizers.SGD(0.125, momentum=0.5), initial_scale, growth_steps, monkeypatch)
    assert run(optimizer, INPUTS) == reference(INPUTS, initial_scale, growth_steps, fixed=False)


def test_fixed_scale_skips_and_stays():
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.125, momentum=0.5), 1024)
    assert run(optimizer, INPUTS) == reference(INPUTS, 1024.0, None, fixed=True)


def test_defaults_are_those_of_tf2():
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.0), "dynamic")
    model = one_weight(optimizer)
    one = np.ones((1, 1), "float32")
    for _ in range(1999):
        model.train_on_batch(one, one)
    assert optimizers.current_loss_scale(optimizer) == 32768.0
    model.train_on_batch(one, one)
    assert optimizers.current_loss_scale(optimizer) == 65536.0, "2000 good steps in a row"


@pytest.mark.parametrize("before, after", [("dynamic", 256), (256, "dynamic"), (256, 64), ("dynamic", None)])
def test_another_regime_replaces_the_one_that_is_there(before, after):
    inner = keras.optimizers.SGD(0.125, momentum=0.5)
    first = optimizers.scale_loss(inner, before)
    model = one_weight(first)
    run(first, [1.0, np.inf], model)
    second = optimizers.scale_loss(first, after)
    assert optimizers.loss_scale_of(second) == after
    assert compat.inner_optimizer(second) is inner, "slots and iterations stay"
    if after is None:
        assert second is inner
        return
    scale = 32768.0 if after == "dynamic" else float(after)
    rows = run(second, [1.0, np.inf, 1.0], model)
    assert [row[0] for row in rows] == ([scale, scale / 2, scale / 2] if after == "dynamic" else [scale] * 3)
    assert [row[2] for row in rows] == [3, 4, 5]


@pytest.mark.skipif(compat.TF1, reason="TF 1.15's Keras has no LossScaleOptimizer that we take over")
class TestOptimizersOfTheUser:
    def test_dynamic_one_keeps_scale_and_growth(self):
        stock = keras.mixed_precision.LossScaleOptimizer(
            keras.optimizers.SGD(0.125, momentum=0.5), initial_scale=4.0, dynamic_growth_steps=2
        )
        assert optimizers.loss_scale_of(stock) == "dynamic"
        taken = optimizers.scale_loss(stock, "dynamic")
        assert run(taken, INPUTS) == reference(INPUTS, 4.0, 2, fixed=False)

    @pytest.mark.skipif(compat.KERAS3, reason="Keras 3 has no static LossScaleOptimizer")
    @pytest.mark.parametrize("loss_scale_, scale", [("dynamic", 32768.0), (128, 128.0)])
    def test_static_one_is_replaced(self, loss_scale_, scale):
        stock = keras.mixed_precision.LossScaleOptimizer(
            keras.optimizers.SGD(0.125, momentum=0.5), dynamic=False, initial_scale=64.0
        )
        assert optimizers.loss_scale_of(stock) == 64.0
        taken = optimizers.scale_loss(stock, loss_scale_)
        assert run(taken, INPUTS[:2]) == reference(INPUTS[:2], scale, 2000, fixed=True)


def test_none_leaves_the_optimizer_alone():
    inner = keras.optimizers.SGD(0.1)
    assert optimizers.scale_loss(inner, None) is inner
    assert optimizers.skipped_steps(inner) == 0
    assert optimizers.current_loss_scale(inner) is None


def test_wrapping_twice_is_a_no_op():
    once = optimizers.scale_loss(keras.optimizers.SGD(0.125, momentum=0.5), "dynamic")
    assert optimizers.scale_loss(once, "dynamic") is once
    assert run(once, INPUTS) == reference(INPUTS, 2.0**15, 2000, fixed=False)


@pytest.mark.parametrize("value", [0, 0.5, -1, True, "static", float("inf"), float("nan"), [1]])
def test_bad_values_are_refused(value):
    with pytest.raises(ValueError, match="loss_scale must be None, 'auto', 'dynamic' or a number >= 1. Received"):
        optimizers.scale_loss(keras.optimizers.SGD(0.1), value)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.25}, {"clipvalue": 0.25}])
def test_clipping_acts_on_unscaled_gradients(clip):
    # Keras 2.15 and 3 clip inside apply, the others where gradients are computed: the result has to be the same.
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(1.0, **clip), 1024)
    rows = run(optimizer, [3.0])
    assert rows[0][3] == 1.0 - 0.25


def test_learning_rate_is_that_of_the_inner_optimizer():
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.25), "dynamic")
    one_weight(optimizer)
    assert compat.get_learning_rate(optimizer) == 0.25
    compat.set_learning_rate(optimizer, 0.5)
    assert compat.get_learning_rate(optimizer) == 0.5
    assert compat.get_learning_rate(compat.inner_optimizer(optimizer)) == 0.5


def test_learning_rate_callbacks_work():
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.25), "dynamic")
    model = one_weight(optimizer)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch: 0.25 * 0.5**epoch)
    model.fit(np.ones((2, 1), "float32"), np.ones((2, 1), "float32"), epochs=3, verbose=0, callbacks=[halve])
    assert compat.get_learning_rate(optimizer) == 0.0625
    assert model.get_weights()[0][0, 0] == 1 - 0.25 - 0.125 - 0.0625


@pytest.mark.skipif(compat.TF1 or compat.KERAS3, reason="TF 2's own LossScaleOptimizer of Keras 2 is the peer")
def test_equals_stock_loss_scale_optimizer_step_by_step():
    stock = keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(0.125, momentum=0.5), initial_scale=4.0, dynamic_growth_steps=2
    )
    model, rows = one_weight(stock), []
    for value in INPUTS:
        model.train_on_batch(np.full((1, 1), value, "float32"), np.ones((1, 1), "float32"))
        rows.append((float(stock.loss_scale), int(stock.iterations), float(model.get_weights()[0][0, 0])))
    assert rows == [(row[0], row[2], row[3]) for row in reference(INPUTS, 4.0, 2, fixed=False)]


@pytest.mark.skipif(not compat.TF1, reason="the float status is read by our own optimizer on TF 1.15 only")
class TestFloatStatus:
    """Saturation mode: gradients stay finite, and only the register tells."""

    def test_register_decides_and_is_cleared(self):
        register = keras.backend.variable(np.zeros(8, np.int32), dtype="int32")
        status = optimizers.FloatStatus(
            read=register.read_value, clear=lambda: register.assign(np.zeros(8, np.int32)).op
        )
        optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.125), "dynamic", float_status=status)
        model, seen = one_weight(optimizer), []
        for overflow in [0, 1, 0]:
            keras.backend.set_value(register, np.array([0, 0, overflow, 0, 0, 0, 0, 0], np.int32))
            model.train_on_batch(np.ones((1, 1), "float32"), np.ones((1, 1), "float32"))
            seen.append((float(model.get_weights()[0][0, 0]), optimizers.current_loss_scale(optimizer)))
            assert not keras.backend.get_value(register).any()
        assert seen == [(0.875, 32768.0), (0.875, 16384.0), (0.75, 16384.0)]
        assert optimizers.skipped_steps(optimizer) == 1

    def test_status_is_summed_over_ranks(self):
        zeros = np.zeros(8, np.int32)
        status = optimizers.FloatStatus(
            read=lambda: tf.constant(zeros), clear=tf.no_op, all_reduce=lambda status: status + 1
        )
        optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.125), "dynamic", float_status=status)
        model = one_weight(optimizer)
        model.train_on_batch(np.ones((1, 1), "float32"), np.ones((1, 1), "float32"))
        assert model.get_weights()[0][0, 0] == 1.0, "another rank overflowed, so this one has to skip too"


@pytest.mark.skipif(not compat.TF1, reason="our own optimizer class exists on TF 1.15 only")
def test_config_round_trip():
    optimizer = loss_scale_tf1.LossScaleOptimizer(keras.optimizers.Adam(0.25, beta_1=0.5), "dynamic", 8.0, 3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is loss_scale_tf1.LossScaleOptimizer
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["optimizer"]["config"]["beta_1"] == 0.5


@pytest.mark.skipif(not compat.TF1, reason="Keras saves our own optimizer class on TF 1.15 only")
def test_whole_model_is_saved_and_loaded_with_its_state(tmp_path):
    optimizer = optimizers.scale_loss(keras.optimizers.SGD(0.125, momentum=0.5), "dynamic")
    model = one_weight(optimizer)
    for value in INPUTS[:4]:
        model.train_on_batch(np.full((1, 1), value, "float32"), np.ones((1, 1), "float32"))
    # The loss is a lambda, which no file holds: the optimizer is what this is about.
    model.compile(optimizer=optimizer, loss="mse")
    model._make_train_function()
    model.save(str(tmp_path / "model.h5"))
    again = keras.models.load_model(str(tmp_path / "model.h5"))
    for mine, theirs in zip(optimizer.get_weights(), again.optimizer.get_weights()):
        np.testing.assert_array_equal(mine, theirs)
    assert optimizers.current_loss_scale(again.optimizer) == 16384.0
    assert optimizers.skipped_steps(again.optimizer) == 1


@pytest.mark.parametrize(
    "text, value", [("none", None), ("None", None), ("auto", "auto"), ("dynamic", "dynamic"), ("1024", 1024.0)]
)
def test_flag_text(text, value):
    assert optimizers.parse_loss_scale(text) == value


@pytest.mark.parametrize("text", ["", "off", "0.5", "nan", "-1"])
def test_bad_flag_text(text):
    with pytest.raises(ValueError, match="loss_scale must be None, 'auto', 'dynamic' or a number >= 1"):
        optimizers.parse_loss_scale(text)
