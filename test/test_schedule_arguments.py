"""What the schedules refuse, and how: all problems of the arguments at once."""

import math

import pytest

from ascend_keras import schedules
from ascend_keras.schedules import SWAConstant, SWACyclic, WarmupCosine


def message_of(make, *arguments, **named):
    with pytest.raises(ValueError) as error:
        make(*arguments, **named)
    return str(error.value).split("\n")


def test_wrong_types_of_the_cosine_all_at_once():
    nan = float("nan")
    assert message_of(
        WarmupCosine, "0.1", 10.5, True, nan, steps_per_epoch=0, staircase="yes", initial=-0.5, start_epoch=0
    ) == [
        "steps_per_epoch must be a whole number from 1 to 2**53. Received: steps_per_epoch=0.",
        "peak must be a finite number above 0. Received: peak='0.1'.",
        "total_steps must be a whole number from 1 to 2**53. Received: total_steps=10.5.",
        "warmup_steps must be a whole number from 0 to 2**53. Received: warmup_steps=True.",
        "end must be a finite number of at least 0. Received: end=nan.",
        "staircase must be True or False. Received: staircase='yes'.",
        "initial must be a finite number of at least 0. Received: initial=-0.5.",
        "start_epoch must be a whole number from 1 to 2**53. Received: start_epoch=0.",
    ]


def test_wrong_types_of_the_averaging_schedules_all_at_once():
    assert message_of(SWAConstant, 0, None, "9") == [
        "initial must be a finite number above 0. Received: initial=0.",
        "swa_lr must be a finite number above 0. Received: swa_lr=None.",
        "start_step must be a whole number from 0 to 2**53. Received: start_step='9'.",
    ]
    assert message_of(SWACyclic, math.inf, 0.1, True, -1, 1) == [
        "initial must be a finite number above 0. Received: initial=inf.",
        "swa_lr2 must be a finite number above 0. Received: swa_lr2=True.",
        "start_step must be a whole number from 0 to 2**53. Received: start_step=-1.",
        "cycle_steps must be a whole number from 2 to 2**53. Received: cycle_steps=1.",
    ]


def test_what_contradicts_each_other_all_at_once():
    assert message_of(WarmupCosine, 0.1, 10, 10, 0.2, initial=0.3, start_step=11) == [
        "end must not be above peak. Received: end=0.2, peak=0.1.",
        "initial must not be above peak. Received: initial=0.3, peak=0.1.",
        "warmup_steps must be below total_steps. Received: warmup_steps=10, total_steps=10.",
        "start_step must be below total_steps. Received: start_step=11, total_steps=10.",
    ]
    assert message_of(SWACyclic, 0.1, 0.2, 0.15, 10, 5) == [
        "swa_lr must not be above initial. Received: swa_lr=0.2, initial=0.1.",
        "swa_lr must not be above swa_lr2. Received: swa_lr=0.2, swa_lr2=0.15.",
    ]


def test_durations_are_given_once_and_completely():
    assert message_of(WarmupCosine, 0.1, 100, 10, total_epochs=10, warmup_epochs=1, steps_per_epoch=10) == [
        "total_steps and total_epochs say the same twice. Received: total_steps=100, total_epochs=10. "
        "Give one of them.",
        "warmup_steps and warmup_epochs say the same twice. Received: warmup_steps=10, warmup_epochs=1. "
        "Give one of them.",
    ]
    assert message_of(WarmupCosine, 0.1, warmup_epochs=2, start_epoch=1, staircase=True) == [
        "total_steps or total_epochs must be given. Received: total_steps=None, total_epochs=None.",
        "warmup_epochs needs steps_per_epoch. Received: warmup_steps=None, warmup_epochs=2, steps_per_epoch=None. "
        "Give it, or warmup_steps.",
        "staircase=True needs steps_per_epoch. Received: steps_per_epoch=None.",
        "start_epoch needs steps_per_epoch. Received: start_step=None, start_epoch=1, steps_per_epoch=None. "
        "Give it, or start_step.",
    ]
    assert message_of(SWACyclic, 0.1, 0.01, 0.05) == [
        "start_step or start_epoch must be given. Received: start_step=None, start_epoch=None.",
        "cycle_steps or cycle_epochs must be given. Received: cycle_steps=None, cycle_epochs=None.",
    ]
    assert message_of(SWACyclic, 0.1, 0.01, 0.05, start_epoch=2, cycle_epochs=1, steps_per_epoch=1) == [
        "cycle_steps must be a whole number from 2 to 2**53. Received: cycle_steps=1."
    ]


def test_epochs_are_whole():
    assert message_of(WarmupCosine, 0.1, total_epochs=9, warmup_epochs=0.5, steps_per_epoch=10) == [
        "warmup_epochs must be a whole number from 0 to 2**53. Received: warmup_epochs=0.5. "
        "Give a part of an epoch as warmup_steps."
    ]
    assert message_of(WarmupCosine, 0.1, 99, steps_per_epoch=10, staircase=True) == [
        "With staircase=True total_steps must be whole epochs. Received: total_steps=99, steps_per_epoch=10."
    ]


@pytest.mark.parametrize("steps, epochs", [(10**400, None), (None, 2**52), (None, math.inf), (None, "3")])
def test_numbers_too_large_for_the_graph(steps, epochs):
    (problem,) = message_of(WarmupCosine, 0.1, steps, total_epochs=epochs, steps_per_epoch=10)
    assert "must be a whole number from 1 to 2**53. Received: total_" in problem
    assert message_of(WarmupCosine, 10**400, 5)[0].startswith(
        "peak must be a finite number above 0. Received: peak=1000"
    )


def test_recipe_speaks_in_the_names_of_the_class():
    assert message_of(schedules.inception_resnet_v2, 0.1, 0.01, 0.0, 1, 250, 1251) == [
        "initial must not be above peak. Received: initial=0.1, peak=0.01."
    ]
