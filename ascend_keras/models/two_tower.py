"""AlexNet in two towers with local response normalization, as the recipe for cats and dogs has it.

Reference: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012; the
sizes are those of the ModelZoo recipe AlexNet_ID0259.
"""

from ascend_keras.compat import keras
from ascend_keras.models import arguments as check
from ascend_keras.models.layers import LocalResponseNormalization

VARIANTS = (None, "modelzoo")
# Below it, the third pooling has nothing left to pool.
LEAST_SIZE = 67

_TOWERS = ("a", "b")
_NHWC = dict(data_format="channels_last")


def alexnet_two_tower(classes=2, variant=None, image_size=227, normalize=None, dropout=0.5):
    """AlexNet in two towers that meet before the third convolution; 44,185,914 parameters at 2 classes.

    The input is RGB, uint8 or float (batch, image_size, image_size, 3) of 0..255, the output logits, float32 (batch,
    classes) under any dtype policy. Kernels begin normal with a standard deviation of 0.01, biases with 0 in the first
    and third convolution and with 1 elsewhere. The response normalization has the recipe's radius of 5 channels, where
    the paper has 2, and the second dense layer its 1000 units, where the paper has 4096. The last dense layer is called
    "dense_2". The third and fourth convolution are two layers each, one for each tower.

    Args:
        classes: number of classes.
        variant: None: convolution, ReLU, response normalization, pooling, as in the paper; "modelzoo": convolution,
            response normalization, pooling, ReLU, as in ModelZoo's recipe, with the channels turned to the BGR that it
            was fed with. (Its dropout before the ReLU is the same function as one behind.)
        image_size: height and width, in pixels; 67 is the least.
        normalize: "mean": the mean of ImageNet is subtracted, on the device, as in the paper; True: it is divided by
            the standard deviation, too; False: neither, as in the recipe. None is False for "modelzoo", else "mean".
        dropout: the share dropped at both hidden dense layers.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: an argument is out of range; all problems are listed.
    """
    _check(classes, variant, image_size, normalize, dropout)
    modelzoo = variant == "modelzoo"
    if normalize is None:
        normalize = False if modelzoo else "mean"
    inputs = keras.Input((image_size, image_size, 3))
    images = check.normalize_pixels(inputs, normalize, reverse_channels=modelzoo)
    x = _join([_lower(images, tower, modelzoo) for tower in _TOWERS], "join_lower")
    x = _join([_upper(x, tower) for tower in _TOWERS], "join_upper")
    x = keras.layers.Flatten(name="flatten")(x)
    for units, suffix in ((4096, ""), (1000, "_1")):
        x = keras.layers.Dense(units, activation="relu", name="dense" + suffix, **_start(1.0))(x)
        x = keras.layers.Dropout(dropout, name="dropout" + suffix)(x)
    x = keras.layers.Dense(classes, name="dense_2", **_start(1.0))(x)
    logits = keras.layers.Activation("linear", name="logits", dtype="float32")(x)
    return keras.Model(inputs, logits, name="alexnet_two_tower")


def _lower(x, tower, modelzoo):
    """The first two convolutions of a tower: (batch, s, s, 3) to (batch, 13, 13, 128) for s = 227."""
    for number, filters, size, stride, padding, bias in ((1, 48, 11, 4, "valid", 0.0), (2, 128, 5, 1, "same", 1.0)):
        name = "{{}}{}_{}".format(number, tower)
        relu = keras.layers.Activation("relu", name=name.format("relu"))
        normalization = LocalResponseNormalization(name=name.format("lrn"))
        pooling = keras.layers.MaxPooling2D(3, 2, name=name.format("pool"), **_NHWC)
        convolution = dict(_start(bias), name=name.format("conv"))
        x = keras.layers.Conv2D(filters, size, stride, padding, **_NHWC, **convolution)(x)
        for layer in (normalization, pooling, relu) if modelzoo else (relu, normalization, pooling):
            x = layer(x)
    return x


def _upper(x, tower):
    """The last three of a tower, the first of which sees both: (batch, 13, 13, 256) to (batch, 6, 6, 128)."""
    # Half of the filters of a convolution are a convolution: nothing has to be split afterwards.
    for number, filters, bias in ((3, 192, 0.0), (4, 192, 1.0), (5, 128, 1.0)):
        convolution = dict(_start(bias), activation="relu", name="conv{}_{}".format(number, tower))
        x = keras.layers.Conv2D(filters, 3, 1, "same", **_NHWC, **convolution)(x)
    return keras.layers.MaxPooling2D(3, 2, name="pool5_" + tower, **_NHWC)(x)


def _join(towers, name):
    return keras.layers.Concatenate(name=name)(towers)


def _start(bias):
    initializers = keras.initializers
    return dict(kernel_initializer=initializers.RandomNormal(0.0, 0.01), bias_initializer=initializers.Constant(bias))


def _check(classes, variant, image_size, normalize, dropout):
    check.raise_all(
        check.whole("classes", classes, 1),
        check.choice("variant", variant, VARIANTS),
        check.whole("image_size", image_size, LEAST_SIZE, ", or nothing is left behind the last pooling"),
        check.choice("normalize", normalize, (None,) + check.NORMALIZE),
        check.rate("dropout", dropout),
    )
