"""The host: any TensorFlow on CPU or GPU, without an Ascend device. A rehearsal of the NPU run, on as many ranks."""

import os

from ascend_keras import compat, optimizers
from ascend_keras.backends.base import Availability, Backend, precision, refuse_late
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import collectives

# What each precision mode of the adapters comes to on a host. docs/precision.md is written from this table.
# None keeps the dtypes of the model: those modes lower nothing that the hardware can run as it is.
KERAS_POLICY = {
    None: None,
    "force_fp32": "float32",
    "cube_fp16in_fp32out": "float32",
    "must_keep_origin_dtype": None,
    "origin": None,
    "allow_fp32_to_fp16": None,
    "allow_fp32_to_bf16": None,
    "force_fp16": "float16",
    "fp16": "float16",
    "allow_mix_precision": "mixed_float16",
    "allow_mix_precision_fp16": "mixed_float16",
    "mixed_float16": "mixed_float16",
    "allow_mix_precision_bf16": "mixed_bfloat16",
    "mixed_bfloat16": "mixed_bfloat16",
}


class HostBackend(Backend):
    """CPU or GPU. Precision modes become Keras dtype policies; options of the device are checked and have no effect."""

    name = "host"
    adapter = None
    process_wide = False

    def __init__(self, settings):
        super().__init__(settings)
        self._collectives = None

    @classmethod
    def availability(cls) -> Availability:
        """A host is always there."""
        return Availability(True, compat.stack_name())

    def check(self):
        """Ranks that were launched for NPUs, and number formats that the host does not have."""
        cluster = self.settings.cluster
        problems = []
        if cluster.size > 1 and cluster.mode != "tf_config":
            variable = "RANK_SIZE" if os.environ.get("RANK_SIZE") or cluster.mode == "rank_table" else "CM_WORKER_SIZE"
            problems.append(
                "The environment describes {0} ranks on NPUs, and the host backend would train {0} separate models. "
                "Received: {1}={0}. Unset {1}, or start the ranks on this host with `ascend-keras launch -n {0} "
                "--backend host SCRIPT`, or run on an NPU backend.".format(cluster.size, variable)
            )
        else:
            problems += super().check()
        mode = precision(self.settings.options)
        if mode not in KERAS_POLICY:
            problems.append(
                "This number format exists on no host. Received: {!r}. Use a float16 or bfloat16 mode.".format(mode)
            )
        elif KERAS_POLICY[mode] == "mixed_bfloat16" and not compat.HAS_BFLOAT16:
            problems.append(
                "{} cannot train in bfloat16 on a CPU: its convolution has no kernel or no gradient for it. "
                "Received: {!r}. Use 'mixed_float16', or a newer TensorFlow.".format(compat.stack_name(), mode)
            )
        return problems

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self):
        """Switches determinism on if asked, and joins the other ranks."""
        if self.settings.options.get("deterministic"):
            compat.enable_determinism()
        if self.settings.cluster.size > 1:
            self._join()
        elif self.settings.session_config is not None:
            keras.backend.set_session(tf.Session(config=self.settings.session_config))

    def _join(self):
        if collectives.needs_opening():
            refuse_late("The ranks have to find each other")
        self._collectives = collectives.open_collectives(self.settings.cluster, self.settings.session_config)

    def close(self):
        """On TF 1.15 closes the session of the ranks with the last trainer; else nothing, they stay together."""
        if self._collectives is not None:
            self._gathers.clear()
            self._collectives.let_go()

    def before_run(self, steps_per_execution, steps):
        """On TF 1.15 makes sure that Keras still has the session of the ranks."""
        if self._collectives is not None:
            self._collectives.check_session()

    @property
    def policy(self):
        """The Keras dtype policy of the precision mode; None leaves the model's own."""
        return KERAS_POLICY[precision(self.settings.options)]

    def scope(self):
        """Layers made inside compute in the precision that was asked for."""
        return compat.dtype_policy(self.policy)

    @property
    def needs_loss_scale(self):
        """In a float16 policy, the precision mode's or one that is set globally."""
        return self.policy in ("mixed_float16", "float16") or compat.computes_in_float16()

    # --- optimizer ----------------------------------------------------------------------------------------------

    def assemble(self, optimizer, loss_scale):
        """Loss scaling, and on several ranks the mean of the gradients, before they are tested and clipped."""
        if self._collectives is not None and compat.TF1:
            self._distribute(compat.inner_optimizer(optimizer))
        outermost = optimizer
        optimizer = optimizers.scale_loss(optimizer, loss_scale)
        if loss_scale is None and self.needs_loss_scale:
            optimizer = optimizers.unscaled(optimizer)
        if self._collectives is not None and not compat.TF1:
            for inside in (outermost, compat.inner_optimizer(optimizer)):
                if inside is not optimizer:
                    optimizers.undistribute(inside)
            self._distribute(optimizer)
        return optimizer

    def _distribute(self, optimizer):
        if not compat.is_keras_optimizer(optimizer):
            raise ValueError(
                "On several ranks the optimizer must be one of tf.keras.optimizers, or its gradients would not be "
                "averaged. Received: optimizer={!r}.".format(optimizer)
            )
        return optimizers.distribute(
            optimizer, lambda one: optimizers.average_gradients(one, self._collectives.mean_of_gradients())
        )

    def compile_arguments(self, arguments):
        """On several ranks without XLA, which has no collectives."""
        if self._collectives is None:
            return arguments
        if arguments.get("jit_compile") not in (None, False, "auto"):
            raise ValueError(
                "XLA cannot compile the collectives of ranks. Received: jit_compile={!r} on {} ranks. Leave it "
                "out.".format(arguments["jit_compile"], self.settings.cluster.size)
            )
        return dict(arguments, jit_compile=False) if compat.KERAS3 else arguments

    # --- ranks --------------------------------------------------------------------------------------------------

    def synchronise(self, variables):
        """Broadcasts in list order."""
        if self._collectives is not None:
            self._collectives.broadcast(variables)

    def make_gather(self, count):
        """Numbers of all ranks by a sum around the ring."""
        return self._collectives.make_gather(count)

    def describe(self):
        """Names the devices TensorFlow sees and the dtype policy in force."""
        return dict(
            super().describe(),
            device=compat.host_device(),
            dtype_policy=self.policy or "the model's own",
            threads=os.cpu_count() if self._collectives is None else self._collectives.threads,
            tensorflow=tf.__version__,
        )
