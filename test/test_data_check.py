"""What `check` finds in TFRecords, class folders, and cats and dogs."""

import os
import shutil

import image_files
import numpy as np
import pytest

from ascend_keras import compat
from ascend_keras.compat import tf
from ascend_keras.data import check, image_ops, parallel, record_format, threads
from ascend_keras.data.image_check import BadImageError, ImageChecker
from ascend_keras.data.to_tfrecord import to_tfrecord


@pytest.fixture(scope="module")
def whole_records(tmp_path_factory):
    """TFRecords of 3 classes of 4 images in 3 files, with the lists that `to-tfrecord` writes."""
    folder = tmp_path_factory.mktemp("records")
    image_files.make_photographs(folder / "source", classes=3, per_class=4)
    to_tfrecord(str(folder / "source"), str(folder / "out"), shards=3)
    return str(folder / "out")


@pytest.fixture
def records(whole_records, tmp_path):
    """A copy of them, to be broken."""
    return shutil.copytree(whole_records, str(tmp_path / "records"))


def only(findings):
    [finding] = findings
    return finding


def write(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            writer.write(features if isinstance(features, bytes) else record_format.serialize(features))


def example(encoded=None, label=1, **others):
    encoded = image_files.jpeg("china", 0) if encoded is None else encoded
    features = {"image/encoded": [encoded], "image/class/label": [label], "image/filename": [b"a.JPEG"]}
    features.update({name.replace("_", "/"): value for name, value in others.items()})
    return features


# --- TFRecords -------------------------------------------------------------------------------------------------------


def test_whole_records(whole_records):
    finding = only(check.check(whole_records))
    assert finding._replace(classes=None) == ("TFRecords", "train", 3, 12, None, [], [])
    assert sorted(finding.classes.values()) == [4, 4, 4]
    with open(os.path.join(whole_records, "train.classes.txt")) as file:
        assert list(finding.classes) == file.read().split()
    assert check.is_whole([finding])


def test_records_of_another_writer(tmp_path):
    made = image_files.make_tfrecords(tmp_path, "validation", per_shard=(5, 3), classes=4)
    finding = only(check.check(str(tmp_path)))
    assert (finding.split, finding.files, finding.images, finding.broken) == ("validation", 2, 8, [])
    labels = [one["label"] + 1 for one in made]
    assert finding.classes == {str(label): labels.count(label) for label in set(labels)}


def flip_byte(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def lengths(path):
    return [len(record) for _, record, _ in record_format.walk(path)]


def test_a_changed_byte_is_one_broken_record(records):
    path = os.path.join(records, "train-00001-of-00003")
    first, second = lengths(path)[:2]
    flip_byte(path, 16 + first + 12 + second // 2)
    finding = only(check.check(records))
    assert finding.images == 11
    assert finding.broken == [
        ("train-00001-of-00003:1", "the checksum of the bytes is wrong"),
        ("train-00001-of-00003", "the SHA-256 is not that of train.sha256"),
    ]


def test_a_changed_length_ends_the_file(records):
    path = os.path.join(records, "train-00001-of-00003")
    flip_byte(path, 16 + lengths(path)[0])
    finding = only(check.check(records))
    assert finding.images == 9
    assert finding.broken[0] == (
        "train-00001-of-00003:1",
        "the checksum of the length is wrong; what follows it in the file cannot be read",
    )


@pytest.mark.parametrize("cut", [1, 5, 400])
def test_a_file_that_is_cut_off(records, cut):
    path = os.path.join(records, "train-00002-of-00003")
    os.truncate(path, os.path.getsize(path) - cut)
    finding = only(check.check(records))
    assert finding.images == 11
    assert finding.broken[0] == ("train-00002-of-00003:3", "the file ends inside of the record")


def test_a_file_that_is_cut_off_between_two_records_has_another_sha256(records):
    path = os.path.join(records, "train-00002-of-00003")
    os.truncate(path, os.path.getsize(path) - 16 - lengths(path)[-1])
    assert only(check.check(records)).broken == [("train-00002-of-00003", "the SHA-256 is not that of train.sha256")]


def test_a_missing_file(records):
    os.remove(os.path.join(records, "train-00001-of-00003"))
    finding = only(check.check(records))
    assert (finding.images, finding.broken) == (8, [("train-00001-of-00003", "the file is missing")])


def test_files_of_two_conversions(tmp_path):
    image_files.make_tfrecords(tmp_path, "train", per_shard=(2, 1))
    image_files.make_tfrecords(tmp_path, "train", per_shard=(3,))
    reason = "the folder has the files of several conversions"
    assert only(check.check(str(tmp_path))).broken == [("train-*-of-00001", reason), ("train-*-of-00002", reason)]


def test_a_huge_label_takes_no_memory(tmp_path):
    write(tmp_path / "train-00000-of-00001", [example(label=2), example(label=10**15)])
    assert only(check.check(str(tmp_path))).notes == [
        "no images of 999999999999998 of 1000000000000000 classes: 1, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    ]


@pytest.mark.parametrize(
    "features, reason",
    [
        (example(encoded=b""), "the file is empty"),
        (example(encoded=b"nonsense"), "no image (8 bytes that begin with b'nonsense')"),
        (example(encoded=image_files.jpeg("china", 0)[:900]), "a JPEG that is cut off or damaged (900 bytes)"),
        (example(label=0), "image/class/label is 0, and labels count from 1 on"),
        (
            {"image/encoded": [image_files.jpeg("china", 0)]},
            "image/class/label must be one whole number, and is not there",
        ),
        (
            {"image/class/label": [1, 2], "image/filename": [b"a.JPEG"]},
            "image/class/label must be one whole number, and is 2 of int; "
            "image/encoded must be one string, and is not there",
        ),
        (example(label=b"cat"), "image/class/label must be one whole number, and is 1 of bytes"),
        (
            example(image_object_bbox_ymin=[0.1], image_object_bbox_xmin=[0.1, 0.2]),
            "the four lists of boxes have 1, 2, 0, 0 values",
        ),
        (
            dict(
                example(),
                **{"image/object/bbox/" + side: [0.5] for side in ("ymin", "xmin", "ymax")},
                **{"image/object/bbox/xmax": [0.25]},
            ),
            "1 boxes are not within the image, such as ymin, xmin, ymax, xmax = (0.5, 0.5, 0.5, 0.25)",
        ),
    ],
)
def test_what_may_be_wrong_with_an_example(tmp_path, features, reason):
    write(tmp_path / "train-00000-of-00001", [example(), features, example()])
    finding = only(check.check(str(tmp_path)))
    name = "train-00000-of-00001:1" + (" (a.JPEG)" if "image/filename" in features else "")
    assert (finding.images, finding.broken) == (2, [(name, reason)])


def test_bytes_that_are_no_example(tmp_path):
    write(tmp_path / "train-00000-of-00001", [b"\xff\xff", example()])
    [(name, reason)] = only(check.check(str(tmp_path))).broken
    assert name == "train-00000-of-00001:0"
    assert reason.startswith("the bytes are no Example (")


def test_the_said_size_is_compared_with_that_of_the_image(tmp_path):
    height, width, _ = ImageChecker().examine(image_files.jpeg("china", 0))
    right = example(image_height=[height], image_width=[width])
    wrong = example(image_height=[width], image_width=[height])
    assert height != width
    write(tmp_path / "train-00000-of-00001", [right, wrong])
    assert only(check.check(str(tmp_path))).broken == [
        (
            "train-00000-of-00001:1 (a.JPEG)",
            "the image has {0} x {1} pixels, and image/height, image/width say {1} x {0}".format(height, width),
        )
    ]


def test_a_label_above_the_list_of_classes(tmp_path):
    write(tmp_path / "train-00000-of-00001", [example(label=1), example(label=3)])
    (tmp_path / "train.classes.txt").write_text("cat\ndog\n")
    finding = only(check.check(str(tmp_path)))
    assert finding.classes == {"cat": 1}
    assert finding.notes == ["no images of 1 of 2 classes: dog"]
    assert finding.broken == [
        ("train-00000-of-00001:1 (a.JPEG)", "image/class/label is 3, and labels count from 1 to 2")
    ]


def test_splits_are_checked_apart(tmp_path):
    image_files.make_tfrecords(tmp_path, "train", per_shard=(2, 2))
    image_files.make_tfrecords(tmp_path, "validation", per_shard=(3,))
    assert [(one.split, one.images) for one in check.check(str(tmp_path))] == [("train", 4), ("validation", 3)]
    assert only(check.check(str(tmp_path), "validation")).images == 3
    with pytest.raises(ValueError, match="no such split. Received: split='test', .* which has train, validation."):
        check.check(str(tmp_path), "test")


def test_records_in_a_folder_of_the_split(tmp_path):
    image_files.make_tfrecords(tmp_path / "train", "train", per_shard=(2,))
    assert only(check.check(str(tmp_path))).images == 2


# --- folders ---------------------------------------------------------------------------------------------------------


def test_class_folders_with_ugly_files(tmp_path):
    image_files.make_photographs(tmp_path, classes=3, per_class=4)
    paths = image_files.ugly(tmp_path / "astronaut")
    finding = only(check.check(str(tmp_path)))
    good = len(paths) - len(image_files.UNREADABLE)
    assert (finding.kind, finding.split, finding.images) == ("class folders", "all", 12 + good)
    assert (finding.files, finding.classes["astronaut"]) == (
        12 + len(paths),
        finding.images - 4 * 2 if len(finding.classes) == 3 else good,
    )
    bad = {os.path.join("astronaut", os.path.basename(paths[kind])) for kind in image_files.UNREADABLE}
    assert {name for name, _ in finding.broken} == bad


def test_splits_of_class_folders_have_the_same_classes(tmp_path):
    image_files.make_photographs(tmp_path / "train", classes=3, per_class=1, names=["a", "b", "c"])
    image_files.make_photographs(tmp_path / "val", classes=2, per_class=2, names=["a", "c"])
    train, validation = check.check(str(tmp_path))
    assert (train.split, train.images, train.broken) == ("train", 3, [])
    assert (validation.split, validation.images) == ("validation", 4)
    assert validation.broken == [("b", "the split lacks this class")]


def test_a_class_without_images_is_broken(tmp_path):
    image_files.make_photographs(tmp_path, classes=1, per_class=1, names=["a"])
    (tmp_path / "b").mkdir()
    assert only(check.check(str(tmp_path))).broken == [("b", "the class has no whole image")]


def test_cats_and_dogs_among_other_classes_are_class_folders(tmp_path):
    names = ["airplane", "cat", "dog", "horse"]
    image_files.make_photographs(tmp_path, classes=4, per_class=2, names=names)
    (tmp_path / "horse" / "broken.jpg").write_bytes(b"")
    finding = only(check.check(str(tmp_path)))
    assert (finding.kind, finding.classes) == ("class folders", dict.fromkeys(names, 2))
    assert finding.broken == [(os.path.join("horse", "broken.jpg"), "the file is empty")]


@pytest.mark.parametrize("splits", [False, True])
def test_a_zip_file_beside_class_folders_is_left_alone(tmp_path, monkeypatch, splits):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder = tmp_path / "set"
    image_files.make_photographs(folder / "train" if splits else folder, classes=2, per_class=1, names=["a", "b"])
    image_files.make_kaggle(tmp_path / "kaggle", per_class=2)
    shutil.make_archive(str(folder / "train"), "zip", str(tmp_path / "kaggle"))
    finding = only(check.check(str(folder)))
    assert (finding.kind, finding.classes, cache.exists()) == ("class folders", {"a": 1, "b": 1}, False)


def test_a_zip_file_of_cats_and_dogs_is_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_files.make_kaggle(tmp_path / "kaggle", per_class=2)
    shutil.make_archive(str(tmp_path / "set" / "train"), "zip", str(tmp_path / "kaggle"))
    image_files.make_photographs(tmp_path / "set", classes=1, per_class=1, names=["test1"])  # as Kaggle's other zip
    for path in ("set", "set/train.zip"):
        finding = only(check.check(str(tmp_path / path)))
        assert (finding.kind, finding.classes) == ("cats-vs-dogs", {"cat": 2, "dog": 2})


def test_loose_images_are_noted(tmp_path):
    image_files.make_photographs(tmp_path, classes=1, per_class=1, names=["a"])
    (tmp_path / "loose.jpg").write_bytes(b"")
    finding = only(check.check(str(tmp_path)))
    assert (finding.notes, finding.broken) == (["1 images are in no class folder, such as loose.jpg"], [])


def test_a_file_that_cannot_be_read(tmp_path):
    image_files.make_photographs(tmp_path, classes=1, per_class=2, names=["a"])
    os.symlink(str(tmp_path / "nowhere"), str(tmp_path / "a" / "gone.jpg"))
    [(name, reason)] = only(check.check(str(tmp_path))).broken
    assert (name, reason) == (os.path.join("a", "gone.jpg"), "the file cannot be read (No such file or directory)")


@pytest.mark.parametrize("make, message", [(False, "no such file or folder"), (True, "There are no TFRecords")])
def test_nothing_there(tmp_path, make, message):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(ValueError, match=message):
        check.check(str(folder))


def test_petimages(tmp_path):
    image_files.make_petimages(tmp_path, per_class=3)
    finding = only(check.check(str(tmp_path)))
    assert (finding.kind, finding.files, finding.images) == ("cats-vs-dogs", 8, 6)
    assert finding.classes == {"cat": 3, "dog": 3}
    assert finding.broken == [
        (os.path.join("Cat", "666.jpg"), "the file is empty"),
        (os.path.join("Dog", "11702.jpg"), "no image (22 bytes that begin with b'<html>no')"),
    ]


def test_kaggle(tmp_path):
    image_files.make_kaggle(tmp_path / "train", per_class=2)
    finding = only(check.check(str(tmp_path)))
    assert (finding.kind, finding.classes, finding.broken) == ("cats-vs-dogs", {"cat": 2, "dog": 2}, [])


# --- the report ------------------------------------------------------------------------------------------------------

FOUND = check.Finding(
    "class folders", "train", 1200, 1199, {"a": 1000, "b": 199}, [("b/x.jpg", "the file is empty")], ["so"]
)


def test_text():
    assert check.text([FOUND]).splitlines() == [
        "train: class folders, 1,199 images in 1,200 files, 2 classes of 199 to 1,000 images, 1 broken",
        "  so",
        "  broken: b/x.jpg: the file is empty",
    ]


def test_json():
    assert check.as_json([FOUND]) == [
        {
            "kind": "class folders",
            "split": "train",
            "files": 1200,
            "images": 1199,
            "classes": {"a": 1000, "b": 199},
            "broken": [{"name": "b/x.jpg", "reason": "the file is empty"}],
            "notes": ["so"],
        }
    ]
    assert not check.is_whole([FOUND])


def test_threads_are_as_many_as_cpus(monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: 3)
    assert (parallel.Pool().workers, parallel.Pool(5).workers) == (3, 5)


# --- one image -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checker():
    return ImageChecker()


def test_the_quick_decoder_finds_what_the_full_one_finds(checker):
    full = compat.host_function(lambda encoded: tf.shape(image_ops.decode(encoded)))
    content = image_files.jpeg("china", 0)
    random = np.random.RandomState(0)
    verdicts = []
    for _ in range(150):
        changed = bytearray(content)
        for position in random.randint(3, len(content), 3):
            changed[position] = random.randint(256)
        changed = bytes(changed[: len(changed) - random.randint(2) * random.randint(len(changed) - 3)])
        verdicts.append((is_whole(checker.examine, changed), is_whole(full, changed)))
    assert all(quick == thorough for quick, thorough in verdicts)
    assert {True, False} == {quick for quick, _ in verdicts}


def is_whole(function, content):
    try:
        function(content)
    except (BadImageError, tf.errors.InvalidArgumentError):
        return False
    return True


@pytest.mark.parametrize("form", ["baseline", "progressive", "grey", "cmyk"])
def test_a_jpeg_cut_anywhere_is_broken_and_whole_it_is_not(checker, form):
    image = image_files.cut("china", 3)
    options = {"progressive": {"progressive": True}}.get(form, {})
    content = image_files.encode(image.convert({"grey": "L", "cmyk": "CMYK"}.get(form, "RGB")), quality=90, **options)
    height, width, channels = checker.examine(content)
    assert (width, height, channels) == image.size + ({"grey": 1, "cmyk": 4}.get(form, 3),)
    # The last two bytes are the end marker, without which there still is a picture.
    for kept in list(range(1, len(content) - 40, 397)) + [len(content) // 2, len(content) - 40]:
        with pytest.raises(BadImageError, match=r"cut off or damaged|no image"):
            checker.examine(content[:kept])
