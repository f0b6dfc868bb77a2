"""TFRecord files: their framing, their checksums, and the examples of ImageNet in them.

A record is stored as its length (8 bytes, little endian), the masked checksum of the length, the bytes, and the masked
checksum of the bytes. The checksum is CRC-32C (Castagnoli, RFC 3720), masked as in LevelDB's log format.

An example has the features by which TensorFlow's "slim" models know ImageNet:

    image/encoded, image/format, image/colorspace, image/channels, image/height, image/width, image/filename
    image/class/label   1-based; 0 is kept free for a background class
    image/class/synset, image/class/text
    image/object/bbox/xmin, xmax, ymin, ymax (fractions of width and height), image/object/bbox/label
"""

import os
import struct

import numpy as np

HEADER = 12
FOOTER = 4
BOX_KEYS = ("ymin", "xmin", "ymax", "xmax")

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8
_ROW = 256


# --- checksums -------------------------------------------------------------------------------------------------------


def _byte_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_TABLE = _byte_table()
_TABLE_LIST = _TABLE.tolist()


def crc32c(data):
    """CRC-32C of bytes.

    A long string is cut into rows, whose remainders are found side by side by NumPy and then joined, which the
    linearity of the checksum allows; byte by byte, Python manages 5 MB/s.
    """
    data = memoryview(data)
    cut = len(data) - len(data) % _ROW
    value = 0xFFFFFFFF
    if cut:
        remainders = np.zeros(cut // _ROW, np.uint32)
        for column in np.ascontiguousarray(np.frombuffer(data[:cut], np.uint8).reshape(-1, _ROW).T):
            remainders = _TABLE[(remainders ^ column) & 0xFF] ^ (remainders >> 8)
        for remainder in remainders.tolist():
            value = _shifted(value, _SHIFT) ^ remainder
    return _remainder(data[cut:], value) ^ 0xFFFFFFFF


def _remainder(data, value):
    for byte in bytes(data):
        value = _TABLE_LIST[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value


def _shift_tables():
    """What a row of zero bytes makes of a remainder, as a table for each of its four bytes."""
    values = np.concatenate([np.arange(256, dtype=np.uint32) << np.uint32(8 * byte) for byte in range(4)])
    for _ in range(_ROW):
        values = _TABLE[values & 0xFF] ^ (values >> 8)
    return values.reshape(4, 256).tolist()


_SHIFT = _shift_tables()


def _shifted(value, tables):
    return tables[0][value & 255] ^ tables[1][value >> 8 & 255] ^ tables[2][value >> 16 & 255] ^ tables[3][value >> 24]


def masked_crc(data):
    """The checksum in the form in which a record carries it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


# --- framing ---------------------------------------------------------------------------------------------------------


def walk(path, offset=0, number=0):
    """Reads on from a record, also behind broken ones, as long as the lengths are whole.

    Args:
        path: a TFRecord file.
        offset: byte at which a record starts.
        number: how many records are before it.

    Yields:
        Tuples of the number of the record, its bytes or None, and what is wrong with it or None.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        while True:
            header = file.read(HEADER)
            if not header:
                return
            problem = _header_problem(header)
            if problem:
                yield number, None, problem + "; what follows it in the file cannot be read"
                return
            [length] = struct.unpack("<Q", header[:8])
            body = file.read(length + FOOTER)
            if len(body) < length + FOOTER:
                yield number, None, "the file ends inside of the record"
                return
            whole = struct.unpack("<I", body[length:])[0] == masked_crc(body[:length])
            yield number, body[:length] if whole else None, None if whole else "the checksum of the bytes is wrong"
            number += 1


def _header_problem(header):
    if len(header) < HEADER:
        return "the file ends inside of the record"
    if struct.unpack("<I", header[8:])[0] != masked_crc(header[:8]):
        return "the checksum of the length is wrong"
    return None


# --- examples --------------------------------------------------------------------------------------------------------


def serialize(features):
    """The bytes of an Example; the same for the same features, in whatever order they come.

    Args:
        features: a dict from a name to a list of `bytes`, of `int` or of `float`.
    """
    from ascend_keras.compat import tf

    example = tf.train.Example()
    for name, values in features.items():
        # A list without values has its kind by its name: readers refuse an empty list of another kind.
        kind = type(values[0]) if values else float if name.endswith(BOX_KEYS) else int
        field = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[kind]
        getattr(example.features.feature[name], field).value.extend(values)
    return example.SerializeToString(deterministic=True)


def parse(record):
    """The features of the bytes of an Example, as lists by name; raises ValueError where they are none."""
    from google.protobuf.message import DecodeError

    from ascend_keras.compat import tf

    try:
        example = tf.train.Example.FromString(record)
    except DecodeError as error:
        raise ValueError("the bytes are no Example ({})".format(error)) from error
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def imagenet_features(image, label, name, synset="", text="", boxes=()):
    """The features of one image.

    Args:
        image: an `image_check.Image` of a JPEG.
        label: 1-based class number.
        name: file name, without folders; its bytes are those on the disk, whatever they encode.
        synset: name of the class, such as n01440764.
        text: the class in words.
        boxes: (ymin, xmin, ymax, xmax) of each box, in 0..1.
    """
    features = {
        "image/encoded": [image.encoded],
        "image/format": [b"JPEG"],
        "image/colorspace": [b"RGB"],
        "image/channels": [3],
        "image/height": [image.height],
        "image/width": [image.width],
        "image/filename": [os.fsencode(name)],
        "image/class/label": [label],
        "image/class/synset": [synset.encode("utf-8", "surrogateescape")],
        "image/class/text": [text.encode("utf-8", "surrogateescape")],
        "image/object/bbox/label": [label] * len(boxes),
    }
    for index, key in enumerate(BOX_KEYS):
        features["image/object/bbox/" + key] = [float(box[index]) for box in boxes]
    return features
