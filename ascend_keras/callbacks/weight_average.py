"""The equal-weight average of a set of variables, summed up in the graph."""

from ascend_keras import compat
from ascend_keras.compat import tf


class WeightAverage:
    """The sum of samples of some variables, and after `install` what these held before.

    Sums are taken in float32, or float64 for float64, in the order of the samples: `sum += w`, at the end `sum / n`.
    Each event is one graph call. On TF 1.15 all graphs are built by the constructor.
    """

    def __init__(self, variables):
        self.variables = list({id(v): v for v in variables}.values())
        self.installed = False
        self._stores = [compat.make_accumulator(v.shape, _accumulator_dtype(v)) for v in self.variables]
        self._count = compat.make_accumulator((), "float32")
        self._zero = compat.GraphOp(self._build_zero)
        self._add = compat.GraphOp(self._build_add)
        self._install = compat.GraphOp(self._build_install)
        self._exchange = compat.GraphOp(self._build_exchange)
        if compat.TF1:
            for op in (self._zero, self._add, self._install, self._exchange):
                op.prepare()

    def covers(self, variables):
        """Whether these are the variables that are averaged."""
        return {id(v) for v in variables} == {id(v) for v in self.variables}

    def reset(self):
        """Forgets all samples."""
        self._zero()
        self.installed = False

    def add(self):
        """Adds the variables as they are now."""
        self._add()

    def install(self):
        """Sets the variables to their average, and keeps what they held."""
        self._install()
        self.installed = True

    def exchange(self):
        """Exchanges the variables with what is kept."""
        self._exchange()
        self.installed = not self.installed

    def stored_values(self):
        """What is kept, as arrays in the dtypes of the variables."""
        dtypes = [_dtype(v).as_numpy_dtype for v in self.variables]
        return [value.astype(dtype) for value, dtype in zip(compat.get_values(self._stores), dtypes)]

    def _build_zero(self):
        return _operations(v.assign(tf.zeros_like(v)) for v in self._stores + [self._count])

    def _build_add(self):
        added = [s.assign_add(tf.cast(v, s.dtype.base_dtype)) for v, s in zip(self.variables, self._stores)]
        return _operations(added + [self._count.assign_add(1.0)])

    def _build_install(self):
        return self._build_swap(lambda store: store / tf.cast(self._count, store.dtype.base_dtype))

    def _build_exchange(self):
        return self._build_swap(tf.convert_to_tensor)

    def _build_swap(self, incoming):
        assigned = []
        for variable, store in zip(self.variables, self._stores):
            # tf.cast alone would hand back the variable where there is nothing to cast, to be read after it is changed.
            new, old = incoming(store), tf.cast(tf.convert_to_tensor(variable), store.dtype.base_dtype)
            # Variable by variable, so that no more than one of them exists twice.
            with tf.control_dependencies([new, old]):
                assigned += [variable.assign(tf.cast(new, _dtype(variable))), store.assign(old)]
        return _operations(assigned)


def _operations(assigned):
    return [result.op for result in assigned] if compat.TF1 else list(assigned)


def _dtype(variable):
    return tf.as_dtype(variable.dtype).base_dtype


def _accumulator_dtype(variable):
    return "float64" if _dtype(variable) == tf.float64 else "float32"
