"""Exact population statistics for the batch normalization layers of a model.

The moving averages that training leaves behind belong to weights of the past. After the weights were changed by other
means than training (averaged, loaded, pruned), they have to be measured again, over the data.
"""

import contextlib
import itertools
from typing import Any, NamedTuple

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.moment_sums import Sums
from ascend_keras.compat import keras, tf
from ascend_keras.distributed.watch import beat

_NO_END = "{} Received: steps=None. Give the number of batches to use."


class BatchNormSummary(NamedTuple):
    """What a re-estimation did: numbers of layers re-estimated, of layers left alone, of batches, of samples."""

    layers: int
    kept: int
    batches: int
    samples: int

    def __str__(self):
        text = "statistics of {} batch normalization layer{} re-estimated from {} samples in {} batches".format(
            self.layers, "" if self.layers == 1 else "s", self.samples, self.batches
        )
        return text + (", {} left alone, as training leaves them alone".format(self.kept) if self.kept else "")


def reestimate_batch_norm(model, data, steps=None, batch_size=None, dropout=True, reduce=None):
    """Sets the moving mean and variance of all batch normalization layers to their population values over `data`.

    The model runs over the data in training mode, each layer normalising by the batch as it does in training, and the
    moments of what reaches each layer are summed up in float64: with n_b values per channel in call b, mean mu_b and
    variance var_b, mean = sum(n_b mu_b) / N and variance = sum(n_b (var_b + mu_b^2)) / N - mean^2. Nothing else
    changes: no other variable of the model, no optimizer, no metric. If the pass fails, the model is as it was before.

    Layers that do not use batch statistics in training are left alone: those that are not trainable, and those called
    with `training=False`.

    Args:
        model: a built Keras model. Batch normalization is found at any depth.
        data: a `tf.data.Dataset` of batches, arrays, a `keras.utils.Sequence`, or a generator of batches; with or
            without labels, in Keras' forms `x`, `(x, y)`, `(x, y, sample_weight)`. Arrays are shuffled, always in the
            same way, so that data sorted by class does not give batches of one class.
        steps: at most so many batches are used. Required for data without end, and for generators.
        batch_size: samples per batch when `data` is arrays (default 32); use that of the training. The statistics of
            layers behind other batch normalization depend on it a little.
        dropout: True lets dropout act in the pass, as it does in training and in the published method of weight
            averaging. False switches it off, which makes the pass repeatable.
        reduce: for several ranks with a part of the data each: a function that gets a float64 vector and returns its
            sum over the ranks. The vector holds, per layer, the count N, sum(n mu) and sum(n (var + mu^2)).

    Returns:
        A `BatchNormSummary`.

    Raises:
        ValueError: the data is empty, without end, of an unknown kind, or gives statistics that are not finite.
        RuntimeError: a layer runs in a loop or a `tf.function` of its own, out of reach.

    Reference:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, section 3.2.
    """
    batch_norm = BatchNormPass(model, dropout=dropout)
    if not batch_norm.layers:
        return BatchNormSummary(0, batch_norm.frozen, 0, 0)
    return batch_norm.run(Batches(data, steps, batch_size), reduce=reduce)


class Batches:
    """The input batches of a data source, from the start at each iteration. See `reestimate_batch_norm`."""

    def __init__(self, data, steps=None, batch_size=None):
        if steps is not None and steps < 1:
            raise ValueError("`steps` must be at least 1. Received: steps={!r}.".format(steps))
        self._steps = steps
        self._open = self._opener(data, batch_size or 32)

    def __iter__(self):
        for batch in itertools.islice(self._open(), self._steps):
            beat("statistics of batch normalization")
            yield batch[0] if isinstance(batch, tuple) else batch

    def _opener(self, data, batch_size):
        if isinstance(data, tf.data.Dataset):
            if self._steps is None and compat.is_endless(data):
                raise ValueError(_NO_END.format("The dataset goes on for ever."))
            return compat.open_dataset(data)
        if isinstance(data, keras.utils.Sequence):
            return lambda: (data[index] for index in range(len(data)))
        if hasattr(data, "__next__"):
            if self._steps is None:
                raise ValueError(_NO_END.format("A generator has no known end."))
            return lambda: data
        return _array_opener(data, batch_size)


def _array_opener(data, batch_size):
    inputs = data[0] if isinstance(data, tuple) and data else data
    leaves = tf.nest.flatten(inputs)
    sizes = {len(leaf) if getattr(leaf, "shape", ()) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            "`data` must be a dataset, a Sequence, a generator, or arrays of one length. Received: data of type {}, "
            "lengths {}.".format(type(data).__name__, sorted(sizes, key=str))
        )
    order = np.random.RandomState(0).permutation(sizes.pop())
    arrays = [np.asarray(leaf) for leaf in leaves]

    def batches():
        for start in range(0, len(order), batch_size):
            chosen = [array[order[start : start + batch_size]] for array in arrays]
            # A tuple of one, as what stands alone may be a list of several inputs.
            yield (tf.nest.pack_sequence_as(inputs, chosen),)

    return batches


