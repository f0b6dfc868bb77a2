"""The host: any TensorFlow on CPU or GPU, without an Ascend device. A rehearsal of the NPU run."""

import os

from ascend_keras import compat, optimizers
from ascend_keras.backends.base import Availability, Backend, precision
from ascend_keras.compat import keras, tf

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

    @classmethod
    def availability(cls) -> Availability:
        """A host is always there."""
        return Availability(True, compat.stack_name())

    def check(self):
        """Ranks without an engine, and number formats that the host does not have."""
        problems = [] if self.settings.cluster.size > 1 else super().check()
        size = self.settings.cluster.size
        if size > 1:
            problems.append(
                "The host backend runs one process and would train {0} separate models. Received: RANK_SIZE={0}. "
                "Unset RANK_SIZE, or run on an NPU backend.".format(size)
            )
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

    def open(self):
        """Switches determinism on if asked; everything else needs no opening."""
        if self.settings.options.get("deterministic"):
            compat.enable_determinism()
        if self.settings.session_config is not None:
            keras.backend.set_session(tf.Session(config=self.settings.session_config))

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

    def assemble(self, optimizer, loss_scale):
        """Loss scaling; there is no reduction in one process."""
        optimizer = optimizers.scale_loss(optimizer, loss_scale)
        return optimizers.unscaled(optimizer) if loss_scale is None and self.needs_loss_scale else optimizer

    def describe(self):
        """Names the devices TensorFlow sees and the dtype policy in force."""
        return {
            "backend": self.name,
            "device": compat.host_device(),
            "dtype_policy": self.policy or "the model's own",
            "threads": os.cpu_count(),
            "tensorflow": tf.__version__,
        }
