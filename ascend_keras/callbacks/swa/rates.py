"""Learning rates of stochastic weight averaging, as plain functions of epoch and step, counted from 0.

Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, sections 3.1, 3.2.
"""

import numpy as np

from ascend_keras import compat


def approach(epoch, start, initial, swa_lr):
    """The rate of an epoch before averaging starts: `initial` for half of the way, then linear, `swa_lr` from 0.9 on.

    Args:
        epoch: the epoch.
        start: first epoch of averaging. From there on the rate is `swa_lr`.
        initial: learning rate of the optimizer.
        swa_lr: learning rate of averaging.
    """
    progress = epoch / start if start else 1.0
    if progress <= 0.5:
        return initial
    if progress > 0.9:
        return swa_lr
    return initial * (1.0 - (1.0 - swa_lr / initial) * (progress - 0.5) / 0.4)


def cycle(step, length, swa_lr, swa_lr2):
    """The rate of a step in a cycle of `length` steps: falls linearly from `swa_lr2`, reaches `swa_lr` in the last."""
    progress = (step + 1) / length
    return (1 - progress) * swa_lr2 + progress * swa_lr


class HeldRate:
    """The learning rate of an optimizer while somebody else sets it, to be given back as it was.

    `initial` is the rate of the optimizer itself, None if that is a schedule; `trace` has the rate of every step.
    """

    def __init__(self):
        self.initial = None
        self.trace = []
        self._optimizer = None
        self._value = None
        self._held = False

    def begin(self, optimizer, initial=None, trace=()):
        """Starts a training.

        Args:
            optimizer: the compiled optimizer.
            initial: its own rate, where it comes back from the middle of a training with another one.
            trace: the rates of the steps before.
        """
        self._optimizer = optimizer
        self._value = compat.get_learning_rate(optimizer)
        self._held = initial is not None
        own = None if compat.has_schedule(optimizer) else self._value
        if compat.TF1 and own is not None:
            compat.set_learning_rate(optimizer, own)  # the first time adds to the graph
        self.initial = initial if self._held else own
        self.trace = [float(rate) for rate in trace]

    def read(self):
        """Looks up a rate that is left alone."""
        self._value = compat.get_learning_rate(self._optimizer)

    def set(self, rate):
        """Sets the rate, where it differs from the one set before."""
        if rate != self._value or not self._held:
            compat.set_learning_rate(self._optimizer, rate)
            self._value, self._held = rate, True

    def note(self, steps):
        """Adds so many steps to the trace."""
        self.trace += [self._value] * steps

    def give_back(self):
        """Sets the optimizer's own rate, unless somebody else has set another one since."""
        if self._held and np.float32(compat.get_learning_rate(self._optimizer)) == np.float32(self._value):
            compat.set_learning_rate(self._optimizer, self.initial)
        self._held = False
