"""Keras' dtype policies."""

import contextlib

from ascend_keras.compat.stack import TF1, TF_VERSION, keras

# bfloat16 needs a convolution kernel (missing on the CPU in 2.6) and a gradient through the cast (missing in 1.15).
HAS_BFLOAT16 = TF_VERSION >= (2, 15)


@contextlib.contextmanager
def dtype_policy(name):
    """Layers made inside take the Keras dtype policy `name` ('mixed_float16', ...); None leaves all as it is."""
    if name is None:
        yield
        return
    if TF1:
        with _tf1_dtype_policy(name):
            yield
        return
    module = keras.mixed_precision
    before = module.global_policy() if hasattr(module, "global_policy") else module.dtype_policy()
    module.set_global_policy(name)
    try:
        yield
    finally:
        module.set_global_policy(before)


@contextlib.contextmanager
def _tf1_dtype_policy(name):
    # TF 1.15 has the policies, but refuses a global one unless the dtype behaviour of TF 2 is switched on, and the
    # switch is not exported.
    from tensorflow.python.keras.engine import base_layer_utils

    module = keras.mixed_precision.experimental
    switched = base_layer_utils.V2_DTYPE_BEHAVIOR
    base_layer_utils.V2_DTYPE_BEHAVIOR = True
    before = module.global_policy()
    try:
        # Without the policy's own loss scale, which compile would put around the optimizer.
        module.set_policy(module.Policy(name, loss_scale=None))
        yield
    finally:
        module.set_policy(before)
        base_layer_utils.V2_DTYPE_BEHAVIOR = switched


def computes_in_float16():
    """Whether layers made now would compute in float16, by a policy that is set globally."""
    if TF1:
        name = keras.mixed_precision.experimental.global_policy().name
    else:
        module = keras.mixed_precision
        name = (module.global_policy() if hasattr(module, "global_policy") else module.dtype_policy()).name
    return name in ("mixed_float16", "float16")
