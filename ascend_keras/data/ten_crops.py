"""Ten crops of each photograph: corners and centre, and the same mirrored (Krizhevsky et al. 2012, section 4.1).

The short side becomes 256 pixels, bilinear, the crops are 227 x 227. Crop k is top left, top right, bottom left, bottom
right, centre for k % 5 = 0 ... 4, mirrored from k = 5 on.
"""

import os

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import tf
from ascend_keras.data import image_ops, parallel, pet_files
from ascend_keras.data.source import FileSource, Source
from ascend_keras.log import logger

SIZE = 227
SHORT_SIDE = 256
CROPS = 10

# Where crop k % 5 lies in y and x, in halves of the room there is: 0 at the start, 1 in the middle, 2 at the end.
_PLACES = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))
# A crop needs no more of a long image than this many times its short side.
_LONGEST = 4
_QUALITY = 95


class TenCropSource(Source):
    """Photographs of which each gives ten images of 227 x 227 pixels, made when they are read.

    Image p is crop p % 10 of photograph p // 10. Images come in their final form: they are not cropped again.

    Args:
        paths, labels, class_names, name: see FileSource.
    """

    prepared = True

    def __init__(self, paths, labels, class_names=None, name="ten crops"):
        self.photographs = FileSource(paths, labels, class_names, name=name)
        super().__init__(name, CROPS * self.photographs.samples, self.photographs.classes, class_names)

    def labels(self):
        return np.repeat(self.photographs.labels(), CROPS)

    def name_of(self, position):
        return "{} (crop {})".format(self.photographs.name_of(position // CROPS), position % CROPS)

    def describe(self, positions):
        crops = (positions % CROPS).astype(np.int32)
        return dict(self.photographs.describe(positions // CROPS), crop=crops)

    def read(self, fields):
        element = self.photographs.read(fields)
        return {
            "name": element["name"],
            "image": ten_crop(element["encoded"], fields["crop"]),
            "label": element["label"],
            "boxes": element["boxes"],
        }


def ten_crop(image, crop):
    """One of the ten crops.

    Args:
        image: string [], the bytes of a file; or uint8 [h, w, 3], decoded.
        crop: int32 [], 0 ... 9, see the module's text.

    Returns:
        uint8 [227, 227, 3].

    Raises:
        tf.errors.InvalidArgumentError: the image cannot be read.
    """
    place = tf.gather(tf.constant(_PLACES, tf.int32), crop % 5)

    def window(shape):
        sides = tf.minimum(shape, _LONGEST * tf.reduce_min(shape))
        return tuple(tf.unstack(tf.concat([(shape - sides) * place // 2, sides], axis=0), num=4))

    pixels = image_ops.read_window(image, window)
    sides = tf.cast(tf.shape(pixels)[:2], tf.int64)
    shortest = tf.reduce_min(sides)
    height, width = tf.unstack(tf.cast((2 * sides * SHORT_SIDE + shortest) // (2 * shortest), tf.int32), num=2)
    resized = image_ops.to_uint8(image_ops.resize(pixels, height, width))
    y, x = (height - SIZE) * place[0] // 2, (width - SIZE) * place[1] // 2
    cut = resized[y : y + SIZE, x : x + SIZE]
    result = tf.cond(crop >= 5, lambda: tf.reverse(cut, axis=[1]), lambda: cut)
    result.set_shape([SIZE, SIZE, 3])
    return result


def write_ten_crops(source, folder, workers=None):
    """Writes the ten crops of each photograph as JPEGs of quality 95.

    Those of cat 12 are called cat.0000000120.jpg ... cat.0000000129.jpg: nine digits, and one for the crop.
    `cats_vs_dogs` reads such a folder and keeps the crops of a photograph together. A file that has its name is whole.
    Photographs that cannot be decoded are named in the log.

    Args:
        source: a FileSource of cats and dogs.
        folder: where to write; is made if there is none.
        workers: number of threads; None takes one per CPU of this process.

    Returns:
        Number of files written.

    Raises:
        ValueError: the files of the source have no numbers in their names, or more than nine digits.
    """
    paths = [source.path_of(position) for position in range(source.samples)]
    photographs = [pet_files.photograph_of(path) for path in paths]
    wrong = [path for path, (_, number, _) in zip(paths, photographs) if not 0 <= number < 10**9]
    if wrong:
        raise ValueError(
            "The number of a photograph is taken from its name, such as cat.12.jpg, and has at most nine digits. "
            "Received: {!r}.".format(wrong[0])
        )
    os.makedirs(folder, exist_ok=True)
    pool = parallel.Pool(workers)
    crop = compat.host_function(_all_crops, pool.workers)

    def write(position):
        pool.check()
        name = "{}.{:09d}".format(*photographs[position])
        with open(paths[position], "rb") as file:
            content = file.read()
        try:
            images = crop(content)
        except tf.errors.OpError:
            logger.warning("%s cannot be decoded and is left out", paths[position])
            return 0
        for number, image in enumerate(images):
            _write(os.path.join(folder, "{}{}.jpg".format(name, number)), image)
        return len(images)

    return sum(pool.map(write, range(source.samples)))


def _all_crops(encoded):
    pixels = image_ops.decode(encoded)
    crops = [ten_crop(pixels, tf.constant(number)) for number in range(CROPS)]
    return [tf.io.encode_jpeg(image, format="rgb", quality=_QUALITY) for image in crops]


def _write(path, content):
    aside = path + ".part"
    with open(aside, "wb") as file:
        file.write(content)
    os.replace(aside, path)
