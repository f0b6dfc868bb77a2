"""What N processes of ordinary hosts do together: the mean of gradients, the broadcast, the exchange of numbers.

Everything is one operation of TensorFlow's collective runtime, a sum over the ranks around a ring (Patarasuk and Yuan,
Bandwidth Optimal All-reduce Algorithms, 2009): each part of a tensor is added up by one rank and passed on, so that all
ranks get the same bits. What must arrive as it was sent travels as whole numbers beside the zeros of all other ranks.
"""

import os
import zlib
from typing import Any, Dict

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import peers

# One collective costs about a millisecond, so small gradients travel together.
BUCKET_BYTES = 16 * 2**20
# Elements. The ring deals a tensor out in parts of 64 bytes or more, one a rank. A rank without a part of its own may
# wait only for others to fetch something, and would not notice that they are gone.
_LEAST_PART = 16

_opened: Dict[str, Any] = {}


def needs_opening():
    """Whether the next `open_collectives` starts something that has to come before the first variable."""
    return not _opened or (compat.TF1 and _opened["collectives"].session is None)


def open_collectives(cluster, session_config=None):
    """Joins the other ranks, and returns the `Collectives` of this process; the same ones for a second trainer.

    Args:
        cluster: a `Cluster` with addresses.
        session_config: TF 1.15: a ConfigProto to start from.

    Raises:
        RuntimeError: a port is taken, a rank does not come, or the process belongs to other ranks already.
        ValueError: the time limit in ASCEND_KERAS_CONNECT_TIMEOUT is no number of seconds.
    """
    who = (cluster.addresses, cluster.rank)
    if _opened and _opened["who"] != who:
        raise RuntimeError(
            "This process has joined other ranks already, and stays with them until it ends. Received: rank {} of {}, "
            "was rank {} of {}. Use a process of its own.".format(
                cluster.rank, list(cluster.addresses), _opened["who"][1], list(_opened["who"][0])
            )
        )
    limit = peers.connect_timeout()
    if not _opened:
        peers.check_port(cluster)
        _opened.update(who=who, collectives=Collectives(cluster, session_config), met=False)
    if not _opened["met"]:
        peers.wait_for_ranks(cluster, limit)
        _opened["collectives"].watch(cluster)
        _opened["met"] = True
    _opened["collectives"].take_up(session_config)
    return _opened["collectives"]


