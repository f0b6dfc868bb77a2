"""Crops, flips and colours of single images: their statistics and pixels against NumPy."""

import image_files
import image_oracle as oracle
import numpy as np
import pytest

from ascend_keras.compat import tf
from ascend_keras.data import augment

NO_BOXES = np.zeros([0, 4], np.float32)
SEED = np.array([3, 4])


def sampled(height, width, boxes, count=4000):
    """Boxes of `count` seeds, int [count, 4]."""
    return oracle.for_seeds(lambda seed: tf.stack(augment.sample_box([height, width], boxes, seed)), count)


def check_inside(found, height, width):
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()


def check_same_distribution(found, expected, height, width):
    """Area, aspect ratio and position by the test of Kolmogorov and Smirnov, at the level 1e-4 each."""
    bound = oracle.kolmogorov_bound(len(found), len(expected))
    for quantity in (
        lambda y, x, h, w: h * w / (height * width),
        lambda y, x, h, w: w / h,
        lambda y, x, h, w: y + h / 2,
        lambda y, x, h, w: x + w / 2,
    ):
        assert oracle.kolmogorov(quantity(*found.T), quantity(*expected.T)) < bound


@pytest.mark.parametrize("height, width", [(375, 500), (224, 224), (640, 300)])
def test_boxes_have_the_stated_distribution(height, width):
    found = sampled(height, width, NO_BOXES)
    assert len(found) == 4000
    check_inside(found, height, width)
    check_same_distribution(found, oracle.crop_boxes(height, width, 20000), height, width)


def test_area_and_aspect_fill_their_ranges():
    found = sampled(1000, 1000, NO_BOXES)
    area, aspect = found[:, 2] * found[:, 3] / 1e6, found[:, 3] / found[:, 2]
    # A tenth of the image is the least, because the whole image stands for the missing box.
    assert 0.1 <= area.min() < 0.102
    assert 0.99 < area.max() <= 1
    assert 0.749 < aspect.min() < 0.751
    assert 1.331 < aspect.max() < 1.336
    # Landscape is as likely as portrait, within three standard deviations.
    assert abs((aspect > 1).mean() - 0.5) < 3 * 0.5 / np.sqrt(len(found))


def test_boxes_cover_a_tenth_of_an_object():
    boxes = np.array([[0.1, 0.1, 0.3, 0.25], [0.7, 0.8, 0.95, 1.0], [0.5, 0.5, 0.5, 0.9]], np.float32)

    def covered(window):
        y, x, h, w = window
        for top, left, bottom, right in boxes[:2] * [375, 500, 375, 500]:
            shared = max(0, min(y + h, bottom) - max(y, top)) * max(0, min(x + w, right) - max(x, left))
            if shared >= (0.1 - 1e-6) * (bottom - top) * (right - left):
                return True
        return False

    found = sampled(375, 500, boxes)
    check_inside(found, 375, 500)
    assert all(covered(window) for window in found)
    # Boxes smaller than a tenth of the image are taken as well, which without objects they are not.
    assert 0.08 <= (found[:, 2] * found[:, 3] / (375 * 500)).min() < 0.085
    check_same_distribution(found, oracle.crop_boxes(375, 500, 20000, covered), 375, 500)


@pytest.mark.parametrize(
    "boxes",
    [
        [[0.5, 0.5, 0.5, 0.5]],
        [[0.9, 0.9, 0.1, 0.1]],
        [[0.2, 0.9, 0.8, 0.1]],
        [[np.nan, 0.0, 1.0, 1.0]],
        [[2.0, 2.0, 3.0, 3.0]],
    ],
)
def test_boxes_without_area_count_for_nothing(boxes):
    boxes = np.array(boxes, np.float32)
    np.testing.assert_array_equal(sampled(375, 500, boxes, 100), sampled(375, 500, NO_BOXES, 100))


