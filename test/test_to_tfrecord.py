"""Image folders into TFRecords: what is in them."""

import hashlib
import io
import os

import image_files
import numpy as np
import pytest
from PIL import Image
from tfrecord_folders import by_name, contents, examples, make_source, read, write_lines

from ascend_keras import compat, data
from ascend_keras.compat import tf
from ascend_keras.data import plan
from ascend_keras.data.to_tfrecord import to_tfrecord


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("photographs"))


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_image_is_stored_once_byte_by_byte(photographs, tmp_path):
    source, files = photographs
    summary = to_tfrecord(source, str(tmp_path), shards=3)
    assert summary == (12, 3, 3, 3, [])
    names = sorted(os.path.dirname(path) for path in files)
    classes = sorted(set(names))
    found = by_name(str(tmp_path))
    assert sorted(found) == sorted(os.path.basename(path) for path in files)
    for path, content in files.items():
        example = found[os.path.basename(path)]
        width, height = Image.open(io.BytesIO(content)).size
        assert example["image/encoded"] == [content]
        assert (example["image/height"], example["image/width"], example["image/channels"]) == ([height], [width], [3])
        assert (example["image/format"], example["image/colorspace"]) == ([b"JPEG"], [b"RGB"])
        assert example["image/class/label"] == [classes.index(os.path.dirname(path)) + 1]
        assert example["image/class/synset"] == [os.path.dirname(path).encode()]
        assert example["image/class/text"] == [b""]
        assert example["image/object/bbox/xmin"] == example["image/object/bbox/label"] == []


def test_shards_hold_the_planned_order(photographs, tmp_path):
    source, _ = photographs
    to_tfrecord(source, str(tmp_path), shards=3, seed=4)
    planned = plan.make(source, shards=3, seed=4)
    stored = [example["image/filename"][0].decode() for example in examples(str(tmp_path))]
    assert stored == [os.path.basename(row[0]) for row in planned["files"]]


def test_lists_beside_the_shards(photographs, tmp_path):
    to_tfrecord(photographs[0], str(tmp_path), shards=2)
    found = contents(str(tmp_path))
    assert sorted(found) == ["train-00000-of-00002", "train-00001-of-00002", "train.classes.txt", "train.sha256"]
    assert found["train.classes.txt"].decode().splitlines() == sorted(os.listdir(photographs[0]))
    lines = ["{}  {}".format(hashlib.sha256(found[name]).hexdigest(), name) for name in sorted(found)[:2]]
    assert found["train.sha256"].decode().splitlines() == lines


def test_number_of_threads_changes_nothing(photographs, tmp_path):
    folders = [str(tmp_path / name) for name in ("one", "many")]
    for folder, workers in zip(folders, (1, 4)):
        to_tfrecord(photographs[0], folder, shards=4, workers=workers)
    assert contents(folders[0]) == contents(folders[1])


def test_round_trip_through_the_source(photographs, tmp_path):
    source, files = photographs
    to_tfrecord(source, str(tmp_path), shards=3)
    records = data.imagenet(str(tmp_path), "train")
    assert (records.samples, records.classes) == (12, 3)
    assert records.class_names == sorted({os.path.dirname(path) for path in files})
    read_back = {}
    rows = tf.data.Dataset.from_tensor_slices(records.describe(np.arange(12)))
    for element in compat.open_dataset(rows.map(records.read))():
        label = records.class_names[int(element["label"])]
        read_back[os.path.join(label, bytes_of(element["name"]).decode())] = bytes_of(element["encoded"])
    assert read_back == files


def bytes_of(value):
    return value if isinstance(value, bytes) else value.numpy()


