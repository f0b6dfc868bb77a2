"""A step of AlexNet's training against float64 NumPy, and the figures of its schedule."""

import alexnet_oracle as oracle
import numpy as np
import pytest

from ascend_keras import compat, losses, models, optimizers, schedules
from ascend_keras.compat import keras

QUICK = {} if not compat.KERAS3 else dict(jit_compile=False)
PEAK, EPOCHS, WARMUP, PER_EPOCH = 0.06, 150, 5, 100
CLASSES, IMAGES, SIZE = 10, 3, 63
FIGURES = {699: ".0067146", 1799: ".0172662", 6255: ".0598357", 62550: ".045", 125100: ".015"}


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    if compat.TF1:
        keras.backend.clear_session()


def he_uniform(shapes, seed=2):
    """Kernels as the recipe starts them, and biases that are not zero, for the L2 term to see them."""
    random = np.random.RandomState(seed)
    limits = [np.sqrt(6 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1 for shape in shapes]
    return [random.uniform(-limit, limit, shape).astype(np.float32) for limit, shape in zip(limits, shapes)]


def batch(seed):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (IMAGES, SIZE, SIZE, 3)).astype(np.uint8), random.randint(0, CLASSES, IMAGES)


def schedule():
    return schedules.WarmupCosine(
        PEAK, total_epochs=EPOCHS, warmup_epochs=WARMUP, steps_per_epoch=PER_EPOCH, staircase=True
    )


def make_model():
    """The recipe's model at the smallest size, without dropout, compiled as the recipe trains it."""
    model = models.alexnet(CLASSES, image_size=SIZE, dropout=0.0)
    model.set_weights(he_uniform([weight.shape for weight in model.get_weights()]))
    optimizers.add_weight_decay(model, 1e-4, "all")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizers.Momentum(schedule(), 0.9, nesterov=True), loss, **QUICK)
    return model


def distance(got, expected):
    """Norm of the difference, over the norm of what is expected."""
    return np.linalg.norm(np.asarray(got, "f8") - expected) / np.linalg.norm(expected)


def momentum_sums(model):
    wanted = [weight.shape for weight in model.get_weights()]
    sums = [variable for _, variable in compat.optimizer_state(model.optimizer) if len(variable.shape) > 0]
    values = compat.get_values(sums)
    assert [value.shape for value in values] == wanted
    return values


def test_two_steps():
    model = make_model()
    expected = oracle.Step(model.get_weights(), PEAK, WARMUP * PER_EPOCH)
    for seed in (1, 2):
        images, labels = batch(seed)
        before, normalised = model.get_weights(), oracle.imagenet(images)
        assert oracle.margin(normalised, expected.weights) > 2e-6, "rounding may decide on a unit; use another seed"
        last = list(expected.weights)
        total, _ = expected(normalised, labels)
        assert float(model.train_on_batch(images, labels)) == pytest.approx(total, rel=1e-5)
        for got, was, now, then in zip(model.get_weights(), before, expected.weights, last):
            np.testing.assert_allclose(got, now, rtol=1e-5, atol=1e-5 * np.abs(now).mean())
            # The step alone, of which a weight in float32 holds what is above half of its last place.
            step, rounding = now - then, 2.0**-24 * np.linalg.norm(was)
            error = np.linalg.norm(got.astype("f8") - was - step)
            assert error <= 1e-5 * np.linalg.norm(step) + rounding
        for got, sums in zip(momentum_sums(model), expected.sums):
            assert distance(got, sums) < 1e-5


def test_evaluation_has_the_same_total_loss():
    model = make_model()
    images, labels = batch(1)
    total, loss = oracle.Step(model.get_weights(), PEAK, WARMUP * PER_EPOCH)(oracle.imagenet(images), labels)
    assert float(model.evaluate(images, labels, batch_size=IMAGES, verbose=0)) == pytest.approx(total, rel=1e-5)
    assert optimizers.l2_term(model) == pytest.approx(total - loss, rel=1e-5)


def test_figures_of_the_schedule():
    table = schedules.WarmupCosine(0.06, total_epochs=150, warmup_epochs=5, steps_per_epoch=1251, staircase=True)
    steps = sorted(FIGURES) + [149 * 1251, 150 * 1251, 187700, 10**6]
    rates = [table(step) for step in steps]
    rates = compat.get_values(rates) if compat.TF1 else [np.asarray(rate) for rate in rates]
    for step, rate in zip(sorted(FIGURES), rates):
        digits = len(FIGURES[step]) - 1
        assert "{:.{}f}".format(float(rate), digits) == "0" + FIGURES[step]
    assert "{:.3g}".format(float(rates[len(FIGURES)])) == "6.58e-06"
    assert [float(rate) for rate in rates[-3:]] == [0.0, 0.0, 0.0]
