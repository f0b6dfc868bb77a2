"""The one place that knows which TensorFlow and which Keras are installed.

Four stacks are served: TF 1.15 (graph mode), TF 2.6, TF 2.15 (Keras 2) and TF 2.21 (Keras 3, or legacy Keras with
TF_USE_LEGACY_KERAS=1). Every difference between them that the library has to bridge is bridged here, by a function
or a constant that says what is wanted instead of what version gives it.
"""

import contextlib
import gc
import os
import random
import sys
from typing import Any, Callable, Optional

import numpy as np
import tensorflow as tf

keras = tf.keras

TF_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])
# tf.keras names its version on some stacks only; the package that defines Model names it on all.
KERAS_VERSION = getattr(keras, "__version__", None) or sys.modules[keras.Model.__module__.split(".")[0]].__version__

TF1 = TF_VERSION[0] == 1
KERAS3 = KERAS_VERSION.startswith("3.")
# Keras 2.11 replaced OptimizerV2 by a new family of optimizers; the old one lives on as `legacy`.
NEW_OPTIMIZERS = not KERAS3 and hasattr(keras.optimizers, "legacy")


def stack_name():
    """Names TensorFlow and Keras as a person would: 'TF 2.21.0, Keras 3.15.1'."""
    return "TF {}, Keras {}".format(tf.__version__, KERAS_VERSION)


# --- learning rate ----------------------------------------------------------------------------------------------


def inner_optimizer(optimizer):
    """Returns the optimizer that a loss-scale optimizer wraps, or `optimizer` itself when nothing wraps it."""
    for attribute in ("inner_optimizer", "_optimizer"):
        inner = getattr(optimizer, attribute, None)
        if inner is not None and is_keras_optimizer(inner):
            return inner_optimizer(inner)
    return optimizer


def is_keras_optimizer(thing):
    """Whether `thing` is an optimizer of the Keras at hand, old family or new."""
    return isinstance(thing, _optimizer_classes())


def _optimizer_classes():
    if NEW_OPTIMIZERS:
        return keras.optimizers.Optimizer, keras.optimizers.legacy.Optimizer
    return (keras.optimizers.Optimizer,)


def _learning_rate_slot(optimizer):
    """The variable, number or schedule behind an optimizer's learning rate."""
    optimizer = inner_optimizer(optimizer)
    if KERAS3 or (NEW_OPTIMIZERS and not isinstance(optimizer, keras.optimizers.legacy.Optimizer)):
        return getattr(optimizer, "_learning_rate", None)
    return optimizer._get_hyper("learning_rate") if "learning_rate" in optimizer._hyper else None


def has_schedule(optimizer):
    """Whether the learning rate is a LearningRateSchedule, which cannot be assigned."""
    return isinstance(_learning_rate_slot(optimizer), keras.optimizers.schedules.LearningRateSchedule)


def get_learning_rate(optimizer):
    """The learning rate of the next step, as a Python float; a schedule is evaluated at `optimizer.iterations`."""
    optimizer = inner_optimizer(optimizer)
    rate = _learning_rate_slot(optimizer)
    if rate is None:
        raise ValueError("The optimizer has no learning rate. Received: optimizer={!r}".format(optimizer))
    if has_schedule(optimizer):
        if TF1:
            return float(keras.backend.get_value(rate(tf.cast(optimizer.iterations, tf.float32))))
        rate = rate(optimizer.iterations)
    if TF1:
        return float(keras.backend.get_value(rate))
    # Variables of a distribution strategy have numpy(), but no array interface.
    return float(rate.numpy() if hasattr(rate, "numpy") else rate)


def set_learning_rate(optimizer, value):
    """Assigns the learning rate variable, in place, so that a graph built before sees the new value.

    Raises:
        ValueError: the learning rate is a schedule.
    """
    optimizer = inner_optimizer(optimizer)
    if has_schedule(optimizer):
        raise ValueError(
            "The learning rate is a schedule and cannot be assigned. Received: learning_rate={!r}. "
            "Give the optimizer a number, or leave the rate to the schedule.".format(_learning_rate_slot(optimizer))
        )
    if TF1:
        keras.backend.set_value(optimizer.lr, value)
    else:
        optimizer.learning_rate = value


# --- variables --------------------------------------------------------------------------------------------------


