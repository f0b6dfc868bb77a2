"""Sizes and batches of a data source."""

from ascend_keras.compat.stack import KERAS3, TF1, keras, tf
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


def ignore_errors(dataset):
    """The dataset without the elements whose making fails."""
    if hasattr(dataset, "ignore_errors"):
        return dataset.ignore_errors()
    return dataset.apply(tf.data.experimental.ignore_errors())


def set_data_options(dataset, threads=None, deterministic=True):
    """The dataset with `threads` of its own (None: the pool of the process), in strict order or as elements come.

    It is cut among ranks already, which tf.distribute shall not do again.
    """
    options = tf.data.Options()
    threading = getattr(options, "threading", None) or options.experimental_threading
    if threads is not None:
        threading.private_threadpool_size = threads
    if hasattr(options, "deterministic"):
        options.deterministic = deterministic
    else:
        options.experimental_deterministic = deterministic
    if TF1:
        # Its model of the pipeline's speed is freed before the threads that report to it have ended: a crash when an
        # iterator is set back or a session is closed. It serves AUTOTUNE alone.
        options.experimental_optimization.autotune = False
    if hasattr(tf.data.experimental, "AutoShardPolicy"):
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    else:
        options.experimental_distribute.auto_shard = False
    return dataset.with_options(options)


def in_strict_order(dataset):
    """The dataset with its options, but for one that lets elements come as they are ready.

    Raises:
        ValueError: on TF 1.15 there is such an option, which cannot be taken back.
    """
    options = dataset.options()
    name = "deterministic" if hasattr(options, "deterministic") else "experimental_deterministic"
    if getattr(options, name) is not False:
        return dataset
    if TF1:
        raise ValueError(
            "A dataset whose elements come in any order cannot be cut among ranks, each of which counts them. "
            "Received: the option experimental_deterministic=False. Leave it out, or use shard=False where each rank "
            "has its own part already."
        )
    strict = tf.data.Options()
    setattr(strict, name, True)
    return dataset.with_options(strict)


def run_apart(function):
    """Runs the ops that `function` makes, outside any graph that is being built or run; returns nothing."""
    if not TF1:
        with tf.init_scope(), tf.device("CPU:0"):
            function()
        return
    # The threads of the process may all be waiting for this very answer.
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, inter_op_parallelism_threads=1)
    config.use_per_session_threads = True
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        session.run(tf.nest.flatten(function()))


def element_spec(dataset):
    """The types and shapes of what a dataset yields, as a structure of specs."""
    return tf.data.experimental.get_structure(dataset)


def scan(dataset, state, function):
    """The dataset of what `function(state, *element)` returns second; what it returns first is the next state."""
    if hasattr(dataset, "scan"):
        return dataset.scan(state, function)
    return dataset.apply(tf.data.experimental.scan(state, function))


class SequencePart(keras.utils.Sequence):
    """Some items of a Sequence as one of its own; the ends of epochs are passed on.

    Args:
        sequence: the whole.
        indices: a range: the items of the part.
    """

    def __init__(self, sequence, indices):
        # Keras 3 keeps here how many threads or processes read.
        names = ("workers", "use_multiprocessing", "max_queue_size") if KERAS3 else ()
        super().__init__(**{name: getattr(sequence, name) for name in names})
        self._sequence, self._indices = sequence, indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._sequence[self._indices[index]]

    def on_epoch_begin(self):
        """Keras 3 calls it, older Keras does not."""
        if hasattr(self._sequence, "on_epoch_begin"):
            self._sequence.on_epoch_begin()

    def on_epoch_end(self):
        """Where the whole shuffles, it does so now."""
        self._sequence.on_epoch_end()