def test_labels_boxes_and_words_reach_the_records(photographs, tmp_path):
    _, files = photographs
    flat = tmp_path / "source" / "val"
    flat.mkdir(parents=True)
    for path, content in files.items():
        (flat / os.path.basename(path)).write_bytes(content)
    names = sorted(files, key=os.path.basename)
    labels = ["{} {}".format(os.path.basename(path), os.path.dirname(path)) for path in names]
    classes = sorted({os.path.dirname(path) for path in files}, reverse=True)
    boxed = os.path.basename(names[5])
    to_tfrecord(
        str(tmp_path / "source"),
        str(tmp_path / "out"),
        "validation",
        labels=write_lines(tmp_path / "labels.txt", labels),
        classes=write_lines(tmp_path / "classes.txt", ["{}\tsome {}".format(name, name) for name in classes]),
        boxes=write_lines(tmp_path / "boxes.csv", [boxed + ",0.1,0.2,0.3,0.4", boxed + ",0,0.5,1,0.75"]),
    )
    found = by_name(str(tmp_path / "out"), "validation")
    for path in names:
        example, name = found[os.path.basename(path)], os.path.dirname(path)
        assert example["image/class/label"] == [classes.index(name) + 1]
        assert example["image/class/text"] == ["some {}".format(name).encode()]
    sides = {side: found[boxed]["image/object/bbox/" + side] for side in ("ymin", "xmin", "ymax", "xmax")}
    np.testing.assert_array_equal(sides["ymin"], np.float32([0.2, 0.5]))
    np.testing.assert_array_equal(sides["xmin"], np.float32([0.1, 0.0]))
    np.testing.assert_array_equal(sides["ymax"], np.float32([0.4, 0.75]))
    np.testing.assert_array_equal(sides["xmax"], np.float32([0.3, 1.0]))
    assert found[boxed]["image/object/bbox/label"] == found[boxed]["image/class/label"] * 2


def test_boxes_of_images_with_the_same_name_in_two_folders(tmp_path):
    source, out = str(tmp_path / "source"), str(tmp_path / "out")
    for name in ("a", "b"):
        image_files.make_photographs(tmp_path / "made", classes=1, per_class=1, names=[name])
        os.makedirs(os.path.join(source, name))
        os.rename(str(tmp_path / "made" / name / (name + "_0000.jpg")), os.path.join(source, name, "1.jpg"))
    boxes = write_lines(tmp_path / "boxes.csv", ["1.jpg,0,0,1,1"])
    with pytest.raises(ValueError, match="1 names are those of several images, such as 1.jpg: a/1.jpg, b/1.jpg. Rec"):
        to_tfrecord(source, out, boxes=boxes)
    boxes = write_lines(tmp_path / "boxes.csv", ["b/1.jpg,0,0,0.5,1"])
    to_tfrecord(source, out, boxes=boxes)
    found = {example["image/class/synset"][0]: example["image/object/bbox/xmax"] for example in examples(out)}
    assert found == {b"a": [], b"b": [0.5]}


# --- ugly names -------------------------------------------------------------------------------------------------------


def test_names_of_any_bytes_are_kept(tmp_path):
    [path], _ = image_files.make_photographs(tmp_path / "s", classes=1, per_class=1, names=["a"])
    folder = os.path.join(os.fsencode(str(tmp_path / "s")), b"K\xe4se")
    os.rename(os.path.dirname(path), folder)
    os.rename(os.path.join(folder, b"a_0000.jpg"), os.path.join(folder, b"caf\xe9.jpg"))
    with open(os.path.join(folder, b"br\xf6ken\n.jpg"), "wb"):
        pass
    out = os.fsdecode(os.path.join(os.fsencode(str(tmp_path)), b"ausk\xfcnfte"))
    for written in (1, 0):
        assert to_tfrecord(str(tmp_path / "s"), out).written == written
    [example] = examples(out)
    assert (example["image/filename"], example["image/class/synset"]) == ([b"caf\xe9.jpg"], [b"K\xe4se"])
    found = contents(out)
    assert found["train.classes.txt"] == b"K\xe4se\n"
    assert found["train.skipped.txt"] == b"K\xe4se/br\xf6ken\\n.jpg\tthe file is empty\n"
    assert to_tfrecord(str(tmp_path / "s"), out, "validation").classes == 1  # reads train.classes.txt


# --- ugly files -------------------------------------------------------------------------------------------------------


# TensorFlow reads WebP from 2.19 on; none is among the test's files.
KEPT = ("exif_rotated", "grey", "huge", "long", "one_by_one", "progressive", "trailing_bytes")
REENCODED = (
    "bmp",
    "cmyk",
    "gif",
    "png",
    "png_alpha",
    "png_grey",
    "png_grey_16bit",
    "png_palette",
    "png_rgb_16bit",
    "ycck",
)


