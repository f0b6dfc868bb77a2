"""Callbacks for any Keras training, with NPUTrainer or without."""

from ascend_keras.callbacks.cats_vs_dogs_log import CatsVsDogsLog, Curves
from ascend_keras.callbacks.checkpoint import Checkpoint
from ascend_keras.callbacks.defaults import LossScaleReport
from ascend_keras.callbacks.evaluation_log import EvaluationLog
from ascend_keras.callbacks.first_kernels import FirstKernels
from ascend_keras.callbacks.keras_swa import KerasSWARepair, is_keras_swa
from ascend_keras.callbacks.modelzoo_log import MetricsFile, ModelZooLog, write_line
from ascend_keras.callbacks.plateau import PlateauDecay
from ascend_keras.callbacks.rank_files import StopOnNaN, for_ranks
from ascend_keras.callbacks.run_record import RunRecord
from ascend_keras.callbacks.step_report import StepReport
from ascend_keras.callbacks.stop_at_step import StopAtStep
from ascend_keras.callbacks.swa import SWA
from ascend_keras.callbacks.synchronise import Synchronise
from ascend_keras.callbacks.throughput import Throughput
from ascend_keras.callbacks.watchdog import Watchdog

__all__ = [
    "CatsVsDogsLog",
    "Checkpoint",
    "Curves",
    "EvaluationLog",
    "FirstKernels",
    "KerasSWARepair",
    "LossScaleReport",
    "MetricsFile",
    "ModelZooLog",
    "PlateauDecay",
    "RunRecord",
    "SWA",
    "StepReport",
    "StopAtStep",
    "StopOnNaN",
    "Synchronise",
    "Throughput",
    "Watchdog",
    "for_ranks",
    "is_keras_swa",
    "write_line",
]
