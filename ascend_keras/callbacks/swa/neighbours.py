"""Callbacks beside SWA that put weights into the model as well."""

import warnings

from ascend_keras import compat
from ascend_keras.compat import keras


def problems(swa):
    """Why SWA cannot stand where it does in the list of callbacks: a list of sentences.

    Where EarlyStopping puts the best weights back when training ends, that is over an average that is there already.
    """
    _, behind = _sides(swa)
    if not compat.STOPPING_RESTORES_LATE or not any(map(_restores, behind)):
        return []
    return [
        "EarlyStopping would put the best weights in the place of the average. Received: restore_best_weights=True, "
        "behind SWA in the list of callbacks. Put SWA behind it."
    ]


def have_put_weights_back(swa, epoch):
    """Whether a callback before SWA has just replaced the weights of this epoch, counted from 0; says so.

    Where EarlyStopping puts the best weights back at the end of the epoch in which it stops, they are no sample. It
    alone knows whether it has: another callback may have stopped the training, on one of several ranks even.
    """
    if compat.STOPPING_RESTORES_LATE:
        return False
    before, _ = _sides(swa)
    # 0 stands for a training that it has not stopped, and after the first epoch there is no earlier one to put back.
    if not any(_restores(callback) and callback.stopped_epoch == epoch > 0 for callback in before):
        return False
    warnings.warn(
        "EarlyStopping has put back the weights of an earlier epoch: the sample of the last one is left out. "
        "Received: restore_best_weights=True, before SWA in the list of callbacks. Put SWA before it, or give fit "
        "validation data."
    )
    return True


def _sides(swa):
    """The callbacks before and behind SWA in the running `fit`."""
    callbacks = compat.running_callbacks(swa)
    own = [index for index, callback in enumerate(callbacks) if callback is swa]
    return (callbacks[: own[0]], callbacks[own[0] + 1 :]) if own else ([], [])


def _restores(callback):
    return isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights
