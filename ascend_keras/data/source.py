"""What there is to read: the contract between data sets and the input pipeline, and the two plain sources.

A `Source` knows its images by position, 0 .. samples-1, and can read any of them at any time. The order, the shards of
the ranks, decoding, augmentation and batches belong to `ascend_keras.data.pipeline`; a source says only where an image
lies and how it is fetched:

1. `describe(positions)` is Python, called once a batch, by several threads at a time. It turns an int64 array of
   positions [k] into a dict of NumPy arrays with first axis k: paths, labels, what the second step needs. It may do the
   reading itself where TensorFlow cannot (a record of a large file, a member of a zip) and return the bytes. Strings
   are object arrays of `bytes`. Keys, dtypes and the shapes behind the first axis are the same at every call.
2. `read(fields)` is a graph of TensorFlow ops for ONE image, run in parallel: it gets one row of that dict as tensors
   (and "index", the position as int64) and returns the element
       {"name": string [], "label": int32 [] in 0..classes-1, "boxes": float32 [n, 4] (ymin, xmin, ymax, xmax in 0..1,
        n may be 0), and "encoded": string [], the bytes of an image file, or "image": uint8 [h, w, 3]}.
   It may raise any TensorFlow error (a missing file, a label out of range): the image then counts as a bad one. An
   exception of `describe` ends the run.

`name_of(position)` names an image in messages. `random_access = False` says that neighbours should be read together
(records of a large file); the pipeline then shuffles blocks of neighbours within a buffer, and calls
`will_read(positions)` ahead of time. `prepared = True` says that images come in their final form (synthetic ones): they
are neither cropped nor flipped, only colour may change. All NumPy state of a source is read-only after construction, so
it may be shared.
"""

import os

import numpy as np

from ascend_keras.compat import tf


class Source:
    """A finite set of labelled images that can be read by position. See the module's text for the contract.

    Attributes:
        name: what messages call it.
        samples: exact number of images.
        classes: number of classes.
        class_names: a list of `classes` names, or None.
        random_access: whether reading in any order costs the same.
        prepared: whether images come in their final form.
    """

    random_access = True
    prepared = False

    def __init__(self, name, samples, classes, class_names=None):
        problems = []
        if samples < 1:
            problems.append(
                "{} holds no image. Received: samples={}. Check the path and the split.".format(name, samples)
            )
        if classes < 1:
            problems.append("{} has no class. Received: classes={}. Give 1 or more.".format(name, classes))
        if class_names is not None and len(class_names) != classes:
            problems.append(
                "`class_names` must have one name a class. Received: {} names, classes={}.".format(
                    len(class_names), classes
                )
            )
        raise_all(problems)
        self.name = name
        self.samples = int(samples)
        self.classes = int(classes)
        self.class_names = None if class_names is None else list(class_names)

    def labels(self):
        """Labels by position, int64 [samples], where they are known without reading the images; else None."""

    def name_of(self, position):
        """The name of the image at a position, for messages."""
        return "{}:{}".format(self.name, int(position))

    def describe(self, positions):
        """Python: where the images lie; dict of NumPy arrays whose first axis is that of `positions`, int64 [k]."""
        raise NotImplementedError

    def read(self, fields):
        """TensorFlow: fetches one image; `fields` is one row of `describe`. Returns the element as the module says."""
        raise NotImplementedError

    def will_read(self, positions):
        """Hint that these positions, int64 [k], are read soon; only for sources without random access."""


class FileSource(Source):
    """Image files on a disk.

    Args:
        paths: paths of encoded images, in the order of their positions.
        labels: class of each, 0-based.
        class_names: names of the classes; None: as many classes as the largest label says.
        boxes: for each image float32 [n, 4] (ymin, xmin, ymax, xmax in 0..1), or None for no boxes.
        name: what messages call the source.
        root: folder to which the names of images are relative; None: names are the paths.

    Raises:
        ValueError: no files, a label for each file is missing or outside the classes; without class names, labels that
            leave a class out.
    """

    def __init__(self, paths, labels, class_names=None, boxes=None, name="files", root=None):
        paths = [os.fspath(path) for path in paths]
        labels = np.asarray(labels, np.int64).reshape(-1)
        classes = len(class_names) if class_names is not None else int(labels.max(initial=-1)) + 1
        raise_all(check_labels(len(paths), labels, classes, boxes, consecutive=class_names is None))
        super().__init__(name, len(paths), classes, class_names)
        self._paths = encoded_strings(paths)
        self._labels = labels
        self._boxes = None if boxes is None else [np.asarray(box, np.float32).reshape(-1, 4) for box in boxes]
        self._root = root

    def labels(self):
        return self._labels.copy()

    def name_of(self, position):
        path = os.fsdecode(self._paths[position])
        return path if self._root is None else os.path.relpath(path, self._root)

    def path_of(self, position):
        """The path of the file at a position."""
        return os.fsdecode(self._paths[position])

    def describe(self, positions):
        fields = {"path": self._paths[positions], "label": self._labels[positions].astype(np.int32)}
        if self._boxes is not None:
            fields["boxes"] = packed_boxes(self._boxes, positions)
        return fields

    def read(self, fields):
        return {
            "name": fields["path"],
            "encoded": tf.io.read_file(fields["path"]),
            "label": fields["label"],
            "boxes": unpacked_boxes(fields.get("boxes")),
        }


