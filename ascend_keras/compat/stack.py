"""Which TensorFlow and which Keras are installed, and what about them concerns a whole process."""

import os
import platform
import random
import sys

import numpy as np
import tensorflow as tf

import ascend_keras

keras = tf.keras

TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])
# tf.keras names its version on some stacks only; the package that defines Model names it on all.
KERAS_VERSION = getattr(keras, "__version__", None) or sys.modules[keras.Model.__module__.split(".")[0]].__version__

TF1 = TF_VERSION[0] == 1
KERAS3 = KERAS_VERSION.startswith("3.")
# Keras 2.11 replaced OptimizerV2 by a new family of optimizers; the old one lives on as `legacy`.
NEW_OPTIMIZERS = not KERAS3 and hasattr(keras.optimizers, "legacy")
# Keras 3 and tf_keras 2.21 put the best weights back when training ends, older Keras 2 in the epoch that stops it.
STOPPING_RESTORES_LATE = "best_weights" in keras.callbacks.EarlyStopping.on_train_end.__code__.co_names


def versions():
    """Those of Python and TensorFlow, as texts."""
    return platform.python_version(), tf.__version__


def all_versions():
    """Pairs of a name and a version: what the ranks of a run have to have in common."""
    return [
        ("ascend_keras", ascend_keras.__version__),
        ("TensorFlow", tf.__version__),
        ("Keras", KERAS_VERSION),
        ("Python", platform.python_version()),
    ]


def stack_name():
    """Names TensorFlow and Keras as a person would: 'TF 2.21.0, Keras 3.15.1'."""
    return "TF {}, Keras {}".format(tf.__version__, KERAS_VERSION)


def register(cls):
    """Class decorator: lets load_model find the class wherever the module that defines it is imported."""
    keras.utils.get_custom_objects()[cls.__name__] = cls
    return cls


def register_in_module(cls):
    """As `register`, for a class that shares its name with another: files call it 'ascend_keras.module>Name'."""
    if not TF1:
        return keras.utils.register_keras_serializable(package=cls.__module__)(cls)
    cls.__name__ = "{}>{}".format(cls.__module__, cls.__name__)  # TF 1.15 writes the name of the class itself
    return register(cls)


def accuracy_key(logs):
    """The key under which `logs` holds the accuracy: 'acc' on TF 1.15, 'accuracy' elsewhere; None if there is none."""
    for key in ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy"):
        if key in logs:
            return key
    return None


def functions_run_eagerly():
    """Whether tf.functions are run line by line, for debugging."""
    for name in ("functions_run_eagerly", "experimental_functions_run_eagerly"):
        if hasattr(tf.config, name):
            return getattr(tf.config, name)()
    return False


def set_seed(seed):
    """Seeds Python, NumPy and TensorFlow."""
    random.seed(seed)
    np.random.seed(seed)
    tf.compat.v1.set_random_seed(seed) if TF1 else tf.random.set_seed(seed)


def has_seed():
    """Whether TensorFlow has a global seed."""
    if TF1:
        return tf.compat.v1.get_default_graph().seed is not None
    from tensorflow.python.eager import context

    return context.global_seed() is not None


def enable_determinism():
    """Makes TensorFlow's operations reproducible, at a cost in speed. Seeds are the caller's."""
    if hasattr(tf.config.experimental, "enable_op_determinism"):
        tf.config.experimental.enable_op_determinism()
    else:
        os.environ["TF_DETERMINISTIC_OPS"] = "1"


def host_device():
    """'CPU', or 'GPU' where TensorFlow sees one."""
    return "GPU" if tf.config.experimental.list_physical_devices("GPU") else "CPU"
