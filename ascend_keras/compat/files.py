"""Graphs and record files for tools that run outside of any training."""

import contextlib
import os
import threading

from ascend_keras.compat.stack import tf


def host_function(function, threads=1):
    """Makes a Python function of one byte string out of TensorFlow operations, to be called from any thread.

    It has a graph and a session of its own, on the CPU, so that nothing is left in the graph of a model, no device is
    taken, and Python's lock is free while the operations run.

    Args:
        function: gets a scalar string tensor and returns a tensor, or a list of tensors.
        threads: number of threads that will call it at the same time.

    Returns:
        A function from `bytes` to a NumPy value, or to a list of them. It raises what the operations raise.
    """
    graph = tf.Graph()
    with graph.as_default(), _silent():
        encoded = tf.compat.v1.placeholder(tf.string, [])
        fetches = function(encoded)
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0},
        inter_op_parallelism_threads=threads,
        intra_op_parallelism_threads=1,
        use_per_session_threads=True,
    )
    session = tf.compat.v1.Session(graph=graph, config=config)
    return session.make_callable(fetches, feed_list=[encoded])


def read_records(path):
    """Iterates over the records of a TFRecord file as bytes; a wrong checksum raises `tf.errors.DataLossError`."""
    with _silent():
        # TensorFlow would encode a path as UTF-8, whatever its bytes on the disk are.
        return tf.compat.v1.io.tf_record_iterator(os.fsencode(path))


class _Silence:
    """Keeps TensorFlow from recommending other functions, which another of our stacks lacks.

    The verbosity is one for all threads: the first that enters lowers it, the last that leaves puts it back.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside, self._former = 0, None

    @contextlib.contextmanager
    def __call__(self):
        logging = tf.compat.v1.logging
        with self._lock:
            if not self._inside:
                self._former = logging.get_verbosity()
                logging.set_verbosity(logging.ERROR)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    logging.set_verbosity(self._former)


_silent = _Silence()
