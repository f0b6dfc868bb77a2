"""Makes real image files for tests: photographs cut, scaled and encoded anew, and the ugly files that real sets hold.

The photographs come with scikit-learn and scikit-image, nothing is downloaded. Every function is deterministic by its
seed; the bytes differ between versions of Pillow, the pictures do not.

    make_photographs(folder)   class folders of JPEGs, one source photograph a class
    make_tfrecords(folder)     the same in shards of the slim schema, 1-based labels, with boxes
    make_kaggle(folder)        cat.0.jpg, dog.0.jpg ...
    make_petimages(folder)     PetImages/Cat/0.jpg ... with the set's broken files
    ugly(folder)               one file of each kind that breaks readers; UNREADABLE names those with no picture in them
"""

import functools
import importlib.util
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

_FOLDERS = {"sklearn": os.path.join("datasets", "images"), "skimage": "data"}

# Class k shows cuts of the k-th photograph. Ten in colour, then four grey ones.
PHOTOGRAPHS = (
    ("sklearn", "china.jpg"),
    ("sklearn", "flower.jpg"),
    ("skimage", "astronaut.png"),
    ("skimage", "chelsea.png"),
    ("skimage", "coffee.png"),
    ("skimage", "hubble_deep_field.jpg"),
    ("skimage", "rocket.jpg"),
    ("skimage", "retina.jpg"),
    ("skimage", "ihc.png"),
    ("skimage", "motorcycle_left.png"),
    ("skimage", "brick.png"),
    ("skimage", "grass.png"),
    ("skimage", "moon.png"),
    ("skimage", "coins.png"),
)
NAMES = tuple(os.path.splitext(file)[0] for _, file in PHOTOGRAPHS)

UNREADABLE = ("text", "truncated", "truncated_png", "zero_length")


@functools.lru_cache(maxsize=None)
def photograph(name, longest=512):
    """The RGB photograph (PIL.Image) of that name from NAMES, its longest side at most `longest` pixels."""
    package, file = PHOTOGRAPHS[NAMES.index(name)]
    root = os.path.dirname(importlib.util.find_spec(package).origin)
    with Image.open(os.path.join(root, _FOLDERS[package], file)) as image:
        image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.BILINEAR)
    return image


def cut(name, seed, least_area=0.4, sides=(72, 160)):
    """A random cut of a photograph, mirrored half of the time, scaled to random sides in pixels."""
    random = np.random.RandomState(seed)
    source = photograph(name)
    scale = np.sqrt(random.uniform(least_area, 1.0))
    width, height = int(source.width * scale), int(source.height * scale)
    left, top = random.randint(source.width - width + 1), random.randint(source.height - height + 1)
    image = source.crop((left, top, left + width, top + height))
    if random.randint(2):
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    return image.resize(
        (random.randint(sides[0], sides[1] + 1), random.randint(sides[0], sides[1] + 1)), Image.BILINEAR
    )


def encode(image, form="JPEG", **options):
    """The bytes of a PIL.Image in that format."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def jpeg(name, seed, sides=(72, 160)):
    """The bytes of a JPEG of random quality (50 to 95) and subsampling that shows a cut of a photograph."""
    random = np.random.RandomState(seed + 1)
    return encode(cut(name, seed, sides=sides), quality=random.randint(50, 96), subsampling=random.randint(3))


def _write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(content)
    return path


def _seed(seed, label, index):
    return (seed * 1000003 + label * 10007 + index * 2) % (2**31)


def make_photographs(folder, classes=10, per_class=8, seed=0, names=None, sides=(72, 160), ending=".jpg"):
    """Writes folder/<class name>/<class name>_0000.jpg ...: `per_class` JPEGs of each of `classes` (at most 14).

    names: names of the class folders; the default is those of the photographs, sorted. Class k of a reader that sorts
    its folders is class k here. Returns (paths, labels), class by class.
    """
    names = sorted(names or NAMES[:classes])
    paths, labels = [], []
    for label, name in enumerate(names):
        for index in range(per_class):
            source = name if name in NAMES else NAMES[label]
            path = os.path.join(str(folder), name, "{}_{:04d}{}".format(name, index, ending))
            paths.append(_write(path, jpeg(source, _seed(seed, label, index), sides)))
            labels.append(label)
    return paths, labels


def make_kaggle(folder, per_class=8, seed=0, sides=(72, 160)):
    """Writes folder/cat.0.jpg ..., folder/dog.0.jpg ...: Kaggle's flat folder. Returns (paths, labels), cat is 0."""
    paths, labels = [], []
    for label, (name, source) in enumerate((("cat", "chelsea"), ("dog", "coffee"))):
        for index in range(per_class):
            path = os.path.join(str(folder), "{}.{}.jpg".format(name, index))
            paths.append(_write(path, jpeg(source, _seed(seed, label, index), sides)))
            labels.append(label)
    return paths, labels


