"""Cutting, flipping and colouring one image, the same for the same seed on every stack. TensorFlow operations only.

Every random function takes `seed`, int32 or int64 [2], and draws once, by tf.random.stateless_uniform or
stateless_normal, from a stream of its own: one seed serves all functions. Give every image of every epoch another one.

`image` is string [], the bytes of a file (see `image_ops`), or uint8 [h, w, 3], where the text says either.
"""

import math
import zlib

from ascend_keras.compat import tf
from ascend_keras.data import image_ops

# Of random crops: share of the image's area, width / height, share of a box that has to be inside, and tries.
AREA = (0.08, 1.0)
ASPECT = (3.0 / 4.0, 4.0 / 3.0)
MIN_OBJECT_COVERED = 0.1
TRIES = 10

# A central crop needs no more of a long image than this many times its short side.
_LONGEST = 4

# Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def sample_box(shape, boxes, seed):
    """Draws the box of a random crop (Szegedy et al. 2015, "Going deeper with convolutions").

    Ten candidates: area uniform in 0.08 ... 1 of the image, aspect ratio (width / height) log-uniform in 3/4 ... 4/3,
    so that portrait and landscape are equally likely, position uniform; sides are rounded to whole pixels. The first
    that fits into the image and covers at least 0.1 of the area of one of the boxes is taken; the whole image if none
    does. Without a box of positive area, the whole image is the box: crops are then at least 0.1 of it.

    tf.image.sample_distorted_bounding_box differs: it draws the aspect ratio uniformly, and then the height, so that
    its areas are not uniform.

    Args:
        shape: int32 [2], height and width of the image in pixels.
        boxes: float32 [n, 4], (ymin, xmin, ymax, xmax) of objects in 0 ... 1 of the sides. n may be 0.
        seed: int32 or int64 [2].

    Returns:
        (offset_y, offset_x, height, width), each int32 [], in pixels.
    """
    shape = tf.cast(shape, tf.int32)
    candidates = _candidates(shape, tf.random.stateless_uniform([TRIES, 4], _stream(seed, "sample_box")))
    fits = tf.reduce_all(candidates[:, 2:] <= shape, axis=1)
    valid = fits & _covers(tf.cast(candidates, tf.float32), boxes, tf.cast(shape, tf.float32))
    # The whole image comes last and is always valid; weights that fall name the first that is.
    windows = tf.concat([candidates, [tf.concat([[0, 0], shape], axis=0)]], axis=0)
    first = tf.argmax(tf.cast(tf.concat([valid, [True]], axis=0), tf.int32) * tf.range(TRIES + 1, 0, -1))
    box = windows[first]
    return tuple(tf.unstack(box, num=4))


def random_resized_crop(image, boxes, seed, size):
    """Cuts the box of `sample_box` and resizes it to a square.

    Of a JPEG only the box is decoded. Boxes of more than 2**24 pixels are decoded at a half, a quarter or an eighth.

    Args:
        image: bytes or pixels, see above.
        boxes: float32 [n, 4], see `sample_box`.
        seed: int32 or int64 [2].
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: size is not positive.
        tf.errors.InvalidArgumentError: the image cannot be read.
    """
    if size < 1:
        raise ValueError("`size` must be at least 1. Received: size={}.".format(size))
    pixels = image_ops.read_window(image, lambda shape: sample_box(shape, boxes, seed))
    return _with_shape(image_ops.to_uint8(image_ops.resize(pixels, size, size)), size)


def centre_crop(image, size, resize_to, resize="short_side"):
    """Resizes the image and cuts the square in its centre, as evaluation does.

    Args:
        image: bytes or pixels, see above.
        size: side of the result in pixels.
        resize_to: side after resizing, in pixels, at least `size`.
        resize: "short_side" makes the short side `resize_to` and keeps the proportions, "squash" makes both sides so.

    Returns:
        uint8 [size, size, 3]. Its corner is at floor((side - size) / 2) of each side of the resized image.

    Raises:
        ValueError: an argument is not as above.
        tf.errors.InvalidArgumentError: the image cannot be read.
    """
    _check_centre_crop(size, resize_to, resize)
    if resize == "squash":
        pixels = image_ops.read_window(image, _whole)
        height = width = tf.constant(resize_to)
    else:
        pixels = image_ops.read_window(image, _middle)
        height, width = _scaled_sides(tf.shape(pixels)[:2], resize_to)
    resized = image_ops.resize(pixels, height, width)
    y, x = (height - size) // 2, (width - size) // 2
    return _with_shape(image_ops.to_uint8(resized[y : y + size, x : x + size]), size)


