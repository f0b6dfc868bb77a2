"""Finds out that a rank no longer gets on, says which and where, and ends it. No TensorFlow."""

from ascend_keras.distributed.watch.progress import Position, beat
from ascend_keras.distributed.watch.thread import EXIT_CODE, Watch

__all__ = ["EXIT_CODE", "Position", "Watch", "beat"]
