"""Reading one image: bytes to uint8 pixels, whole or a window of them. TensorFlow operations only.

Formats: JPEG (grey, RGB, CMYK and YCCK, baseline and progressive), PNG (grey, palette, alpha, 16 bits), BMP of 24 or
32 bits, the first frame of a GIF, and WebP where TensorFlow can (2.19 and later). The first bytes decide, never the
name of a file: a PNG named .JPEG is read as PNG. Three channels always: grey is repeated, alpha is dropped, 16 bits
are cut to 8, CMYK becomes (255 - ink) * (255 - black) / 255.

The orientation that a camera notes in EXIF is ignored, as TensorFlow and the training recipes of ImageNet ignore it.

JPEGs are decoded as Pillow decodes them, to the same pixels: the accurate DCT and smooth chroma (TensorFlow's
fancy_upscaling). The fast DCT of the recipes gains 4 % at most (x86, 500 x 375 pixels). Without smooth chroma the fused
crop of TF 1.15 and 2.6 ends the process by a segmentation fault on many windows of 4:2:0 JPEGs, which most JPEGs are.

What cannot be read raises tf.errors.InvalidArgumentError: truncated, empty, no image at all. A JPEG with damage in its
middle is beyond this: libjpeg only warns, and TensorFlow does not look at its warnings.
"""

from ascend_keras import compat
from ascend_keras.compat import tf

# Windows with more pixels (50 MB) are decoded at 1/2, 1/4 or 1/8 of their size, which JPEG can.
MAX_PIXELS = 2**24

_DECODING = {"channels": 3, "dct_method": "INTEGER_ACCURATE", "fancy_upscaling": True}


def is_jpeg(encoded):
    """Whether a string tensor [] starts as a JPEG does: bool []. The name of the file does not matter."""
    return _starts_with(encoded, b"\xff\xd8\xff")


def jpeg_shape(encoded):
    """Height and width of a JPEG in pixels, int32 [2], from its header alone.

    Raises:
        tf.errors.InvalidArgumentError: there is no JPEG header.
    """
    return tf.io.extract_jpeg_shape(encoded)[:2]


def decode(encoded):
    """Decodes an image at full size.

    A JPEG of 12,000 x 9,000 pixels takes 324 MB this way; `read_window` takes 50 MB. For other formats there is no
    way around the full size.

    Args:
        encoded: string [], the bytes of the file.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: truncated, empty, or of no known format.
    """
    pixels = tf.cond(is_jpeg(encoded), lambda: tf.io.decode_jpeg(encoded, **_DECODING), lambda: _decode_other(encoded))
    pixels.set_shape([None, None, 3])
    return pixels


def read_window(image, window_of):
    """The pixels inside a window, decoded without the rest where the format allows.

    Args:
        image: string [], the bytes of a file; or uint8 [h, w, 3], decoded.
        window_of: function from the shape, int32 [2] (height, width), to the window: offset_y, offset_x, height, width.

    Returns:
        uint8 [height, width, 3]. Of a JPEG whose window has more than MAX_PIXELS pixels, the same picture at 1/2, 1/4
        or 1/8 of the size.

    Raises:
        tf.errors.InvalidArgumentError: as `decode`; also where a truncated file holds the whole window.
    """
    if image.dtype != tf.string:
        return _cut(image, window_of)
    pixels = tf.cond(
        is_jpeg(image),
        lambda: _decode_jpeg_window(image, tf.stack(window_of(jpeg_shape(image)))),
        lambda: _cut(_decode_other(image), window_of),
    )
    pixels.set_shape([None, None, 3])
    return pixels


def resize(image, height, width):
    """Bilinear resizing with half-pixel centres, without antialiasing: float32 [height, width, 3].

    Output pixel i shows the source at (i + 0.5) * source / target - 0.5, held at the border (tf.image.resize of TF 2;
    what TF 1.15 has by that name aligns otherwise).
    """
    size = tf.stack([height, width])
    return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=size, half_pixel_centers=True)[0]


def to_uint8(pixels):
    """Rounds to the nearest of 0 ... 255."""
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


def _starts_with(encoded, magic, position=0):
    """Whether the bytes from `position` on are `magic`. Shorter strings are not."""
    long_enough = tf.strings.length(encoded) >= position + len(magic)
    start = tf.where(long_enough, position, 0)
    return long_enough & tf.equal(tf.strings.substr(encoded, start, len(magic)), magic)


def _decode_other(encoded):
    readers = [
        (_starts_with(encoded, b"BM"), _decode_bmp),
        (_starts_with(encoded, b"GIF8"), lambda content: tf.io.decode_gif(content)[0]),
    ]
    if compat.decode_webp is not None:
        webp = _starts_with(encoded, b"RIFF") & _starts_with(encoded, b"WEBP", position=8)
        readers.append((webp, compat.decode_webp))
    return _first_reader(readers, encoded)


def _first_reader(readers, encoded):
    """The image by the first reader whose test holds; PNG, or an error, if none does."""
    if not readers:
        return tf.io.decode_png(encoded, channels=3)
    test, reader = readers[0]
    return tf.cond(test, lambda: reader(encoded), lambda: _first_reader(readers[1:], encoded))


def _decode_bmp(encoded):
    pixels = tf.io.decode_bmp(encoded, channels=0)
    message = "BMP images of 8 bits are not read: TensorFlow ignores their palette. Convert them to PNG."
    with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(pixels)[2], 1, message=message)]):
        return pixels[:, :, :3]


def _cut(pixels, window_of):
    y, x, height, width = window_of(tf.shape(pixels)[:2])
    return pixels[y : y + height, x : x + width]


def _decode_jpeg_window(encoded, window):
    with tf.control_dependencies([_raise_if_truncated(encoded)]):
        return _reduced(tf.identity(encoded), window, ratio=1)


def _raise_if_truncated(encoded):
    """A window is decoded without a look at what follows it, so a file that does not end as JPEGs do is read once more.

    1/8 of the size is enough to find out. Files with bytes after their end are whole and pass.
    """
    end = tf.strings.substr(encoded, tf.strings.length(encoded) - 2, 2)
    return tf.cond(
        tf.equal(end, b"\xff\xd9"),
        lambda: tf.constant(0, tf.uint8),
        lambda: tf.reduce_max(tf.io.decode_jpeg(encoded, channels=1, ratio=8)),
    )


def _reduced(encoded, window, ratio):
    """Decodes the window at 1/ratio of the size, or less if that has more than MAX_PIXELS pixels.

    The ratio is an attribute of the operation, so there is one operation for each.
    """

    def decoded():
        start, size = window[:2] // ratio, window[2:]
        end = -(-(window[:2] + size) // ratio)
        inside = tf.concat([start, end - start], axis=0)
        return tf.io.decode_and_crop_jpeg(encoded, inside, ratio=ratio, **_DECODING)

    if ratio == 8:
        return decoded()
    area = tf.reduce_prod(tf.cast(window[2:], tf.int64))
    fits = area <= MAX_PIXELS * ratio**2
    return tf.cond(fits, decoded, lambda: _reduced(encoded, window, ratio * 2))
