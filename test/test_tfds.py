"""Images of TensorFlow Datasets, against a stand-in with the two forms in which the package has described its files.

The stand-in behaves as versions 3.2.1 and 4.9.3 were seen to: what is asked of the network, how file instructions look,
where the switch for Google's storage is. With the package installed, the last test asks the real one.
"""

import importlib
import io
import json
import os
import socket
import sys
import types

import image_files
import numpy as np
import pytest

from ascend_keras import compat, data
from ascend_keras.compat import tf
from ascend_keras.data import records

COUNTS = {"train": (4, 3, 5), "test": (2,)}
NAMES = ["a", "b", "c"]


def serialize(image, label, name):
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def one(split, number):
    """What record `number` of a split holds: the image, the label, the file's name."""
    label = -1 if (split, number) == ("test", 1) else number % 3
    return image_files.jpeg("china", number), label, "{}_{}.jpg".format(split, number).encode()


def prepare(folder):
    """Writes the files of the data set as the package does."""
    os.makedirs(folder)
    for split, counts in COUNTS.items():
        for shard, count in enumerate(counts):
            name = "toy-{}.tfrecord-{:05d}-of-{:05d}".format(split, shard, len(counts))
            with tf.io.TFRecordWriter(os.path.join(folder, name)) as writer:
                for number in range(count):
                    writer.write(serialize(*one(split, sum(counts[:shard]) + number)))
    with open(os.path.join(folder, "dataset_info.json"), "w") as file:
        json.dump({"name": "toy"}, file)


class Image:
    """tfds.features.Image"""


class ClassLabel:
    """tfds.features.ClassLabel"""

    def __init__(self, names=NAMES):
        self.names, self.num_classes = names, 3


class Text:
    """tfds.features.Text"""


class Package:
    """The stand-in: modules, and a record of what was asked of the network."""

    def __init__(self, version, root):
        self.version, self.root, self.asked = version, str(root), []
        self.features = {"file_name": Text(), "image": Image(), "label": ClassLabel()}
        self.file_format, self.supervised_keys = "tfrecord", ("image", "label")
        self.module = types.ModuleType("tensorflow_datasets")
        self.module.features = types.SimpleNamespace(Image=Image, ClassLabel=ClassLabel)
        self.module.builder = self.builder
        self.gcs = types.ModuleType("tensorflow_datasets.core.utils.gcs_utils")
        if version == 3:
            self.gcs.is_gcs_disabled = lambda: False
        else:
            self.gcs._is_gcs_disabled = False

    def is_online(self):
        return not (self.gcs.is_gcs_disabled() if self.version == 3 else self.gcs._is_gcs_disabled)

    def builder(self, name, data_dir=None):
        if name != "toy":
            raise ValueError("Dataset {} not found.\nAvailable datasets:\n\t- toy".format(name))
        if self.is_online():
            self.asked.append("metadata")
        return Builder(self, os.path.join(data_dir or self.root, "toy", "1.0.0"))


class Builder:
    def __init__(self, package, data_dir):
        self._package, self.data_dir = package, data_dir
        self.info = types.SimpleNamespace(
            name="toy",
            features=package.features,
            splits=Splits(package, data_dir),
            supervised_keys=package.supervised_keys,
        )
        if package.version == 4:
            self.info.file_format = types.SimpleNamespace(value=package.file_format)

    def download_and_prepare(self):
        assert self._package.is_online()
        self._package.asked.append("images")
        prepare(self.data_dir)


class Splits(dict):
    """info.splits: knows "train", "test" and "train[2:9]"."""

    def __init__(self, package, data_dir):
        super().__init__(dict.fromkeys(COUNTS))
        self._package, self._data_dir = package, data_dir

    def __getitem__(self, name):
        whole, _, rest = name.partition("[")
        if whole not in COUNTS:
            raise (KeyError if self._package.version == 3 else ValueError)("Unknown split {!r}.".format(name))
        first, last = (int(number) for number in rest[:-1].split(":")) if rest else (0, sum(COUNTS[whole]))
        return types.SimpleNamespace(file_instructions=list(self._instructions(whole, first, last)))

    def _instructions(self, split, first, last):
        start = 0
        for shard, count in enumerate(COUNTS[split]):
            low, high = max(first - start, 0), min(last - start, count)
            start += count
            if low < high:
                name = "toy-{}.tfrecord-{:05d}-of-{:05d}".format(split, shard, len(COUNTS[split]))
                if self._package.version == 3:
                    yield {"filename": name, "skip": low, "take": -1 if high == count else high - low}
                else:
                    path = os.path.join(self._data_dir, name)
                    yield types.SimpleNamespace(filename=path, skip=low, take=high - low, examples_in_shard=count)


