"""Variables of a model, and graphs that change them."""

import gc
from typing import Any, Callable, Optional

import numpy as np

from ascend_keras.compat.stack import TF1, keras, tf


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
            # Traced at once: as functions, many of these would look like one that is traced again and again.
            return tf.function(self._run_without_result, autograph=False).get_concrete_function()
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


class SetAside:
    """The values of some variables, kept on the device for a while and put back bit for bit.

    On TF 1.15 the constructor adds a copy of the variables to the graph; elsewhere a copy exists from `keep` to
    `restore` only.
    """

    def __init__(self, variables):
        self._variables = list(variables)
        self._kept = []
        if TF1:
            self._kept = [keras.backend.zeros(v.shape, dtype=v.dtype.base_dtype) for v in self._variables]
            self._keep = GraphOp(lambda: [k.assign(v).op for k, v in zip(self._kept, self._variables)])
            self._restore = GraphOp(lambda: [v.assign(k).op for k, v in zip(self._kept, self._variables)])
            self._keep.prepare()
            self._restore.prepare()
        else:
            specs = [tf.TensorSpec(v.shape, tf.as_dtype(v.dtype).base_dtype) for v in self._variables]
            self._assign_all = tf.function(self._assign, autograph=False).get_concrete_function(specs)

    def keep(self):
        """Sets the values aside."""
        if TF1:
            self._keep()
        else:
            self._kept = [tf.convert_to_tensor(v) for v in self._variables]

    def restore(self):
        """Puts the values back."""
        if TF1:
            self._restore()
        else:
            # Nothing may hold on to the values afterwards: the next step of training would have to copy them.
            kept, self._kept = self._kept, []
            self._assign_all(kept)

    def values(self):
        """What is set aside, as NumPy arrays."""
        return get_values(self._kept)

    def _assign(self, values):
        for variable, value in zip(self._variables, values):
            variable.assign(value)


def stream_values(variables):
    """Yields the values of `variables` as NumPy arrays, one at a time where that is not slower (not on TF 1.15)."""
    if TF1:
        yield from get_values(variables)
    else:
        for variable in variables:
            yield np.asarray(variable.numpy())
