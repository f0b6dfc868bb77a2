"""The average of a set of variables over samples of them, on the device or on the host.

Both classes have one face. `add` takes a sample; `install` ends the sampling and puts the average into the variables;
`exchange` swaps it with what they held before. `lend` and `take_back` put it there for a while, in between: afterwards
the variables and the sums have the bits that they had before.
"""

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import tf


class _Average:
    """What both have in common.

    Args:
        variables: the variables; each is averaged once, however often it is named.
        decay: None for equal weights: sum += w, at the end sum / n. A number for an exponential moving average that
            starts at the first sample: ema += (1 - decay) * (w - ema).
        dtype: dtype of the sums, "float32" or "float64"; those of float64 variables are float64 in any case.
        lends: whether `lend` will be called.
    """

    def __init__(self, variables, decay=None, dtype="float32", lends=True):
        self.variables = list({id(v): v for v in variables}.values())
        self.count = 0
        self.installed = False
        self.lent = False
        self.spent = False  # whether the sums are gone, since `install`
        self._decay = decay
        self._dtypes = ["float64" if _dtype(v) == tf.float64 else dtype for v in self.variables]
        self._lends = lends

    def covers(self, variables, lends=False):
        """Whether these are the variables that are averaged, and `lend` is possible if that is wanted."""
        return {id(v) for v in variables} == {id(v) for v in self.variables} and self._lends >= lends

    def means_of(self, variables):
        """The average of the samples so far of some of the variables, as float64 arrays."""
        n = self._samples_in_sums()
        return [np.asarray(total, np.float64) / n for total in self._part(self._places(variables))]

    def replace_means(self, variables, means):
        """Goes on as if the average of the samples so far of some of the variables had been another."""
        places, n = self._places(variables), self._samples_in_sums()
        self._load_part(places, [(mean * n).astype(self._dtypes[place]) for place, mean in zip(places, means)])

    def _part(self, places):
        raise NotImplementedError

    def _load_part(self, places, arrays):
        raise NotImplementedError

    def _samples_in_sums(self):
        return self.count if self._decay is None else 1

    def _places(self, variables):
        places = {id(v): place for place, v in enumerate(self.variables)}
        return [places[id(v)] for v in variables]

    def _narrow(self, arrays):
        return [array.astype(_dtype(v).as_numpy_dtype) for v, array in zip(self.variables, arrays)]


class DeviceAverage(_Average):
    """An average that stays on the device: each event is one call of a graph.

    On TF 1.15 the constructor builds all graphs, and with `lends` makes room for a copy of the variables.
    """

    def __init__(self, variables, decay=None, dtype="float32", lends=True):
        super().__init__(variables, decay, dtype, lends)
        self._stores = [compat.make_accumulator(v.shape, d) for v, d in zip(self.variables, self._dtypes)]
        self._samples = compat.make_accumulator((), "float32")
        self._zero = compat.GraphOp(self._build_zero)
        self._sum = compat.GraphOp(self._build_sum)
        self._put = compat.GraphOp(self._build_put)
        self._swap = compat.GraphOp(self._build_swap)
        self._show = compat.GraphOp(self._build_show)
        self._aside = compat.SetAside(self.variables) if lends else None
        if compat.TF1:
            for op in (self._zero, self._sum, self._put, self._swap, self._show):
                op.prepare()
            self.load(self.sums(), 0)  # the first assignment of a variable adds to the graph

    def reset(self):
        """Forgets all samples."""
        self._zero()
        self.count = 0
        self.installed = self.lent = self.spent = False

    def add(self):
        """Takes the variables as they are now for a sample."""
        self._sum()
        self.count += 1

    def install(self):
        """Sets the variables to their average, and keeps what they held in place of the sums."""
        self._put()
        self.installed = self.spent = True

    def exchange(self):
        """Exchanges the variables with what is kept."""
        self._swap()
        self.installed = not self.installed

    def lend(self):
        """Sets the variables to the average of the samples so far."""
        self._aside.keep()
        self._show()
        self.lent = True

    def take_back(self):
        """Sets the variables to what they held before `lend`."""
        self._aside.restore()
        self.lent = False

    def raw_values(self):
        """What the variables hold when the average is not in them, as arrays in their dtypes."""
        if self.lent:
            return self._aside.values()
        return self._narrow(self.sums()) if self.installed else compat.get_values(self.variables)

    def sums(self):
        """The sums, or the moving average itself, as arrays; after `install` what is kept instead."""
        return compat.get_values(self._stores)

    def load(self, sums, count):
        """Takes up the sums and the number of samples of another process."""
        arrays = [np.asarray(value, dtype) for value, dtype in zip(sums, self._dtypes)]
        compat.set_values(self._stores + [self._samples], arrays + [np.float32(count)])
        self.count = count

    def _part(self, places):
        return compat.get_values([self._stores[place] for place in places])

    def _load_part(self, places, arrays):
        compat.set_values([self._stores[place] for place in places], arrays)

    def _build_zero(self):
        return _operations(v.assign(tf.zeros_like(v)) for v in self._stores + [self._samples])

    def _build_sum(self):
        samples = tf.identity(self._samples)
        if self._decay is None:
            # In place, so that there is no need to take one variable after the other.
            sums = zip(self._stores, self.variables)
            added = _operations(s.assign_add(tf.cast(v, s.dtype.base_dtype)) for s, v in sums)
        else:
            added = self._one_by_one(lambda v, s: [s.assign_add(self._step(v, s, samples))])
        with tf.control_dependencies([samples]):
            return added + _operations([self._samples.assign_add(1.0)])

    def _step(self, variable, store, samples):
        # The first sample is taken whole: an average that started at zero would have to be corrected for it.
        share = tf.where(tf.equal(samples, 0.0), 1.0, 1.0 - self._decay)
        return (tf.cast(variable, store.dtype.base_dtype) - store) * tf.cast(share, store.dtype.base_dtype)

    def _mean(self, store):
        return store / tf.cast(self._samples, store.dtype.base_dtype) if self._decay is None else _read(store)

    def _build_show(self):
        return self._one_by_one(lambda v, s: [v.assign(tf.cast(self._mean(s), _dtype(v)))])

    def _build_put(self):
        return self._build_exchange(self._mean)

    def _build_swap(self):
        return self._build_exchange(_read)

    def _build_exchange(self, incoming):
        def exchange(variable, store):
            # tf.cast alone would hand back the variable where there is nothing to cast, to be read after it is changed.
            new, old = incoming(store), tf.cast(_read(variable), store.dtype.base_dtype)
            with tf.control_dependencies([new, old]):
                return [variable.assign(tf.cast(new, _dtype(variable))), store.assign(old)]

        return self._one_by_one(exchange)

    def _one_by_one(self, build):
        """Builds for one variable after the other, so that no more than one of them exists twice at a time."""
        assigned, before = [], []
        for variable, store in zip(self.variables, self._stores):
            with tf.control_dependencies(before):
                made = _operations(build(variable, store))
            with tf.control_dependencies(made if compat.TF1 else []):
                before = [_read(variable), _read(store)]  # a function of TF 2 reads after it assigns by itself
            assigned += made
        return assigned


