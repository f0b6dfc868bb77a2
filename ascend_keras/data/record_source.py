"""Images in TFRecord files."""

import os
import re

import numpy as np
from google.protobuf.message import DecodeError

from ascend_keras.compat import tf
from ascend_keras.data.records import index_records
from ascend_keras.data.source import Source
from ascend_keras.log import logger

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\D.*)?$")
_SIDES = ("ymin", "xmin", "ymax", "xmax")


class RecordSource(Source):
    """Images in TFRecord files, in the schema of TF-Slim's ImageNet files unless `parse` knows another.

    The schema: image/encoded, image/class/label, and where they are there image/object/bbox/{ymin,xmin,ymax,xmax}
    (lists of any length, in 0..1) and image/filename. An image without a file name is called after its file and the
    number of its record. A label outside the classes makes the image a bad one.

    Args:
        files: paths, in the order of positions.
        classes: number of classes.
        class_names: names of the classes, or None.
        first_label: the label that stands for class 0: 1 in TF-Slim's files, whose 0 is "background".
        index_dir: folder of the index; None: beside the files or in the cache directory, see `records.index_records`.
        parse: TensorFlow function, bytes of a record -> element of the contract (its "name" may be empty).
        name: what messages call the source.

    Raises:
        ValueError: there are no files or records, or files are missing, cut short or corrupt; all are named.
    """

    random_access = False

    def __init__(self, files, classes, class_names=None, first_label=1, index_dir=None, parse=None, name="records"):
        self.index = index_records(files, index_dir)
        super().__init__(name, len(self.index), classes, class_names)
        self._first_label = first_label
        self._parse = parse or self._parse_slim
        self._warn_of_missing_shards()

    def name_of(self, position):
        """File and number of the record, and the file name of the image where it has one."""
        place = self.index.name_of(position)
        try:
            example = tf.train.Example.FromString(self.index.read(np.array([position]))[0])
            names = example.features.feature["image/filename"].bytes_list.value
        except (OSError, DecodeError):
            names = []
        return "{} ({})".format(place, os.fsdecode(names[0])) if names else place

    def describe(self, positions):
        places = np.empty(len(positions), object)
        places[:] = [os.fsencode(self.index.name_of(position)) for position in positions]
        records, problems = self.index.read_with_problems(positions)
        return {"record": records, "problem": problems, "place": places}

    def read(self, fields):
        problem = fields["problem"]
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
            record = tf.identity(fields["record"])
        element = self._parse(record)
        name = element["name"]
        return dict(element, name=tf.where(tf.equal(name, ""), fields["place"], name))

    def will_read(self, positions):
        self.index.will_read(positions)

    def _parse_slim(self, record):
        box_keys = ["image/object/bbox/" + side for side in _SIDES]
        schema = {key: tf.io.VarLenFeature(tf.float32) for key in box_keys}
        schema["image/encoded"] = tf.io.FixedLenFeature([], tf.string)
        schema["image/class/label"] = tf.io.FixedLenFeature([], tf.int64)
        schema["image/filename"] = tf.io.FixedLenFeature([], tf.string, "")
        parsed = tf.io.parse_single_example(record, schema)
        label = parsed["image/class/label"]
        first, last = self._first_label, self._first_label + self.classes - 1
        in_range = tf.logical_and(label >= first, label <= last)
        message = "its label is not in {}..{}:".format(first, last)
        with tf.control_dependencies([tf.debugging.Assert(in_range, [message, label])]):
            label = tf.cast(label - first, tf.int32)
        return {
            "name": parsed["image/filename"],
            "encoded": parsed["image/encoded"],
            "label": label,
            "boxes": tf.stack([parsed[key].values for key in box_keys], axis=1),
        }

    def _warn_of_missing_shards(self):
        missing = missing_shards(self.index.files)
        if missing:
            logger.warning(
                "%s: %d shards are not there and their images are left out: %s%s",
                self.name,
                len(missing),
                ", ".join(missing[:10]),
                ", ..." if len(missing) > 10 else "",
            )


def missing_shards(files):
    """Names of the shards that files called <stem>-00000-of-00008 say should be there too, but are not given."""
    return [
        "{}-{:05d}-of-{:05d}{}".format(stem, number, total, rest)
        for (stem, total, rest), found in sorted(_conversions(files).items())
        for number in range(total)
        if number not in found
    ]


def several_conversions(files):
    """Patterns such as train-*-of-00002 of shards that share their stem and differ in their number or ending."""
    groups = sorted(_conversions(files))
    stems = [stem for stem, _, _ in groups]
    return ["{}-*-of-{:05d}{}".format(stem, total, rest) for stem, total, rest in groups if stems.count(stem) > 1]


def _conversions(files):
    """Numbers of the shards by (stem, number of shards, ending), as their names say."""
    groups = {}
    for path in files:
        match = _SHARD.match(os.path.basename(path))
        if match:
            stem, number, total, rest = match.groups()
            groups.setdefault((stem, int(total), rest or ""), set()).add(int(number))
    return groups