class ArraySource(Source):
    """Images in memory.

    Args:
        x: uint8 [n, height, width, 3], or a list of n encoded images (bytes).
        y: n labels, 0-based.
        classes: number of classes; None: the largest label + 1.
        class_names: names of the classes, or None.
        boxes: as for FileSource.
        name: what messages call the source.

    Raises:
        ValueError: x is neither, or x and y do not fit each other or the classes.
    """

    def __init__(self, x, y, classes=None, class_names=None, boxes=None, name="arrays"):
        self._is_encoded = not isinstance(x, np.ndarray) or x.dtype.kind in "OS"
        labels = np.asarray(y)
        problems = check_images(x, self._is_encoded)
        if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
            problems.append(
                "`y` must be whole numbers, one an image. Received: dtype {}, shape {}.".format(
                    labels.dtype, labels.shape
                )
            )
            raise_all(problems)
        labels = labels.reshape(-1).astype(np.int64)
        if classes is None:
            classes = len(class_names) if class_names is not None else int(labels.max(initial=-1)) + 1
        raise_all(problems + check_labels(len(x), labels, classes, boxes, consecutive=False))
        super().__init__(name, len(x), classes, class_names)
        self._x = encoded_strings(x) if self._is_encoded else x
        self._labels = labels
        self._boxes = None if boxes is None else [np.asarray(box, np.float32).reshape(-1, 4) for box in boxes]

    def labels(self):
        return self._labels.copy()

    def describe(self, positions):
        fields = {"x": self._x[positions], "label": self._labels[positions].astype(np.int32)}
        if self._boxes is not None:
            fields["boxes"] = packed_boxes(self._boxes, positions)
        return fields

    def read(self, fields):
        return {
            "name": tf.strings.join([self.name, ":", tf.strings.as_string(fields["index"])]),
            "encoded" if self._is_encoded else "image": fields["x"],
            "label": fields["label"],
            "boxes": unpacked_boxes(fields.get("boxes")),
        }


def encoded_strings(values):
    """An object array of bytes, as `describe` returns strings; text is encoded as file names are."""
    array = np.empty(len(values), object)
    array[:] = [os.fsencode(value) if isinstance(value, str) else bytes(value) for value in values]
    return array


def packed_boxes(boxes, positions):
    """Boxes of these positions, one string of float32 bytes an image: their number differs from image to image."""
    return encoded_strings([boxes[position].tobytes() for position in positions])


def unpacked_boxes(packed):
    """TensorFlow: float32 [n, 4] from a string of `packed_boxes`; [0, 4] for None."""
    if packed is None:
        return tf.zeros([0, 4])
    return tf.reshape(tf.io.decode_raw(packed, tf.float32), [-1, 4])


def check_images(x, is_encoded):
    """Problems of the images of an ArraySource, as a list of texts."""
    if is_encoded:
        wrong = [type(value).__name__ for value in x if not isinstance(value, bytes)][:1]
        return ["Encoded images must be bytes. Received: a list with {}.".format(wrong[0])] if wrong else []
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
        return [
            "`x` must be uint8 [n, height, width, 3] or a list of encoded images. Received: dtype {}, shape {}. "
            "Scaling belongs into the model.".format(x.dtype, x.shape)
        ]
    return []


def check_labels(samples, labels, classes, boxes, consecutive=True):
    """Problems of labels and boxes, as a list of texts."""
    problems = []
    if len(labels) != samples:
        problems.append(
            "There must be one label an image. Received: {} images, {} labels.".format(samples, len(labels))
        )
    if boxes is not None and len(boxes) != samples:
        problems.append(
            "`boxes` must have one entry an image. Received: {} images, {} entries.".format(samples, len(boxes))
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        problems.append("Labels must be in 0..{}. Received: {}.".format(classes - 1, sorted(set(wrong.tolist()))[:10]))
    elif consecutive and samples:
        empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0).tolist()
        if empty:
            problems.append(
                "Every class must have images, or the classes are not those of the model. Received: none for {} of {} "
                "classes: {}. Number the classes from 0 without gaps.".format(len(empty), classes, empty[:10])
            )
    return problems


def raise_all(problems):
    """Raises one ValueError that lists all problems; returns where there is none."""
    if problems:
        raise ValueError("\n".join(problems))
