"""The plateau rule: its decision against the recipe's own loop, then in training, on ranks, and resumed."""

import math
import threading

import numpy as np
import pytest
from plateau_cases import CURVE, Optimizer, X, fit, make_model, make_plateau, recipe, replay, use_plain_optimizer

from ascend_keras import compat, optimizers
from ascend_keras.callbacks.plateau import PlateauDecay, has_stalled
from ascend_keras.compat import keras
from ascend_keras.schedules import WarmupCosine


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    if compat.TF1:
        keras.backend.clear_session()


@pytest.fixture
def plain_optimizer(monkeypatch):
    use_plain_optimizer(monkeypatch)


# --- the decision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, every, min_gain, stalled",
    [
        ([0.5, 0.75], 2, 0.25, False),  # a gain of exactly min_gain is enough
        ([0.5, 0.75], 2, 0.2500001, True),
        ([0.0, 0.5, 0.75], 2, 0.25, False),  # older values do not count
        ([1.0, 0.5, 0.75], 2, 0.25, False),
        ([0.0, 0.5, 0.75], 3, 0.5, False),  # (0.75 + 0.25) / 2
        ([0.0, 0.5, 0.75], 3, 0.5000001, True),
        ([0.75, 0.5], 2, -0.5, False),  # a loss of 0.25 where 0.5 may be lost
        ([0.75, 0.5], 2, -0.125, True),
        ([0.5] * 10, 10, 0.02, True),
        ([0.5] * 9 + [0.75], 10, 0.25, False),
        ([math.nan, 0.5], 2, 0.25, False),
        ([0.5, math.nan], 2, 0.25, False),
        ([math.inf, -math.inf, 0.5], 3, 0.25, False),
    ],
)
def test_decision_by_hand(values, every, min_gain, stalled):
    assert has_stalled(values, every, min_gain) is stalled


def test_decision_is_the_recipe_s_for_random_walks():
    random, decided = np.random.RandomState(0), []
    for _ in range(500):
        values = np.cumsum(random.uniform(-0.01, 0.018, 11)).tolist()
        decided.append(has_stalled(values, 10, 0.02))
        assert recipe(values + [0.0], 1.0)[-1] == (0.1 if decided[-1] else 1.0)
    assert 100 < sum(decided) < 400, "both ways are taken often"


# --- in training ------------------------------------------------------------------------------------------------------


def test_training_has_the_rates_of_the_recipe():
    plateau = PlateauDecay()
    rates = fit(plateau, CURVE)
    np.testing.assert_allclose(rates, recipe(CURVE, 0.1), rtol=1e-6)
    np.testing.assert_allclose(rates, 21 * [0.1] + 10 * [0.01] + 4 * [0.001], rtol=1e-6)
    assert [epoch for epoch, _ in plateau.reductions] == [21, 31]
    np.testing.assert_allclose([rate for _, rate in plateau.reductions], [0.01, 0.001], rtol=1e-6)


@pytest.mark.parametrize("every, epochs", [(2, [3, 5, 7]), (3, [4, 7]), (5, [6]), (9, [])])
def test_every(every, epochs, plain_optimizer):
    plateau = make_plateau(every=every, factor=0.5)
    replay(plateau, 8 * [0.5])
    assert plateau.reductions == [(epoch, 0.5 ** (k + 1)) for k, epoch in enumerate(epochs)]


def test_not_below_min_lr(plain_optimizer):
    # In float32 0.0125 is a little more than 0.0125, and could be lowered to it for ever.
    assert float(np.float32(0.0125)) > 0.0125
    plateau = make_plateau(0.1, every=2, factor=0.25, min_lr=0.0125)
    rates = replay(plateau, 9 * [0.5])
    np.testing.assert_allclose(rates, 3 * [0.1] + 2 * [0.025] + 4 * [0.0125], rtol=1e-6)
    assert [epoch for epoch, _ in plateau.reductions] == [3, 5], "nothing is lowered to what it is"
    assert replay(make_plateau(0.1, every=2, min_lr=0.5), 5 * [0.5]) == 5 * [0.1], "nor raised"


def test_second_fit_starts_anew():
    plateau, model = PlateauDecay(every=3), make_model(1.0)
    fit(plateau, 6 * [0.5], model)
    assert plateau.reductions == [(4, 0.1)]
    rates = fit(plateau, 5 * [0.5], model)
    np.testing.assert_allclose(rates, 4 * [0.1] + [0.01], rtol=1e-6)
    assert [epoch for epoch, _ in plateau.reductions] == [4]
    assert plateau.state_dict()["epochs"].tolist() == [2, 3, 4]


def test_under_a_loss_scale():
    model = make_model(0.5, wrap=lambda optimizer: optimizers.scale_loss(optimizer, "dynamic"))
    fit(PlateauDecay(every=2, factor=0.5), 4 * [0.5], model)
    assert compat.get_learning_rate(model.optimizer) == 0.25


def test_message(capsys, plain_optimizer):
    replay(make_plateau(0.1, every=2, verbose=1), 5 * [0.5])
    lines = "\nEpoch 00003: [learning rate reducing] 0.01\n\nEpoch 00005: [learning rate reducing] 0.001\n"
    assert capsys.readouterr().out == lines
    replay(make_plateau(every=2), 5 * [0.5])
    assert capsys.readouterr().out == ""
    other_rank = make_plateau(every=2, verbose=1)
    other_rank.set_ranks(None, is_main=False)
    replay(other_rank, 5 * [0.5])
    assert capsys.readouterr().out == ""
    assert [epoch for epoch, _ in other_rank.reductions] == [3, 5]


