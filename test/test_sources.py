"""The sources: how many images, which labels and names, and the bytes of each, read by position."""

import importlib
import os
import shutil

import image_files
import numpy as np
import pytest

from ascend_keras import compat, data
from ascend_keras.compat import keras, tf
from ascend_keras.data.bad_images import reason_of
from ascend_keras.log import logger

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    keras.backend.clear_session()


@pytest.fixture
def lines(monkeypatch):
    """What is logged, as [level and text]."""
    found = []
    for level in ("info", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *values, level=level: found.append((level, text % values)))
    return found


def elements(source, positions=None):
    """The elements at these positions (None: all) as dicts of NumPy values, by describe and read."""
    positions = np.arange(source.samples) if positions is None else np.asarray(positions)

    def read(row, index):
        return source.read(dict(row, index=index))

    dataset = tf.data.Dataset.from_tensor_slices((source.describe(positions), positions)).map(read)
    return [
        {key: value.numpy() if hasattr(value, "numpy") else value for key, value in element.items()}
        for element in compat.open_dataset(dataset)()
    ]


def content(path):
    with open(str(path), "rb") as stream:
        return stream.read()


class TestFiles:
    def test_elements(self, tmp_path):
        paths, labels = image_files.make_photographs(tmp_path, classes=3, per_class=2)
        boxes = [[[0, 0, 1, 1]], [], [[0.1, 0.2, 0.3, 0.4], [0, 0.5, 0.5, 1]], [], [], []]
        source = data.FileSource(paths, labels, boxes=boxes)
        assert (source.samples, source.classes, source.class_names) == (6, 3, None)
        assert source.labels().tolist() == list(labels)
        assert source.random_access and not source.prepared
        for k, element in zip((5, 2, 0), elements(source, [5, 2, 0])):
            assert element["name"] == os.fsencode(paths[k])
            assert element["encoded"] == content(paths[k])
            assert element["label"] == labels[k] and element["label"].dtype == np.int32
            np.testing.assert_array_equal(element["boxes"], np.reshape(boxes[k], (-1, 4)).astype(np.float32))

    def test_without_boxes_there_are_none(self, tmp_path):
        paths, labels = image_files.make_photographs(tmp_path, classes=1, per_class=1)
        [element] = elements(data.FileSource(paths, labels))
        assert element["boxes"].shape == (0, 4) and element["boxes"].dtype == np.float32

    def test_a_name_that_is_no_utf8(self, tmp_path):
        path = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\xfe.jpg")
        shutil.copy(image_files.make_photographs(tmp_path, classes=1, per_class=1)[0][0], path)
        [element] = elements(data.FileSource([path], [0]))
        assert element["encoded"] == content(path)

    @pytest.mark.parametrize(
        "arguments, text",
        [
            (([], []), "holds no image"),
            ((["a"], []), "one label an image. Received: 1 images, 0 labels"),
            ((["a", "b"], [0, 2]), "none for 1 of 3 classes: [1]"),
            ((["a", "b"], [1, 2]), "none for 1 of 3 classes: [0]"),
            ((["a", "b"], [0, -1]), "Labels must be in 0..0. Received: [-1]"),
            ((["a", "b"], [0, 3], ["x", "y"]), "Labels must be in 0..1. Received: [3]"),
            ((["a"], [0], ["x"], []), "`boxes` must have one entry an image"),
        ],
    )
    def test_errors(self, arguments, text):
        with pytest.raises(ValueError) as error:
            data.FileSource(*arguments)
        assert text in str(error.value)

    def test_all_errors_at_once(self):
        with pytest.raises(ValueError) as error:
            data.FileSource(["a", "b"], [0, 0, 9], ["x"], [[]])
        assert len(str(error.value).splitlines()) == 3


