"""What the two AlexNets share: how a run is divided into steps, what is fed to it, where it goes on."""

import contextlib
import os
import sys
import types

import numpy as np
import pytest

from ascend_keras import checkpoint_files, compat, data
from ascend_keras.compat import keras, tf

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples"))
import common
import image_recipes
import image_run


@pytest.fixture(autouse=True)
def fresh_graph():
    """TF 1.15: no test leaves its operations to the next one."""
    yield
    if compat.TF1:
        keras.backend.clear_session()


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, expected",
    [
        # steps of the data, epochs, steps of the run, loop: steps of an epoch, loop, last step, epochs, of fit, stops
        ((1251, 150, None, 1251), (1251, 1251, 187650, 150, 1251, False)),
        ((1251, 150, None, 100), (1250, 50, 187500, 150, 1250, False)),
        ((10009, 150, None, 100), (10000, 100, 1500000, 150, 10000, False)),
        ((5004, 150, 5000, 100), (5000, 100, 5000, 1, 5000, False)),
        ((1251, 150, 1000, 100), (1250, 50, 1000, 1, 1000, False)),
        ((1251, 150, 2600, 1), (1251, 1, 2600, 3, 1251, True)),
        ((1251, 2, 2502, 9), (1251, 9, 2502, 2, 1251, False)),
        ((5, 3, None, 100), (5, 5, 15, 3, 5, False)),
        ((5, 3, 13, 5), (5, 1, 13, 3, 5, True)),
        ((5, 3, 3, 100), (5, 1, 3, 1, 3, False)),
        ((7, 1, None, 3), (7, 1, 7, 1, 7, False)),
        ((7, 1, 40, 7), (7, 1, 40, 6, 7, True)),
        # A single call would tell no speed.
        ((10009, 150, 100, 1251), (10000, 50, 100, 1, 100, False)),
        ((6, 1, None, 6), (6, 3, 6, 1, 6, False)),
        ((1, 2, None, 6), (1, 1, 2, 2, 1, False)),
    ],
)
def test_steps_of_a_run(arguments, expected):
    available, epochs, last, loop = arguments
    assert tuple(image_recipes.plan_steps(available, epochs, last, loop)) == (available,) + expected


@pytest.mark.parametrize("available", [1, 2, 7, 1251, 10009])
@pytest.mark.parametrize("last", [None, 2, 6, 5000, 187650])
@pytest.mark.parametrize("loop", [1, 10, 100, 1251])
@pytest.mark.parametrize("evaluation", [None, 1, 391])
def test_calls_of_the_device_divide_everything(available, last, loop, evaluation):
    steps = image_recipes.plan_steps(available, 150, last, loop, evaluation=evaluation)
    assert steps.epoch % steps.loop == steps.last % steps.loop == steps.fit % steps.loop == 0
    assert steps.last == (last or 150 * steps.epoch)
    assert (steps.epochs - 1) * steps.fit < steps.last <= steps.epochs * steps.fit
    assert available - steps.epoch <= available / 1000
    assert 1 <= steps.loop <= min(loop, evaluation or loop)
    assert steps.last >= 2 * steps.loop
    one = image_recipes.plan_steps(available, 150, last, loop, one_per_call=True)
    assert (one.data, one.epoch, one.loop) == (available, available, 1)


def test_the_rest_of_a_run_has_two_calls():
    steps = image_recipes.plan_steps(1251, 3, None, 1251)
    assert (steps.epoch, steps.loop, steps.last) == (1251, 1251, 3753)
    assert image_recipes.plan_rest(steps, 1251) == steps
    assert image_recipes.plan_rest(steps, 2502) == steps._replace(loop=417)


def test_a_run_of_one_step_is_refused():
    with pytest.raises(common.UsageError, match="Received: 1 step to do. Ask for more steps"):
        image_recipes.plan_steps(1251, 150, 1, 100)
    with pytest.raises(common.UsageError, match="Received: 1 step to do"):
        image_recipes.plan_steps(1, 1, None, 1)
    with pytest.raises(common.UsageError, match="Received: 1 step to do"):
        image_recipes.plan_rest(image_recipes.plan_steps(5, 3, 11, 1), 10)


# --- runs ------------------------------------------------------------------------------------------------------------


def of_synthetic_images(folder, ranks=1, samples=1251 * 8, epochs=150, loop=100, resume=False, shard=True):
    """A Run on synthetic images of 8 x 8 pixels in batches of 8, with a trainer that does nothing."""
    trainer = types.SimpleNamespace(
        settings=types.SimpleNamespace(cluster=types.SimpleNamespace(size=ranks, is_main=True)),
        scope=contextlib.suppress,
        compile=lambda *arguments, **options: None,
    )
    config = dict(
        input=dict(shard=shard),
        length=dict(epochs=epochs, last=None, loop=loop),
        loss=dict(label_smoothing=0.0, weight_decay=0.0, apply_to="all"),
        model=dict(name="alexnet"),
        start=dict(resume=resume),
        checkpoint=dict(folder=str(folder)),
    )
    images = data.images(data.synthetic(samples, image_size=8, classes=10), batch_size=8, image_size=8)
    return image_run.Run("network", trainer, config, images, None)


