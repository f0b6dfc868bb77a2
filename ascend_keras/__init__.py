"""ascend_keras: plain tf.keras scripts on Huawei Ascend NPUs, on one, on many, and on a host without any.

Public names are imported on first use, so that `import ascend_keras` itself loads no TensorFlow: an NPU adapter has
to be configured before TensorFlow makes its first tensor, and the command line has to answer at once.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "NPUTrainer": ("ascend_keras.trainer", "NPUTrainer"),
    "callbacks": ("ascend_keras.callbacks", None),
    "optimizers": ("ascend_keras.optimizers", None),
    "schedules": ("ascend_keras.schedules", None),
    "losses": ("ascend_keras.losses", None),
    "metrics": ("ascend_keras.metrics", None),
    "backends": ("ascend_keras.backends", None),
    "models": ("ascend_keras.models", None),
    "data": ("ascend_keras.data", None),
}

__all__ = ["__version__"] + sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError("module 'ascend_keras' has no attribute {!r}".format(name))
    module_name, attribute = _PUBLIC[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_PUBLIC))
