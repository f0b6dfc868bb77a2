"""Momentum and RMSProp of the recipes against float64 accounts of their formulas, on every stack."""

import functools
import math

import numpy as np
import pytest

from ascend_keras import compat, optimizers
from ascend_keras.compat import keras, tf
from ascend_keras.schedules import WarmupCosine

STEPS = 25
# The rate falls twice: what is accumulated before a fall tells the forms apart.
RATES = [0.25] * 8 + [0.125] * 8 + [0.0078125] * 9


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


def sum_of_products(target, output):
    return tf.reduce_sum(output * tf.cast(target, output.dtype), axis=-1)


def compiled(model, optimizer, loss=sum_of_products, jit=False):
    model.compile(optimizer, loss, **({"jit_compile": jit} if compat.KERAS3 else {}))
    return model


def dense_model(optimizer, jit=False, dtype=None):
    """A kernel and a bias, whose gradients are the outer product of input and target, and the target."""
    layer = keras.layers.Dense(2, input_shape=(3,), dtype=dtype)
    model = compiled(keras.Sequential([layer]), optimizer, jit=jit)
    model.set_weights(START)
    return model


# Negative, under gradients that are positive: nothing cancels, so that a relative tolerance means something.
START = [np.float32([[-1, -2], [-3, -4], [-5, -6]]), np.float32([-0.5, -0.25])]


def batches(steps=STEPS):
    generator = np.random.RandomState(1)
    return [
        (generator.uniform(0.5, 2.0, (1, 3)).astype("f4"), generator.uniform(0.5, 2.0, (1, 2)).astype("f4"))
        for _ in range(steps)
    ]


def gradients(x, target):
    x, target = x[0].astype("f8"), target[0].astype("f8")
    return [np.outer(x, target), target]


def momentum_account(state, gradient, rate, nesterov=False):
    """One step of one weight; `state` is [weight, accumulator]."""
    weight, accumulator = state
    accumulator = 0.9 * accumulator + gradient
    step = gradient + 0.9 * accumulator if nesterov else accumulator
    return [weight - rate * step, accumulator]


def rms_prop_account(state, gradient, rate, rho=0.9, momentum=0.9, epsilon=1.0):
    """One step of one weight; `state` is [weight, mean square, step]."""
    weight, square, step = state
    square = rho * square + (1 - rho) * gradient**2
    step = momentum * step + rate * gradient / np.sqrt(square + epsilon)
    return [weight - step, square, step]


def centered_account(state, gradient, rate, rho=0.9, momentum=0.9, epsilon=1.0):
    """One step of one weight; `state` is [weight, mean, mean square, step]."""
    weight, mean, square, step = state
    mean = rho * mean + (1 - rho) * gradient
    square = rho * square + (1 - rho) * gradient**2
    step = momentum * step + rate * gradient / np.sqrt(square - mean**2 + epsilon)
    return [weight - step, mean, square, step]


def start_states(initial_slots):
    """The states of kernel and bias before the first step."""
    return [[weight.astype("f8")] + [np.full_like(weight, s, "f8") for s in initial_slots] for weight in START]


def state_of(model, optimizer, slots):
    """For each weight: its value, then its slots; they are the optimizer's last variables, slot by slot."""
    weights = model.get_weights()
    variables = compat.optimizer_variables(optimizer)[-slots * len(weights) :]
    values = weights + compat.get_values(variables)
    return [values[index :: len(weights)] for index in range(len(weights))]


def check(optimizer, account, initial_slots, rates, set_rate=None, **arguments):
    """Trains and compares weights and slots after every step with the account."""
    model = dense_model(optimizer, **arguments)
    states = start_states(initial_slots)
    for (x, target), rate in zip(batches(), rates):
        if set_rate:
            set_rate(optimizer, rate)
        model.train_on_batch(x, target)
        states = [account(state, gradient, rate) for state, gradient in zip(states, gradients(x, target))]
        for mine, expected in zip(state_of(model, optimizer, len(initial_slots)), states):
            for value, reference in zip(mine, expected):
                np.testing.assert_allclose(value, reference, rtol=1e-6)
    assert int(compat.get_values([optimizer.iterations])[0]) == STEPS


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    account = functools.partial(momentum_account, nesterov=nesterov)
    check(optimizers.Momentum(1.0, nesterov=nesterov), account, [0], RATES, compat.set_learning_rate)


