"""AlexNet in one tower, without normalisation layers, as the AlexNet recipes for ImageNet have it.

Reference: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014 (the single tower); the
widths are those of the ModelZoo recipe AlexNet_ID0072, or those of torchvision.
"""

from typing import Dict

from ascend_keras.compat import keras
from ascend_keras.models import arguments as check

# Of `keras.initializers.VarianceScaling`, always uniform.
VERSIONS: Dict[str, dict] = {
    "xavier": dict(scale=1.0, mode="fan_avg"),
    "he_uniform": dict(scale=2.0, mode="fan_in"),
    "he_uniform_custom": dict(scale=1.0 / 3.0, mode="fan_in"),
}
VARIANTS = (None, "modelzoo", "torchvision")
# Below it, the third pooling has nothing left to pool.
LEAST_SIZE = 63

_FILTERS = (96, 192, 384, 256, 256)
_TORCHVISION_FILTERS = (64, 192, 384, 256, 256)
# Zeros on each side, kernel size, stride, whether a pooling follows.
_CONVOLUTIONS = ((2, 11, 4, True), (2, 5, 1, True), (1, 3, 1, False), (1, 3, 1, False), (1, 3, 1, True))
_NHWC = dict(data_format="channels_last")


def alexnet(classes=1000, version="he_uniform", variant=None, image_size=224, normalize=True, dropout=None):
    """AlexNet with 96, 192, 384, 256 and 256 filters; 61,266,088 parameters at 1000 classes.

    The input is RGB, uint8 or float (batch, image_size, image_size, 3), the output logits, float32 (batch, classes)
    under any dtype policy. The last dense layer is called "dense_2".

    Args:
        classes: number of classes.
        version: how kernels begin; biases begin with zero. "xavier": Glorot uniform; "he_uniform";
            "he_uniform_custom": variance scaling with 1/3, fan in, uniform, as PyTorch and MindSpore begin.
        variant: None; "modelzoo": what ModelZoo's recipe trained, with a ReLU on the logits, and for "he_uniform" the
            seed 5 in each kernel, so that all kernels begin with the same stream of numbers, at scales of their own;
            "torchvision": 64 filters in the first convolution, and a dropout of 0.5 before, not behind, the two hidden
            dense layers; 61,100,840 parameters. Its `Flatten` has channels last, PyTorch's has them first.
        image_size: height and width, in pixels; 63 is the least. The first dense layer has what the size leaves.
        normalize: True: (x - mean) / std for pixels of 0..255, with the mean and the standard deviation of ImageNet,
            on the device; "mean": the mean alone; False: the data is normalised already.
        dropout: the share dropped at both hidden dense layers; None is 0.35, and 0.5 for "torchvision".

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: an argument is out of range; all problems are listed.
    """
    _check(classes, version, variant, image_size, normalize, dropout)
    torchvision = variant == "torchvision"
    dropout = (0.5 if torchvision else 0.35) if dropout is None else dropout
    start = dict(VERSIONS[version], seed=5 if variant == "modelzoo" and version == "he_uniform" else None)
    inputs = keras.Input((image_size, image_size, 3))
    x = check.normalize_pixels(inputs, normalize)
    x = _features(x, _TORCHVISION_FILTERS if torchvision else _FILTERS, start)
    x = keras.layers.Flatten(name="flatten")(x)
    for suffix in ("", "_1"):
        drop = keras.layers.Dropout(dropout, name="dropout" + suffix)
        dense = keras.layers.Dense(4096, activation="relu", name="dense" + suffix, **_kernel(start))
        x = dense(drop(x)) if torchvision else drop(dense(x))
    x = keras.layers.Dense(classes, name="dense_2", **_kernel(start))(x)
    logits = keras.layers.Activation("relu" if variant == "modelzoo" else "linear", name="logits", dtype="float32")(x)
    return keras.Model(inputs, logits, name="alexnet")


def _features(x, filters, start):
    """The five convolutions, each with explicit zeros around: (batch, s, s, 3) to (batch, 6, 6, 256) for s = 224."""
    layers = keras.layers
    for index, (width, (zeros, size, stride, pooled)) in enumerate(zip(filters, _CONVOLUTIONS)):
        suffix = "_{}".format(index) if index else ""
        x = layers.ZeroPadding2D(zeros, name="zero_padding2d" + suffix, **_NHWC)(x)
        convolution = dict(_kernel(start), activation="relu", name="conv2d" + suffix)
        x = layers.Conv2D(width, size, stride, "valid", **_NHWC, **convolution)(x)
        if pooled:
            x = layers.MaxPooling2D(3, 2, name="max_pooling2d" + suffix, **_NHWC)(x)
    return x


def _kernel(start):
    # One for each layer: an initializer draws the same numbers again on some stacks.
    return dict(kernel_initializer=keras.initializers.VarianceScaling(distribution="uniform", **start))


def _check(classes, version, variant, image_size, normalize, dropout):
    check.raise_all(
        check.whole("classes", classes, 1),
        check.choice("version", version, tuple(VERSIONS)),
        check.choice("variant", variant, VARIANTS),
        check.whole("image_size", image_size, LEAST_SIZE, ", or nothing is left behind the last pooling"),
        check.choice("normalize", normalize, check.NORMALIZE),
        None if dropout is None else check.rate("dropout", dropout),
    )
