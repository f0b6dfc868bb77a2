"""Learning rates as pure functions of the step, in the graph, defined from step 0 to infinity.

Steps count from 0, epochs from 1: with 100 steps an epoch, `start_epoch=3` is `start_step=200`. A duration is given in
steps or in epochs, by the name of the argument; epochs need `steps_per_epoch`.

A schedule sees the optimizer's count of batches, which a step skipped by loss scaling advances on every stack
(`optimizers.scale_loss`). The step is int64 and stays so until whole epochs and cycles are divided out, which keeps it
exact; the optimizers of TF 1.15 and 2.6 hand it over in the type of the weights, in float32 exact up to 2**24. Keras 3
with `gradient_accumulation_steps` divides `optimizer.iterations`, but hands the schedule the undivided count (3.15):
durations are in batches there too.
"""

import math
import numbers

import numpy as np

from ascend_keras.compat import keras, register, tf

# Any larger step is taken for this one, so that sums with it stay in int64. Durations end earlier, for the same reason.
_LAST_STEP = 2**62
_LONGEST = 2**53
_LARGEST = 3.4e38


class _StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that computes in int64 steps, and whose attributes are the arguments of its constructor."""

    name: str

    def __call__(self, step):
        """The learning rate of `step`, float32.

        Args:
            step: a number, tensor or variable of any numeric type and shape, >= 0; of a fraction the floor counts.
        """
        with tf.name_scope(self.name):
            return self._rate(_to_int64(step))

    def _rate(self, step):
        raise NotImplementedError

    def get_config(self):
        """The arguments of the constructor, durations in steps."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


@register
class WarmupCosine(_StepSchedule):
    """Rises linearly to a peak, then falls along half a cosine to an end value, and stays there.

    With W = warm-up, T = total, S = steps_per_epoch, i = start + step, all in steps:

        i < W:   initial + (peak - initial) * (i + 1) / W
        i < T:   end + (peak - end) * (1 + cos(pi * (i - W) / (T - W))) / 2
        T <= i:  end

    With `staircase=True` the rate is constant in each epoch of the cosine, and the warm-up does not shift it, as in the
    AlexNet recipe of ModelZoo. The second line is then, with T / S epochs,

        i < T:   end + (peak - end) * (1 + cos(pi * floor(i / S) / (T / S))) / 2

    It is computed as the squared sine of the steps that remain, which is the same without the cancellation: in float32
    the cosine has lost every digit at the last of 100,000 steps, the sine none.

    Args:
        peak: the highest learning rate.
        total_steps: steps after which the rate is `end`, warm-up included.
        warmup_steps: steps of the rise; 0, the default, starts at the peak.
        end: the lowest learning rate after the peak.
        total_epochs: the same as `total_steps`, in epochs.
        warmup_epochs: the same as `warmup_steps`, in epochs.
        steps_per_epoch: batches of an epoch; needed for durations in epochs and for `staircase`.
        staircase: whether the cosine goes by whole epochs from step 0 on.
        initial: the rate from which the warm-up rises; it is not reached itself, as the first step is a rise already.
        start_step: where on the curve the run begins, for weights trained so far already under an optimizer that counts
            from 0. Leave it at 0 where the optimizer's state is restored, which counts on by itself.
        start_epoch: the same in epochs, counted from 1.
        name: name of the operation.

    Raises:
        ValueError: a value has the wrong type or is out of range, a duration is given twice, or is in epochs without
            `steps_per_epoch`; all problems are listed.

    Reference: Loshchilov and Hutter, SGDR, 2017, equation 5; Goyal et al., Accurate, Large Minibatch SGD, 2017,
    section 2.2.
    """

    def __init__(
        self,
        peak,
        total_steps=None,
        warmup_steps=None,
        end=0.0,
        *,
        total_epochs=None,
        warmup_epochs=None,
        steps_per_epoch=None,
        staircase=False,
        initial=0.0,
        start_step=None,
        start_epoch=None,
        name="WarmupCosine",
    ):
        super().__init__()
        given = _Arguments(steps_per_epoch, peak=peak, end=end, initial=initial)
        self.peak = given.rate("peak")
        self.total_steps = given.duration(1, total_steps=total_steps, total_epochs=total_epochs)
        self.warmup_steps = given.duration(0, 0, warmup_steps=warmup_steps, warmup_epochs=warmup_epochs)
        self.end = given.rate("end", zero=True)
        self.steps_per_epoch = given.steps_per_epoch
        self.staircase = given.stairs(staircase, self.total_steps)
        self.initial = given.rate("initial", zero=True)
        self.start_step = given.duration(0, 0, 1, start_step=start_step, start_epoch=start_epoch)
        self.name = name
        given.in_order(end=self.end, peak=self.peak)
        given.in_order(initial=self.initial, peak=self.peak)
        given.in_order(strictly=True, warmup_steps=self.warmup_steps, total_steps=self.total_steps)
        given.in_order(strictly=True, start_step=self.start_step, total_steps=self.total_steps)
        given.raise_problems()

    def _rate(self, step):
        step = step + self.start_step
        position, length = step, self.total_steps - self.warmup_steps
        if self.staircase:
            position, length = step // self.steps_per_epoch * self.steps_per_epoch, self.total_steps
        remaining = tf.cast(tf.maximum(self.total_steps - position, 0), tf.float32)
        decayed = _mix(tf.square(tf.sin(remaining * (math.pi / 2.0 / length))), self.peak, self.end)
        if not self.warmup_steps:
            return decayed
        risen = tf.cast(tf.minimum(step + 1, self.warmup_steps), tf.float32) / self.warmup_steps
        return _choose(step < self.warmup_steps, _mix(risen, self.peak, self.initial), decayed)