def flip(image, seed):
    """Mirrors left and right with probability 1/2: uint8 [h, w, 3] as given."""
    mirrored = tf.random.stateless_uniform([], _stream(seed, "flip")) < 0.5
    result = tf.cond(mirrored, lambda: tf.reverse(image, axis=[1]), lambda: image)
    result.set_shape(image.shape)
    return result


def color_jitter(image, strength, seed):
    """Changes brightness, then contrast, then saturation, each by its own factor f.

    f is uniform in 1 - s ... 1 + s, never below 0. Brightness: x * f. Contrast: f * x + (1 - f) * m with m the mean
    over the image of its grey values 0.299 R + 0.587 G + 0.114 B. Saturation: f * x + (1 - f) * g with g the grey value
    of each pixel. Each step clips to 0 ... 255; the last rounds.

    Args:
        image: uint8 [h, w, 3].
        strength: s for all three, or (brightness, contrast, saturation); 0 changes nothing.
        seed: int32 or int64 [2].

    Returns:
        uint8 [h, w, 3].

    Raises:
        ValueError: a strength is negative or not finite, or there are not one or three.
    """
    strengths = _strengths(strength)
    if not any(strengths):
        return image
    low = tf.constant([max(0.0, 1.0 - s) for s in strengths])
    high = tf.constant([1.0 + s for s in strengths])
    factors = low + (high - low) * tf.random.stateless_uniform([3], _stream(seed, "color_jitter"))
    pixels = _clip(tf.cast(image, tf.float32) * factors[0])
    pixels = _clip(factors[1] * pixels + (1.0 - factors[1]) * tf.reduce_mean(_grey(pixels)))
    return image_ops.to_uint8(factors[2] * pixels + (1.0 - factors[2]) * _grey(pixels))


def pca_noise(image, std, seed):
    """Shifts all pixels along the principal colours of the image (after Krizhevsky et al. 2012, section 4.1).

    The recipe's form: pixels are standardised by the mean and deviation of each channel of this image; with the
    eigenvalues l and eigenvectors v of their covariance and a_i ~ N(0, std), sum_i a_i l_i v_i is added to every
    standardised pixel, and the standardisation is undone. The largest component of each v is positive. A channel
    without deviation, and so a constant image, stays as it is.

    Args:
        image: uint8 [h, w, 3].
        std: standard deviation of the a_i, 0.1 in the recipe; 0 changes nothing.
        seed: int32 or int64 [2].

    Returns:
        uint8 [h, w, 3].

    Raises:
        ValueError: std is negative or not finite.
    """
    if not 0 <= std < math.inf:
        raise ValueError("`std` must be a number of at least 0. Received: std={}.".format(std))
    if std == 0:
        return image
    pixels = tf.cast(image, tf.float32)
    flat = tf.reshape(pixels, [-1, 3])
    flat -= tf.reduce_mean(flat, axis=0)
    covariance = tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)
    deviation = tf.sqrt(tf.linalg.diag_part(covariance))
    # Of the standardised pixels: their covariance is the correlation.
    values, vectors = tf.linalg.eigh(tf.math.divide_no_nan(covariance, deviation * deviation[:, tf.newaxis]))
    vectors *= _signs_of_largest(vectors)
    alpha = std * tf.random.stateless_normal([3], _stream(seed, "pca_noise"))
    return image_ops.to_uint8(pixels + deviation * tf.linalg.matvec(vectors, alpha * values))


def _stream(seed, purpose):
    """The seed with a 63-bit number of its own mixed in for each purpose: no two functions share their draws."""
    first, second = tf.unstack(tf.cast(seed, tf.int64), num=2)
    return tf.stack([tf.bitwise.bitwise_xor(first, zlib.crc32(purpose.encode()) << 31), second])


