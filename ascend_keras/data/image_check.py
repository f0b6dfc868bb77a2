"""Whether an encoded image can be decoded, how large it is, and its form as an RGB JPEG."""

import collections
import threading

from ascend_keras import compat
from ascend_keras.data import image_ops

Image = collections.namedtuple("Image", "encoded height width")
Image.__doc__ = "An image: its bytes, and its height and width in pixels."

# An eighth in each direction: all of the compressed bytes are read and checked, and a picture of 12,000 x 9,000 pixels
# takes 5 MB. On whole, cut and changed files the full decoder and this one found the same files broken.
_CHECK_RATIO = 8
_JPEG_MAGIC = b"\xff\xd8\xff"
_MAGIC = ((_JPEG_MAGIC, "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"RIFF", "WebP"))


class BadImageError(ValueError):
    """An image that cannot be decoded; the message is the reason."""


class ImageChecker:
    """Examines encoded images; may be used from several threads.

    Args:
        threads: how many will use it at the same time.
    """

    def __init__(self, threads=1):
        self._threads = threads
        self._lock = threading.Lock()
        self._made = {}

    def examine(self, encoded):
        """Decodes an image and returns its height, width and number of channels in the file.

        Raises:
            BadImageError: it is empty, cut off, or no image of a format that TensorFlow reads.
        """
        if not encoded:
            raise BadImageError("the file is empty")
        operations = _jpeg_shape if encoded.startswith(_JPEG_MAGIC) else _any_shape
        (height, width, channels), _ = self._run(operations, encoded)
        return int(height), int(width), int(channels)

    def as_rgb_jpeg(self, encoded):
        """Returns the image as a grey or RGB JPEG: the bytes as they are, or encoded anew at quality 100.

        Raises:
            BadImageError: see `examine`.
        """
        height, width, channels = self.examine(encoded)
        if not encoded.startswith(_JPEG_MAGIC) or channels == 4:
            encoded = self._run(_as_jpeg, encoded)
        return Image(encoded, height, width)

    def _run(self, operations, encoded):
        with self._lock:
            if operations not in self._made:
                self._made[operations] = compat.host_function(operations, self._threads)
            function = self._made[operations]
        try:
            return function(encoded)
        except compat.tf.errors.OpError:
            raise BadImageError(_reason(encoded)) from None


def _jpeg_shape(encoded):
    tf = compat.tf
    picture = tf.image.decode_jpeg(encoded, channels=3, ratio=_CHECK_RATIO)
    # The shape of the picture is asked for so that the graph cannot be optimised into one that does not decode.
    return [tf.image.extract_jpeg_shape(encoded), tf.shape(picture)]


def _any_shape(encoded):
    shape = compat.tf.shape(image_ops.decode(encoded))
    return [shape, shape]


def _as_jpeg(encoded):
    picture = image_ops.decode(encoded)
    return compat.tf.image.encode_jpeg(picture, format="rgb", quality=100, chroma_downsampling=False)


def _reason(encoded):
    known = [name for magic, name in _MAGIC if encoded.startswith(magic)]
    if known:
        return "a {} that is cut off or damaged ({:,} bytes)".format(known[0], len(encoded))
    return "no image ({:,} bytes that begin with {!r})".format(len(encoded), bytes(encoded[:8]))