class TestRecords:
    def test_elements(self, tmp_path):
        made = image_files.make_tfrecords(tmp_path, "train", (5, 3, 4), classes=4)
        source = data.imagenet(tmp_path, classes=4)
        assert (source.samples, source.classes) == (12, 4)
        assert source.labels() is None and not source.random_access
        order = [11, 0, 5, 7, 4, 2]
        for k, element in zip(order, elements(source, order)):
            assert element["name"] == made[k]["name"].encode()
            assert element["encoded"] == made[k]["encoded"]
            assert element["label"] == made[k]["label"] and element["label"].dtype == np.int32
            np.testing.assert_array_equal(element["boxes"], made[k]["boxes"])

    def test_names_in_messages(self, tmp_path):
        image_files.make_tfrecords(tmp_path, "train", (2, 2))
        assert data.imagenet(tmp_path).name_of(3) == "train-00001-of-00002:1 (train_00000003.JPEG)"

    def write(self, path, label, name=None, **more):
        feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
        if label is not None:
            feature["image/class/label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
        if name:
            feature["image/filename"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name]))
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())

    def test_without_file_name_it_is_called_after_its_place(self, tmp_path):
        self.write(tmp_path / "train-00000-of-00001", 1)
        source = data.imagenet(tmp_path)
        assert elements(source)[0]["name"] == b"train-00000-of-00001:0"
        assert source.name_of(0) == "train-00000-of-00001:0"

    @pytest.mark.parametrize("first_label, stored, label", [(1, 1, 0), (1, 4, 3), (0, 0, 0), (0, 3, 3)])
    def test_labels_count_from_first_label(self, tmp_path, first_label, stored, label):
        self.write(tmp_path / "a", stored)
        source = data.RecordSource([tmp_path / "a"], 4, first_label=first_label)
        assert elements(source)[0]["label"] == label

    @pytest.mark.parametrize("first_label, stored", [(1, 0), (1, 5), (1, -1), (0, 4)])
    def test_a_label_outside_is_an_error_of_the_image(self, tmp_path, first_label, stored):
        self.write(tmp_path / "a", stored)
        source = data.RecordSource([tmp_path / "a"], 4, first_label=first_label)
        reason = reason_of(source, 0, lambda element: element["label"])
        assert "its label is not in {}..{}".format(first_label, first_label + 3) in reason
        assert str(stored) in reason

    def test_a_record_without_label_is_an_error_of_the_image(self, tmp_path):
        self.write(tmp_path / "a", None)
        reason = reason_of(data.RecordSource([tmp_path / "a"], 4), 0, lambda element: element["label"])
        assert "image/class/label" in reason

    def test_a_parser_of_ones_own(self, tmp_path):
        with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
            for k in range(3):
                writer.write(str(k).encode())

        def parse(record):
            label = tf.strings.to_number(record, tf.int32)
            return {"name": "", "encoded": record, "label": label, "boxes": tf.zeros([0, 4])}

        found = elements(data.RecordSource([tmp_path / "a"], 3, parse=parse))
        assert [element["label"] for element in found] == [0, 1, 2]
        assert [element["name"] for element in found] == [b"a:0", b"a:1", b"a:2"]

    def test_a_shard_that_is_lost_makes_its_images_bad(self, tmp_path, lines):
        image_files.make_tfrecords(tmp_path, "train", (2, 2), classes=4)
        source = data.imagenet(tmp_path, classes=4)
        os.remove(str(tmp_path / "train-00001-of-00002"))
        dataset = data.images(source, 4, 16, training=False)
        [(_, labels, weights)] = [[np.array(part) for part in batch] for batch in compat.open_dataset(dataset())()]
        assert (labels[:2].tolist(), weights.tolist()) == ([0, 1], [1, 1, 0, 0])
        assert sorted(dataset.bad_images.names) == ["train-00001-of-00002:0", "train-00001-of-00002:1"]
        assert len(lines) == 2
        for _, text in lines:
            assert "the file cannot be read (errno 2, No such file or directory)" in text

    def test_missing_shards_are_named(self, tmp_path, lines):
        image_files.make_tfrecords(tmp_path, "train", (1, 2, 1, 1))
        for k in (1, 3):
            os.remove(str(tmp_path / "train-0000{}-of-00004".format(k)))
        assert data.imagenet(tmp_path).samples == 2
        [(level, text)] = lines
        assert level == "warning"
        assert text.endswith(
            "2 shards are not there and their images are left out: train-00001-of-00004, train-00003-of-00004"
        )


