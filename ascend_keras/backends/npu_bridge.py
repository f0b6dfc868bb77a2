"""TF 1.15 on an Ascend NPU, through the adapter `npu_bridge`: a session whose config carries a NpuOptimizer."""

import importlib
import importlib.util
import os

from ascend_keras import compat, optimizers
from ascend_keras.backends.base import Availability, Backend, refuse_late
from ascend_keras.compat import keras, tf
from ascend_keras.log import logger

# The adapter averages gradients by a rank group that it registers under the job's name, and dies without one.
DEFAULT_JOB_ID = "ascend_keras"

REMEDY = "Install the CANN package for TensorFlow 1.15 and source its set_env.sh, so that PYTHONPATH holds npu_bridge."


def session_config(options, base=None):
    """Makes the ConfigProto that offloads a TF 1.15 session to the NPU.

    Args:
        options: an `OptionSet`; each option goes into the field (b, i, s) that the adapter reads.
        base: a ConfigProto to start from; it is copied. A NpuOptimizer that it holds already is completed.

    Returns:
        A ConfigProto with exactly one NpuOptimizer and the rewriters off that would change the graph under it.
    """
    config = tf.ConfigProto()
    if base is not None:
        config.CopyFrom(base)
    config.allow_soft_placement = True
    config.log_device_placement = False
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
    rewrite = config.graph_options.rewrite_options
    # The adapter's own helper leaves memory_optimization on where a NpuOptimizer is there already. OFF is the value its
    # documentation gives for both fields; in memory_optimization that number (2) means "by hand only".
    off = type(rewrite).OFF
    rewrite.remapping = off
    rewrite.memory_optimization = off
    parameters = _npu_optimizer(rewrite).parameter_map
    # Stated rather than left to its default: a value in a wrong field would read as False and train on the CPU.
    parameters["use_off_line"].b = True
    for key, field, value in options.parameter_map():
        setattr(parameters[key], field, value)
    return config


def _npu_optimizer(rewrite):
    ours = [entry for entry in rewrite.custom_optimizers if entry.name == "NpuOptimizer"]
    if ours:
        return ours[0]
    entry = rewrite.custom_optimizers.add()
    entry.name = "NpuOptimizer"
    return entry