def make_petimages(folder, per_class=8, seed=0, broken=True, sides=(72, 160)):
    """Writes folder/PetImages/{Cat,Dog}/<n>.jpg, Microsoft's form. Returns (paths, labels) of the readable, cat is 0.

    broken: adds what the real set holds: a zero-length Cat/666.jpg, a text Dog/11702.jpg, and Thumbs.db in both.
    """
    root = os.path.join(str(folder), "PetImages")
    paths, labels = [], []
    for label, (name, source) in enumerate((("Cat", "chelsea"), ("Dog", "coffee"))):
        for index in range(per_class):
            path = os.path.join(root, name, "{}.jpg".format(index))
            paths.append(_write(path, jpeg(source, _seed(seed, label, index), sides)))
            labels.append(label)
        if broken:
            _write(os.path.join(root, name, "Thumbs.db"), b"\xd0\xcf\x11\xe0 not a picture")
    if broken:
        _write(os.path.join(root, "Cat", "666.jpg"), b"")
        _write(os.path.join(root, "Dog", "11702.jpg"), b"<html>not found</html>")
    return paths, labels


def make_tfrecords(folder, split="train", per_shard=(5, 3, 4), classes=10, seed=0, encoded=None, sides=(72, 160)):
    """Writes folder/train-00000-of-00003 ... in the slim schema, `per_shard` images in each.

    Labels go round the classes, stored from 1 on. Image k has k % 3 boxes. encoded: dict from position to the bytes
    that stand there instead (broken images). Returns a list of dict(name, encoded, label (from 0), boxes (float32
    [n, 4]: ymin, xmin, ymax, xmax)), in the order of the files.
    """
    import tensorflow as tf

    os.makedirs(str(folder), exist_ok=True)
    made = []
    for shard, count in enumerate(per_shard):
        path = os.path.join(str(folder), "{}-{:05d}-of-{:05d}".format(split, shard, len(per_shard)))
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(count):
                one = _record(len(made), split, classes, seed, encoded or {}, sides)
                writer.write(_example(tf, one).SerializeToString())
                made.append(one)
    return made