@pytest.fixture(scope="module")
def ugly(tmp_path_factory):
    """Paths of the ugly files by kind, the folder of their records, and the summary."""
    folder = tmp_path_factory.mktemp("ugly")
    paths = image_files.ugly(folder / "source" / "things")
    summary = to_tfrecord(str(folder / "source"), str(folder / "out"), workers=2)
    return paths, str(folder / "out"), summary


def test_each_ugly_file_is_either_stored_or_listed(ugly):
    paths, output, summary = ugly
    assert set(paths) == set(KEPT) | set(REENCODED) | set(image_files.UNREADABLE)
    stored = sorted(by_name(output))
    assert stored == sorted(os.path.basename(paths[kind]) for kind in KEPT + REENCODED)
    assert summary.images == len(stored)
    listed = dict(summary.skipped)
    assert listed == {
        "things/text.jpg": "no image (880 bytes that begin with b'this is ')",
        "things/truncated.jpg": "a JPEG that is cut off or damaged ({:,} bytes)".format(len(read(paths["truncated"]))),
        "things/truncated_png.JPEG": "a PNG that is cut off or damaged ({:,} bytes)".format(
            len(read(paths["truncated_png"]))
        ),
        "things/zero_length.jpg": "the file is empty",
    }
    text = read(os.path.join(output, "train.skipped.txt")).decode()
    assert text == "".join("{}\t{}\n".format(*entry) for entry in sorted(listed.items()))


@pytest.mark.parametrize("kind", KEPT)
def test_grey_and_rgb_jpegs_are_kept(ugly, kind):
    paths, output, _ = ugly
    example = by_name(output)[os.path.basename(paths[kind])]
    assert example["image/encoded"] == [read(paths[kind])]
    width, height = Image.open(paths[kind]).size
    assert (example["image/height"], example["image/width"]) == ([height], [width])


@pytest.mark.parametrize("kind", REENCODED)
def test_everything_else_becomes_an_rgb_jpeg_of_the_same_picture(ugly, kind):
    paths, output, _ = ugly
    example = by_name(output)[os.path.basename(paths[kind])]
    image = Image.open(io.BytesIO(example["image/encoded"][0]))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert image.size == (example["image/width"][0], example["image/height"][0]) == Image.open(paths[kind]).size
    if "16bit" in kind or kind in ("cmyk", "ycck"):
        return  # Pillow converts these by other rules; test_image_ops compares the pixels
    expected = np.asarray(Image.open(paths[kind]).convert("RGB"), np.float64)
    assert np.abs(np.asarray(image, np.float64) - expected).mean() < 1.0


def test_a_bad_image_can_be_an_error(tmp_path):
    image_files.make_photographs(tmp_path / "source", classes=1, per_class=2, names=["a"])
    bad = tmp_path / "source" / "a" / "bad.jpg"
    bad.write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        to_tfrecord(str(tmp_path / "source"), str(tmp_path / "out"), on_bad_image="error")
    assert str(caught.value).startswith(
        "An image cannot be used. Received: {}: the file is empty. Leave such images out with "
        "--on-bad-image=skip".format(bad)
    )
    assert to_tfrecord(str(tmp_path / "source"), str(tmp_path / "out")).images == 2


def test_a_link_that_leads_nowhere_is_a_bad_image(tmp_path):
    image_files.make_photographs(tmp_path / "source", classes=1, per_class=2, names=["a"])
    link = tmp_path / "source" / "a" / "link.jpg"
    link.symlink_to(tmp_path / "target.jpg")
    with pytest.raises(ValueError, match="link.jpg: the link leads nowhere. Leave such images out"):
        to_tfrecord(str(tmp_path / "source"), str(tmp_path / "strict"), on_bad_image="error")
    summary = to_tfrecord(str(tmp_path / "source"), str(tmp_path / "out"))
    assert (summary.images, summary.skipped) == (2, [("a/link.jpg", "the link leads nowhere")])
    (tmp_path / "target.jpg").write_bytes(b"12345")
    with pytest.raises(ValueError, match="\n  size was 0 bytes, is 5: a/link.jpg\n"):
        to_tfrecord(str(tmp_path / "source"), str(tmp_path / "out"))
