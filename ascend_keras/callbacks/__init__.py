"""Callbacks for any Keras training, with NPUTrainer or without."""

from ascend_keras.callbacks.defaults import LossScaleReport, Synchronise
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.throughput import Throughput

__all__ = ["LossScaleReport", "SWA", "Synchronise", "Throughput"]