def _candidates(shape, uniform):
    """Windows int32 [tries, 4] from numbers in 0 ... 1, [tries, 4]: area, aspect, y, x. They may be too large."""
    sides = tf.cast(shape, tf.float32)
    area = (AREA[0] + (AREA[1] - AREA[0]) * uniform[:, 0]) * sides[0] * sides[1]
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = tf.exp(low + (high - low) * uniform[:, 1])
    size = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1)))
    size = tf.cast(tf.maximum(size, 1.0), tf.int32)
    room = tf.maximum(shape - size, 0)
    offset = tf.cast(uniform[:, 2:] * tf.cast(room + 1, tf.float32), tf.int32)
    return tf.concat([tf.minimum(offset, room), size], axis=1)


def _covers(windows, boxes, sides):
    """Whether each window, float32 [tries, 4] in pixels, covers enough of a box: bool [tries]."""
    boxes = tf.clip_by_value(boxes, 0.0, 1.0) * tf.tile(sides, [2])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Both sides of a box must be positive: two negative ones make a positive area.
    usable = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes = tf.concat([boxes, [tf.concat([[0.0, 0.0], sides], axis=0)]], axis=0)
    areas = tf.concat([areas, [sides[0] * sides[1]]], axis=0)
    usable = tf.concat([usable, [tf.logical_not(tf.reduce_any(usable))]], axis=0)
    start = tf.maximum(windows[:, tf.newaxis, :2], boxes[tf.newaxis, :, :2])
    end = tf.minimum((windows[:, :2] + windows[:, 2:])[:, tf.newaxis], boxes[tf.newaxis, :, 2:])
    shared = tf.reduce_prod(tf.maximum(end - start, 0.0), axis=2)
    return tf.reduce_any(usable & (shared >= MIN_OBJECT_COVERED * areas), axis=1)


def _check_centre_crop(size, resize_to, resize):
    wrong = []
    if not 1 <= size <= resize_to:
        wrong.append("`size` must be in [1, resize_to]. Received: size={}, resize_to={}.".format(size, resize_to))
    if resize not in ("short_side", "squash"):
        wrong.append('`resize` must be "short_side" or "squash". Received: resize={!r}.'.format(resize))
    if wrong:
        raise ValueError("\n".join(wrong))


def _whole(shape):
    return (0, 0, shape[0], shape[1])


def _middle(shape):
    """The window that keeps the short side and of the long side its middle, as far as a central crop can need it."""
    limit = _LONGEST * tf.reduce_min(shape)
    # An even number of pixels is left out, so that the centre stays where it is.
    left_out = tf.maximum(shape - limit, 0) // 2
    return tuple(tf.unstack(tf.concat([left_out, shape - 2 * left_out], axis=0), num=4))


def _scaled_sides(shape, short_side):
    """(height, width) with the short side as given and the other in proportion, rounded half up."""
    sides = tf.cast(shape, tf.int64)
    shortest = tf.reduce_min(sides)
    scaled = (2 * sides * short_side + shortest) // (2 * shortest)
    return tf.unstack(tf.cast(scaled, tf.int32), num=2)


def _with_shape(pixels, size):
    pixels.set_shape([size, size, 3])
    return pixels


def _strengths(strength):
    strengths = tuple(strength) if isinstance(strength, (list, tuple)) else (strength,) * 3
    if len(strengths) != 3 or not all(0 <= s < math.inf for s in strengths):
        raise ValueError(
            "`strength` must be a number of at least 0, or three: brightness, contrast, saturation. "
            "Received: strength={}.".format(strength)
        )
    return strengths


def _clip(pixels):
    return tf.clip_by_value(pixels, 0.0, 255.0)


def _grey(pixels):
    """Grey values, [h, w, 1]."""
    return tf.reduce_sum(pixels * _LUMA, axis=2, keepdims=True)


def _signs_of_largest(vectors):
    """Signs [1, 3] that make the largest component of each column positive."""
    largest = tf.argmax(tf.abs(vectors), axis=0)
    chosen = tf.reduce_sum(vectors * tf.transpose(tf.one_hot(largest, 3)), axis=0, keepdims=True)
    return tf.where(chosen < 0, -tf.ones_like(chosen), tf.ones_like(chosen))
