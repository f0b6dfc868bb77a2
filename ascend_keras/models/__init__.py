"""Models of the recipes."""

from ascend_keras.models.alexnet import alexnet
from ascend_keras.models.layers import LocalResponseNormalization, PixelNormalization
from ascend_keras.models.mlp import blobs_mlp, digits_cnn
from ascend_keras.models.pretrained import PretrainedReport, load_pretrained
from ascend_keras.models.registry import get
from ascend_keras.models.registry import names as list
from ascend_keras.models.two_tower import alexnet_two_tower

__all__ = [
    "LocalResponseNormalization",
    "PixelNormalization",
    "PretrainedReport",
    "alexnet",
    "alexnet_two_tower",
    "blobs_mlp",
    "digits_cnn",
    "get",
    "list",
    "load_pretrained",
]