def get_values(variables):
    """The values of `variables` as NumPy arrays; one run of the session in graph mode."""
    if TF1:
        return keras.backend.batch_get_value(list(variables))
    return [np.asarray(v.numpy()) for v in variables]


def set_values(variables, values):
    """Assigns NumPy arrays to variables of the same shapes; one run of the session in graph mode."""
    if TF1:
        keras.backend.batch_set_value(list(zip(variables, values)))
        return
    for variable, value in zip(variables, values):
        variable.assign(value)


def optimizer_variables(optimizer):
    """All variables of an optimizer, its slots, counters and loss scale among them, in a fixed order."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def existing_variables():
    """Names of the variables made so far: those of the graph on TF 1.15, those that are alive elsewhere."""
    if TF1:
        return [variable.name for variable in tf.global_variables()]
    gc.collect()  # what was deleted, but hangs together in a circle, is no variable any more
    # By type, since isinstance would wake the lazy modules among the objects.
    return [thing.name for thing in gc.get_objects() if issubclass(type(thing), tf.Variable)]


def weight_path(weight):
    """A name for a weight that tells weights of one model apart: 'dense/kernel'."""
    return getattr(weight, "path", None) or weight.name.split(":")[0]


def loads_by_itself(optimizer):
    """Whether a plain Keras loads the optimizer from a saved model, with its state."""
    if NEW_OPTIMIZERS and isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return False  # Keras 2.15 makes the class, and then restores nothing into the optimizer inside
    return type(optimizer).__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow", "tensorflow_core")


def get_session():
    """The session of Keras on TF 1.15, with all variables initialised."""
    return tf.compat.v1.keras.backend.get_session()  # the short name prints a deprecation


class GraphOp:
    """A side effect on variables that runs as one graph call, built once.

    Args:
        build: a function without arguments that makes the assignments. On TF 2 it becomes a `tf.function`; on TF 1.15
            it must return an operation or a list of them, which later calls run in the session of Keras.
    """

    def __init__(self, build):
        self._build = build
        self._call: Optional[Callable[[], Any]] = None

    def __call__(self):
        self.prepare()()

    def prepare(self):
        """Builds the graph without running it, for callers that must not add to the graph later."""
        if self._call is None:
            self._call = self._make()
        return self._call

    def _make(self):
        if not TF1:
            return tf.function(self._run_without_result, autograph=False)
        with get_session().graph.as_default():
            op = tf.group(self._build())
        return lambda: get_session().run(op)

    def _run_without_result(self):
        # What assign() returns would leave the function as a copy of the variable.
        self._build()


def make_accumulator(shape, dtype):
    """A variable of zeros that no layer owns and no optimizer trains."""
    if TF1:
        return keras.backend.zeros(shape, dtype=dtype)
    return tf.Variable(tf.zeros(shape, dtype=dtype), trainable=False)


def all_layers(model):
    """The layers of a model at any depth, those inside nested models and wrapper layers among them, each once."""
    if not TF1:
        return list(model._flatten_layers(include_self=False))
    from tensorflow.python.training.tracking import layer_utils

    found = {}
    for layer in layer_utils.filter_empty_layer_containers(getattr(model, "_layers", [])):
        found.update((id(inner), inner) for inner in [layer] + all_layers(layer))
    return list(found.values())


# --- loss scaling of TF 2 -----------------------------------------------------------------------------------------


def loss_scale_variable(optimizer):
    """The variable that holds the scale of a dynamic LossScaleOptimizer of Keras 2, which shows only its value."""
    return optimizer._loss_scale.current_loss_scale


def take_out(optimizer):
    """The optimizer inside a LossScaleOptimizer, free to be wrapped again."""
    inner = inner_optimizer(optimizer)
    if KERAS3 or TF1:
        return inner
    # Keras 2 marks what it has wrapped, and lets it track the wrapper's state, both for good.
    vars(inner).pop("_is_wrapped_by_loss_scale_optimizer", None)
    tracked = inner._unconditional_checkpoint_dependencies
    tracked[:] = [dependency for dependency in tracked if dependency.name not in ("loss_scale", "base_optimizer")]
    for name in ("loss_scale", "base_optimizer"):
        inner._unconditional_dependency_names.pop(name, None)
    return inner


def replace_skip(optimizer, skip):
    """Makes a LossScaleOptimizer of Keras 3 call `skip()` for a step with Inf or NaN, in place of its own update."""
    optimizer._stateful_handle_non_finite_grads = skip


def steps_per_execution(model):
    """Steps that a compiled model runs per call of its graph; 1 on TF 1.15, which has no such thing."""
    steps = getattr(model, "steps_per_execution" if KERAS3 else "_steps_per_execution", None)
    return 1 if steps is None else int(steps)


def overrides_train_step(model):
    """Whether a model has a training step of its own, which on Keras 3 must scale the loss by itself."""
    return KERAS3 and type(model).train_step is not keras.Model.train_step


def register(cls):
    """Class decorator: lets load_model find the class wherever the module that defines it is imported."""
    keras.utils.get_custom_objects()[cls.__name__] = cls
    return cls


# --- precision policy -------------------------------------------------------------------------------------------


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


# bfloat16 needs a convolution kernel (missing on the CPU in 2.6) and a gradient through the cast (missing in 1.15).
HAS_BFLOAT16 = TF_VERSION >= (2, 15)


# --- data -------------------------------------------------------------------------------------------------------


def build_on(model, data):
    """Makes the weights of a model that waits for its first batch; does nothing for one that has them.

    Raises:
        RuntimeError: the first batch of such data would be lost by looking at it.
    """
    if model.built or TF1:
        return
    if isinstance(data, tf.data.Dataset):
        first = next(iter(data.take(1)))
        inputs = first[0] if isinstance(first, tuple) else first
    elif hasattr(tf.nest.flatten(data)[0], "shape"):
        inputs = tf.nest.map_structure(lambda array: tf.convert_to_tensor(array[:1]), data)
    else:
        raise RuntimeError(
            "On several ranks a model needs its weights before the first step. Received: the model {!r} without any, "
            "and data that cannot be looked at ({}). Call model.build(input_shape) first.".format(
                model.name, type(data).__name__
            )
        )
    model(inputs)


def count_steps(data, batch_size=None):
    """Steps in one pass over `data` (dataset, arrays or Sequence); None where that is unknown or without end."""
    if isinstance(data, tf.data.Dataset):
        count = tf.data.experimental.cardinality(data)
        count = int(keras.backend.get_value(count) if TF1 else count)
        return count if count >= 0 else None
    if isinstance(data, keras.utils.Sequence):
        return len(data)
    arrays = tf.nest.flatten(data) if data is not None else []
    if arrays and hasattr(arrays[0], "shape"):
        return -(-int(arrays[0].shape[0]) // (batch_size or 32))
    return None


def is_endless(dataset):
    """Whether a dataset is known to go on for ever."""
    count = tf.data.experimental.cardinality(dataset)
    return int(keras.backend.get_value(count) if TF1 else count) == -1


def open_dataset(dataset):
    """Returns a function that starts over at each call and yields the batches of a dataset.

    On TF 1.15 the iterator is added to the graph here, once, and the batches are NumPy arrays.
    """
    if not TF1:
        return lambda: iter(dataset)
    iterator = tf.compat.v1.data.make_initializable_iterator(dataset)
    next_batch = iterator.get_next()

    def batches():
        session = get_session()
        session.run(iterator.initializer)
        while True:
            try:
                batch = session.run(next_batch)
            except tf.errors.OutOfRangeError:
                return
            yield batch

    return batches


def watch_training_data(model, found):
    """Lets `found(dataset)` be called before the first step of the running `fit`, with the dataset it draws from.

    For callbacks, in `on_train_begin`. `found` gets None where the dataset cannot be told (a strategy distributes it).

    Returns:
        False where there is no way to watch: on TF 1.15, and outside of `fit`.
    """
    train_function = None if TF1 else getattr(model, "train_function", None)
    if train_function is None:
        return False

    def first_step(iterator):
        model.train_function = train_function
        found(getattr(iterator, "_dataset", None))
        return train_function(iterator)

    model.train_function = first_step
    return True


# --- host -------------------------------------------------------------------------------------------------------


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


# --- logs -------------------------------------------------------------------------------------------------------


def accuracy_key(logs):
    """The key under which `logs` holds the accuracy: 'acc' on TF 1.15, 'accuracy' elsewhere; None if there is none."""
    for key in ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy"):
        if key in logs:
            return key
    return None
