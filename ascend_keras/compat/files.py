"""Graphs and record files for tools that run outside of any training."""

import contextlib

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
        return tf.compat.v1.io.tf_record_iterator(path)


@contextlib.contextmanager
def _silent():
    """Keeps TensorFlow from recommending other functions, which another of our stacks lacks."""
    former = tf.compat.v1.logging.get_verbosity()
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    try:
        yield
    finally:
        tf.compat.v1.logging.set_verbosity(former)
