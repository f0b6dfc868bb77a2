"""Decoding real and broken files, windows of them, resizing: against Pillow and NumPy."""

import json
import os
import subprocess
import sys

import image_files
import image_oracle as oracle
import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.compat import tf
from ascend_keras.data import augment, image_ops

UGLY = {name.split(".")[0]: content for name, content in image_files.ugly_bytes().items()}
NO_BOXES = np.zeros([0, 4], np.float32)
HERE = os.path.dirname(os.path.abspath(__file__))

# The largest difference to Pillow in levels. Both use libjpeg-turbo, so that RGB is equal; inks are rounded once more,
# and each of the two rounds colours from luma and chroma in its own place.
LEVELS = {"cmyk": 1, "ycck": 1}


def decoded(content):
    return oracle.evaluate(lambda: image_ops.decode(tf.constant(content)))


@pytest.mark.parametrize("kind", sorted(set(UGLY) - set(image_files.UNREADABLE) - {"png_grey_16bit"}))
def test_every_readable_file_has_pillows_pixels(kind):
    pixels, expected = decoded(UGLY[kind]), oracle.pillow(UGLY[kind])
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= LEVELS.get(kind, 0)


def test_sixteen_bits_are_cut_to_the_upper_eight():
    # Pillow clips 16-bit grey instead; the file's shades are 257 times those of the 8-bit file.
    np.testing.assert_array_equal(decoded(UGLY["png_grey_16bit"]), decoded(UGLY["png_grey"]))


def test_grey_has_three_equal_channels():
    pixels = decoded(UGLY["grey"])
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()


def test_inks_are_the_picture():
    # cmyk and ycck hold the inks of the picture that bmp holds without loss.
    for kind, mean_difference in (("cmyk", 3.0), ("ycck", 4.0)):
        assert np.abs(decoded(UGLY[kind]).astype(int) - oracle.pillow(UGLY["bmp"])).mean() < mean_difference


def test_the_orientation_in_exif_is_ignored():
    pixels = decoded(UGLY["exif_rotated"])
    height, width = oracle.pillow(UGLY["bmp"]).shape[:2]
    assert height != width
    assert pixels.shape == (height, width, 3)


def test_first_frame_of_an_animation():
    frames = [image_files.cut("coffee", seed).resize((30, 20)).quantize(32) for seed in range(3)]
    content = image_files.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(content), oracle.pillow(content))


def test_bmp_with_a_palette_is_refused():
    content = image_files.encode(image_files.cut("coffee", 0).quantize(64), "BMP")
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP images of 8 bits are not read"):
        decoded(content)


def test_webp_where_tensorflow_reads_it():
    image = image_files.cut("coffee", 0)
    content = image_files.encode(image, "WEBP", lossless=True)
    if compat.decode_webp is None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoded(content)
    else:
        np.testing.assert_array_equal(decoded(content), np.asarray(image))


def readers(content):
    """Every way to read an image; the window of the last ends long before the damage of a truncated file."""
    seed = np.array([1, 2])
    content = tf.constant(content)
    return {
        "decode": lambda: image_ops.decode(content),
        "random": lambda: augment.random_resized_crop(content, NO_BOXES, seed, 8),
        "centre": lambda: augment.centre_crop(content, 8, 8),
        "corner": lambda: image_ops.read_window(content, lambda shape: (0, 0, 4, 4)),
    }


@pytest.mark.parametrize("kind", image_files.UNREADABLE)
@pytest.mark.parametrize("reader", ["decode", "random", "centre", "corner"])
def test_unreadable_files_raise(kind, reader):
    with pytest.raises(tf.errors.InvalidArgumentError):
        oracle.evaluate(lambda: readers(UGLY[kind])[reader]())


