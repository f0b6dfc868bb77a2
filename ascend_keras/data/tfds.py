"""Images of TensorFlow Datasets, prepared in a folder before. The network is not touched unless it is asked for.

The package says where the records of a split are and what is in them; they are read as other TFRecord files are, by
number and without decoding the images on the way.
"""

import contextlib
import importlib
import os

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import tf
from ascend_keras.data.record_source import RecordSource


class TfdsSource(RecordSource):
    """A split of a prepared data set: a selection of the records of its files.

    Args:
        files: paths of TFRecord files, in their order.
        ranges: for each file the number of its first record that belongs to the split, and how many there are; -1
            stands for all that follow.
        keys: names of the features that hold the image, the label, and the file's name or None.
        classes, class_names, index_dir, name: see RecordSource.

    Raises:
        ValueError: a file has fewer records than that, or see RecordSource.
    """

    def __init__(self, files, ranges, keys, classes, class_names, name, index_dir=None):
        self._keys = keys
        super().__init__(files, classes, class_names, index_dir=index_dir, parse=self._parse_features, name=name)
        self._positions = _positions(files, ranges, self.index.counts)
        self.samples = len(self._positions)
        if not self.samples:
            _raise_empty(name)

    def name_of(self, position):
        return super().name_of(self._positions[position])

    def describe(self, positions):
        return super().describe(self._positions[positions])

    def will_read(self, positions):
        super().will_read(self._positions[positions])

    def _parse_features(self, record):
        image, label, file_name = self._keys
        schema = {image: tf.io.FixedLenFeature([], tf.string), label: tf.io.FixedLenFeature([], tf.int64)}
        if file_name:
            schema[file_name] = tf.io.FixedLenFeature([], tf.string, "")
        parsed = tf.io.parse_single_example(record, schema)
        number = parsed[label]
        # Test splits are published with -1 for all labels.
        in_range = tf.logical_and(number >= 0, number < self.classes)
        message = "its label is not in 0..{}:".format(self.classes - 1)
        with tf.control_dependencies([tf.debugging.Assert(in_range, [message, number])]):
            number = tf.cast(number, tf.int32)
        return {
            "name": parsed[file_name] if file_name else tf.constant(""),
            "encoded": parsed[image],
            "label": number,
            "boxes": tf.zeros([0, 4]),
        }

    def _warn_of_missing_shards(self):
        """Part of a split is in some of the files; that others are there, the package has seen to."""


def _raise_empty(name):
    raise ValueError("The split has no images. Received: {}. Give another one.".format(name))


def _positions(files, ranges, counts):
    """Numbers of the records of the split among all records of the files."""
    starts = np.cumsum(counts) - counts
    parts, short = [], []
    for path, (first, number), start, count in zip(files, ranges, starts, counts):
        number = count - first if number < 0 else number
        parts.append(np.arange(start + first, start + first + number))
        if first + number > count:
            short.append("{} has {:,} records, and {:,} were expected.".format(path, count, first + number))
    if short:
        raise ValueError("\n".join(short + ["Prepare the data set again."]))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def tfds(name, split="train", data_dir=None, download=False, index_dir=None):
    """Images of a data set of TensorFlow Datasets.

    Args:
        name: such as "imagenet2012" or "cats_vs_dogs:4.0.1".
        split: such as "train", "validation" or "train[:90%]".
        data_dir: the folder in which data sets are prepared; None takes that of the package (~/tensorflow_datasets).
        download: whether the data set may be downloaded and prepared, if it is not there. Without it, nothing is asked
            of the network, whatever version of the package is installed.
        index_dir: folder of the index of the records, see RecordSource.

    Returns:
        A Source.

    Raises:
        ImportError: the package is not installed; says which version to install.
        ValueError: it knows no such data set or split; it is not prepared in `data_dir`; it has no image or no label,
            or is not stored as TFRecords; the split is empty.
    """
    package = _package()
    with contextlib.nullcontext() if download else _offline():
        builder = _builder(package, name, data_dir)
        if not _is_prepared(builder):
            if not download:
                raise ValueError(
                    "The data set is not prepared there. Received: name={!r}, data_dir={!r}; looked for {}. Give the "
                    "folder that has it, or download=True to download and prepare it.".format(
                        name, data_dir, builder.data_dir
                    )
                )
            builder.download_and_prepare()
        files, ranges = _files(builder, split)
    if not files:
        _raise_empty("{} ({})".format(name, split))
    keys, classes, class_names = _features(package, builder)
    return TfdsSource(files, ranges, keys, classes, class_names, "{} ({})".format(name, split), index_dir)