def test_an_object_that_no_try_finds_gives_the_whole_image():
    boxes = np.array([[0.0, 0.0, 1e-4, 1e-4]], np.float32)
    found = sampled(1000, 2000, boxes, 500)
    whole = (found == [0, 0, 1000, 2000]).all(axis=1)
    assert whole.mean() > 0.8
    assert ((found[:, :2] == 0).all(axis=1)).all()


@pytest.mark.parametrize("height, width", [(1, 1), (10, 12000), (12000, 10), (2, 3), (65500, 65500)])
def test_boxes_of_odd_images(height, width):
    found = sampled(height, width, NO_BOXES, 200)
    check_inside(found, height, width)
    if max(height, width) / min(height, width) > 1000:
        assert (found == [0, 0, height, width]).all()  # no try fits


def test_boxes_are_the_same_on_every_stack():
    assert sampled(375, 500, NO_BOXES, 3).tolist() == [[48, 268, 203, 205], [38, 51, 304, 329], [14, 127, 360, 365]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_seeds_of_either_type(dtype):
    function = lambda: tf.stack(augment.sample_box([375, 500], NO_BOXES, np.array([7, 1], dtype)))  # noqa: E731
    assert oracle.evaluate(function).tolist() == [38, 51, 304, 329]


@pytest.mark.parametrize("kind", ["bytes", "pixels", "jpeg"])
def test_pixels_of_random_crops(kind):
    """Each pixel of a crop is the bilinear value, rounded; of a JPEG the border differs (see test_image_ops)."""
    image = image_files.photograph("coffee").resize((200, 150))
    content = image_files.encode(image, "PNG") if kind != "jpeg" else image_files.encode(image, quality=90)
    pixels = oracle.pillow(content)
    boxes = np.array([[0.2, 0.3, 0.6, 0.9]], np.float32)

    def crop(seed):
        source = tf.constant(pixels) if kind == "pixels" else tf.constant(content)
        return augment.random_resized_crop(source, boxes, seed, 48)

    found = oracle.for_seeds(crop, 200)
    assert found.shape == (200, 48, 48, 3)
    assert found.dtype == np.uint8
    windows = sampled(150, 200, boxes, 200)
    expected = np.stack([oracle.resized(pixels[y : y + h, x : x + w], 48, 48) for y, x, h, w in windows])
    difference = np.abs(found - expected)
    assert difference[:, 1:-1, 1:-1].max() <= (2 if kind == "jpeg" else 0.51)
    assert difference.max() <= (40 if kind == "jpeg" else 0.51)
    assert abs(found.mean() - expected.mean()) < 0.1
    assert abs(found.std() - expected.std()) < 0.1


@pytest.mark.parametrize("size", [(150, 200), (200, 150), (97, 97), (90, 140), (300, 41), (1, 1), (10, 600)])
@pytest.mark.parametrize("resize", ["short_side", "squash"])
def test_pixels_of_central_crops(size, resize):
    height, width = size
    pixels = np.asarray(image_files.photograph("coffee").resize((width, height)))
    scale = 64 / min(size)
    sides = (64, 64) if resize == "squash" else [int(side * scale + 0.5) for side in size]
    expected = oracle.centre(oracle.resized(pixels, *sides), 56)
    found = oracle.evaluate(lambda: augment.centre_crop(tf.constant(pixels), 56, 64, resize=resize))
    assert found.shape == (56, 56, 3)
    # Of 300 x 41 the middle 164 are resized to 256, which is 4 x 64; all 300 would be 468, not 468.3.
    assert np.abs(found - expected).max() <= (3 if size == (300, 41) and resize == "short_side" else 0.51)
    content = image_files.encode(image_files.photograph("coffee").resize((width, height)), "PNG")
    from_bytes = oracle.evaluate(lambda: augment.centre_crop(tf.constant(content), 56, 64, resize=resize))
    np.testing.assert_array_equal(found, from_bytes)


def test_central_crop_of_the_recipes():
    # 256 -> 224 leaves 16 on each side; 341 -> 299 leaves 21.
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 256, axis=1).repeat(3, axis=2)
    found = oracle.evaluate(lambda: augment.centre_crop(tf.constant(ramp), 224, 256))
    np.testing.assert_array_equal(found, ramp[16:240, 16:240])
    wide = np.zeros([341, 341, 3], np.uint8)
    wide[21, 21] = 200
    found = oracle.evaluate(lambda: augment.centre_crop(tf.constant(wide), 299, 341))
    assert (found[0, 0] == 200).all()


