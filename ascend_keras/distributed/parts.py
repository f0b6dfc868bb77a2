"""What one rank takes of the data of a Keras verb: of arrays, of a dataset of batches, of a Sequence.

Rank r of R takes the rows r, r + R, r + 2R, ... of arrays, and likewise the batches of a dataset or a Sequence. So R
ranks with batches of b see in each step what one rank sees with batches of R * b, if nobody shuffles.
"""

import math
import numbers

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras, tf

ENDLESS, UNKNOWN = -1, -2
KINDS = ("nothing", "arrays", "a tf.data.Dataset", "a Sequence", "an iterator")
ARRAYS, BATCHES, ITEMS, STREAM = 1, 2, 3, 4


def source_of(components):
    """The data of a verb as something that can be cut; None where there is none.

    Args:
        components: a tuple: a dataset, a Sequence or inputs; then targets and sample weights, if any.

    Raises:
        ValueError: arrays have different numbers of rows.
    """
    data = components[0]
    if data is None:
        return None
    if isinstance(data, tf.data.Dataset):
        return Batches(components)
    if isinstance(data, keras.utils.Sequence):
        return Items(components)
    rows = _rows_of(components)
    return Stream(components) if rows is None else Arrays(components, rows)


class Arrays:
    """Arrays, tensors, tables or nested structures of them, all with the same number of rows.

    Attributes, as in the other classes:
        components: the tuple that Keras gets.
        length: how many rows (batches, items) there are; ENDLESS, or UNKNOWN.
        kind: an index of KINDS.
    """

    kind = ARRAYS

    def __init__(self, components, rows):
        self.components, self.length = tuple(components), rows

    def part(self, rank, size, training):
        """What `rank` of `size` ranks takes: equally much on all in training, everything in evaluation."""
        stop = self.length // size * size if training else self.length
        return self._rows(rank, stop, size)

    def first(self, count):
        """The first `count` of it."""
        return self._rows(0, count, 1)

    def split(self, share):
        """Two parts, cut as Keras cuts `validation_split`: the last `share` of the rows is the second."""
        cut = math.floor(self.length * (1.0 - share))
        return self._rows(0, cut, 1), self._rows(cut, self.length, 1)

    def _rows(self, start, stop, step):
        taken = [_map(lambda leaf: _slice(leaf, start, stop, step), data) for data in self.components]
        return Arrays(taken, len(range(start, stop, step)))


class Batches:
    """A dataset of batches, of which all but the last of a pass have the same size."""

    kind = BATCHES

    def __init__(self, components, length=None):
        self.components = tuple(components)
        self._dataset = components[0]
        # On TF 1.15 each look costs a run of the session.
        self.length = _length_of_dataset(self._dataset) if length is None else length

    def part(self, rank, size, training):
        """As `Arrays.part`; in training whole groups of `size` batches, without batches that are smaller.

        Nothing is read beforehand. The length stays known, but where only reading shows whether the last batch is
        smaller and so breaks the last group: its size is not static, and the number of batches a multiple of `size`.
        Without a known length each rank holds `size` batches at a time. Options that let batches come in any order are
        overruled, as each rank would count other ones.
        """
        whole = compat.in_strict_order(self._dataset)
        if not training:
            length = len(range(rank, self.length, size)) if self.length >= 0 else self.length
            return self._with(whole.shard(size, rank), length)
        fixed = _has_fixed_size(self._dataset)
        if self.length >= 0 and (fixed or self.length % size):
            groups = self.length // size
            return self._with(whole.take(groups * size).shard(size, rank), groups)
        dataset = whole if fixed else _of_one_size(whole)
        if self.length == ENDLESS:
            # The filter hides that it has no end.
            return self._with(dataset.shard(size, rank).repeat(), ENDLESS)
        return self._with(_of_groups(dataset, rank, size), UNKNOWN)

    def first(self, count):
        """The first `count` batches."""
        return self._with(self._dataset.take(count), count)

    def repeated(self):
        """The same over and over."""
        return self._with(self._dataset.repeat(), ENDLESS)

    def is_empty(self):
        """Whether there is no batch at all; reads the first one."""
        return next(iter(compat.open_dataset(self._dataset.take(1))()), None) is None

    def _with(self, dataset, length):
        return Batches((dataset,) + self.components[1:], length)


class Items:
    """A keras.utils.Sequence."""

    kind = ITEMS

    def __init__(self, components):
        self.components = tuple(components)
        self._sequence = components[0]
        self.length = len(self._sequence)

    def part(self, rank, size, training):
        """As `Batches.part`; the first and the last item are read to compare their sizes where it matters."""
        whole = self.length
        if training:
            whole -= self._last_is_smaller() if whole and not whole % size else 0
            whole -= whole % size
        return self._with(compat.SequencePart(self._sequence, range(rank, whole, size)))

    def first(self, count):
        """The first `count` items."""
        return self._with(compat.SequencePart(self._sequence, range(count)))

    def _last_is_smaller(self):
        first, last = (_rows_of([_inputs(self._sequence[index])]) for index in (0, self.length - 1))
        return first != last

    def _with(self, sequence):
        return Items((sequence,) + self.components[1:])


