"""Learning rates of stochastic weight averaging, as plain functions of epoch and step, counted from 0.

Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, sections 3.1, 3.2.
"""


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