class BatchNormPass:
    """The re-estimation for one model, built once and run as often as needed. See `reestimate_batch_norm`.

    `model` is the model, `layers` are those to be re-estimated, `frozen` is the number of the others.
    """

    def __init__(self, model, dropout=True):
        found = batch_norm_layers(model)
        self.layers = [layer for layer in found if layer.trainable]
        self.frozen = len(found) - len(self.layers)
        self.model = model
        self._recorder = _Recorder(model, self.layers, dropout)
        self._moments: Any = None

    def check_reach(self):
        """Refuses layers that a pass could not see.

        Raises:
            RuntimeError: a layer is called by a recurrent one, inside a loop in the graph.
        """
        if getattr(self.model, "run_eagerly", False) or compat.functions_run_eagerly():
            return
        recurrent = [layer for layer in compat.all_layers(self.model) if isinstance(layer, keras.layers.RNN)]
        cells = [layer.cell for layer in recurrent if not layer.unroll and isinstance(layer.cell, keras.layers.Layer)]
        inner = {id(layer) for cell in cells for layer in [cell] + compat.all_layers(cell)}
        for layer in self.layers:
            if id(layer) in inner:
                raise _out_of_reach(layer)

    def build(self, reduce=None):
        """Builds the graph of the pass; `run` does it otherwise. On TF 1.15 nothing is added to the graph after it.

        Args:
            reduce: the sum over ranks that `run` will be given; with `prepare(length)` it is prepared here.
        """
        self.check_reach()
        if hasattr(reduce, "prepare"):
            reduce.prepare(len(Sums(self.layers)))
        if self._moments is None:
            self._moments = self._graph_moments() if compat.TF1 else self._function_moments()
            if compat.TF1:
                # The first assignment of a variable adds to the graph.
                statistics = self._statistics()
                compat.set_values(statistics, compat.get_values(statistics))

    def run(self, batches, reduce=None):
        """Re-estimates over `batches`, an iterable of model inputs. Returns a `BatchNormSummary`."""
        self.build()
        sums = Sums(self.layers)
        state = _Snapshot(self.model)
        try:
            with self._recorder.installed():
                self._add_up(batches, sums, reduce)
            sums.reduce(reduce)
            self._check_reached(sums, state)
        finally:
            state.restore()
        return self._assign(sums)

    def _add_up(self, batches, sums, reduce):
        try:
            for inputs in batches:
                sums.add(self._moments(inputs), len(tf.nest.flatten(inputs)[0]))
        except Exception:
            sums.give_up(reduce)
            raise

    def _assign(self, sums):
        seen = [index for index in range(len(self.layers)) if sums.count(index)]
        values = [(self.layers[index], sums.population(index)) for index in seen]
        variables = [v for layer, _ in values for v in (layer.moving_mean, layer.moving_variance)]
        arrays = [array for _, pair in values for array in pair]
        shaped = [a.reshape(v.shape).astype(tf.as_dtype(v.dtype).as_numpy_dtype) for v, a in zip(variables, arrays)]
        compat.set_values(variables, shaped)
        kept = self.frozen + len(self.layers) - len(seen)
        return BatchNormSummary(len(seen), kept, sums.batches, sums.samples)

    def _check_reached(self, sums, state):
        # A layer that no call was seen of, but whose statistics moved, was called by a graph traced before.
        changed = state.changed()
        for index, layer in enumerate(self.layers):
            if not sums.count(index) and (id(layer.moving_mean) in changed or id(layer.moving_variance) in changed):
                raise _out_of_reach(layer)

    def _statistics(self):
        return [v for layer in self.layers for v in (layer.moving_mean, layer.moving_variance)]

    def _function_moments(self):
        def moments(inputs):
            return self._recorder.record(lambda: self.model(inputs, training=True), tf.nest.flatten(inputs)[0])

        if getattr(self.model, "run_eagerly", False):
            return lambda inputs: moments(tf.nest.map_structure(tf.convert_to_tensor, inputs))
        functions = {}

        def run(inputs):
            inputs = tf.nest.map_structure(tf.convert_to_tensor, inputs)
            specs = tf.nest.map_structure(self._spec, inputs)
            key = str(specs)
            if key not in functions:
                functions[key] = tf.function(moments, input_signature=[specs])
            return functions[key](inputs)

        return run

    def _spec(self, tensor):
        # The size of a batch is left open, as in fit: some layers of Keras 2 do otherwise where it is known.
        fixed = (
            any(getattr(layer, "stateful", False) for layer in compat.all_layers(self.model)) or not tensor.shape.rank
        )
        return tf.TensorSpec(tensor.shape if fixed else [None] + list(tensor.shape[1:]), tensor.dtype)

    def _graph_moments(self):
        if not self.model.inputs:
            raise ValueError(
                "The model has no inputs yet. Received: model={!r}. Call it on data first.".format(self.model.name)
            )
        backend = keras.backend
        with compat.get_session().graph.as_default():
            feeds = [backend.placeholder(shape=backend.int_shape(x), dtype=backend.dtype(x)) for x in self.model.inputs]
            inputs = feeds if len(feeds) > 1 else feeds[0]
            with self._recorder.installed(), compat.untracked_call(self.model):
                moments = self._recorder.record(lambda: self.model(inputs, training=True), feeds[0])
        run = backend.function(feeds, tf.nest.flatten(moments))
        names = self.model.input_names
        return lambda inputs: tf.nest.pack_sequence_as(moments, run(_in_order(inputs, names)))