class NpuBridgeBackend(Backend):
    """One Ascend NPU per process under TF 1.15."""

    name = "npu_bridge"
    adapter = "tf115"

    def __init__(self, settings):
        super().__init__(settings)
        self._session = None
        self._npu = None
        self._broadcast = {}

    @classmethod
    def availability(cls):
        """TF 1.15 and a package npu_bridge; the package is not imported, since its import changes every session."""
        if not compat.TF1:
            return Availability(False, "needs TensorFlow 1.15, found {}.".format(tf.__version__))
        if importlib.util.find_spec("npu_bridge") is None:
            return Availability(False, "No module named 'npu_bridge'.", REMEDY)
        return Availability(True, "npu_bridge for TensorFlow {}".format(tf.__version__))

    def check(self):
        """As everywhere, and a launch under which rank 0 could not be told from the others."""
        problems = super().check()
        if self.settings.cluster.mode != "cm":
            return problems
        return problems + [
            "On TF 1.15 the rank of a CM_* launch is known only after training has started. Received: "
            "CM_WORKER_SIZE={}. Launch with a rank table: RANK_TABLE_FILE, RANK_SIZE, RANK_ID.".format(
                self.settings.cluster.size
            )
        ]

    def fixed_options(self):
        """As everywhere, and what HCCL reads once."""
        return dict(super().fixed_options(), **self.settings.hccl.given())

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self):
        """Imports the adapter, makes the session and gives it to Keras, before any variable exists."""
        refuse_late("Keras has to get the session of the NPU")
        os.environ.setdefault("JOB_ID", DEFAULT_JOB_ID)
        self.settings.hccl.apply_variables()
        self._npu = load_adapter()
        if self.settings.cluster.size > 1:
            self.settings.hccl.apply_strategy()
        self.settings.options.make_directories()
        self._session = tf.Session(config=session_config(self.settings.options, self.settings.session_config))
        keras.backend.set_session(self._session)

    def close(self):
        """Closes the session, which releases the device."""
        if self._session is None:
            return
        session, self._session = self._session, None
        self._broadcast.clear()
        self._gathers.clear()
        session.close()
        # Keras would go on with the closed session.
        keras.backend.clear_session()

    def before_run(self, steps_per_execution, steps):
        """Makes sure that Keras still has the NPU's session."""
        self._check_session()

    def _check_session(self):
        if compat.get_session() is not self._session:
            raise RuntimeError(
                "Keras no longer runs in the NPU's session: keras.backend.clear_session() or set_session() replaced "
                "it, and with it every option. Create a new NPUTrainer and build the model again after it."
            )

    # --- optimizer ----------------------------------------------------------------------------------------------

    def assemble(self, optimizer, loss_scale):
        """Reduces where gradients are computed, inside the loss scaling, which tests them afterwards."""
        if self.settings.cluster.size > 1:
            optimizers.distribute(compat.inner_optimizer(optimizer), self._average_gradients)
        return optimizers.scale_loss(optimizer, loss_scale, float_status=self._float_status())

    def _average_gradients(self, optimizer):
        # Not by the adapter's wrapper, which clips the gradients of each rank before their mean and has no `fusion`.
        optimizers.average_gradients(optimizer, lambda gradients, variables: list(map(self._mean, gradients)))
        computed = optimizer._compute_gradients  # what minimize() calls, unlike Keras' fit

        def compute_gradients(*args, **kwargs):
            return [(self._mean(gradient), variable) for gradient, variable in computed(*args, **kwargs)]

        optimizer._compute_gradients = compute_gradients
        return optimizer

    def _mean(self, gradient):
        """The mean over the ranks; of IndexedSlices the slices of all ranks, each divided by their number."""
        size, hccl_ops = self.settings.cluster.size, self._npu.hccl_ops
        if gradient is None:
            return None
        if isinstance(gradient, tf.IndexedSlices):
            values = hccl_ops.allgather(gradient.values, size)
            indices = hccl_ops.allgather(gradient.indices, size)
            return tf.IndexedSlices(values / tf.cast(size, values.dtype), indices, gradient.dense_shape)
        total = hccl_ops.allreduce(gradient, "sum", fusion=self.settings.hccl.fusion)
        return total / tf.cast(size, total.dtype)

    def _float_status(self):
        """The device's overflow register, where the device clips instead of showing Inf; else None."""
        if self._npu.npu_plugin.is_inf_nan_enabled():
            return None
        operations = importlib.import_module("npu_bridge.helper.helper").get_gen_ops()
        all_reduce = None
        if self.settings.cluster.size > 1:
            hccl_ops = self._npu.hccl_ops

            def all_reduce(status):
                return hccl_ops.allreduce(status, "sum", fusion=0)

        return optimizers.FloatStatus(
            read=operations.npu_get_float_status_v2,
            clear=operations.npu_clear_float_status_v2,
            all_reduce=all_reduce,
        )

    def synchronise(self, variables):
        """Broadcasts in list order: the adapter's callback orders by memory address, which differs per rank."""
        if self.settings.cluster.size == 1:
            return
        session = compat.get_session()  # also initialises the variables that are new
        key = tuple(variable.name for variable in variables)
        if key not in self._broadcast:
            self._broadcast[key] = self._build_broadcast(variables)
        session.run(self._broadcast[key])

    def _build_broadcast(self, variables):
        assigns = []
        for variable in variables:
            # One after the other: collectives are matched between ranks by their order.
            with tf.control_dependencies(assigns[-1:]):
                (value,) = self._npu.hccl_ops.broadcast([variable.read_value()], 0)
            assigns.append(variable.assign(value).op)
        return tf.group(*assigns)

    def make_gather(self, count):
        """Adds an all-gather to the graph of the NPU's session."""
        self._check_session()
        session = self._session
        if session.graph.finalized:
            raise RuntimeError(
                "The graph is finalised, and the sum over ranks of this length is not in it. Received: length={0}. "
                "Call prepare_sum({0}) of the backend, or sum_over_ranks once, before.".format(count // 2)
            )
        with session.graph.as_default():
            words = tf.placeholder(tf.int32, [count], name="sum_over_ranks")
            gathered = self._npu.hccl_ops.allgather(words, self.settings.cluster.size)

        def gather(values):
            self._check_session()
            return session.run(gathered, {words: values})

        return gather

    def describe(self):
        """The device, and how its overflow shows."""
        return dict(
            super().describe(),
            device="NPU {}".format(self.settings.cluster.device_id),
            overflow="Inf/NaN" if self._npu and self._npu.npu_plugin.is_inf_nan_enabled() else "saturation",
            tensorflow=tf.__version__,
            **self.settings.hccl.given(),
        )


def load_adapter():
    """Imports npu_bridge and makes sure that its native library is loaded.

    Raises:
        RuntimeError: the package is there but cannot work; training would silently run on the CPU.
    """
    try:
        npu_init = importlib.import_module("npu_bridge.npu_init")
        operations = importlib.import_module("npu_bridge.helper.helper").get_gen_ops()
        if not callable(operations.npu_get_float_status_v2):
            raise ImportError("the library has no operation npu_get_float_status_v2")
    except Exception as error:  # without its libraries the adapter fails in many ways, all fatal here
        raise RuntimeError(
            "npu_bridge is installed but its native library cannot be used, so TensorFlow would train on the CPU. "
            "Received: {}: {}. {}".format(type(error).__name__, error, REMEDY)
        ) from error
    logger.info("npu_bridge loaded; every session of this process now runs on the NPU")
    return npu_init
