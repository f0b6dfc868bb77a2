"""From a source to batches: decoding, cropping, augmentation, shards of the ranks, and a place to resume at.

`order` says which image stands where, in NumPy; one call of Python a batch brings the positions into the graph. Batches
are made by groups of some 16 images in a parallel interleave, each group a small dataset of its own: its images are
read and decoded, those that fail fall out, and only where some fell out Python is called again, to name them and to say
what takes their places. (Datasets of one image each would be simpler, but setting up their functions costs as much as
decoding.)
"""

import copy

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import tf
from ascend_keras.data import augment
from ascend_keras.data.bad_images import BadImages, reason_of
from ascend_keras.data.order import Order, steps_of
from ascend_keras.data.pipeline_settings import Settings, not_whole
from ascend_keras.data.source import raise_all
from ascend_keras.log import logger

_ATTEMPTS = 32
_PLANNED = 2
_GROUP = 16


def images(
    source,
    batch_size,
    image_size=224,
    training=True,
    *,
    seed=0,
    resize="short_side",
    resize_to=None,
    flip=True,
    crop=True,
    color_jitter=0.0,
    pca_noise=0.0,
    shuffle_buffer=10000,
    threads=None,
    on_bad_image="skip",
    start_step=0,
    deterministic=None,
):
    """Batches of images for Keras; see `ImageDataset` for what comes out.

    Args:
        source: a `Source`, such as `data.imagenet(path)`.
        batch_size: images a batch of each rank.
        image_size: side of the square images that come out, in pixels.
        training: shuffled, augmented, without end; or in order, once, everything counted.
        seed: whole number in [0, 2**63); order and augmentation follow from it.
        resize: evaluation, and training without `crop`: "short_side" keeps the aspect, "squash" does not (ModelZoo).
        resize_to: to which length, in pixels, before the centre is cut out; None: image_size * 256 / 224.
        flip: training: whether to mirror half of the images.
        crop: training: whether to cut a random part (area 0.08 to 1, aspect 3/4 to 4/3, box-aware); else the centre.
        color_jitter: training: strength of random brightness, contrast and saturation; 0.4 is usual.
        pca_noise: training: standard deviation of PCA colour noise; 0.1 is AlexNet's.
        shuffle_buffer: images among which records of TFRecord files are shuffled, on each rank. Files and arrays are
            always shuffled as a whole. No memory is used for it, but the page cache of the system should hold it.
        threads: private threads and images at a time; None: the threads of the process, an image for each of its CPUs.
        on_bad_image: "skip" or "error"; see `ImageDataset`.
        start_step: training: number of the first batch.
        deterministic: None or True for strict order; False lets groups of images overtake each other, which may be
            faster: what is in a batch, and so a resume, then depends on chance.

    Returns:
        An ImageDataset.

    Raises:
        ValueError: an argument is out of range, or there are fewer images than one batch; all are listed.
    """
    return ImageDataset(source, Settings(locals()))


