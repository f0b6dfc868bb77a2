"""Callbacks for any Keras training, with NPUTrainer or without."""

from ascend_keras.callbacks.checkpoint import Checkpoint
from ascend_keras.callbacks.defaults import LossScaleReport, Synchronise
from ascend_keras.callbacks.first_kernels import FirstKernels
from ascend_keras.callbacks.keras_swa import KerasSWARepair, is_keras_swa
from ascend_keras.callbacks.plateau import PlateauDecay
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.throughput import Throughput

__all__ = [
    "Checkpoint",
    "FirstKernels",
    "KerasSWARepair",
    "LossScaleReport",
    "PlateauDecay",
    "SWA",
    "Synchronise",
    "Throughput",
    "is_keras_swa",
]
