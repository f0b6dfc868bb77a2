"""Images without files, for measuring everything but the input."""

import numpy as np

from ascend_keras.compat import tf
from ascend_keras.data.source import Source, raise_all

_SPARE = 64


class SyntheticSource(Source):
    """See `synthetic`."""

    prepared = True

    def __init__(self, samples, image_size, classes, seed):
        super().__init__("synthetic", samples, classes)
        self._size = image_size
        side = image_size + _SPARE
        self._pattern = np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype(np.uint8)

    def labels(self):
        return np.arange(self.samples, dtype=np.int64) % self.classes

    def describe(self, positions):
        label = positions % self.classes
        # Images of a class are alike and classes differ: the cut is the class's, the shade the image's.
        cut = np.stack([label % _SPARE, label // _SPARE % _SPARE], axis=1)
        return {
            "label": label.astype(np.int32),
            "cut": cut.astype(np.int32),
            "shade": (positions % 251).astype(np.uint8),
        }

    def read(self, fields):
        start = tf.concat([fields["cut"], [0]], axis=0)
        image = tf.slice(tf.constant(self._pattern), start, [self._size, self._size, 3])
        return {
            "name": tf.strings.join(["synthetic:", tf.strings.as_string(fields["index"])]),
            "image": tf.bitwise.bitwise_xor(image, fields["shade"]),
            "label": fields["label"],
            "boxes": tf.zeros([0, 4]),
        }


def synthetic(samples=1281167, image_size=224, classes=1000, seed=0):
    """Images made on the fly, almost for free: no files, no decoding, no cropping. The same for the same arguments.

    An image is a cut of one picture of noise, the cut given by its class (position modulo `classes`), its shade by its
    position.

    Args:
        samples: number of images; by default as many as ImageNet has.
        image_size: side of the square images in pixels.
        classes: number of classes.
        seed: whole number in [0, 2**32).

    Returns:
        A Source.

    Raises:
        ValueError: an argument is out of range; all are listed.
    """
    problems = [
        "`{0}` must be a whole number >= {1}. Received: {0}={2!r}.".format(name, least, value)
        for name, value, least in (("samples", samples, 1), ("image_size", image_size, 1), ("classes", classes, 1))
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least
    ]
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        problems.append("`seed` must be a whole number in [0, 2**32). Received: seed={!r}.".format(seed))
    raise_all(problems)
    return SyntheticSource(int(samples), int(image_size), int(classes), int(seed))
