"""TF 2.6.5 on an Ascend NPU, through the adapter `npu_device`: global options, then an open device as the default."""

import functools
import importlib
import importlib.util

from ascend_keras import compat, optimizers
from ascend_keras.backends.base import Availability, Backend, refuse_late
from ascend_keras.compat import tf

REMEDY = "Install the CANN package for TensorFlow 2.6.5 and source its set_env.sh, so that PYTHONPATH holds npu_device."


def apply_global_options(global_options, settings):
    """Sets the adapter's options and reads them back.

    Args:
        global_options: `npu_device.global_options()`.
        settings: list of (dotted path, value).

    Raises:
        RuntimeError: this release of the adapter does not know an option, or reads back another value.
    """
    problems = []
    for path, value in settings:
        group, _, leaf = path.rpartition(".")
        try:
            target = functools.reduce(getattr, group.split("."), global_options) if group else global_options
            setattr(target, leaf, value)
            read = getattr(getattr(target, leaf), "value", None)
        except (ValueError, TypeError, AttributeError) as error:
            problems.append("{}={!r}: {}".format(path, value, error))
            continue
        if not _same(read, value):
            problems.append("{}={!r}: the adapter reads back {!r}".format(path, value, read))
    if problems:
        raise RuntimeError(
            "This release of npu_device does not take these options; it may be older than the catalogue "
            "(docs/options.md). Remove them or update CANN. Received:\n  " + "\n  ".join(problems)
        )


def _same(read, value):
    # The adapter hands everything on as text, True as '1'.
    as_text = str(int(value)) if isinstance(value, bool) else str(value)
    return read == value or str(read) == as_text


class NpuDeviceBackend(Backend):
    """One Ascend NPU per process under TF 2.6.5."""

    name = "npu_device"
    adapter = "tf26"
    stays_open = True

    def __init__(self, settings):
        super().__init__(settings)
        self._npu = None
        self._device = None

    @classmethod
    def availability(cls):
        """TF 2.6 and a package npu_device; importing it patches TensorFlow, so it is only looked for."""
        if compat.TF_VERSION != (2, 6):
            return Availability(False, "needs TensorFlow 2.6.5, found {}.".format(tf.__version__))
        if importlib.util.find_spec("npu_device") is None:
            return Availability(False, "No module named 'npu_device'.", REMEDY)
        return Availability(True, "npu_device for TensorFlow {}".format(tf.__version__))

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self):
        """Sets the options, then opens the device and makes it the default of the process."""
        refuse_late("The NPU has to be opened")
        self.settings.hccl.apply_variables()
        try:
            npu = importlib.import_module("npu_device")
        except Exception as error:  # a missing library shows as ImportError, OSError or NameError
            raise RuntimeError(
                "npu_device is installed but cannot be imported. Received: {}: {}. {}".format(
                    type(error).__name__, error, REMEDY
                )
            ) from error
        self.settings.options.make_directories()
        apply_global_options(npu.global_options(), self.settings.options.global_options())
        # open() alone leaves every collective a silent no-op: only the default device takes part.
        self._device = npu.open(self.settings.cluster.device_id)
        self._device.as_default()
        self._npu = npu
        if self.settings.cluster.size > 1:
            self.settings.hccl.apply_strategy()
        if self.settings.cluster.rank is None:
            # Of a CM_* launch only the collective runtime knows the rank, and only now.
            cluster = self.settings.cluster._replace(rank=self._device.worker_id)
            self.settings = self.settings._replace(cluster=cluster)
        # For a full model that a ModelCheckpoint writes; what the trainer saves names classes of Keras only.
        compat.register(npu.train.optimizer.NpuLossScaleOptimizer)

    def fixed_options(self):
        """All of them: what is set after the first open has no effect."""
        return dict(self.settings.options, device=self.settings.cluster.device_id, **self.settings.hccl.given())

    def close(self):
        """Nothing: the adapter keeps the device until the process ends, and closes it there by itself."""

    # --- runs ---------------------------------------------------------------------------------------------------

    def before_run(self, steps_per_execution, steps):
        """Couples the loop of the device to Keras' steps_per_execution; a mismatch stalls for good."""
        ragged = {phase: count for phase, count in steps.items() if count is None or count % steps_per_execution}
        if steps_per_execution > 1 and ragged:
            raise ValueError(
                "The device takes {0} batches per call, so the steps of every phase must be a multiple of {0}. "
                "Received: steps_per_execution={0}, {1}. Give steps_per_epoch and validation_steps (with a repeating "
                "dataset), or steps_per_execution=1.".format(
                    steps_per_execution, ", ".join("{} steps={}".format(*item) for item in sorted(ragged.items()))
                )
            )
        self._npu.set_npu_loop_size(steps_per_execution)

    # --- optimizer ----------------------------------------------------------------------------------------------

    def assemble(self, optimizer, loss_scale):
        """Reduces around the loss scaling: all ranks see the same Inf, and no rank skips a reduction."""
        optimizers.undistribute(compat.inner_optimizer(optimizer))
        factory = self._npu.train.optimizer.NpuLossScaleOptimizer
        optimizer = optimizers.scale_loss(optimizer, loss_scale, factory=factory)
        if loss_scale is None and (self.needs_loss_scale or compat.computes_in_float16()):
            optimizer = optimizers.unscaled(optimizer)
        if self.settings.cluster.size > 1:
            wrapper = self._npu.distribute.npu_distributed_keras_optimizer_wrapper
            fusion = self.settings.hccl.fusion
            optimizer = optimizers.distribute(optimizer, lambda one: wrapper(one, fusion=fusion))
        return optimizer

    def synchronise(self, variables):
        """Broadcasts all variables of the list; the adapter's callback for this is never called by Keras."""
        if self.settings.cluster.size > 1:
            self._npu.distribute.broadcast(list(variables), root_rank=0)

    def make_gather(self, count):
        """An all-gather in a tf.function, since npu.distribute offers none."""
        hccl_ops = importlib.import_module("npu_device.distribute.hccl_ops")
        size = self.settings.cluster.size

        def gather_words(words):
            return hccl_ops.allgather(words, size)

        # tf.function is looked up here and not at import: the open device has put its own in place.
        gather = tf.function(gather_words, input_signature=[tf.TensorSpec([count], tf.int32)], autograph=False)
        return lambda values: gather(tf.constant(values)).numpy()

    def describe(self):
        """The device, and how its overflow shows."""
        return dict(
            super().describe(),
            device="NPU {}".format(self.settings.cluster.device_id),
            overflow="Inf/NaN" if self._npu and self._npu.is_inf_nan_enabled() else "saturation",
            tensorflow=tf.__version__,
            **self.settings.hccl.given(),
        )