def _in_order(inputs, names):
    return [inputs[name] for name in names] if isinstance(inputs, dict) else tf.nest.flatten(inputs)


def batch_norm_layers(model):
    """All batch normalization layers of a model, at any depth, synchronised ones among them."""
    return [layer for layer in compat.all_layers(model) if isinstance(layer, _batch_norm_class())]


def _batch_norm_class():
    # Keras 2 gives its synchronised layer and its older ones a common base class, which it does not export.
    for base in keras.layers.BatchNormalization.__mro__:
        if base.__name__ == "BatchNormalizationBase":
            return base
    return keras.layers.BatchNormalization


def _out_of_reach(layer):
    return RuntimeError(
        "The inputs of a batch normalization layer cannot be seen, as it is called inside a loop or a tf.function of "
        "its own. Received: layer={!r}. Call tf.config.run_functions_eagerly(True) around the re-estimation.".format(
            layer.name
        )
    )


class _Recorder:
    """Records the moments of what reaches each layer while the model is traced or run."""

    def __init__(self, model, layers, dropout):
        self._layers = layers
        self._dropouts = [] if dropout else [layer for layer in compat.all_layers(model) if _drops(layer)]
        self._records: Any = None

    @contextlib.contextmanager
    def installed(self):
        """Inside, each call of a layer goes through the recorder, and dropout is off if it is to be."""
        rates = [layer.rate for layer in self._dropouts]
        calls = [vars(layer).get("call") for layer in self._layers]
        try:
            for layer in self._dropouts:
                layer.rate = 0.0
            # Into the instance's dictionary: Keras wraps or refuses what is set as an attribute of a built layer.
            for index, layer in enumerate(self._layers):
                vars(layer)["call"] = self._recording(index, layer.call)
            yield
        finally:
            for layer, rate in zip(self._dropouts, rates):
                layer.rate = rate
            for layer, call in zip(self._layers, calls):
                vars(layer).pop("call", None) if call is None else vars(layer).update(call=call)

    def record(self, run, example):
        """Runs the model; returns, for each layer, a list with (count, mean, variance) for each of its calls."""
        self._records = [[] for _ in self._layers]
        run()
        graph = getattr(example, "graph", None)
        for layer, calls in zip(self._layers, self._records):
            if any(getattr(mean, "graph", None) is not graph for _, mean, _ in calls):
                raise _out_of_reach(layer)
        return self._records

    def _recording(self, index, call):
        def recording(inputs, *args, **kwargs):
            arguments = dict(zip(("training", "mask"), args), **kwargs)
            training = arguments.get("training")
            if tf.is_tensor(training) or training:
                self._records[index].append(_moments(self._layers[index], inputs, arguments.get("mask")))
            return call(inputs, *args, **kwargs)

        return recording


def _drops(layer):
    layers = keras.layers
    return isinstance(layer, (layers.Dropout, layers.GaussianDropout, layers.AlphaDropout)) or (
        type(layer).__name__.startswith("SpatialDropout")
    )


def _moments(layer, inputs, mask):
    """Count (int64, one number), mean and variance (each one number per channel) of a layer's inputs."""
    inputs = tf.cast(inputs, tf.float32) if inputs.dtype in (tf.float16, tf.bfloat16) else inputs
    axes = _reduced_axes(layer, len(inputs.shape))
    if mask is None:
        count = tf.reduce_prod(tf.gather(tf.shape(inputs, out_type=tf.int64), axes))
        return (count,) + tuple(tf.nn.moments(inputs, axes))
    weights = tf.expand_dims(tf.cast(mask, inputs.dtype), -1)
    mean, variance = tf.nn.weighted_moments(inputs, axes, weights)
    return tf.math.count_nonzero(mask, dtype=tf.int64), mean, variance


def _reduced_axes(layer, rank):
    # With virtual batches the layer counts its axes with the one that it adds for them.
    added = 1 if getattr(layer, "virtual_batch_size", None) else 0
    channels = [(axis - added) % rank for axis in tf.nest.flatten(layer.axis)]
    return [axis for axis in range(rank) if axis not in channels]


class _Snapshot:
    """The variables that a forward pass in training mode may change, to be put back: all but the trainable ones."""

    def __init__(self, model):
        # On TF 1.15 a forward pass changes nothing, as its updates are operations that nobody runs.
        metrics = [v for metric in model.metrics for v in metric.variables] if not compat.TF1 else []
        self._variables = [] if compat.TF1 else compat.state_variables(model) + metrics
        self._values = compat.get_values(self._variables)

    def changed(self):
        """The ids of the variables whose values are not the old ones."""
        pairs = zip(self._variables, self._values, compat.get_values(self._variables))
        return {id(v) for v, old, new in pairs if not np.array_equal(old, new)}

    def restore(self):
        compat.set_values(self._variables, self._values)
