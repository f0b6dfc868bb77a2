"""TensorFlow's own collective runtime, and the one operation of it that everything else is made of: a sum over ranks.

Each rank runs a gRPC server in its process, and the first one leads: it tells the others who belongs to the group. On
TF 2 the server hangs on the eager context, which `tf.distribute.MultiWorkerMirroredStrategy` sets up in the same way,
but together with a coordination service: that one makes a process that ends wait for all others, for minutes if one of
them has failed. Without it a rank that dies is noticed by the one that receives from it, when the connection breaks,
and `abort` tells the others; on TF 1.15 they wait for ever.
"""

import copy
import os

from ascend_keras.compat.stack import TF1, tf

JOB = "worker"
_GROUP_KEY = 1


class CollectiveRuntime:
    """The collectives of this process; it lasts until the process ends, since no TensorFlow can stop its server.

    Args:
        addresses: "host:port" of every rank, in rank order; equal on all of them.
        rank: which of them this process is.
        threads: threads for the operations of this rank, where neither the user nor `session_config` says how many.
        session_config: TF 1.15: a ConfigProto to start from.

    Attributes:
        threads: how many threads one operation may use here.

    Raises:
        tf.errors.OpError: the server cannot start.
    """

    def __init__(self, addresses, rank, threads, session_config=None):
        self._size = len(addresses)
        self._device = "/job:{}/replica:0/task:{}/device:CPU:0".format(JOB, rank)
        # TF 2: a resource that all collectives take, so that those of one function wait for one another.
        self._token = None
        self._context = None
        self._server = None
        start = self._start_server if TF1 else self._extend_context
        start(list(addresses), rank, threads, session_config)

    def _start_server(self, addresses, rank, threads, session_config):
        self._config = lambda base: _with_threads(_prepared(base or tf.ConfigProto(), rank), threads)
        config = self._config(session_config)
        self.threads = config.intra_op_parallelism_threads
        self._server = _server_class()({JOB: addresses}, job_name=JOB, task_index=rank, config=config)

    def _extend_context(self, addresses, rank, threads, session_config):
        from tensorflow.core.protobuf import tensorflow_server_pb2
        from tensorflow.python.eager import context

        self._context = ours = context.context()
        self.threads = _set_threads(threads, ours._initialized)
        definition = tensorflow_server_pb2.ServerDef(
            cluster=tf.train.ClusterSpec({JOB: addresses}).as_cluster_def(),
            default_session_config=_prepared(ours.config, rank),
            job_name=JOB,
            task_index=rank,
            protocol="grpc",
        )
        ours.enable_collective_ops(definition)
        ours.ensure_initialized()
        with tf.device(self._device):
            self._token = tf.Variable(0.0, trainable=False, name="order_of_collectives")

    def new_session(self, config=None):
        """TF 1.15: a session on this process's server; `config` is a ConfigProto to start from."""
        return tf.Session(self._server.target, config=self._config(config))

    def abort(self, message):
        """TF 2: ends all collectives, those that wait and those to come, with UnavailableError."""
        self._context.abort_collective_ops(tf.errors.UNAVAILABLE, message)

    def all_reduce(self, tensor, key, mean=False, after=None):
        """The sum of a tensor over all ranks, with the same bits on all of them.

        Args:
            tensor: of a shape that is known: float32, float64 or int32.
            key: whole number below 2**31 that is this collective's name on all ranks.
            mean: whether to divide by the number of ranks.
            after: TF 1.15: the result of the collective before it in the same run, None for the first.

        Returns:
            The result, as a tensor.
        """
        arguments = dict(group_size=self._size, group_key=_GROUP_KEY, instance_key=key, merge_op="Add")
        arguments.update(input=tensor, final_op="Div" if mean else "Id")
        with tf.device(self._device):
            if not TF1:
                return tf.raw_ops.CollectiveReduceV2(ordering_token=[self._token.handle], **arguments)
            with tf.control_dependencies([] if after is None else [after.op]):
                return tf.raw_ops.CollectiveReduce(subdiv_offsets=[0], **arguments)


def _prepared(config, rank):
    """A copy of a ConfigProto in which this rank sees its own devices only, and knows the leader."""
    config = copy.deepcopy(config)
    config.experimental.collective_group_leader = "/job:{}/replica:0/task:0".format(JOB)
    del config.device_filters[:]
    config.device_filters.append("/job:{}/task:{}".format(JOB, rank))
    return config


def _with_threads(config, threads):
    for name in ("intra_op_parallelism_threads", "inter_op_parallelism_threads"):
        setattr(config, name, getattr(config, name) or threads)
    # Merged collectives gain a small model nothing, and their order would be TensorFlow's.
    rewriters = config.graph_options.rewrite_options
    rewriters.scoped_allocator_optimization = type(rewriters).OFF
    return config


def _set_threads(threads, too_late):
    """Sets the threads of TF 2 that nobody has set; returns those of one operation."""
    for kind in ("inter", "intra"):
        set_already = getattr(tf.config.threading, "get_{}_op_parallelism_threads".format(kind))()
        set_already = set_already or int(os.environ.get("TF_NUM_{}OP_THREADS".format(kind.upper())) or 0)
        if not (set_already or too_late):
            getattr(tf.config.threading, "set_{}_op_parallelism_threads".format(kind))(threads)
    return set_already or (os.cpu_count() if too_late else threads)


def _server_class():
    class Server(tf.distribute.Server):
        def __del__(self):
            """Nothing: TensorFlow's own fails noisily when the interpreter ends, and stops what ends with it anyway."""

    return Server
