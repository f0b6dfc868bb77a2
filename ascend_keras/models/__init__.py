"""Models of the recipes."""

from ascend_keras.models.mlp import blobs_mlp, digits_cnn

__all__ = ["blobs_mlp", "digits_cnn"]