def _package():
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ImportError(
            "TensorFlow Datasets cannot be imported. Received: {}. Install it with: {}".format(error, install_command())
        ) from error


def install_command():
    """The command that installs the version that fits the TensorFlow in use, and leaves that as it is."""
    if compat.TF1:
        return "pip install tensorflow-datasets==3.2.1 'protobuf<3.21' 'numpy<1.19'"
    if compat.TF_VERSION < (2, 7):
        return "pip install tensorflow-datasets==4.9.3 'protobuf<3.20' 'numpy<1.20'"
    return "pip install 'ascend_keras[tfds]'"


@contextlib.contextmanager
def _offline():
    """Keeps the package from asking Google's storage for what it could know about a data set.

    Version 3.2.1 does so ten times, for minutes, even for images in a local folder.
    """
    module = importlib.import_module("tensorflow_datasets.core.utils.gcs_utils")
    changes = {"is_gcs_disabled": lambda: True, "_is_gcs_disabled": True}
    former = {key: getattr(module, key) for key in changes if hasattr(module, key)}
    for key in former:
        setattr(module, key, changes[key])
    try:
        yield
    finally:
        for key, value in former.items():
            setattr(module, key, value)


def _builder(package, name, data_dir):
    try:
        return package.builder(name, data_dir=data_dir)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            "TensorFlow Datasets knows no such data set. Received: name={!r}, data_dir={!r}: {}".format(
                name, data_dir, str(error).partition("\n")[0]
            )
        ) from error


def _is_prepared(builder):
    return os.path.exists(os.path.join(os.fspath(builder.data_dir), "dataset_info.json"))


def _files(builder, split):
    """Paths of the files of a split, and the first record and number of records in each."""
    form = getattr(builder.info, "file_format", None)
    form = getattr(form, "value", form) or "tfrecord"
    if form != "tfrecord":
        raise ValueError(
            "Only data sets that are stored as TFRecords can be read. Received: {!r}, stored as {}. Prepare it with "
            "file_format='tfrecord'.".format(builder.info.name, form)
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            "The data set has no such split. Received: split={!r}. There are {}.".format(
                split, ", ".join(sorted(builder.info.splits))
            )
        ) from error
    folder, files, ranges = os.fspath(builder.data_dir), [], []
    for instruction in instructions:
        one = instruction if isinstance(instruction, dict) else vars(instruction)
        # Version 4 gives whole paths, version 3 names; joining leaves the former as they are.
        files.append(os.path.join(folder, os.fspath(one["filename"])))
        ranges.append((one["skip"], one["take"]))
    return files, ranges


def _features(package, builder):
    """Keys of the image, the label and the file's name; number of classes; their names or None."""
    features = dict(builder.info.features.items())

    def of_type(kind):
        return [key for key in sorted(features) if isinstance(features[key], kind)]

    images, labels = of_type(package.features.Image), of_type(package.features.ClassLabel)
    preferred = builder.info.supervised_keys or ()
    images = [key for key in images if key in preferred] or images
    labels = [key for key in labels if key in preferred] or labels
    if not images or not labels:
        raise ValueError(
            "The data set must have an image and a class label. Received: {!r} with the features {}.".format(
                builder.info.name, ", ".join(sorted(features))
            )
        )
    name = next((key for key in ("file_name", "image/filename", "filename") if key in features), None)
    label = features[labels[0]]
    return (images[0], labels[0], name), label.num_classes, label.names or None
