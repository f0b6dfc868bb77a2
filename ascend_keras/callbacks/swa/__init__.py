"""Stochastic weight averaging: the callback, and a room for each of its concerns.

`settings` has the arguments and what may be wrong with them, `timeline` says when a sample is due and how high the
learning rate is, `average` holds the average, `statistics` makes batch normalization fit it, `validation` lets Keras
validate it, `state` carries it from one process to the next, and `callback` puts them together.
"""

from ascend_keras.callbacks.swa.callback import SWA

__all__ = ["SWA"]
