"""The images the other tests are made of are what they claim to be."""

import os

import image_files
import numpy as np
import pytest
from PIL import Image

from ascend_keras.compat import tf

# What Pillow finds in each file of `ugly`: format, modes and the length of its longest side.
KINDS = {
    "bmp": ("BMP", "RGB"),
    "cmyk": ("JPEG", "CMYK"),
    "exif_rotated": ("JPEG", "RGB"),
    "gif": ("GIF", "P"),
    "grey": ("JPEG", "L"),
    "huge": ("JPEG", "RGB"),
    "long": ("JPEG", "RGB"),
    "one_by_one": ("JPEG", "RGB"),
    "png": ("PNG", "RGB"),
    "png_alpha": ("PNG", "RGBA"),
    "png_grey": ("PNG", "L"),
    "png_grey_16bit": ("PNG", ("I", "I;16")),
    "png_palette": ("PNG", "P"),
    "png_rgb_16bit": ("PNG", "RGB"),
    "progressive": ("JPEG", "RGB"),
    "trailing_bytes": ("JPEG", "RGB"),
    "ycck": ("JPEG", "CMYK"),
}


@pytest.fixture(scope="module")
def ugly(tmp_path_factory):
    return image_files.ugly(tmp_path_factory.mktemp("ugly"))


def test_ugly_files_are_all_there(ugly):
    assert set(ugly) == set(KINDS) | set(image_files.UNREADABLE)
    assert os.path.getsize(ugly["zero_length"]) == 0
    assert ugly["png"].endswith(".JPEG")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_ugly_file_is_of_its_kind(ugly, kind):
    with Image.open(ugly[kind]) as image:
        form, modes = KINDS[kind]
        assert image.format == form
        assert image.mode in ((modes,) if isinstance(modes, str) else modes)
        assert image.size == {"huge": (12000, 9000), "long": (12000, 10), "one_by_one": (1, 1)}.get(kind, image.size)
        if kind == "exif_rotated":
            assert image.getexif()[0x0112] == 6
        if kind == "huge":
            image.draft("RGB", (1500, 1125))
        image.load()


@pytest.mark.parametrize("kind", image_files.UNREADABLE)
def test_unreadable_files_cannot_be_loaded(ugly, kind):
    with pytest.raises(OSError), Image.open(ugly[kind]) as image:
        image.load()


def test_photographs(tmp_path):
    paths, labels = image_files.make_photographs(tmp_path, classes=3, per_class=4)
    folders = sorted(os.listdir(str(tmp_path)))
    assert folders == ["astronaut", "china", "flower"]
    assert labels == [0] * 4 + [1] * 4 + [2] * 4
    assert [os.path.basename(os.path.dirname(path)) for path in paths] == [folders[label] for label in labels]
    contents = [open(path, "rb").read() for path in paths]  # noqa: SIM115
    assert len(set(contents)) == 12
    again, _ = image_files.make_photographs(tmp_path / "again", classes=3, per_class=4)
    assert [open(path, "rb").read() for path in again] == contents  # noqa: SIM115
    other, _ = image_files.make_photographs(tmp_path / "other", classes=3, per_class=4, seed=1)
    assert not set(contents) & {open(path, "rb").read() for path in other}  # noqa: SIM115


def test_folder_names_of_ones_own(tmp_path):
    image_files.make_photographs(tmp_path, per_class=1, names=["n02", "n01"])
    assert sorted(os.listdir(str(tmp_path))) == ["n01", "n02"]


def test_cats_and_dogs(tmp_path):
    paths, labels = image_files.make_kaggle(tmp_path / "flat", per_class=2)
    assert [os.path.basename(path) for path in paths] == ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"]
    assert labels == [0, 0, 1, 1]
    paths, labels = image_files.make_petimages(tmp_path, per_class=2)
    found = sorted(os.listdir(str(tmp_path / "PetImages" / "Cat")))
    assert found == ["0.jpg", "1.jpg", "666.jpg", "Thumbs.db"]
    assert labels == [0, 0, 1, 1]


def test_records(tmp_path):
    made = image_files.make_tfrecords(tmp_path, split="validation", per_shard=(2, 1), classes=2, encoded={1: b"broken"})
    assert sorted(os.listdir(str(tmp_path))) == ["validation-00000-of-00002", "validation-00001-of-00002"]
    assert [one["label"] for one in made] == [0, 1, 0]
    assert made[1]["encoded"] == b"broken"
    read = []
    for name in sorted(os.listdir(str(tmp_path))):
        read.extend(tf.compat.v1.io.tf_record_iterator(str(tmp_path / name)))
    for record, one in zip(read, made):
        feature = tf.train.Example.FromString(record).features.feature
        assert feature["image/class/label"].int64_list.value[:] == [one["label"] + 1]
        assert feature["image/encoded"].bytes_list.value[:] == [one["encoded"]]
        assert feature["image/filename"].bytes_list.value[:] == [one["name"].encode()]
        for column, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
            stored = feature["image/object/bbox/" + side].float_list.value
            np.testing.assert_array_equal(np.float32(stored), one["boxes"][:, column])
    assert [len(one["boxes"]) for one in made] == [0, 1, 2]
    assert (made[2]["boxes"][:, 2:] >= made[2]["boxes"][:, :2]).all()
    assert len(read) == 3