def test_long_images_become_small_crops():
    for shape in ((10, 12000, 3), (12000, 10, 3)):
        pixels = np.zeros(shape, np.uint8)
        found = oracle.evaluate(lambda p=pixels: augment.centre_crop(tf.constant(p), 224, 256))
        assert found.shape == (224, 224, 3)
        found = oracle.evaluate(lambda p=pixels: augment.random_resized_crop(tf.constant(p), NO_BOXES, SEED, 224))
        assert found.shape == (224, 224, 3)


def test_static_shapes():
    with tf.Graph().as_default():
        content = tf.constant(b"")
        crop = augment.random_resized_crop(content, NO_BOXES, SEED, 24)
        assert crop.shape.as_list() == [24, 24, 3]
        assert augment.centre_crop(content, 24, 32).shape.as_list() == [24, 24, 3]
        for changed in (
            augment.flip(crop, SEED),
            augment.color_jitter(crop, 0.4, SEED),
            augment.pca_noise(crop, 0.1, SEED),
        ):
            assert changed.shape.as_list() == [24, 24, 3]
            assert changed.dtype == tf.uint8


def test_half_of_the_images_are_flipped():
    pixels = np.random.RandomState(0).randint(0, 256, size=(5, 4, 3)).astype(np.uint8)
    found = oracle.for_seeds(lambda seed: augment.flip(tf.constant(pixels), seed), 20000)
    flipped = (found == pixels[:, ::-1]).all(axis=(1, 2, 3))
    same = (found == pixels).all(axis=(1, 2, 3))
    assert (flipped != same).all()
    for count in (2000, 20000):
        assert abs(flipped[:count].mean() - 0.5) < 3 * 0.5 / np.sqrt(count)
    flipped = flipped[:2000]
    # One after the other, and the flip and the place of the crop, have nothing to do with each other.
    assert abs(np.corrcoef(flipped[1:], flipped[:-1])[0, 1]) < 3 / np.sqrt(2000)
    windows = sampled(375, 500, NO_BOXES, 2000)
    for column in range(4):
        assert abs(np.corrcoef(flipped, windows[:, column])[0, 1]) < 3.5 / np.sqrt(2000)


def test_random_crops_depend_on_both_numbers_of_the_seed_alone():
    content = image_files.jpeg("coffee", 0)
    crops = [
        oracle.evaluate(lambda s=seed: augment.random_resized_crop(tf.constant(content), NO_BOXES, np.array(s), 16))
        for seed in ((1, 2), (2, 1), (1, 3), (1, 2))
    ]
    assert len({crop.tobytes() for crop in crops}) == 3
    np.testing.assert_array_equal(crops[0], crops[3])


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda image: augment.random_resized_crop(image, NO_BOXES, SEED, 0),
            "`size` must be at least 1. Received: size=0.",
        ),
        (
            lambda image: augment.centre_crop(image, 300, 256, resize="crop"),
            "`size` must be in [1, resize_to]. Received: size=300, resize_to=256.\n"
            '`resize` must be "short_side" or "squash". Received: resize=\'crop\'.',
        ),
        (
            lambda image: augment.centre_crop(image, 0, 256),
            "`size` must be in [1, resize_to]. Received: size=0, resize_to=256.",
        ),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError) as error:
        call(np.zeros([2, 2, 3], np.uint8))
    assert str(error.value) == message