class TestImagenet:
    def test_splits_of_records(self, tmp_path):
        image_files.make_tfrecords(tmp_path, "train", (3, 4))
        image_files.make_tfrecords(tmp_path, "validation", (2,))
        for other in ("train.classes.json", "train-00000-of-00002.tmp", "train-labels.txt", "training-0"):
            (tmp_path / other).write_bytes(b"no record")
        assert data.imagenet(tmp_path).samples == 7
        assert data.imagenet(tmp_path, "validation").samples == 2
        assert data.imagenet(tmp_path).classes == 1000
        assert data.imagenet(tmp_path).class_names is None

    def test_records_in_a_folder_of_the_split(self, tmp_path):
        image_files.make_tfrecords(tmp_path / "val", "validation", (2,))
        assert data.imagenet(tmp_path, "validation").samples == 2

    def test_names_of_classes_beside_the_records(self, tmp_path):
        image_files.make_tfrecords(tmp_path, "train", (3,), classes=3)
        (tmp_path / "train.classes.txt").write_text("n01\ttench\nn02\nn03\tshark, great\n")
        source = data.imagenet(tmp_path)
        assert (source.classes, source.class_names) == (3, ["n01", "n02", "n03"])

    @pytest.mark.parametrize("split, folder", [("train", "train"), ("validation", "validation"), ("validation", "val")])
    def test_class_folders_of_a_split(self, tmp_path, split, folder):
        image_files.make_photographs(tmp_path / folder, classes=3, per_class=2)
        source = data.imagenet(tmp_path, split)
        assert (source.samples, source.classes) == (6, 3)
        assert source.labels().tolist() == [0, 0, 1, 1, 2, 2]

    def test_the_folder_itself_may_hold_the_classes(self, tmp_path):
        image_files.make_photographs(tmp_path, classes=3, per_class=2)
        assert data.imagenet(tmp_path, classes=3).class_names == sorted(os.listdir(str(tmp_path)))

    def test_class_folders_of_no_split_are_not_for_validation(self, tmp_path):
        image_files.make_photographs(tmp_path, classes=3, per_class=2)
        with pytest.raises(ValueError) as error:
            data.imagenet(tmp_path, "validation")
        assert str(error.value) == (
            "There is no ImageNet. Received: path='{0}', split='validation'. Looked for TFRecord files "
            "{0}/validation-*, then for class folders in {0}/validation and {0}/val.".format(tmp_path)
        )

    @pytest.mark.parametrize("reader", [data.imagenet, data.image_folder])
    def test_classes_of_validation_are_numbered_as_those_of_training(self, tmp_path, reader, lines):
        image_files.make_photographs(tmp_path / "train", classes=3, per_class=1, names=["a", "b", "c"])
        image_files.make_photographs(tmp_path / "val", classes=2, per_class=2, names=["a", "c"])
        source = reader(tmp_path, "validation")
        assert (source.classes, source.class_names) == (3, ["a", "b", "c"])
        assert source.labels().tolist() == [0, 0, 2, 2]
        assert [source.name_of(k)[0] for k in range(4)] == ["a", "a", "c", "c"]
        assert lines == [("info", "{}: no images of 1 of 3 classes: b".format(tmp_path / "val"))]

    @pytest.mark.parametrize("reader", [data.imagenet, data.image_folder])
    def test_a_class_that_training_does_not_have_is_named(self, tmp_path, reader):
        image_files.make_photographs(tmp_path / "train", classes=3, per_class=1, names=["a", "b", "c"])
        image_files.make_photographs(tmp_path / "val", classes=3, per_class=1, names=["a", "c", "d"])
        with pytest.raises(ValueError) as error:
            reader(tmp_path, "validation")
        assert str(error.value) == (
            "Validation must have no other classes than training. Received: 1 of 3 folders in {0}/val that are not in "
            "{0}/train: d. Rename or remove them.".format(tmp_path)
        )

    def test_records_of_two_conversions(self, tmp_path):
        image_files.make_tfrecords(tmp_path, "train", (2, 1))
        image_files.make_tfrecords(tmp_path, "train", (3,))
        image_files.make_tfrecords(tmp_path, "validation", (3,))
        with pytest.raises(ValueError) as error:
            data.imagenet(tmp_path)
        assert str(error.value) == (
            "The TFRecord files are of several conversions, of which each has the images. Received: "
            "train-*-of-00001 and train-*-of-00002 in {}. Remove all but those of one.".format(tmp_path)
        )
        assert data.imagenet(tmp_path, "validation").samples == 3

    def test_the_recipe_compares_the_classes_of_both_splits(self, tmp_path, monkeypatch):
        for split, names in (("train", "abc"), ("validation", "acd")):
            image_files.make_tfrecords(tmp_path, split, (3,), classes=3)
            (tmp_path / (split + ".classes.txt")).write_text("\n".join(names))
        monkeypatch.syspath_prepend(os.path.join(ROOT, "examples"))
        recipes = importlib.import_module("image_recipes")
        config = dict(
            mode="train_and_evaluate",
            source=dict(name="imagenet", path=tmp_path),
            training_data=dict(batch_size=2, image_size=8, seed=0),
            validation_data=dict(batch_size=2, image_size=8, training=False),
            input=dict(shard=True),
        )
        with pytest.raises(recipes.common.UsageError) as error:
            recipes.open_images(config)
        assert str(error.value) == (
            "Training and validation must have the same classes. Received: class 1 called 'b' and 'c' in {0} (train) "
            "and {0} (validation). Make both with the same list of classes.".format(tmp_path)
        )
        os.remove(str(tmp_path / "validation.classes.txt"))
        with pytest.raises(recipes.common.UsageError, match="Received: 3 and 1000 classes in "):
            recipes.open_images(config)
        for changed in (dict(config, mode="train"), dict(config, source=dict(config["source"], classes=3))):
            assert recipes.open_images(changed)[0].source.classes == 3
        shutil.copy(str(tmp_path / "train.classes.txt"), str(tmp_path / "validation.classes.txt"))
        assert [images.source.class_names for images in recipes.open_images(config)] == [["a", "b", "c"]] * 2

    def test_the_number_of_folders_must_fit(self, tmp_path):
        image_files.make_photographs(tmp_path, classes=3, per_class=1)
        with pytest.raises(ValueError, match="Received: classes=1000, 3 folders"):
            data.imagenet(tmp_path, classes=1000)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="There is no ImageNet. Received: path=.*Looked for TFRecord files"):
            data.imagenet(tmp_path)
        with pytest.raises(ValueError, match="no such folder"):
            data.imagenet(tmp_path / "absent")
        with pytest.raises(ValueError, match="`split` must be 'train' or 'validation'. Received: split='test'"):
            data.imagenet(tmp_path, "test")

    def test_the_other_split_is_not_taken_for_classes(self, tmp_path):
        image_files.make_photographs(tmp_path / "train", classes=2, per_class=1)
        with pytest.raises(ValueError, match="There is no ImageNet. Received: .*split='validation'"):
            data.imagenet(tmp_path, "validation")