class HostAverage(_Average):
    """An average in the memory of the host: nothing is added to the graph, and weights travel for each sample.

    The sums have the bits of those of `DeviceAverage`.
    """

    def __init__(self, variables, decay=None, dtype="float32", lends=True):
        super().__init__(variables, decay, dtype, lends)
        self._sums = []
        self._aside = []
        if compat.TF1:
            compat.set_values(self.variables, compat.get_values(self.variables))  # the first time adds to the graph

    def reset(self):
        """Forgets all samples."""
        self._sums = []
        self.count = 0
        self.installed = self.lent = self.spent = False

    def add(self):
        """Takes the variables as they are now for a sample."""
        if not self._sums:
            self._sums = [np.zeros(v.shape, dtype) for v, dtype in zip(self.variables, self._dtypes)]
        share = 1.0 if self._decay is None or not self.count else 1.0 - self._decay
        for total, value in zip(self._sums, compat.stream_values(self.variables)):
            value = value.astype(total.dtype)
            total += value if self._decay is None else (value - total) * total.dtype.type(share)
        self.count += 1

    def install(self):
        """Sets the variables to their average, and keeps what they held in place of the sums."""
        means, self._sums = self._means(), self._raw()
        compat.set_values(self.variables, means)
        self.installed = self.spent = True

    def exchange(self):
        """Exchanges the variables with what is kept."""
        kept, self._sums = self._narrow(self._sums), self._raw()
        compat.set_values(self.variables, kept)
        self.installed = not self.installed

    def lend(self):
        """Sets the variables to the average of the samples so far."""
        self._aside = compat.get_values(self.variables)
        compat.set_values(self.variables, self._means())
        self.lent = True

    def take_back(self):
        """Sets the variables to what they held before `lend`."""
        aside, self._aside = self._aside, []
        compat.set_values(self.variables, aside)
        self.lent = False

    def raw_values(self):
        """What the variables hold when the average is not in them, as arrays in their dtypes."""
        if self.lent:
            return list(self._aside)
        return self._narrow(self._sums) if self.installed else compat.get_values(self.variables)

    def sums(self):
        """The sums, or the moving average itself, as arrays; after `install` what is kept instead."""
        return list(self._sums)

    def load(self, sums, count):
        """Takes up the sums and the number of samples of another process."""
        self._sums = [np.array(value, dtype) for value, dtype in zip(sums, self._dtypes)]
        self.count = count

    def _part(self, places):
        return [self._sums[place] for place in places]

    def _load_part(self, places, arrays):
        for place, array in zip(places, arrays):
            self._sums[place] = array

    def _means(self):
        n = self.count if self._decay is None else 1
        return self._narrow([total / total.dtype.type(n) for total in self._sums])

    def _raw(self):
        return [value.astype(dtype) for value, dtype in zip(compat.get_values(self.variables), self._dtypes)]


def _operations(assigned):
    return [result.op for result in assigned] if compat.TF1 else list(assigned)


def _read(variable):
    return tf.convert_to_tensor(variable)


def _dtype(variable):
    return tf.as_dtype(variable.dtype).base_dtype
