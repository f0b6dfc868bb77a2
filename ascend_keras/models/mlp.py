"""Two small classifiers with batch normalization, for the data sets in `ascend_keras.data.toy`."""

from ascend_keras.compat import keras


def blobs_mlp(classes=3):
    """The multi-layer perceptron of the ModelZoo recipe SWA_ID0252: Dense 50, ReLU, batch norm, Dense, softmax.

    Args:
        classes: number of classes. With 3 the model has 503 parameters, 403 of them trainable.

    Returns:
        A `keras.Model` from float32 (batch, 2) to class probabilities, float32 (batch, classes).
    """
    layers = keras.layers
    inputs = keras.Input((2,))
    x = layers.Dense(50, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, _probabilities(x, classes), name="blobs_mlp")


def digits_cnn(classes=10):
    """A small convolutional network for 8 x 8 images: three convolutions, each with batch norm and ReLU.

    Args:
        classes: number of classes.

    Returns:
        A `keras.Model` from float32 (batch, 8, 8, 1) to class probabilities, float32 (batch, classes).
    """
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = _conv_bn(inputs, 16)
    x = _conv_bn(x, 32)
    x = layers.MaxPooling2D()(x)
    x = _conv_bn(x, 32)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _probabilities(x, classes), name="digits_cnn")


def _conv_bn(x, filters):
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.Activation("relu")(x)


def _probabilities(x, classes):
    # The softmax stays in float32 when the rest of the model computes in 16 bits: the loss takes its logarithm.
    x = keras.layers.Dense(classes)(x)
    return keras.layers.Activation("softmax", dtype="float32")(x)