# --- the metric -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "acc"])
@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy"])
def test_accuracy_of_keras_under_each_of_its_names(metric, monitor):
    plateau, model = PlateauDecay(monitor, every=2), make_model(0.1, [metric])
    history = model.fit(X, X, epochs=3, verbose=0, callbacks=[plateau], validation_data=(X, X)).history
    prefix = monitor[: -len("accuracy")]
    # TF 1.15 calls both "acc".
    name = "acc" if compat.TF1 or metric == "acc" else "accuracy"
    np.testing.assert_array_equal(plateau.state_dict()["values"], history[prefix + name][-2:])
    assert [epoch for epoch, _ in plateau.reductions] == [3]


def test_any_metric():
    plateau = PlateauDecay("val_f1", every=2)
    fit(plateau, 3 * [0.5], name="val_f1")
    assert [epoch for epoch, _ in plateau.reductions] == [3]


@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy", "f1"])
def test_metric_that_is_not_there(monitor):
    with pytest.raises(ValueError) as error:
        fit(PlateauDecay(monitor), 3 * [0.5], name="top5")
    assert str(error.value) == (
        "PlateauDecay finds no such metric in the logs of the epoch. Received: monitor={!r}, logs with 'loss', 'top5'. "
        "Name one of these, or compile the model with the metric.".format(monitor)
    )


# --- ranks ------------------------------------------------------------------------------------------------------------


class Ranks:
    """A sum over ranks that are threads."""

    def __init__(self, size):
        self.size, self.parts, self.barrier = size, {}, threading.Barrier(size, timeout=60)

    def reduce(self, vector):
        assert vector.dtype == np.float64
        assert vector.shape == (2,)
        self.parts[threading.get_ident()] = vector
        self.barrier.wait()
        total = sum(self.parts[key] for key in sorted(self.parts))
        self.barrier.wait()
        return total


def on_ranks(curves, **options):
    ranks, plateaus, threads = Ranks(len(curves)), [], []
    for rank, curve in enumerate(curves):
        plateau = make_plateau(**options)
        plateau.set_ranks(ranks.reduce, is_main=rank == 0)
        plateaus.append(plateau)
        threads.append(threading.Thread(target=replay, args=(plateau, curve)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return plateaus


def test_all_ranks_decide_alike_on_the_mean(plain_optimizer):
    # Alone, rank 0 would lower the rate in epoch 2 and rank 1 in epoch 4; the mean stalls in epoch 4 only.
    curves = [[0.5, 0.5, 0.5, 0.5, 0.625], [0.0, 0.25, 0.5, 0.625, 0.25]]
    alone = []
    for curve in curves:
        plateau = make_plateau(every=2, min_gain=0.05)
        replay(plateau, curve)
        alone.append([epoch for epoch, _ in plateau.reductions])
    assert alone == [[3], [5]]
    plateaus = on_ranks(curves, every=2, min_gain=0.05)
    assert [plateau.reductions for plateau in plateaus] == [[(5, 0.1)], [(5, 0.1)]]
    for name, array in plateaus[0].state_dict().items():
        np.testing.assert_array_equal(plateaus[1].state_dict()[name], array)
    assert plateaus[0].state_dict()["values"].tolist() == [0.5625, 0.4375]


def test_reduction_of_the_constructor_goes_first(plain_optimizer):
    plateau = PlateauDecay(every=2, reduce=lambda vector: np.array([3.0, 4.0]))
    plateau.set_ranks(None, True)
    plateau.set_model(Optimizer())
    replay(plateau, [0.1])
    assert plateau.state_dict()["values"].tolist() == [0.75]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_schedule_is_refused_when_training_begins():
    model = make_model(WarmupCosine(0.1, 10))
    with pytest.raises(ValueError) as error:
        fit(PlateauDecay(), 3 * [0.5], model)
    assert str(error.value) == (
        "PlateauDecay cannot lower a learning rate that is a schedule. Received: an optimizer with a "
        "LearningRateSchedule. Give the optimizer a number as its learning rate."
    )


def test_wrong_arguments_all_at_once():
    with pytest.raises(ValueError) as error:
        PlateauDecay("", 1, math.nan, 1.0, -0.1, "mean", 2)
    assert str(error.value).split("\n") == [
        "monitor must be the name of a metric. Received: monitor=''.",
        "every must be a whole number >= 2. Received: every=1.",
        "min_gain must be a finite number, in the unit of the metric. Received: min_gain=nan.",
        "factor must be a number above 0 and below 1. Received: factor=1.0.",
        "min_lr must be a finite number >= 0. Received: min_lr=-0.1.",
        "reduce must be a function of a vector, or None. Received: reduce='mean'.",
        "verbose must be 0 or 1. Received: verbose=2.",
    ]
    with pytest.raises(ValueError) as error:
        PlateauDecay(None, 2.5, "0.02", True, None)
    assert [line.split(" ")[0] for line in str(error.value).split("\n")] == [
        "monitor",
        "every",
        "min_gain",
        "factor",
        "min_lr",
    ]