def inception_resnet_v2(lr_init, lr_max, lr_end, warmup_epochs, total_epochs, steps_per_epoch, start_epoch=1):
    """The schedule of the Inception-ResNet-v2 recipe of MindSpore, under the recipe's names.

    Args:
        lr_init: the rate from which the warm-up rises: `initial`.
        lr_max: the rate that it reaches: `peak`.
        lr_end: the rate after the last epoch: `end`.
        warmup_epochs: epochs of the rise.
        total_epochs: epochs, warm-up included.
        steps_per_epoch: batches of an epoch.
        start_epoch: the epoch with which the run begins, counted from 1.

    Returns:
        A `WarmupCosine`.

    Raises:
        ValueError: as `WarmupCosine` does, in its names.
    """
    return WarmupCosine(
        lr_max,
        end=lr_end,
        total_epochs=total_epochs,
        warmup_epochs=warmup_epochs,
        steps_per_epoch=steps_per_epoch,
        initial=lr_init,
        start_epoch=start_epoch,
    )


@register
class SWAConstant(_StepSchedule):
    """The rate of stochastic weight averaging: falls to a low constant before averaging starts, and stays there.

    With t = step / start, the part of the way to the start of averaging:

        t <= 0.5:        initial
        0.5 < t <= 0.9:  linear from `initial` to `swa_lr`
        0.9 < t:         swa_lr

    It is what `callbacks.SWA(lr_schedule="constant")` sets; together with this schedule use
    `SWA(start_epoch=start_epoch, lr_schedule="manual")`.

    Args:
        initial: the rate of the first half of the way.
        swa_lr: the rate of averaging, at most `initial`.
        start_step: the first step of averaging; 0 has `swa_lr` from the first step on.
        start_epoch: the same in epochs, counted from 1, as in `callbacks.SWA`.
        steps_per_epoch: batches of an epoch. If given, the rate before the start is constant in each epoch, that of its
            first step, as the callback has it. Needed for `start_epoch`.
        name: name of the operation.

    Raises:
        ValueError: a value has the wrong type or is out of range, a duration is given twice, or is in epochs without
            `steps_per_epoch`; all problems are listed.

    Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, section 3.2.
    """

    def __init__(self, initial, swa_lr, start_step=None, *, start_epoch=None, steps_per_epoch=None, name="SWAConstant"):
        super().__init__()
        given = _Arguments(steps_per_epoch, initial=initial, swa_lr=swa_lr)
        self.initial = given.rate("initial")
        self.swa_lr = given.rate("swa_lr")
        self.start_step = given.duration(0, None, 1, start_step=start_step, start_epoch=start_epoch)
        self.steps_per_epoch = given.steps_per_epoch
        self.name = name
        given.in_order(swa_lr=self.swa_lr, initial=self.initial)
        given.raise_problems()

    def _rate(self, step):
        return _approach(step, self)


