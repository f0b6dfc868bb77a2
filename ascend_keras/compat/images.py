"""Which image formats TensorFlow can read beyond those that all versions can."""

from ascend_keras.compat.stack import tf


def _webp(encoded):
    return tf.io.decode_webp(encoded, channels=3)[0]


# A function from the bytes of a WebP to its first frame, uint8 [h, w, 3]; None before TF 2.19.
decode_webp = _webp if hasattr(tf.io, "decode_webp") else None