def test_schedule():
    rates = [0.5 * (step + 1) / 5 for step in range(5)]
    rates += [0.5 * math.sin(math.pi / 2 * (30 - step) / 25) ** 2 for step in range(5, STEPS + 1)]
    optimizer = optimizers.Momentum(WarmupCosine(0.5, 30, 5))
    check(optimizer, momentum_account, [0], rates)
    np.testing.assert_allclose(compat.get_learning_rate(optimizer), rates[STEPS], rtol=1e-6)


# The variance of the centered form is a difference, which a small epsilon would leave with fewer digits than float32.
CASES = [{}, {"rho": 0.5, "momentum": 0.0, "epsilon": 0.25}]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "centered, account, initial", [(False, rms_prop_account, [1, 0]), (True, centered_account, [0, 1, 0])]
)
def test_rms_prop(case, centered, account, initial):
    optimizer = optimizers.RMSProp(1.0, centered=centered, **case)
    check(optimizer, functools.partial(account, **case), initial, RATES, compat.set_learning_rate)


def train(optimizer, rates):
    """The kernel and the bias after one step at each rate."""
    model = dense_model(optimizer)
    for (x, target), rate in zip(batches(), rates):
        compat.set_learning_rate(optimizer, rate)
        model.train_on_batch(x, target)
    return model.get_weights()


def sgd_account(rates):
    """The kernel and the bias that Keras' SGD with Nesterov momentum arrives at."""
    weights, velocities = [weight.astype("f8") for weight in START], [0.0, 0.0]
    for (x, target), rate in zip(batches(), rates):
        for index, gradient in enumerate(gradients(x, target)):
            velocities[index] = 0.9 * velocities[index] - rate * gradient
            weights[index] = weights[index] + 0.9 * velocities[index] - rate * gradient
    return weights


@pytest.mark.parametrize("rates, equal", [([0.25] * STEPS, True), (RATES, False)])
def test_momentum_equals_sgd_of_keras_at_a_constant_rate_only(rates, equal):
    ours = train(optimizers.Momentum(1.0, nesterov=True), rates)
    theirs = train(keras.optimizers.SGD(1.0, momentum=0.9, nesterov=True), rates)
    for mine, other, reference in zip(ours, theirs, sgd_account(rates)):
        np.testing.assert_allclose(other, reference, rtol=1e-6)
        apart = np.abs(mine - other) / np.abs(other)
        assert (apart < 1e-6).all() if equal else (apart > 0.1).all()


def test_first_step_differs_from_rmsprop_of_keras():
    # By hand, for a gradient of 2: mean square 0.9 * 1 + 0.1 * 4 = 1.3, and from zero 0.4.
    for cls, square in [(optimizers.RMSProp, 1.3), (keras.optimizers.RMSprop, 0.4)]:
        model = dense_model(cls(1.0, rho=0.9, momentum=0.9, epsilon=1.0))
        model.train_on_batch(np.float32([[1, 1, 1]]), np.float32([[2, 2]]))
        np.testing.assert_allclose(model.get_weights()[1][0], -0.5 - 2 / math.sqrt(square + 1), rtol=1e-6)


MAKERS = {
    "momentum": functools.partial(optimizers.Momentum, 0.25),
    "nesterov": functools.partial(optimizers.Momentum, 0.25, nesterov=True),
    "rms_prop": functools.partial(optimizers.RMSProp, 0.25),
    "centered": functools.partial(optimizers.RMSProp, 0.25, centered=True),
}
ACCOUNTS = {
    "momentum": (momentum_account, [0]),
    "nesterov": (functools.partial(momentum_account, nesterov=True), [0]),
    "rms_prop": (rms_prop_account, [1, 0]),
    "centered": (centered_account, [0, 1, 0]),
}
every_optimizer = pytest.mark.parametrize("kind", sorted(MAKERS))


@pytest.mark.skipif(not compat.KERAS3, reason="fit compiles with XLA on Keras 3 only")
@every_optimizer
def test_jit(kind):
    check(MAKERS[kind](), *ACCOUNTS[kind], rates=[0.25] * STEPS, jit=True)


@every_optimizer
def test_sparse_gradient_acts_as_the_dense_one(kind):
    """Row 1 is looked up twice in a batch, row 3 never: its slots decay all the same."""
    optimizer = MAKERS[kind]()
    ids = keras.Input((3,), dtype="int32")
    table = keras.layers.Embedding(4, 2)
    model = compiled(keras.Model(ids, keras.layers.Flatten()(table(ids))), optimizer)
    start = -np.arange(1, 9, dtype="f4").reshape(4, 2)
    model.set_weights([start])
    account, initial = ACCOUNTS[kind]
    state = [start.astype("f8")] + [np.full((4, 2), value, "f8") for value in initial]
    for step, rows in enumerate([[0, 1, 1], [2, 1, 1], [0, 0, 0], [1, 2, 1]]):
        target = np.full((1, 6), 1.0 + step, "f4")
        model.train_on_batch(np.int32([rows]), target)
        gradient = np.zeros((4, 2))
        np.add.at(gradient, rows, 1.0 + step)
        state = account(state, gradient, 0.25)
    for value, reference in zip(state_of(model, optimizer, len(initial))[0], state):
        np.testing.assert_allclose(value, reference, rtol=1e-6)