class ImageDataset:
    """A function of a `tf.distribute.InputContext` that returns the batches of one rank; made by `images`.

    `dataset(input_context=None)` is a `tf.data.Dataset`, and NPUTrainer takes the ImageDataset itself.

    Training: (uint8 [batch_size, S, S, 3], int32 [batch_size]), without end. Each epoch has `steps(ranks)` batches on
    every rank and an order of its own; ranks have disjoint parts that cover everything, up to the images that do not
    fill a batch, which wait for another epoch. What comes depends on (seed, epoch, position) alone, not on threads, and
    batch k is the same whether the run came by the batches before it or started there.

    Evaluation: (uint8 [batch_size, S, S, 3], int32 [batch_size], float32 [batch_size] weights), `steps(ranks)` batches
    on every rank, in order. Places without an image have weight 0, so that every image counts once.

    An image that cannot be decoded is named in the log and in `bad_images`. With on_bad_image="skip" its place is taken
    in training by another image of the rank's epoch, with the same augmentation, so that all other batches stay what
    they were; in evaluation it gets weight 0. With "error" the run ends with its name and the reason.

    Attributes:
        samples: images of the source.
        classes: number of classes.
        class_names: a list of names, or None.
        batch_size: images a batch of each rank.
        bad_images: BadImages: what was skipped so far in this process.
    """

    def __init__(self, source, settings):
        self.source = source
        self.samples, self.classes, self.class_names = source.samples, source.classes, source.class_names
        self.batch_size = settings.batch_size
        self.bad_images = BadImages()
        self._settings = settings
        self._said = False
        self.steps()

    def steps(self, ranks=1):
        """Batches in one epoch (training) or one pass (evaluation) on each of `ranks` ranks.

        Raises:
            ValueError: training, and the smallest part of a rank does not fill a batch.
        """
        raise_all(not_whole("ranks", ranks, 1))
        steps = steps_of(self.samples, self.batch_size, ranks, self._settings.training)
        if steps < 1:
            raise ValueError(
                "A rank has fewer images than a batch. Received: batch_size={}, {} images in {} over {} ranks. Give "
                "batch_size={} or less.".format(
                    self.batch_size, self.samples, self.source.name, ranks, max(1, self.samples // ranks)
                )
            )
        return steps

    def starting_at(self, step):
        """The same ImageDataset with another `start_step`."""
        raise_all(not_whole("step", step, 0))
        if step and not self._settings.training:
            raise ValueError("Evaluation starts at batch 0. Received: step={}.".format(step))
        other = copy.copy(self)
        other._settings = copy.copy(self._settings)
        other._settings.start_step = step
        return other

    def __call__(self, input_context=None):
        rank = 0 if input_context is None else input_context.input_pipeline_id
        ranks = 1 if input_context is None else input_context.num_input_pipelines
        steps = self.steps(ranks)
        self._say_left_over(ranks, steps)
        settings = self._settings
        buffer = None if self.source.random_access else settings.shuffle_buffer
        order = Order(self.samples, self.batch_size, rank, ranks, settings.seed, settings.training, buffer)
        return _build(self.source, order, settings, self.bad_images)

    def _say_left_over(self, ranks, steps):
        left = self.samples - steps * self.batch_size * ranks
        if self._settings.training and left and not self._said:
            self._said = True
            logger.info(
                "%s: %d of %d images do not fill a batch on every rank and wait for another epoch, others each time",
                self.source.name,
                left,
                self.samples,
            )


def _build(source, order, settings, bad_images):
    """The dataset of one rank."""
    plan = _Plan(source, order, settings)
    first = settings.start_step
    steps = tf.data.Dataset.range(first, 2**62 if settings.training else order.steps)
    items = steps.map(plan.items).prefetch(_PLANNED)
    items = items.flat_map(tf.data.Dataset.from_tensor_slices)
    # It holds no control flow, and converting it takes a second.
    one = tf.autograph.experimental.do_not_convert(_Maker(source, plan, settings, bad_images).group)
    parallel = settings.parallel
    groups = items.interleave(one, cycle_length=2 * parallel, block_length=1, num_parallel_calls=parallel)
    made = groups.batch(order.batch_size // plan.group, drop_remainder=True).map(plan.joined)
    made = made.repeat()  # Keras sees that it has no end
    made = made if settings.training else made.take(order.steps)
    made = made.prefetch(2)
    return compat.set_data_options(made, settings.threads, settings.deterministic)


class _Plan:
    """Brings what NumPy knows of a batch, or of one substitute, into the graph."""

    def __init__(self, source, order, settings):
        self.source, self.order = source, order
        self._first = settings.start_step
        self.group = max(k for k in range(1, _GROUP + 1) if order.batch_size % k == 0)
        sample = source.describe(np.zeros(1, np.int64))
        self._keys = sorted(sample)
        self._types = [
            tf.string if sample[key].dtype == object else tf.as_dtype(sample[key].dtype) for key in self._keys
        ]
        self._shapes = [sample[key].shape[1:] for key in self._keys]

    def items(self, step):
        """One batch: a row for the source, "number", "index", "seeds"; first axes [batch_size / group, group]."""
        found = tf.numpy_function(self._of_batch, [step], [tf.int64, tf.int64, tf.int64, *self._types])
        size = [self.order.batch_size]
        row = self._with_shapes(found[3:], size)
        number, index = (tf.ensure_shape(x, size) for x in found[:2])
        items = {"row": row, "number": number, "index": index, "seeds": tf.ensure_shape(found[2], [size[0], 2])}
        return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, self.group] + x.shape.as_list()[1:]), items)

    def joined(self, *parts):
        """A batch from its groups."""
        return tuple(tf.reshape(part, [self.order.batch_size] + part.shape.as_list()[2:]) for part in parts)

    def substitute(self, item, position):
        """The item of a place, with the image at `position` in it."""
        found = tf.numpy_function(self._describe, [tf.reshape(position, [1])], self._types)
        row = {key: value[0] for key, value in self._with_shapes(found, [1]).items()}
        return dict(item, row=row, index=position)

    def _with_shapes(self, values, first):
        shapes = [list(first) + list(shape) for shape in self._shapes]
        return {key: tf.ensure_shape(value, shape) for key, value, shape in zip(self._keys, values, shapes)}

    def _of_batch(self, step):
        step = int(step)
        positions = self.order.batch(step)
        self.source.will_read(self.order.read_ahead(step, step == self._first))
        number = step * self.order.batch_size + np.arange(self.order.batch_size, dtype=np.int64)
        described = self._describe(np.maximum(positions, 0))
        return [number, positions, self.order.seeds(step, positions)] + described

    def _describe(self, positions):
        described = self.source.describe(positions)
        return [described[key] for key in self._keys]