@pytest.mark.parametrize("kind", ["exif_rotated", "progressive", "grey", "cmyk", "png"])
def test_files_truncated_anywhere_raise(kind):
    whole = UGLY[kind]
    lengths = sorted({*range(12), *range(len(whole) - 12, len(whole)), *range(0, len(whole), len(whole) // 25)})

    def survivors(content):
        """Positions of the readable ones among truncated contents."""
        dataset = tf.data.Dataset.from_tensor_slices(content).enumerate()
        corner = lambda i, one: (i, tf.shape(image_ops.read_window(one, lambda shape: (0, 0, 2, 2))))  # noqa: E731
        survivors = compat.ignore_errors(dataset.map(corner)).map(lambda i, shape: i)
        return survivors.concatenate(tf.data.Dataset.from_tensors(np.int64(-1))).batch(1000)

    assert len(lengths) > 40
    contents = [whole[:length] for length in lengths] + [whole]
    found = oracle.first(lambda: survivors(contents))
    assert found.tolist() == [len(lengths), -1]  # the whole one alone


def test_damage_in_the_middle_is_not_noticed():
    """A limit that image_ops states: libjpeg fills the gap and only warns. If this fails, TensorFlow has improved."""
    whole = UGLY["exif_rotated"]
    pixels = decoded(whole[: len(whole) // 2] + b"\xff\xd9")
    assert pixels.shape == oracle.pillow(whole).shape


def test_header():
    for kind, is_jpeg in (("grey", True), ("ycck", True), ("png", False), ("text", False), ("zero_length", False)):
        assert oracle.evaluate(lambda kind=kind: image_ops.is_jpeg(tf.constant(UGLY[kind]))) == is_jpeg
    shape = oracle.evaluate(lambda: image_ops.jpeg_shape(tf.constant(UGLY["progressive"])))
    assert tuple(shape) == oracle.pillow(UGLY["progressive"]).shape[:2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        oracle.evaluate(lambda: image_ops.jpeg_shape(tf.constant(UGLY["png"])))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_windows_of_a_jpeg(subsampling, progressive):
    """300 windows: none may crash (see image_ops). Chroma at the border of a window lacks its neighbour outside."""
    random = np.random.RandomState(subsampling)
    image = image_files.photograph("coffee").resize((173, 131))
    content = image_files.encode(image, quality=85, subsampling=subsampling, progressive=progressive)
    expected = oracle.pillow(content).astype(int)
    ends = np.sort(random.randint(0, [132, 174], size=(300, 2, 2)), axis=1)
    windows = np.concatenate([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1).astype(np.int32)
    windows = windows[(windows[:, 2:] > 0).all(axis=1)]

    def padded(window):
        pixels = image_ops.read_window(tf.constant(content), lambda shape: tf.unstack(window, num=4))
        return tf.pad(pixels, [[0, 131 - window[2]], [0, 173 - window[3]], [0, 0]])

    found = oracle.first(lambda: tf.data.Dataset.from_tensor_slices(windows).map(padded).batch(len(windows)))
    for (y, x, height, width), pixels in zip(windows, found):
        difference = np.abs(pixels[:height, :width].astype(int) - expected[y : y + height, x : x + width])
        assert difference[:, 1:-1].max(initial=0) <= (0 if subsampling == 0 else 1)
        assert difference.max() <= (0 if subsampling == 0 else 40)


def test_the_crop_is_fused_with_decoding():
    with tf.Graph().as_default() as graph:
        augment.random_resized_crop(tf.constant(UGLY["grey"]), NO_BOXES, np.array([1, 2]), 8)
        assert "DecodeAndCropJpeg" in str(graph.as_graph_def())


# A process of its own: what the tests before have freed would hide what is taken.
GROWTH = """
import json, sys
sys.path[:0] = sys.argv[1:]
import image_files
import image_oracle as oracle
import numpy as np
from ascend_keras.compat import tf
from ascend_keras.data import augment, image_ops

def memory(key):
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key)) / 1024

def growth(function):
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # forget the peak so far
    before = memory("VmRSS")
    oracle.evaluate(function)
    return memory("VmHWM") - before

huge, boxes = image_files.huge_jpeg(), np.zeros([0, 4], np.float32)

def crop(content, index):
    return growth(lambda: augment.random_resized_crop(tf.constant(content), boxes, np.array([1, index]), 224))

crop(image_files.jpeg("coffee", 0), 2)  # what TensorFlow takes at first
found = [growth(lambda: augment.centre_crop(tf.constant(huge), 224, 256, way)) for way in ("short_side", "squash")]
found += [crop(huge, index) for index in range(3)]
print(json.dumps([growth(lambda: tf.shape(image_ops.decode(tf.constant(huge))))] + found))
"""


def test_a_huge_jpeg_takes_little_memory():
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("The kernel does not let a process forget its peak of memory.")
    command = [sys.executable, "-W", "ignore", "-c", GROWTH, HERE, os.path.dirname(HERE)]
    printed = subprocess.check_output(command, env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"))
    whole, *cropped = json.loads(printed.decode().splitlines()[-1])
    assert whole > 0.9 * 12000 * 9000 * 3 / 2**20  # so the meter works
    assert len(cropped) == 5
    assert max(cropped) < 200, cropped


def test_large_windows_are_decoded_at_a_part_of_their_size():
    content = image_files.huge_jpeg(5200, 4400)
    pixels = oracle.pillow(content)
    for window, ratio in (((0, 800, 4000, 4000), 1), ((200, 400, 4200, 4800), 2)):
        found = oracle.evaluate(lambda w=window: image_ops.read_window(tf.constant(content), lambda shape: w))
        y, x, height, width = window
        assert found.shape == (height // ratio, width // ratio, 3)
        expected = pixels[y : y + 400, x : x + width].reshape(400 // ratio, ratio, width // ratio, ratio, 3)
        assert np.abs(found[: 400 // ratio] - expected.mean(axis=(1, 3))).mean() < 1


@pytest.mark.parametrize(
    "source, target", [((13, 29), (8, 8)), ((5, 3), (16, 16)), ((1, 1), (4, 7)), ((64, 64), (64, 64))]
)
def test_resize_has_half_pixel_centres(source, target):
    pixels = np.random.RandomState(0).randint(0, 256, size=source + (3,)).astype(np.uint8)
    found = oracle.evaluate(lambda: image_ops.resize(tf.constant(pixels), *target))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.resized(pixels, *target), atol=1e-3)


def test_rounding():
    found = oracle.evaluate(lambda: image_ops.to_uint8(tf.constant([-3.0, 0.4, 0.6, 1.5, 2.5, 254.7, 300.0])))
    assert found.tolist() == [0, 0, 1, 2, 2, 255, 255]
