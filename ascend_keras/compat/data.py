"""Sizes and batches of a data source."""

from ascend_keras.compat.stack import TF1, keras, tf
from ascend_keras.compat.variables import get_session


def count_steps(data, batch_size=None):
    """Steps in one pass over `data` (dataset, arrays or Sequence); None where that is unknown or without end."""
    if isinstance(data, tf.data.Dataset):
        count = tf.data.experimental.cardinality(data)
        count = int(keras.backend.get_value(count) if TF1 else count)
        return count if count >= 0 else None
    if isinstance(data, keras.utils.Sequence):
        return len(data)
    arrays = tf.nest.flatten(data) if data is not None else []
    if arrays and hasattr(arrays[0], "shape"):
        return -(-int(arrays[0].shape[0]) // (batch_size or 32))
    return None


def is_endless(dataset):
    """Whether a dataset is known to go on for ever."""
    count = tf.data.experimental.cardinality(dataset)
    return int(keras.backend.get_value(count) if TF1 else count) == -1


def open_dataset(dataset):
    """Returns a function that starts over at each call and yields the batches of a dataset.

    On TF 1.15 the iterator is added to the graph here, once, and the batches are NumPy arrays.
    """
    if not TF1:
        return lambda: iter(dataset)
    iterator = tf.compat.v1.data.make_initializable_iterator(dataset)
    next_batch = iterator.get_next()

    def batches():
        session = get_session()
        session.run(iterator.initializer)
        while True:
            try:
                batch = session.run(next_batch)
            except tf.errors.OutOfRangeError:
                return
            yield batch

    return batches