class _Maker:
    """Makes groups of images, and, rarely, what takes the place of bad ones. Groups are made in parallel."""

    def __init__(self, source, plan, settings, bad_images):
        self._source, self._plan, self._settings, self._bad = source, plan, settings, bad_images
        self._size = plan.group

    def group(self, items):
        """A dataset of exactly one group. Its images are those of `items`, a structure with first axis [group]."""
        there = _rows(items, tf.where(items["index"] >= 0)[:, 0])
        made = compat.ignore_errors(tf.data.Dataset.from_tensor_slices(there).map(self._make))
        return self._collected(made).flat_map(lambda *made: self._completed(items, made))

    def _collected(self, made):
        """All elements as one, with first axis [n + 1]: the one in front makes sure that there is one."""
        return tf.data.Dataset.from_tensors(self._blank(-1)).concatenate(made).batch(self._size + 1)

    def _completed(self, items, made):
        """A dataset of the whole group, of which `made` has what could be decoded."""
        places = tf.range(self._size, dtype=tf.int64)
        is_there = tf.reduce_any(tf.equal(places[:, None], made[0][None, :]), axis=1)
        missing = _rows(items, tf.where(tf.logical_not(is_there))[:, 0])
        stand_in = self._stand_in if self._settings.training else self._nothing
        others = self._collected(tf.data.Dataset.from_tensor_slices(missing).flat_map(stand_in))
        return others.map(lambda *others: self._joined(made, others))

    def _joined(self, made, others):
        """The group in order."""
        in_order = tf.reduce_all(
            tf.equal(made[0][: self._size + 1], tf.range(-1, tf.size(made[0], out_type=tf.int64) - 1))
        )
        whole = tf.logical_and(in_order, tf.equal(tf.size(made[0]), self._size + 1))

        def sort():
            order = tf.argsort(tf.concat([made[0], others[0]], axis=0), stable=True)[2:]
            return [tf.gather(tf.concat(pair, axis=0), order) for pair in zip(made[1:], others[1:])]

        batch = tf.cond(whole, lambda: [part[1:] for part in made[1:]], sort)
        shapes = [[self._size] + part.shape.as_list()[1:] for part in made[1:]]
        batch = [tf.ensure_shape(part, shape) for part, shape in zip(batch, shapes)]
        return tuple(batch[:2] if self._settings.training else batch)

    def _stand_in(self, item):
        """A dataset of the image that takes the place of a bad one in training."""
        others = tf.data.Dataset.range(1, _ATTEMPTS + 1).map(lambda attempt: self._another(item, attempt))
        return others.flat_map(self._try).take(1)

    def _try(self, item):
        return compat.ignore_errors(tf.data.Dataset.from_tensors(item).map(self._make))

    def _make(self, item):
        element = self._source.read(dict(item["row"], index=item["index"]))
        image = self._transform(element, item["seeds"])
        return item["number"] % self._size, image, tf.cast(element["label"], tf.int32), tf.ones([])

    def _blank(self, place):
        size = self._settings.image_size
        return tf.cast(place, tf.int64), tf.zeros([size, size, 3], tf.uint8), tf.zeros([], tf.int32), tf.zeros([])

    def _transform(self, element, seeds):
        settings, size = self._settings, self._settings.image_size
        image = element["image"] if "image" in element else element["encoded"]
        if self._source.prepared:
            return self._colour(_resized(image, size), seeds)
        if not settings.training or not settings.crop:
            image = augment.centre_crop(image, size, settings.resize_to, settings.resize)
        else:
            image = augment.random_resized_crop(image, element["boxes"], seeds, size)
        if settings.training and settings.flip:
            # Each operation draws from its own numbers: with those of the crop, large cuts would be the mirrored ones.
            image = augment.flip(image, seeds + [0, 1])
        return tf.ensure_shape(self._colour(image, seeds), [size, size, 3])

    def _colour(self, image, seeds):
        settings = self._settings
        if not settings.training:
            return image
        if settings.color_jitter:
            image = augment.color_jitter(image, settings.color_jitter, seeds + [0, 2])
        if settings.pca_noise:
            image = augment.pca_noise(image, settings.pca_noise, seeds + [0, 3])
        return image

    def _another(self, item, attempt):
        """The item with the stand-in of an attempt; notes that the image of the attempt before is bad."""
        position = tf.numpy_function(self._next, [item["number"], attempt, item["seeds"]], tf.int64)
        return self._plan.substitute(item, tf.ensure_shape(position, []))

    def _next(self, number, attempt, seeds):
        order = self._plan.order
        places = [order.substitute(int(number), k) for k in (int(attempt) - 1, int(attempt))]
        self._note(places[0], seeds)
        if attempt == _ATTEMPTS:
            raise ValueError(
                "{} images that should stand in for one another cannot be decoded. Received: {} bad images in {} so "
                "far, such as {}.".format(_ATTEMPTS, self._bad.count, self._source.name, self._bad.names[:3])
            )
        return np.int64(places[1])

    def _nothing(self, item):
        """A dataset of a place of weight 0; notes a bad image where there should have been one."""
        done = tf.numpy_function(self._absent, [item["index"], item["seeds"]], tf.int64)
        with tf.control_dependencies([done]):
            return tf.data.Dataset.from_tensors(self._blank(item["number"] % self._size))

    def _absent(self, position, seeds):
        if position >= 0:
            self._note(int(position), seeds)
        return np.int64(0)

    def _note(self, position, seeds):
        is_error = self._settings.on_bad_image == "error"
        if not self._bad.add(position) and not is_error:
            return
        name = self._source.name_of(position)
        # The label, too, as it may be the label that is wrong.
        make = lambda element: (self._transform(element, tf.constant(seeds)), element["label"])  # noqa: E731
        reason = reason_of(self._source, position, make)
        if is_error:
            raise ValueError("bad image: {}: {}".format(name, reason))
        self._bad.name(name, reason)


def _rows(items, rows):
    return tf.nest.map_structure(lambda values: tf.gather(values, rows), items)


def _resized(image, size):
    if image.shape.as_list() == [size, size, 3]:
        return image
    return augment.centre_crop(image, size, size, "squash")