@pytest.fixture(params=[3, 4])
def package(request, tmp_path, monkeypatch):
    stand_in = Package(request.param, tmp_path / "default")
    for name, module in [
        ("", stand_in.module),
        (".core", None),
        (".core.utils", None),
        (".core.utils.gcs_utils", stand_in.gcs),
    ]:
        module = module or types.ModuleType("tensorflow_datasets" + name)
        monkeypatch.setitem(sys.modules, "tensorflow_datasets" + name, module)
    return stand_in


@pytest.fixture
def prepared(package, tmp_path):
    prepare(str(tmp_path / "data" / "toy" / "1.0.0"))
    return str(tmp_path / "data")


def elements(source):
    positions = np.arange(source.samples)
    rows = tf.data.Dataset.from_tensor_slices(dict(source.describe(positions), index=positions)).map(source.read)
    found = []
    for element in compat.open_dataset(rows)():
        values = {key: value if compat.TF1 else value.numpy() for key, value in element.items()}
        found.append((values["encoded"], int(values["label"]), values["name"]))
        assert values["boxes"].shape == (0, 4)
    return found


def test_a_prepared_data_set_is_read_without_the_network(package, prepared):
    source = data.tfds("toy", "train", data_dir=prepared)
    assert (source.samples, source.classes, source.class_names) == (12, 3, NAMES)
    assert elements(source) == [one("train", number) for number in range(12)]
    assert package.asked == []
    assert package.is_online()  # what was switched off is on again


def test_a_part_of_a_split(package, prepared):
    source = data.tfds("toy", "train[2:9]", data_dir=prepared)
    assert elements(source) == [one("train", number) for number in range(2, 9)]
    assert source.name_of(0) == "toy-train.tfrecord-00000-of-00003:2"
    assert source.name_of(6) == "toy-train.tfrecord-00002-of-00003:1"


def test_a_part_that_lies_in_few_files_warns_of_nothing(package, prepared, capfd):
    assert data.tfds("toy", "train[5:6]", data_dir=prepared).samples == 1
    assert capfd.readouterr().err == ""


def test_images_can_be_asked_for_in_any_order(package, prepared):
    source = data.tfds("toy", "train[2:9]", data_dir=prepared)
    fields = source.describe(np.array([6, 0, 3]))
    assert [record.split(b"train_")[1][:1] for record in fields["record"]] == [b"8", b"2", b"5"]


def test_a_label_of_minus_one_is_a_bad_image(package, prepared):
    source = data.tfds("toy", "test", data_dir=prepared)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"its label is not in 0\.\.2"):
        elements(source)


def test_what_is_not_prepared_is_an_error_without_the_network(package, tmp_path):
    with pytest.raises(ValueError) as caught:
        data.tfds("toy", "train", data_dir=str(tmp_path))
    folder = os.path.join(str(tmp_path), "toy", "1.0.0")
    assert str(caught.value) == (
        "The data set is not prepared there. Received: name='toy', data_dir={!r}; looked for {}. Give the folder that "
        "has it, or download=True to download and prepare it.".format(str(tmp_path), folder)
    )
    assert package.asked == []
    assert package.is_online()


def test_the_network_is_used_when_asked(package, tmp_path):
    source = data.tfds("toy", "train", data_dir=str(tmp_path), download=True)
    assert package.asked == ["metadata", "images"]
    assert source.samples == 12