@every_optimizer
@pytest.mark.parametrize("clip, factor", [({"clipvalue": 0.5}, None), ({"clipnorm": 0.5}, 0.5)])
def test_clipping_comes_first(kind, clip, factor):
    optimizer = MAKERS[kind](**clip)
    model = dense_model(optimizer)
    x, target = np.float32([[1, 2, 3]]), np.float32([[1, 4]])
    model.train_on_batch(x, target)
    account, initial = ACCOUNTS[kind]
    for weight, state, gradient in zip(model.get_weights(), start_states(initial), gradients(x, target)):
        clipped = gradient * (factor / np.sqrt((gradient**2).sum())) if factor else np.clip(gradient, -0.5, 0.5)
        np.testing.assert_allclose(weight, account(state, clipped, 0.25)[0], rtol=1e-6)


@every_optimizer
@pytest.mark.parametrize("policy", [None, "mixed_float16"])
def test_skipped_step_leaves_weights_and_slots_alone(kind, policy):
    inner = MAKERS[kind]()
    optimizer = optimizers.scale_loss(inner, "dynamic")
    with compat.dtype_policy(policy):
        # Inside, since TF 1.15 gives a layer its policy where the layer is made.
        model = dense_model(optimizer)
    account, initial = ACCOUNTS[kind]
    states = start_states(initial)
    # Numbers that float16 holds, with a scale of 2**15 that it does not: 8 * 2**15 overflows there.
    for value in [0.5, np.inf, 1.0, np.nan, 0.25]:
        x, target = np.full((1, 3), value, "f4"), np.ones((1, 2), "f4")
        model.train_on_batch(x, target)
        if np.isfinite(value):
            states = [account(state, gradient, 0.25) for state, gradient in zip(states, gradients(x, target))]
        for mine, expected in zip(state_of(model, inner, len(initial)), states):
            for ours, reference in zip(mine, expected):
                np.testing.assert_allclose(ours, reference, rtol=1e-6)
                assert ours.dtype == np.float32
    assert optimizers.skipped_steps(optimizer) == 2
    assert int(compat.get_values([inner.iterations])[0]) == 5


