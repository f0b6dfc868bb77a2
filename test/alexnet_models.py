"""The AlexNets at sizes for tests, and images for them."""

import numpy as np

from ascend_keras import models

IMAGES = np.random.RandomState(0).randint(0, 256, (2, 67, 67, 3)).astype(np.uint8)
MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])


def small(variant=None, classes=5, **options):
    """The single tower at its smallest."""
    return models.alexnet(classes, variant=variant, image_size=63, **options)


def towers(variant=None, classes=2, **options):
    """The two towers at their smallest."""
    return models.alexnet_two_tower(classes, variant=variant, image_size=67, **options)


def named_weights(model):
    """Lists of float64 arrays by the names of the layers."""
    return {layer.name: [weight.astype("f8") for weight in layer.get_weights()] for layer in model.layers}