class TestImageFolder:
    def test_classes_are_the_sorted_folders(self, tmp_path, lines):
        source_file = image_files.make_photographs(tmp_path / "made", classes=1, per_class=1)[0][0]
        for place in (
            "b/1.jpg",
            "b/deep/er/0.JPEG",
            "B/x.png",
            "a/2.bmp",
            "a/.hidden.jpg",
            "a/notes.txt",
            ".git/c/y.jpg",
        ):
            os.makedirs(os.path.dirname(str(tmp_path / "set" / place)), exist_ok=True)
            shutil.copy(source_file, str(tmp_path / "set" / place))
        source = data.image_folder(tmp_path / "set")
        assert source.class_names == ["B", "a", "b"]
        assert [source.name_of(k) for k in range(4)] == ["B/x.png", "a/2.bmp", "b/1.jpg", "b/deep/er/0.JPEG"]
        assert source.labels().tolist() == [0, 1, 2, 2]
        assert lines == [("info", "{}: 1 files that are no images by their name are left out".format(tmp_path / "set"))]

    def test_links_to_folders_are_followed(self, tmp_path):
        image_files.make_photographs(tmp_path / "real", classes=1, per_class=2)
        os.makedirs(str(tmp_path / "set"))
        [name] = os.listdir(str(tmp_path / "real"))
        os.symlink(str(tmp_path / "real" / name), str(tmp_path / "set" / "linked"))
        assert data.image_folder(tmp_path / "set").samples == 2

    def test_splits(self, tmp_path):
        image_files.make_photographs(tmp_path / "train", classes=3, per_class=2)
        image_files.make_photographs(tmp_path / "val", classes=3, per_class=1)
        assert data.image_folder(tmp_path, "train").samples == 6
        assert data.image_folder(tmp_path, "validation").samples == 3
        with pytest.raises(ValueError, match="holds splits, not classes.*split='train'"):
            data.image_folder(tmp_path)

    def test_errors(self, tmp_path):
        os.makedirs(str(tmp_path / "full"))
        with pytest.raises(ValueError, match="which has no folders"):
            data.image_folder(tmp_path / "full")
        for name in ("a", "b", "c"):
            os.makedirs(str(tmp_path / "full" / name))
        (tmp_path / "full" / "b" / "1.jpg").write_bytes(b"x")
        with pytest.raises(ValueError, match="without images in 2 of 3 folders: a, c. Image files"):
            data.image_folder(tmp_path / "full")
        with pytest.raises(ValueError, match="no such folder"):
            data.image_folder(tmp_path / "absent")
        with pytest.raises(ValueError, match="no folder of this split.*split='train'.*Looked for"):
            data.image_folder(tmp_path, "train")
        with pytest.raises(ValueError, match="must be 'train' or 'validation'"):
            data.image_folder(tmp_path, "training")