def test_the_folder_of_the_package_is_the_default(package):
    prepare(os.path.join(package.root, "toy", "1.0.0"))
    assert data.tfds("toy").samples == 12


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"name": "toi"},
            "TensorFlow Datasets knows no such data set. Received: name='toi', .*: Dataset toi not found.",
        ),
        ({"split": "validation"}, "no such split. Received: split='validation'. There are test, train."),
    ],
)
def test_unknown_names(package, prepared, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.tfds(**dict(dict(name="toy", data_dir=prepared), **arguments))
    assert "\n" not in str(caught.value)


def test_both_splits_are_indexed_once(package, prepared, monkeypatch):
    walked, walk = [], records.walk
    monkeypatch.setattr(records, "walk", lambda path: walked.append(path) or walk(path))
    for _ in range(2):
        assert [data.tfds("toy", split, data_dir=prepared).samples for split in ("train", "test")] == [12, 2]
    assert len(walked) == len(COUNTS["train"]) + len(COUNTS["test"])


def test_an_empty_split(package, prepared):
    with pytest.raises(ValueError) as caught:
        data.tfds("toy", "train[5:5]", data_dir=prepared)
    assert str(caught.value) == "The split has no images. Received: toy (train[5:5]). Give another one."
    path = os.path.join(prepared, "toy", "1.0.0", "toy-test.tfrecord-00000-of-00001")
    source = importlib.import_module("ascend_keras.data.tfds").TfdsSource
    with pytest.raises(ValueError, match="The split has no images. Received: none."):
        source([path], [(2, -1)], ("image", "label", None), 3, NAMES, "none")


def test_a_data_set_without_labels(package, prepared):
    package.features = {"image": Image(), "text": Text()}
    with pytest.raises(ValueError, match="must have an image and a class label. Received: 'toy' with .* image, text."):
        data.tfds("toy", data_dir=prepared)


def test_the_supervised_keys_decide_among_several_labels(package, prepared):
    package.features["coarse"] = ClassLabel(names=None)
    assert data.tfds("toy", data_dir=prepared).class_names == NAMES
    package.supervised_keys = None
    assert data.tfds("toy", data_dir=prepared).class_names is None


@pytest.mark.parametrize("package", [4], indirect=True)
def test_other_files_than_tfrecords(package, prepared):
    package.file_format = "array_record"
    with pytest.raises(ValueError, match="Only data sets that are stored as TFRecords can be read. .* array_record."):
        data.tfds("toy", data_dir=prepared)


@pytest.mark.parametrize("package", [4], indirect=True)
def test_files_with_too_few_records(package, prepared):
    folder = os.path.join(prepared, "toy", "1.0.0")
    first, second = (os.path.join(folder, "toy-train.tfrecord-0000{}-of-00003".format(shard)) for shard in (0, 1))
    os.replace(second, first)
    image_files._write(second, b"")
    with pytest.raises(ValueError) as caught:
        data.tfds("toy", data_dir=prepared)
    assert str(caught.value).splitlines() == [
        "{} has 3 records, and 4 were expected.".format(first),
        "{} has 0 records, and 3 were expected.".format(second),
        "Prepare the data set again.",
    ]


def test_without_the_package_the_error_has_the_command_that_fits(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError) as caught:
        data.tfds("toy")
    version = tuple(int(number) for number in tf.__version__.split(".")[:2])
    command = {
        (1, 15): "pip install tensorflow-datasets==3.2.1 'protobuf<3.21' 'numpy<1.19'",
        (2, 6): "pip install tensorflow-datasets==4.9.3 'protobuf<3.20' 'numpy<1.20'",
    }.get(version, "pip install 'ascend_keras[tfds]'")
    assert str(caught.value).startswith("TensorFlow Datasets cannot be imported. Received: ")
    assert str(caught.value).endswith("Install it with: " + command)


def test_the_real_package(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed (extra tfds)")
    contents = {split: [image_files.jpeg("china", number) for number in range(7)] for split in ("train", "test")}

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=NAMES)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return [
                tfds.core.SplitGenerator(name=split, gen_kwargs={"images": images})
                for split, images in contents.items()
            ]

        def _generate_examples(self, images):
            for number, image in enumerate(images):
                yield number, {"image": io.BytesIO(image), "label": number % 3}

    def no_network(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with importlib.import_module("ascend_keras.data.tfds")._offline():
        Toy(data_dir=str(tmp_path)).download_and_prepare()
    source = data.tfds("toy", "train[2:]", data_dir=str(tmp_path))
    found = {image: label for image, label, _ in elements(source)}
    assert len(found) == source.samples == 5
    assert all(contents["train"].index(image) % 3 == label for image, label in found.items())