@register
class SWACyclic(_StepSchedule):
    """The rate of stochastic weight averaging in cycles: as `SWAConstant` before the start, then a saw.

    With C = steps of a cycle and p = (step - start) mod C, from the start of averaging on:

        swa_lr2 + (swa_lr - swa_lr2) * (p + 1) / C

    It falls from `swa_lr2` and reaches `swa_lr` in the last step of a cycle, where a sample belongs. It is what
    `callbacks.SWA(lr_schedule="cyclic")` sets. With this schedule use `lr_schedule="manual"`, which samples first at
    the end of its `start_epoch`: for cycles of n epochs from epoch e on, `SWA(start_epoch=e + n - 1, swa_freq=n)`.

    Args:
        initial: the rate of the first half of the way to the start.
        swa_lr: the lowest rate of a cycle, at most `initial`.
        swa_lr2: the highest, at least `swa_lr`.
        start_step: the first step of the first cycle.
        cycle_steps: steps of a cycle, at least 2.
        start_epoch: the same as `start_step` in epochs, counted from 1.
        cycle_epochs: the same as `cycle_steps` in epochs.
        steps_per_epoch: batches of an epoch; see `SWAConstant`. A cycle falls with every step all the same.
        name: name of the operation.

    Raises:
        ValueError: as `SWAConstant`.

    Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, section 3.1.
    """

    def __init__(
        self,
        initial,
        swa_lr,
        swa_lr2,
        start_step=None,
        cycle_steps=None,
        *,
        start_epoch=None,
        cycle_epochs=None,
        steps_per_epoch=None,
        name="SWACyclic",
    ):
        super().__init__()
        given = _Arguments(steps_per_epoch, initial=initial, swa_lr=swa_lr, swa_lr2=swa_lr2)
        self.initial = given.rate("initial")
        self.swa_lr = given.rate("swa_lr")
        self.swa_lr2 = given.rate("swa_lr2")
        self.start_step = given.duration(0, None, 1, start_step=start_step, start_epoch=start_epoch)
        self.cycle_steps = given.duration(2, cycle_steps=cycle_steps, cycle_epochs=cycle_epochs)
        self.steps_per_epoch = given.steps_per_epoch
        self.name = name
        given.in_order(swa_lr=self.swa_lr, initial=self.initial)
        given.in_order(swa_lr=self.swa_lr, swa_lr2=self.swa_lr2)
        given.raise_problems()

    def _rate(self, step):
        after = tf.maximum(step - self.start_step, 0) % self.cycle_steps
        left = tf.cast(self.cycle_steps - 1 - after, tf.float32) / self.cycle_steps
        return _choose(step < self.start_step, _approach(step, self), _mix(left, self.swa_lr2, self.swa_lr))


# --- the step -------------------------------------------------------------------------------------------------------


def _to_int64(step):
    if np.isscalar(step):
        return tf.constant(int(min(step, _LAST_STEP)), tf.int64)
    step = tf.convert_to_tensor(step)
    if step.dtype.is_floating:
        # Half types cannot hold the bound.
        wide = step if step.dtype == tf.float64 else tf.cast(step, tf.float32)
        step = tf.minimum(wide, float(_LAST_STEP))
    return tf.minimum(tf.cast(step, tf.int64), _LAST_STEP)


def _mix(share, high, low):
    """`high` for a share of 1, `low` for 0, both exact; a sum of what is not negative, so nothing cancels."""
    return share * high + (1.0 - share) * low


def _choose(condition, yes, no):
    # tf.where warns on TF 1.15, and its successor there is not to be had on TF 2. Both values are finite.
    return _mix(tf.cast(condition, tf.float32), yes, no)


