"""Writes one shard of a plan: images read, examined, written aside, flushed to the disk, and renamed."""

import contextlib
import json
import os

from ascend_keras.data import image_check, plan, record_format


class ChangedSourceError(ValueError):
    """A file is no longer what it was when the plan was made."""


class ShardWriter:
    """Writes shards; may be used from several threads.

    Args:
        root: folder of the images.
        output: folder of the shards.
        work: folder for what is not finished, on the same disk as `output`.
        plan_: the plan, see `ascend_keras.data.plan`.
        boxes: dict from the path of an image below `root` to a list of (ymin, xmin, ymax, xmax).
        checker: an `image_check.ImageChecker`.
        on_bad_image: "skip" or "error".
        on_image: is called after each image; what it raises ends the shard.
    """

    def __init__(self, root, output, work, plan_, boxes, checker, on_bad_image, on_image):
        self._root, self._output, self._work = root, output, work
        self._plan, self._boxes, self._checker = plan_, boxes, checker
        self._on_bad_image, self._on_image = on_bad_image, on_image

    def path(self, number):
        """Where a finished shard is."""
        return os.path.join(self._output, plan.shard_name(self._plan, number))

    def finished(self, number):
        """What was noted about a shard when it was finished, or None if it is not."""
        # The note is on the disk before the shard gets its name.
        if not os.path.exists(self.path(number)) or not os.path.exists(self._note(number)):
            return None
        with open(self._note(number), encoding="utf-8") as file:
            return json.load(file)

    def _note(self, number):
        return os.path.join(self._work, plan.shard_name(self._plan, number) + ".json")

    def write(self, number):
        """Writes a shard and notes how many images it has, which were skipped, and its SHA-256.

        Raises:
            ChangedSourceError: a file has changed since the plan was made.
            OSError: a file cannot be read, or the disk is full.
            ValueError: a broken image, with on_bad_image="error".
        """
        from ascend_keras.compat import tf

        aside = os.path.join(self._work, plan.shard_name(self._plan, number) + ".part")
        written, skipped = 0, []
        try:
            with tf.io.TFRecordWriter(os.fsencode(aside)) as writer:
                for file in plan.shard_of(self._plan, number):
                    try:
                        writer.write(self._example(file))
                        written += 1
                    except image_check.BadImageError as error:
                        skipped.append([file.path, str(error)])
                        self._complain(file, error)
                    self._on_image()
        except tf.errors.OpError as error:
            raise OSError("The shard cannot be written: {}. Received: {!r}.".format(error.message, aside)) from error
        sync(aside)
        note = {"images": written, "skipped": skipped, "sha256": plan.hash_file(aside)}
        write_aside(self._note(number), json.dumps(note))
        os.replace(aside, self.path(number))
        sync(self._output)
        return note

    def _example(self, file):
        path = os.path.join(self._root, file.path)
        if (file.size, file.mtime_ns) == plan.DANGLING and os.path.islink(path) and not os.path.exists(path):
            raise image_check.BadImageError("the link leads nowhere")
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            content = stream.read()
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            raise ChangedSourceError("The file has changed since the plan was made. Received: {!r}.".format(path))
        image = self._checker.as_rgb_jpeg(content)
        texts = self._plan["texts"]
        features = record_format.imagenet_features(
            image,
            file.label + 1,
            os.path.basename(file.path),
            synset=self._plan["classes"][file.label],
            text=texts[file.label] if texts else "",
            boxes=self._boxes.get(file.path, ()),
        )
        return record_format.serialize(features)

    def _complain(self, file, error):
        if self._on_bad_image == "error":
            raise ValueError(
                "An image cannot be used. Received: {}: {}. Leave such images out with --on-bad-image=skip, or mend it "
                "and begin anew with --restart.".format(os.path.join(self._root, file.path), error)
            )


def write_aside(path, text):
    """Writes a small text file that is whole, and on the disk, once it has its name.

    File names in it keep their bytes, of whatever encoding.
    """
    aside = path + ".tmp"
    with open(aside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(os.path.dirname(path))


def sync(path):
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems refuse this for folders.
        with contextlib.suppress(OSError) if os.path.isdir(path) else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