class Stream:
    """Something that only Keras understands, such as a generator: it cannot be cut."""

    kind, length = STREAM, UNKNOWN

    def __init__(self, components):
        self.components = tuple(components)

    def is_empty(self):
        """False: looking would lose the first batch."""
        return False


# --- arrays ---------------------------------------------------------------------------------------------------------


def _map(function, data):
    """Applies `function` to the arrays of a structure; lists of numbers count as arrays, as Keras has it."""
    if data is None:
        return None
    if isinstance(data, dict):
        return {key: _map(function, value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        leaves = tf.nest.flatten(data)
        if leaves and all(isinstance(leaf, (numbers.Number, str, bytes)) for leaf in leaves):
            return function(np.asarray(data))
        parts = [_map(function, value) for value in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return function(data)


def _rows_of(components):
    """The number of rows that all arrays of a structure have; None if anything in it has no rows."""
    found = []
    for data in components:
        _map(lambda leaf: found.append(_length_of(leaf)), data)
    if None in found or not found:
        return None
    if len(set(found)) > 1:
        raise ValueError(
            "All inputs, targets and sample weights must have the same number of rows. Received: {} rows. Give one row "
            "of each for every example.".format(", ".join(map(str, found)))
        )
    return found[0]


def _length_of(leaf):
    shape = getattr(leaf, "shape", None)
    shape = None if shape is None else tf.TensorShape(shape)
    return shape.as_list()[0] if shape is not None and shape.rank else None


def _slice(leaf, start, stop, step):
    chosen = slice(start, max(start, stop), step)
    if isinstance(leaf, tf.SparseTensor):
        return _slice_sparse(leaf, range(*chosen.indices(_length_of(leaf))))
    if hasattr(leaf, "iloc"):
        return leaf.iloc[chosen]
    taken = (leaf.tocsr() if hasattr(leaf, "tocsr") else leaf)[chosen]
    rows, expected = _length_of(taken), len(range(*chosen.indices(_length_of(leaf))))
    if rows not in (None, expected):
        raise ValueError(
            "Data of this type cannot be cut among ranks: slices of it are not what was asked for. Received: {} rows "
            "in place of {} from {}[{}:{}:{}]. Give a NumPy array, such as data[:], or a tf.data.Dataset.".format(
                rows, expected, type(leaf).__name__, chosen.start, chosen.stop, step
            )
        )
    return taken


def _slice_sparse(tensor, rows):
    row = tensor.indices[:, 0] - rows.start
    kept = tf.sparse.retain(tensor, (row >= 0) & (row < len(rows) * rows.step) & tf.equal(row % rows.step, 0))
    row = (kept.indices[:, :1] - rows.start) // rows.step
    shape = tf.concat([tf.constant([len(rows)], tf.int64), tensor.dense_shape[1:]], 0)
    return tf.SparseTensor(tf.concat([row, kept.indices[:, 1:]], 1), kept.values, shape)


# --- batches --------------------------------------------------------------------------------------------------------

_as_is = tf.autograph.experimental.do_not_convert


def _length_of_dataset(dataset):
    count = compat.count_steps(dataset)
    return count if count is not None else ENDLESS if compat.is_endless(dataset) else UNKNOWN


def _inputs(batch):
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _has_fixed_size(dataset):
    spec = tf.nest.flatten(compat.element_spec(dataset))[0]
    shape = getattr(spec, "shape", None)
    return shape is not None and bool(shape.rank) and shape.as_list()[0] is not None


def _of_one_size(dataset):
    """Leaves out the batches that have not the size of the first."""

    def compare(first, batch):
        size = _size_of(tf.nest.flatten(batch)[0])
        first = tf.maximum(first, size * tf.cast(first < 0, tf.int64))
        return first, (tf.equal(size, first), batch)

    marked = compat.scan(dataset, tf.constant(-1, tf.int64), _as_is(compare))
    return marked.filter(_as_is(lambda fits, _: fits)).map(_as_is(lambda _, batch: batch))


def _size_of(leaf):
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int64)
    return leaf.dense_shape[0] if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf, out_type=tf.int64)[0]


def _of_groups(dataset, rank, size):
    """Batch number `rank` of each whole group of `size`, without knowing how many there are."""

    is_tuple = isinstance(compat.element_spec(dataset), tuple)

    def pick(*windows):
        return tf.data.Dataset.zip(windows if is_tuple else windows[0]).skip(rank).take(1)

    return dataset.window(size, drop_remainder=True).flat_map(_as_is(pick))