def test_the_reason_of_a_file_whose_name_is_no_utf8(tmp_path):
    path = os.path.join(os.fsencode(str(tmp_path)), b"a\xff.jpg")
    reason = reason_of(data.FileSource([path], [0]), 0, lambda element: element["encoded"])
    assert "No such file or directory" in reason
    assert "codec" not in reason


def test_the_reason_of_an_error_whose_text_is_no_utf8():
    reason = reason_of(data.arrays([b"x"], [0]), 0, lambda element: b"/a\xff.jpg; Input/output error".decode("utf-8"))
    assert reason == "/a\\xff.jpg; Input/output error"


class TestArrays:
    def test_decoded(self):
        x = np.random.RandomState(0).randint(0, 256, (4, 5, 6, 3)).astype(np.uint8)
        source = data.arrays(x, [2, 0, 1, 2])
        assert (source.samples, source.classes) == (4, 3)
        for k, element in zip((3, 1), elements(source, [3, 1])):
            np.testing.assert_array_equal(element["image"], x[k])
            assert element["label"] == [2, 0, 1, 2][k]
            assert element["name"] == "arrays:{}".format(k).encode()
            assert element["boxes"].shape == (0, 4)

    def test_encoded(self):
        source = data.arrays([b"one\0", b"two"], np.array([[0], [1]]), classes=5)
        assert source.classes == 5
        assert [element["encoded"] for element in elements(source)] == [b"one\0", b"two"]
        assert source.labels().tolist() == [0, 1]

    @pytest.mark.parametrize(
        "x, y, classes, text",
        [
            (np.zeros((2, 4, 4, 3), np.float32), [0, 1], None, "Received: dtype float32, shape (2, 4, 4, 3)"),
            (np.zeros((2, 4, 4), np.uint8), [0, 1], None, "shape (2, 4, 4)"),
            (["a.jpg"], [0], None, "must be bytes. Received: a list with str"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], None, "`y` must be whole numbers"),
            (np.zeros((2, 4, 4, 3), np.uint8), [[1, 0], [0, 1]], None, "Received: dtype int64, shape (2, 2)"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0], None, "2 images, 1 labels"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0, 7], 7, "Labels must be in 0..6. Received: [7]"),
            (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, int), 2, "holds no image"),
        ],
    )
    def test_errors(self, x, y, classes, text):
        with pytest.raises(ValueError) as error:
            data.arrays(x, y, classes)
        assert text in str(error.value)