def test_the_schedule_goes_by_the_steps_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(image_run.models, "get", lambda name, **options: None)
    monkeypatch.setattr(image_run.optimizers, "add_weight_decay", lambda *arguments: None)
    run, told = of_synthetic_images(tmp_path), []
    run.compile(told.append)
    assert (run.steps.epoch, told) == (1251 if compat.TF1 else 1250, [1251])


def test_ranks_that_read_everything_share_the_steps_and_have_orders_of_their_own(tmp_path):
    assert of_synthetic_images(tmp_path, 2, 160, shard=False).steps.data == 10
    source = dict(name="synthetic", samples=60, image_size=8, classes=60)
    options = dict(image_size=8, batch_size=60, seed=3)
    config = dict(source=source, mode="train", training_data=options, input=dict(shard=False))

    def order(config, rank):
        training, _ = image_recipes.open_images(config, rank)
        batches = image_recipes.feed(training, shard=config["input"]["shard"])(context_of(0, 1))
        return np.asarray(next(compat.open_dataset(batches)())[1]).tolist()

    orders = [order(config, rank) for rank in (0, 1, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(60))
    assert orders[0] != orders[1] == orders[2]
    shared = dict(config, input=dict(shard=True))
    assert order(shared, 1) == order(shared, 0) == orders[0]


def context_of(rank, ranks):
    return tf.distribute.InputContext(ranks, rank, ranks)


@pytest.mark.parametrize("shard, weights", [(True, [[3, 2, 0, 0], [3, 3, 0, 0]]), (False, [[3, 3, 3, 2]] * 2)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_evaluation_is_filled_up_with_nothing(dtype, shard, weights):
    """11 images in batches of 3, of which there are 2 for each of two ranks, or 4 for one; calls are of 4."""
    images = data.images(data.synthetic(11, 8, 11), batch_size=3, image_size=8, training=False)
    for rank in (0, 1):
        batches = image_recipes.feed(images, dtype, shard, multiple=4)(context_of(rank, 2))
        found = [[np.asarray(part) for part in batch] for batch in compat.open_dataset(batches)()]
        assert [batch[2].sum() for batch in found] == weights[rank]
        assert {(batch[0].shape, batch[0].dtype.name) for batch in found} == {((3, 8, 8, 3), dtype)}
        labels = [label for _, y, weight in found for label, counts in zip(y, weight) if counts]
        first, last = (rank * 11 // 2, (rank + 1) * 11 // 2) if shard else (0, 11)
        assert labels == list(range(first, last))
        for x, y, weight in found:
            if not weight.any():
                assert not x.any() and not y.any()


# --- going on -------------------------------------------------------------------------------------------------------


def checkpoint_after(folder, epoch, steps):
    path = str(folder / "ckpt-{:05d}.npz".format(epoch))
    meta = dict(epoch=epoch, variables=dict(optimizer=["momentum/kernel", "optimizer/iter"]))
    checkpoint_files.write(path, meta, [("optimizer_00000", np.zeros(2)), ("optimizer_00001", np.int64(steps))])
    return path


def test_a_run_goes_on_only_where_its_steps_are_whole_epochs(tmp_path):
    steps = image_recipes.plan_steps(5, 3, None, 1)
    assert image_run.steps_done(steps, 2, checkpoint_after(tmp_path, 2, 10)) == 10
    assert image_run.steps_done(steps, 3, checkpoint_after(tmp_path, 3, 15)) == 15
    # A run that ended inside an epoch, and is not to be longer.
    assert image_run.steps_done(steps._replace(last=13), 3, checkpoint_after(tmp_path, 3, 13)) == 13
    assert image_run.steps_done(steps._replace(last=9), 3, checkpoint_after(tmp_path, 3, 13)) == 9
    for epoch, done, told in ((3, 13, 15), (1, 3, 5), (2, 5, 10)):
        path = checkpoint_after(tmp_path, epoch, done)
        text = "{} with {} steps done, where {} epoch(s) of this run have {}.".format(path, done, epoch, told)
        with pytest.raises(common.UsageError) as raised:
            image_run.steps_done(steps, epoch, path)
        assert text in str(raised.value)
        assert "--restore_path={} --restore_exclude= ".format(path) in str(raised.value)


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 has one step in a call")
def test_the_last_epoch_of_a_run_is_cut_into_two_calls(tmp_path):
    checkpoint_after(tmp_path, 2, 20)
    arguments = dict(samples=80, epochs=3, loop=10)
    assert of_synthetic_images(tmp_path, **arguments).steps.loop == 10
    assert of_synthetic_images(tmp_path, resume=True, **arguments).steps.loop == 5