def _record(index, split, classes, seed, encoded, sides):
    label = index % classes
    content = encoded.get(index, None)
    if content is None:
        content = jpeg(sorted(NAMES[:classes])[label], _seed(seed, label, index), sides)
    corners = np.random.RandomState(_seed(seed, label, index)).uniform(size=(index % 3, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    return {"name": "{}_{:08d}.JPEG".format(split, index), "encoded": content, "label": label, "boxes": boxes}


def _example(tf, one):
    def ints(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "image/encoded": text(one["encoded"]),
        "image/filename": text(one["name"].encode()),
        "image/format": text(b"JPEG"),
        "image/class/label": ints(one["label"] + 1),
        "image/class/synset": text("n{:08d}".format(one["label"]).encode()),
        "image/object/bbox/label": ints(*[one["label"] + 1] * len(one["boxes"])),
    }
    for column, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
        values = tf.train.FloatList(value=one["boxes"][:, column])
        feature["image/object/bbox/" + side] = tf.train.Feature(float_list=values)
    return tf.train.Example(features=tf.train.Features(feature=feature))


def ugly(folder, seed=0, huge=True):
    """Writes one file of each kind that breaks readers into the folder. Returns a dict from kind to path.

    All but UNREADABLE hold a picture. huge: with the two of 12,000 pixels (made in half a second).
    """
    contents = ugly_bytes(seed)
    if huge:
        contents["long.jpg"] = encode(photograph("china").resize((12000, 10)), quality=80)
        contents["huge.jpg"] = huge_jpeg()
    return {
        os.path.splitext(file)[0]: _write(os.path.join(str(folder), file), content)
        for file, content in contents.items()
    }


def ugly_bytes(seed=0):
    """dict from file name to content, as `ugly` writes them, without the two large ones."""
    image = cut("coffee", seed)
    plain = encode(image, quality=90, subsampling=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees for showing
    shades = np.asarray(image.convert("L")).astype(np.uint16) * 257
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    as_png = encode(image, "PNG")
    return {
        "bmp.jpg": encode(image, "BMP"),
        "cmyk.jpg": encode(image.convert("CMYK"), quality=95),
        "exif_rotated.jpg": encode(image, quality=90, subsampling=0, exif=exif.tobytes()),
        "gif.jpg": encode(image.quantize(64), "GIF"),
        "grey.jpg": encode(image.convert("L"), quality=90),
        "one_by_one.jpg": encode(image.resize((1, 1)), quality=90),
        "png.JPEG": as_png,
        "png_alpha.JPEG": encode(alpha, "PNG"),
        "png_grey.JPEG": encode(image.convert("L"), "PNG"),
        "png_grey_16bit.JPEG": _png_16bit(shades[..., None]),
        "png_palette.JPEG": encode(image.quantize(64), "PNG"),
        "png_rgb_16bit.JPEG": _png_16bit(np.asarray(image).astype(np.uint16) * 257),
        "progressive.jpg": encode(image, quality=90, progressive=True),
        "text.jpg": b"this is not a picture\n" * 40,
        "trailing_bytes.jpg": plain + b"\0" * 64,
        "truncated.jpg": plain[: len(plain) // 2],
        "truncated_png.JPEG": as_png[: len(as_png) // 2],
        "ycck.jpg": _ycck(image.convert("CMYK")),
        "zero_length.jpg": b"",
    }


def _png_16bit(pixels):
    """A PNG of uint16 [h, w, 1 or 3]; Pillow cannot write three channels of 16 bits."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1)
    scan = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scan)) + chunk(b"IEND", b"")


def _ycck(image):
    """A YCCK JPEG of a CMYK image, as Photoshop writes it: Pillow writes the four channels, the marker says YCC + K.

    The inks are stored inverted (Adobe), luma and chroma are those of RGB = the inks; Pillow inverts all it writes.
    """
    cyan, magenta, yellow, black = image.split()
    y, cb, cr = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [channel.point(lambda value: 255 - value) for channel in (y, cb, cr)]
    content = encode(Image.merge("CMYK", inverted + [black]), quality=95)
    transform = content.index(b"Adobe") + 11
    return content[:transform] + b"\2" + content[transform + 1 :]


def huge_jpeg(width=12000, height=9000, distinct=40):
    """A JPEG of 108 million pixels (or as asked) without ever holding them: strips of 16 rows with restart markers.

    `distinct` different strips show the photograph from top to bottom, each repeated until the height is full.
    """
    source = photograph("china")
    count = -(-height // 16)
    strips = []
    for strip in range(distinct):
        top = source.height * strip / distinct
        box = (0, top, source.width, top + source.height / distinct)
        rows = source.resize((width, 16), Image.BILINEAR, box=box)
        strips.append(encode(rows, quality=70, subsampling=2))
    header, _ = _split_scan(strips[0])
    frame = header.index(b"\xff\xc0")
    header = header[: frame + 5] + struct.pack(">H", height) + header[frame + 7 :]
    start = header.rindex(b"\xff\xda")
    restart = b"\xff\xdd" + struct.pack(">HH", 4, -(-width // 16))
    parts = [header[:start], restart, header[start:]]
    for row in range(count):
        parts.append(_split_scan(strips[row * distinct // count])[1])
        parts.append(bytes((0xFF, 0xD0 + row % 8)))
    return b"".join(parts[:-1]) + b"\xff\xd9"


def _split_scan(content):
    """(everything up to the compressed data, the compressed data without the end marker) of a baseline JPEG."""
    start = content.index(b"\xff\xda")
    start += 2 + struct.unpack(">H", content[start + 2 : start + 4])[0]
    return content[:start], content[start:-2]