def _approach(step, schedule):
    start, stair = schedule.start_step, schedule.steps_per_epoch or 1
    position = tf.minimum(step // stair * stair, start)
    # The part of the way from 0.5 to 0.9 that is left, in tenths of a step to stay whole.
    left = tf.cast(tf.maximum(9 * start - 10 * position, 0), tf.float32) / max(4 * start, 1)
    return _mix(tf.minimum(left, 1.0), schedule.initial, schedule.swa_lr)


# --- the arguments --------------------------------------------------------------------------------------------------


class _Arguments:
    """Reads the arguments of a constructor, and keeps what is wrong with them until all are read."""

    def __init__(self, steps_per_epoch, **rates):
        self._rates = rates
        self._problems = []
        self._has_epochs = steps_per_epoch is not None
        self.steps_per_epoch = self._count("steps_per_epoch", steps_per_epoch, 1) if self._has_epochs else None

    def rate(self, name, zero=False):
        value = self._rates[name]
        if _is_number(value) and (value > 0 or (zero and value == 0)):
            return float(value)
        bound = "of at least 0" if zero else "above 0"
        return self._complain("{0} must be a finite number {1}. Received: {0}={2!r}.", name, bound, value)

    def duration(self, least, default=None, first_epoch=0, **forms):
        """Steps, from the form that is given: first that in steps, then that in epochs, each None where it is not."""
        (step_name, steps), (epoch_name, epochs) = forms.items()
        received = "Received: {}={!r}, {}={!r}.".format(step_name, steps, epoch_name, epochs)
        if steps is not None and epochs is not None:
            return self._complain("{} and {} say the same twice. {} Give one of them.", step_name, epoch_name, received)
        if steps is not None:
            return self._count(step_name, steps, least)
        if epochs is not None:
            if not self._has_epochs:
                text = "{} needs steps_per_epoch. {} Give it, or {}."
                self._complain(text, epoch_name, received[:-1] + ", steps_per_epoch=None.", step_name)
            whole = self._count(epoch_name, epochs, max(first_epoch, min(least, 1)), step_name)
            known = whole is not None and self.steps_per_epoch is not None
            return self._count(step_name, (whole - first_epoch) * self.steps_per_epoch, least) if known else None
        if default is None:
            return self._complain("{} or {} must be given. {}", step_name, epoch_name, received)
        return default

    def stairs(self, staircase, total_steps):
        if not isinstance(staircase, bool):
            return self._complain("staircase must be True or False. Received: staircase={!r}.", staircase)
        if staircase and not self._has_epochs:
            self._complain("staircase=True needs steps_per_epoch. Received: steps_per_epoch=None.")
        elif staircase and total_steps and self.steps_per_epoch and total_steps % self.steps_per_epoch:
            text = "With staircase=True total_steps must be whole epochs. Received: total_steps={}, steps_per_epoch={}."
            self._complain(text, total_steps, self.steps_per_epoch)
        return staircase

    def in_order(self, strictly=False, **pair):
        (low_name, low), (high_name, high) = pair.items()
        if low is None or high is None or low < high or (low == high and not strictly):
            return
        demand = "be below" if strictly else "not be above"
        text = "{0} must {4} {2}. Received: {0}={1!r}, {2}={3!r}."
        self._complain(text, low_name, low, high_name, high, demand)

    def raise_problems(self):
        if self._problems:
            raise ValueError("\n".join(self._problems))

    def _count(self, name, value, least, finer=None):
        if _is_number(value) and value == int(value) and least <= value <= _LONGEST:
            return int(value)
        text = "{0} must be a whole number from {1} to 2**53. Received: {0}={2!r}."
        if finer and _is_number(value) and value != int(value):
            text += " Give a part of an epoch as {3}."
        return self._complain(text, name, least, value, finer)

    def _complain(self, text, *values):
        self._problems.append(text.format(*values))


def _is_number(value):
    # What float32 holds: a rate beyond it would be infinite in the graph.
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) < _LARGEST
