"""Data sets of the recipes."""

from ascend_keras.data.toy import blobs, digits

__all__ = ["blobs", "digits"]
