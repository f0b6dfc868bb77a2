"""Data sets of the recipes, and the pipeline that makes batches of images of them."""

from ascend_keras.data.cats_vs_dogs import cats_vs_dogs
from ascend_keras.data.image_folder import image_folder
from ascend_keras.data.imagenet import imagenet
from ascend_keras.data.pipeline import ImageDataset, images
from ascend_keras.data.record_source import RecordSource
from ascend_keras.data.registry import arrays, get
from ascend_keras.data.registry import names as list
from ascend_keras.data.source import ArraySource, FileSource, Source
from ascend_keras.data.synthetic import synthetic
from ascend_keras.data.ten_crops import write_ten_crops
from ascend_keras.data.tfds import tfds
from ascend_keras.data.toy import blobs, digits

__all__ = [
    "ArraySource",
    "FileSource",
    "ImageDataset",
    "RecordSource",
    "Source",
    "arrays",
    "blobs",
    "cats_vs_dogs",
    "digits",
    "get",
    "image_folder",
    "imagenet",
    "images",
    "list",
    "synthetic",
    "tfds",
    "write_ten_crops",
]