class TestSynthetic:
    def test_images_follow_from_the_arguments(self):
        source = data.synthetic(samples=10, image_size=24, classes=4, seed=3)
        again = elements(data.synthetic(samples=10, image_size=24, classes=4, seed=3))
        other = elements(data.synthetic(samples=10, image_size=24, classes=4, seed=4))
        found = elements(source)
        assert source.prepared and source.labels().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
        assert [element["label"] for element in found] == source.labels().tolist()
        assert {element["image"].shape for element in found} == {(24, 24, 3)}
        assert found[0]["image"].dtype == np.uint8
        for k in range(10):
            np.testing.assert_array_equal(found[k]["image"], again[k]["image"])
            assert (found[k]["image"] != other[k]["image"]).any()
        assert len({element["image"].tobytes() for element in found}) == 10

    def test_images_by_hand(self):
        pattern = np.random.RandomState(5).randint(0, 256, (74, 74, 3)).astype(np.uint8)
        [element] = elements(data.synthetic(samples=500, image_size=10, classes=200, seed=5), [470])
        label = 470 % 200
        row, column = label % 64, label // 64
        np.testing.assert_array_equal(element["image"], pattern[row : row + 10, column : column + 10] ^ (470 % 251))

    def test_the_default_is_as_large_as_imagenet(self):
        source = data.synthetic()
        assert (source.samples, source.classes) == (1281167, 1000)
        assert elements(source, [1281166])[0]["image"].shape == (224, 224, 3)

    def test_errors_are_listed(self):
        with pytest.raises(ValueError) as error:
            data.synthetic(samples=0, image_size=-1, classes=True, seed=-1)
        assert [line.split(" ")[0] for line in str(error.value).splitlines()] == [
            "`samples`",
            "`image_size`",
            "`classes`",
            "`seed`",
        ]


class TestRegistry:
    def test_names(self):
        assert data.list() == ["arrays", "cats_vs_dogs", "image_folder", "imagenet", "synthetic", "tfds"]

    @pytest.mark.parametrize("name", ["arrays", "image_folder", "imagenet", "synthetic"])
    def test_get(self, name):
        assert data.get(name) is getattr(data, name)

    def test_unknown(self):
        with pytest.raises(ValueError) as error:
            data.get("imagnet")
        assert "Did you mean 'imagenet'? Received: name='imagnet'. Known are arrays, " in str(error.value)
        with pytest.raises(ValueError, match="no data set of this name. Received"):
            data.get("zzz")


def test_a_source_must_say_how_it_reads():
    class Bare(data.Source):
        pass

    source = Bare("bare", 3, 2, ["x", "y"])
    assert source.name_of(1) == "bare:1"
    assert source.labels() is None
    for call in (lambda: source.describe(np.zeros(1, int)), lambda: source.read({})):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(ValueError) as error:
        Bare("bare", 0, 0, ["x"])
    assert len(str(error.value).splitlines()) == 3
