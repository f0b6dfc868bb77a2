"""What the operations on images should give, in NumPy float64, and a way to run them on every stack."""

import io

import numpy as np
from PIL import Image

from ascend_keras import compat
from ascend_keras.compat import tf


def evaluate(function):
    """What the tensors that function() makes hold, as NumPy arrays. They are made inside tf.data, as in use."""

    def dataset():
        return tf.data.Dataset.from_tensors(0).map(lambda _: function())

    return first(dataset)


def for_seeds(function, count):
    """function([7, i]) for i = 0 ... count - 1, stacked."""
    seven = np.int64(7)
    return first(lambda: tf.data.Dataset.range(count).map(lambda i: function(tf.stack([seven, i]))).batch(count))


def first(make_dataset):
    if not compat.TF1:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), next(iter(make_dataset())))
    with tf.Graph().as_default():
        tensors = tf.compat.v1.data.make_one_shot_iterator(make_dataset()).get_next()
        with tf.compat.v1.Session() as session:
            return session.run(tensors)


def pillow(content):
    """The RGB pixels of an encoded image by Pillow, uint8 [h, w, 3]."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def resized(pixels, height, width):
    """Bilinear, half-pixel centres, no antialiasing: float64 [height, width, 3]."""
    return _along(_along(pixels.astype(np.float64), height, 0), width, 1)


def _along(pixels, count, axis):
    size = pixels.shape[axis]
    place = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
    low = np.floor(place).astype(int)
    share = (place - low).reshape([-1 if k == axis else 1 for k in range(3)])
    high = np.minimum(low + 1, size - 1)
    return np.take(pixels, low, axis) * (1 - share) + np.take(pixels, high, axis) * share


def centre(pixels, size):
    """The square in the middle."""
    y, x = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[y : y + size, x : x + size]


def grey(pixels):
    """0.299 R + 0.587 G + 0.114 B, [h, w, 1]."""
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]


def kolmogorov(sample, other):
    """The largest distance of two empirical distribution functions."""
    both = np.sort(np.concatenate([sample, other]))
    return np.abs(
        np.searchsorted(np.sort(sample), both, side="right") / len(sample)
        - np.searchsorted(np.sort(other), both, side="right") / len(other)
    ).max()


def kolmogorov_bound(samples, others, level=1e-4):
    """What `kolmogorov` of two samples of one distribution exceeds with probability `level` (Smirnov 1939)."""
    return np.sqrt(-np.log(level / 2) / 2 * (1 / samples + 1 / others))


def crop_boxes(height, width, count, covered=None, seed=0):
    """Boxes of random crops by the definition, one try after the other: int [<= count, 4] of (y, x, h, w).

    covered: function from a box to whether it covers enough; None means a tenth of the image.
    """
    random = np.random.RandomState(seed)
    found = []
    for _ in range(count):
        for _ in range(10):
            area = random.uniform(0.08, 1) * height * width
            aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = int(np.rint(np.sqrt(area * aspect))), int(np.rint(np.sqrt(area / aspect)))
            if w > width or h > height:
                continue
            box = random.randint(height - h + 1), random.randint(width - w + 1), h, w
            if covered(box) if covered else h * w >= 0.1 * height * width:
                found.append(box)
                break
        else:
            found.append((0, 0, height, width))
    return np.array(found)