def threads_per_rank(addresses, rank):
    """How many threads a rank may run: its share of the cores that this process may use, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    host = peers.split(addresses[rank])[0]
    # Ranks that the launcher has bound to cores of their own share them with nobody.
    neighbours = 1 if os.environ.get("ASCEND_KERAS_BOUND") else sum(peers.split(one)[0] == host for one in addresses)
    return max(1, cores // neighbours)


class Collectives:
    """The operations over ranks of this process.

    Every rank has to call the same ones in the same order, or all wait. A collective goes by what it does and not by
    when its graph was made, so that a rank may trace a function again when the others do not.
    """

    def __init__(self, cluster, session_config=None):
        self.size, self.rank = cluster.size, cluster.rank
        self._users = 0
        self._broadcasts = {}
        self.session = None
        threads = threads_per_rank(cluster.addresses, cluster.rank)
        try:
            self._runtime = compat.CollectiveRuntime(cluster.addresses, cluster.rank, threads, session_config)
        except tf.errors.OpError as error:
            raise RuntimeError(
                "TensorFlow cannot start the server of rank {}. Received: address={!r}: {}".format(
                    cluster.rank, cluster.addresses[cluster.rank], error.message
                )
            ) from error

    @property
    def threads(self):
        """How many threads one operation may use."""
        return self._runtime.threads

    def watch(self, cluster):
        """TF 2: a rank that ends breaks the collectives that wait for it. TF 1.15 cannot break any."""
        if not compat.TF1:
            peers.Watch(cluster, self._runtime.abort).start()

    # --- the session of TF 1.15 -----------------------------------------------------------------------------------

    def take_up(self, session_config):
        """Counts a trainer in. TF 1.15: gives Keras a session that runs collectives, unless it has one."""
        self._users += 1
        if compat.TF1 and self.session is None:
            self.session = self._runtime.new_session(session_config)
            keras.backend.set_session(self.session)

    def let_go(self):
        """Counts a trainer out. TF 1.15: the last one closes the session, and Keras gets a graph of its own."""
        self._users -= 1
        if self.session is None or self._users:
            return
        session, self.session = self.session, None
        self._broadcasts.clear()
        session.close()
        keras.backend.clear_session()

    def check_session(self):
        """Raises RuntimeError if Keras has been given another session, in which no rank meets another."""
        if compat.TF1 and (self.session is None or compat.get_session() is not self.session):
            raise RuntimeError(
                "Keras no longer runs in the session of the ranks: keras.backend.clear_session() or set_session() "
                "replaced it. Create a new NPUTrainer and build the model again after it."
            )

    # --- gradients ------------------------------------------------------------------------------------------------

    def mean_of_gradients(self):
        """Makes a function that averages the gradients of an optimizer.

        It takes gradients and their variables, two lists, and returns the means over all ranks, a list. Sparse ones
        become dense, None stays, and 16-bit numbers are added in 32 bits.
        """

        def mean(gradients, variables):
            means, total = list(gradients), None
            for number, (dtype, chosen) in enumerate(_buckets(gradients, variables)):
                shapes = [tf.TensorShape(variables[i].shape) for i in chosen]
                flat = [tf.reshape(tf.cast(tf.convert_to_tensor(gradients[i]), dtype), [-1]) for i in chosen]
                # Not by a number of the optimizer: a rank that has compiled once more would count on alone.
                name = "gradients, part {} of {}".format(number, [shape.as_list() for shape in shapes])
                total = self._reduce(tf.concat(flat, 0), shapes, name, total, mean=True)
                for i, shape, part in zip(chosen, shapes, tf.split(total, [s.num_elements() for s in shapes])):
                    means[i] = tf.cast(tf.reshape(part, shape), gradients[i].dtype)
            return means

        return mean

    def _reduce(self, vector, shapes, name, after=None, mean=False):
        count = sum(shape.num_elements() for shape in shapes)
        missing = max(0, self.size * _LEAST_PART - count)
        if missing:
            vector = tf.concat([vector, tf.zeros([missing], vector.dtype)], 0)
        vector.set_shape([count + missing])
        key = zlib.crc32("{}, {} of {}".format(name, count, vector.dtype.name).encode()) % (2**31 - 1)
        return self._runtime.all_reduce(vector, key, mean, after)[:count]

    # --- variables ------------------------------------------------------------------------------------------------

    def broadcast(self, variables):
        """Gives every rank the values of rank 0, bit for bit.

        Args:
            variables: the same ones on every rank, in the same order, of any number format.
        """
        variables = list(variables)
        if not compat.TF1:
            self._assignments(variables)
            return
        compat.get_session()  # initialises those that are new
        self.check_session()
        key = tuple(variable.name for variable in variables)
        if key not in self._broadcasts:
            self._broadcasts[key] = compat.GraphOp(lambda: self._assignments(variables))
        self._broadcasts[key]()

    def _assignments(self, variables):
        assigns, total, sizes = [], None, [4 * max(_words_of(variable), 1) for variable in variables]
        for number, chosen in enumerate(_runs(list(zip(["words"] * len(sizes), sizes)))):
            values = [tf.convert_to_tensor(variables[i]) for i in chosen[1]]
            words = [_to_words(value) for value in values]
            shapes = [word.shape for word in words]
            vector = tf.concat([tf.reshape(word, [-1]) for word in words], 0)
            if self.rank:
                # Zeros, of which the graph optimizer of TF 1.15 cannot make a constant; it takes 2 s for a million.
                vector = tf.bitwise.bitwise_xor(vector, vector)
            total = self._reduce(vector, shapes, "broadcast, part {}".format(number), total)
            parts = tf.split(total, [shape.num_elements() for shape in shapes])
            for i, value, shape, part in zip(chosen[1], values, shapes, parts):
                assigned = variables[i].assign(_from_words(tf.reshape(part, shape), value.dtype))
                assigns.append(assigned.op if compat.TF1 else None)
        return assigns

    # --- numbers --------------------------------------------------------------------------------------------------

    def make_gather(self, count):
        """Makes a function that takes int32 of (count,) and returns those of all ranks, (size * count,), in order."""
        place = np.zeros([self.size * count], np.int32)
        own = slice(self.rank * count, (self.rank + 1) * count)
        name, shapes = "gather", [tf.TensorShape(place.shape)]
        if compat.TF1:
            self.check_session()
            session = self.session
            if session.graph.finalized:
                raise RuntimeError(
                    "The graph is finalised, and the exchange of this length is not in it. Received: length={0}. Call "
                    "prepare_sum({0}) of the backend, or sum_over_ranks once, before.".format(count // 2)
                )
            with session.graph.as_default():
                words = tf.placeholder(tf.int32, place.shape, name="gather_over_ranks")
                gathered = self._reduce(words, shapes, name)

        def gather(values):
            place[own] = values
            if not compat.TF1:
                return self._reduce(tf.constant(place), shapes, name).numpy()
            self.check_session()
            return session.run(gathered, {words: place})

        return gather


def _buckets(gradients, variables):
    """Groups of gradients that travel together: pairs of a dtype and positions."""
    for position, gradient in enumerate(gradients):
        if gradient is not None and not gradient.dtype.is_floating:
            raise ValueError(
                "Gradients must be real floating-point numbers to be averaged over ranks. Received: dtype={} for "
                "{!r}.".format(gradient.dtype.name, variables[position].name)
            )
    kinds = []
    for gradient, variable in zip(gradients, variables):
        dtype = None if gradient is None else tf.float64 if gradient.dtype == tf.float64 else tf.float32
        kinds.append((dtype, tf.TensorShape(variable.shape).num_elements() * (dtype.size if dtype else 0)))
    return _runs(kinds)


def _runs(kinds):
    """Groups positions of one kind to at most BUCKET_BYTES, or one alone: pairs of a kind and positions, in order.

    Args:
        kinds: a list of (kind, bytes); a kind of None is left out.
    """
    groups, filling = [], {}
    for position, (kind, size) in enumerate(kinds):
        if kind is None:
            continue
        group = filling.get(kind)
        if group is None or group[1] + size > BUCKET_BYTES:
            group = filling[kind] = [[], 0]
            groups.append((kind, group[0]))
        group[0].append(position)
        group[1] += size
    return groups


def _words_of(variable):
    """How many int32 carry a variable."""
    dtype = tf.as_dtype(variable.dtype).base_dtype
    if dtype == tf.string or dtype.size == 0:
        raise ValueError(
            "Variables must hold numbers to be given to all ranks. Received: {!r} of {}.".format(
                variable.name, dtype.name
            )
        )
    return tf.TensorShape(variable.shape).num_elements() * max(1, dtype.size // 4)


def _to_words(value):
    """The bits of a tensor as int32; a further axis where one element takes several."""
    dtype = value.dtype.base_dtype
    if dtype in (tf.float16, tf.bfloat16):
        value = tf.bitcast(value, tf.uint16)
    if dtype.size < 4:
        return tf.cast(value, tf.int32)
    return value if dtype == tf.int32 else tf.bitcast(value, tf.int32)


def _from_words(words, dtype):
    dtype = dtype.base_dtype
    if dtype in (tf.float16, tf.bfloat16):
        return tf.bitcast(tf.cast(words, tf.uint16), dtype)
    if dtype.size < 4:
        return tf.cast(words, dtype)
    return words if dtype == tf.int32 else tf.bitcast(words, dtype)
