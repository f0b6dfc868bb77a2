"""Layers of the image recipes that Keras has not, or not on every stack. None of them has weights."""

from ascend_keras import compat
from ascend_keras.compat import keras, tf

# Of ImageNet's training images in RGB, for pixels of 0..255.
IMAGENET_MEAN = tuple(255 * share for share in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * share for share in (0.229, 0.224, 0.225))


class _FixedLayer(keras.layers.Layer):
    """A layer without weights that keeps the shape of its input and computes in float32 under any dtype policy."""

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape


@compat.register
class PixelNormalization(_FixedLayer):
    """(x - mean) / std for each channel, on the device, so that images cross the bus as uint8.

    Images: uint8 or float (batch, height, width, channels), channels in the order of `mean` and `std`; commonly RGB in
    0..255. Output: float32 of the same shape, so that a layer of a 16-bit policy behind it rounds once.

    Args:
        mean: one number for each channel; None subtracts nothing.
        std: one number above 0 for each channel; None divides by nothing.
        reverse_channels: whether the output has its channels in the reverse order: BGR for a recipe that read its
            images with OpenCV.
        arguments: what every Keras layer takes.

    Raises:
        ValueError: `mean` and `std` differ in length, or `std` is not above 0 throughout.
    """

    def __init__(self, mean=None, std=None, reverse_channels=False, **arguments):
        arguments.setdefault("dtype", "float32")
        super().__init__(**arguments)
        self.mean = None if mean is None else tuple(float(value) for value in mean)
        self.std = None if std is None else tuple(float(value) for value in std)
        self.reverse_channels = bool(reverse_channels)
        self._check()

    def _check(self):
        problems = []
        if self.mean and self.std and len(self.mean) != len(self.std):
            problems.append(
                "mean and std need one number for each channel. Received: mean={}, std={}.".format(self.mean, self.std)
            )
        if self.std and min(self.std) <= 0:
            problems.append("std must be above 0. Received: std={}.".format(self.std))
        if problems:
            raise ValueError("\n".join(problems))

    def call(self, inputs):
        """The normalised images, float32."""
        x = tf.cast(inputs, tf.float32)
        if self.mean is not None:
            x = x - tf.constant(self.mean, tf.float32)
        if self.std is not None:
            x = x * tf.constant([1.0 / value for value in self.std], tf.float32)
        return tf.reverse(x, [-1]) if self.reverse_channels else x

    def get_config(self):
        """The arguments of the constructor."""
        own = dict(mean=self.mean, std=self.std, reverse_channels=self.reverse_channels)
        return dict(super().get_config(), **own)


@compat.register
class LocalResponseNormalization(_FixedLayer):
    """x / (bias + alpha * s) ** beta, s the sum of the squares in the window of channels around each, as `tf.nn.lrn`.

    The window of channel c is [c - depth_radius, c + depth_radius], cut at both ends. Input: float (batch, height,
    width, channels). Output: float32 of the same shape; in float16 the squares overflow from 256 on.

    Args:
        depth_radius: half of the window, in channels; the n of the paper is 2 * depth_radius + 1.
        bias: the k of the paper, above 0.
        alpha, beta: as in the paper.
        arguments: what every Keras layer takes.

    Reference: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012,
    section 3.3.
    """

    def __init__(self, depth_radius=5, bias=2.0, alpha=1e-4, beta=0.75, **arguments):
        arguments.setdefault("dtype", "float32")
        super().__init__(**arguments)
        self.depth_radius = depth_radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs):
        """The normalised responses, float32."""
        return tf.nn.local_response_normalization(
            tf.cast(inputs, tf.float32), self.depth_radius, self.bias, self.alpha, self.beta
        )

    def get_config(self):
        """The arguments of the constructor."""
        own = dict(depth_radius=self.depth_radius, bias=self.bias, alpha=self.alpha, beta=self.beta)
        return dict(super().get_config(), **own)
