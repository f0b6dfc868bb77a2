"""The framing of TFRecord files and its checksum."""

import os

import numpy as np
import pytest
from tfrecord_folders import read

from ascend_keras.compat import tf
from ascend_keras.data import image_check, record_format


@pytest.mark.parametrize(
    "content, expected",
    [
        # RFC 3720, appendix B.4, and the catalogue's check value.
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_of_published_strings(content, expected):
    assert record_format.crc32c(content) == expected


@pytest.mark.parametrize("length", [1, 255, 256, 257, 511, 512, 70001])
def test_crc32c_of_long_strings_equals_bit_by_bit(length):
    content = np.random.RandomState(length).bytes(length)
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    assert record_format.crc32c(content) == value ^ 0xFFFFFFFF


@pytest.fixture
def records(tmp_path):
    """A TFRecord file by TensorFlow's own writer, its path, and what is in it."""
    path = str(tmp_path / "a.tfrecord")
    written = [np.random.RandomState(size).bytes(size) for size in (0, 10, 1000, 70000)]
    with tf.io.TFRecordWriter(path) as writer:
        for record in written:
            writer.write(record)
    return path, written


def test_walk_reads_what_tensorflow_wrote(records):
    path, written = records
    assert list(record_format.walk(path)) == [(number, record, None) for number, record in enumerate(written)]
    assert next(record_format.walk(path, offset=16 + 26, number=2)) == (2, written[2], None)


def change(path, offset, by=1):
    content = bytearray(read(path))
    content[offset] ^= by
    with open(path, "wb") as file:
        file.write(content)


def test_walk_goes_on_behind_a_broken_record(records):
    path, _ = records
    change(path, 16 + 12 + 3)
    assert [(number, problem) for number, _, problem in record_format.walk(path)] == [
        (0, None),
        (1, "the checksum of the bytes is wrong"),
        (2, None),
        (3, None),
    ]


def test_walk_stops_at_a_broken_length(records):
    path, _ = records
    change(path, 16 + 2)
    assert list(record_format.walk(path))[1:] == [
        (1, None, "the checksum of the length is wrong; what follows it in the file cannot be read")
    ]


@pytest.mark.parametrize("kept", [5, 13, 20, 41])
def test_walk_stops_where_the_file_ends_inside_of_a_record(records, kept):
    path, _ = records
    with open(path, "r+b") as file:
        file.truncate(kept)
    *_, last = record_format.walk(path)
    assert last[2].startswith("the file ends inside of the record")


def test_names_keep_their_bytes():
    image = image_check.Image(b"", 1, 1)
    name, synset = os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"K\xe4se")
    features = record_format.imagenet_features(image, 1, name, synset, "caf\u00e9")
    keys = ("image/filename", "image/class/synset", "image/class/text")
    assert [features[key] for key in keys] == [[b"caf\xe9.jpg"], [b"K\xe4se"], [b"caf\xc3\xa9"]]
