"""The plateau rule taken up by another process."""

import json

import numpy as np
import pytest
from plateau_cases import CURVE, Optimizer, fit, make_model, make_plateau, replay, use_plain_optimizer

from ascend_keras import compat
from ascend_keras.callbacks import Checkpoint
from ascend_keras.callbacks.plateau import PlateauDecay
from ascend_keras.compat import keras
from ascend_keras.log import logger


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    if compat.TF1:
        keras.backend.clear_session()


@pytest.fixture
def plain_optimizer(monkeypatch):
    use_plain_optimizer(monkeypatch)


@pytest.fixture
def warnings(caplog):
    # The logger of the library does not hand on what it logs.
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("through_json", [False, True])
@pytest.mark.parametrize("cut", [1, 10, 11, 15, 20, 21, 30, 31, 34])
def test_resumed_is_uninterrupted(plain_optimizer, cut, through_json):
    whole, first, second = PlateauDecay(), PlateauDecay(), PlateauDecay()
    for plateau in (whole, first, second):
        plateau.set_model(Optimizer())
    replay(whole, CURVE)
    replay(first, CURVE[:cut])
    state = first.state_dict()
    if through_json:
        state = json.loads(json.dumps({name: array.tolist() for name, array in state.items()}))
    second.load_state_dict(state)
    replay(second, CURVE[cut:], first=cut)
    assert second.reductions == whole.reductions
    assert second.model.rate == whole.model.rate
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], array)
        assert second.state_dict()[name].dtype == array.dtype == ("int64" if "epochs" in name else "float64")


def test_resumed_fit_begins_with_the_reduced_rate():
    first, second, model = PlateauDecay(every=2), PlateauDecay(every=2), make_model()
    fit(first, 4 * [0.5])
    second.load_state_dict(first.state_dict())
    # A weights file does not hold the learning rate, so the new optimizer has the first one.
    rates = fit(second, 7 * [0.5], model, initial_epoch=4)
    np.testing.assert_allclose(rates, [0.01, 0.001, 0.001], rtol=1e-6)
    assert [epoch for epoch, _ in second.reductions] == [3, 5, 7]


def test_rides_in_a_checkpoint(tmp_path):
    whole = fit(PlateauDecay(every=3), 8 * [0.5])
    model = make_model()
    fit(PlateauDecay(every=3), 5 * [0.5], model, extra=[Checkpoint(str(tmp_path))])
    again, plateau, checkpoint = make_model(), PlateauDecay(every=3), Checkpoint(str(tmp_path))
    epoch = checkpoint.restore(again).epoch
    rates = fit(plateau, 8 * [0.5], again, extra=[checkpoint], initial_epoch=epoch)
    assert epoch == 5
    assert rates == whole[5:]
    assert [epoch for epoch, _ in plateau.reductions] == [4, 7]


def test_state_ahead_of_the_weights_is_taken_back(plain_optimizer):
    ahead = make_plateau(every=2)
    replay(ahead, 6 * [0.5])
    assert [epoch for epoch, _ in ahead.reductions] == [3, 5]
    resumed = make_plateau(every=2)
    resumed.load_state_dict(ahead.state_dict())
    resumed.on_train_begin()
    resumed.on_epoch_begin(4)
    assert resumed.reductions == [(3, 0.1)]
    assert resumed.model.rate == float(np.float32(0.1))
    resumed.on_train_begin()
    resumed.on_epoch_begin(0)
    assert resumed.reductions == []
    assert resumed.model.rate == float(np.float32(0.1)), "a second fit goes on with the rate that there is"


@pytest.mark.parametrize("loaded", [False, True])
def test_rate_that_was_set_between_two_fits_stays(plain_optimizer, loaded):
    plateau = make_plateau(every=2)
    replay(plateau, 4 * [0.5])
    if loaded:
        plateau.load_state_dict(plateau.state_dict())
        replay(plateau, [0.5], first=4)
    plateau.model.rate = 0.75
    assert replay(plateau, [0.5], first=5) == [0.75]


def test_run_that_goes_on_without_its_state(plain_optimizer, warnings):
    plateau = make_plateau(every=3)
    replay(plateau, 5 * [0.5], first=5)
    assert [epoch for epoch, _ in plateau.reductions] == [10], "epoch 6 has seen two of three values"
    assert [record.getMessage() for record in warnings.records] == [
        "PlateauDecay does not know accuracy before epoch 6: it decides nothing until it has seen 3 epochs. "
        "Load its state before fit."
    ]


def test_no_warning_where_nothing_is_missing(plain_optimizer, warnings):
    plateau = make_plateau(every=3)
    replay(plateau, 5 * [0.5])
    replay(plateau, 5 * [0.5], first=5)
    assert not warnings.records


def test_wrong_states():
    state = PlateauDecay().state_dict()
    assert {name: len(array) for name, array in state.items()} == dict.fromkeys(state, 0)
    for change, words in [
        (lambda: state.pop("values"), "no 'values'"),
        (lambda: state.update(values=[1.0]), "epochs (0,) beside values (1,)"),
        (
            lambda: state.update(values=[], reduced_epochs=3, reduced_rates=0.5),
            "reduced_epochs () beside reduced_rates ()",
        ),
    ]:
        change()
        with pytest.raises(ValueError) as error:
            PlateauDecay().load_state_dict(state)
        assert str(error.value) == (
            "This is no state of PlateauDecay. Received: {}. Give what state_dict() returned.".format(words)
        )