class HalfAfter2048(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return tf.where(tf.cast(step, tf.float32) > 2048.0, 0.5, 1.0)

    def get_config(self):
        return {}


@every_optimizer
def test_float16_weights_follow_a_schedule_past_2048_steps(kind):
    # In float16 step 2049 is 2048.
    optimizer = MAKERS[kind]()
    optimizer = type(optimizer).from_config(dict(optimizer.get_config(), learning_rate=HalfAfter2048()))
    model = dense_model(optimizer, dtype="float16")
    model.train_on_batch(np.zeros((1, 3)), np.zeros((1, 2)))  # zero gradients change nothing
    compat.set_values([optimizer.iterations], [2049])
    model.train_on_batch(np.float32([[1, 1, 1]]), np.float32([[1, 1]]))
    account, initial = ACCOUNTS[kind]
    state = account(account(start_states(initial)[1], 0.0, 1.0), np.ones(2), 0.5)
    bias = model.get_weights()[1]
    assert bias.dtype == np.float16
    np.testing.assert_allclose(bias, state[0], rtol=2e-3)


@every_optimizer
def test_config_round_trip(kind):
    optimizer = MAKERS[kind](clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["clipnorm"] == 2.0 and again.get_config()["momentum"] == 0.9


def test_config_keeps_a_schedule():
    optimizer = optimizers.RMSProp(WarmupCosine(0.5, 30, 5))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert compat.has_schedule(again)
    assert again.get_config() == optimizer.get_config()


# A SavedModel of Keras 2 brings back the slots of no optimizer, Keras' own neither; and what Keras 3 loads from .h5
# cannot train on, whatever the optimizer.
FORMATS = [".keras"] if compat.KERAS3 else [".keras", ".h5"] if compat.NEW_OPTIMIZERS else [".h5"]


@pytest.mark.parametrize("kind", ["nesterov", "centered"])
@pytest.mark.parametrize("ending", FORMATS)
def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(kind, ending, tmp_path):
    data = batches(8)

    def run(model, part):
        for x, target in part:
            model.train_on_batch(x, target)

    def fresh():
        model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
        compiled(model, MAKERS[kind](), keras.losses.MeanSquaredError())
        model.set_weights(START)
        return model

    path = str(tmp_path / "model") + ending
    whole = fresh()
    run(whole, data[:4])
    whole.save(path)
    again = keras.models.load_model(path)
    assert type(again.optimizer) is type(whole.optimizer)
    assert int(compat.get_values([again.optimizer.iterations])[0]) == 4
    run(whole, data[4:])
    run(again, data[4:])
    slots = len(ACCOUNTS[kind][1])
    for mine, theirs in zip(state_of(again, again.optimizer, slots), state_of(whole, whole.optimizer, slots)):
        for value, reference in zip(mine, theirs):
            np.testing.assert_array_equal(value, reference)


def test_keras_callbacks_set_the_rate():
    optimizer = optimizers.Momentum(1.0)
    model = dense_model(optimizer)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)
    x, target = np.ones((1, 3), "f4"), np.ones((1, 2), "f4")
    model.fit(x, target, epochs=3, verbose=0, callbacks=[schedule])
    assert compat.get_learning_rate(optimizer) == 0.25
    # By hand: accumulators 1, 1.9, 2.71.
    np.testing.assert_allclose(model.get_weights()[1], START[1] - (1 + 1.9 / 2 + 2.71 / 4), rtol=1e-6)


RANKS = """
import json, os
import numpy as np
from ascend_keras import NPUTrainer, compat, optimizers
from ascend_keras.compat import keras, tf

rank = int(os.environ["RANK_ID"])
with NPUTrainer(precision_mode="must_keep_origin_dtype", loss_scale="dynamic") as trainer:
    with trainer.scope():
        model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones", input_shape=(2,))])
        optimizer = optimizers.RMSProp(0.25)
    trainer.compile(model, optimizer, lambda target, output: tf.reduce_sum(output * target, axis=-1))
    for x in [(1.0, 2.0), (3.0, float("inf") if rank == 1 else 4.0), (5.0, 6.0)]:
        model.train_on_batch(np.float32([x]) * (1 + rank), np.ones((1, 1), "float32"))
    variables = compat.optimizer_variables(optimizer)
    values = [value.ravel().tolist() for value in model.get_weights() + compat.get_values(variables)]
    print("RESULT " + json.dumps(dict(values=values, skipped=optimizers.skipped_steps(model.optimizer))))
"""


def test_ranks_of_an_adapter(adapter):
    """Two ranks average their gradients, 1.5 times the first rank's, and skip the step in which one has an Inf."""
    results = adapter.run(RANKS, ranks=2)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:]
    states = [[start, np.ones_like(start), np.zeros_like(start)] for start in (np.ones(2), np.zeros(1))]
    for x in [(1.0, 2.0), (5.0, 6.0)]:
        states = [rms_prop_account(state, g, 0.25) for state, g in zip(states, (1.5 * np.array(x), np.ones(1)))]
    expected = [state[index] for index in range(3) for state in states]
    for result in results:
        assert result.value["skipped"] == 1
        values = result.value["values"][:2] + result.value["values"][-4:]
        for value, reference in zip(values, expected):
            np.testing.assert_allclose(value, reference, rtol=1e-6)


def test_all_problems_at_once():
    with pytest.raises(ValueError) as error:
        optimizers.Momentum("0.1", momentum=1.0, nesterov=1)
    assert str(error.value) == (
        "learning_rate must be a number >= 0 or a LearningRateSchedule. Received: learning_rate='0.1'.\n"
        "momentum must be a number in [0, 1). Received: momentum=1.0.\n"
        "nesterov must be True or False. Received: nesterov=1."
    )
    with pytest.raises(ValueError) as error:
        optimizers.RMSProp(-1.0, rho=1, momentum=float("nan"), epsilon=0, centered=None)
    assert str(error.value) == (
        "learning_rate must be a number >= 0 or a LearningRateSchedule. Received: learning_rate=-1.0.\n"
        "rho must be a number in [0, 1). Received: rho=1.\n"
        "momentum must be a number in [0, 1). Received: momentum=nan.\n"
        "epsilon must be a number above 0. Received: epsilon=0.\n"
        "centered must be True or False. Received: centered=None."
    )


@pytest.mark.parametrize("rate", [True, None, float("inf"), [0.1]])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match="learning_rate must be a number >= 0 or a LearningRateSchedule. Received"):
        optimizers.RMSProp(rate)
