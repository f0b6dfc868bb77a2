"""The paths that bench_swa_cost.py times for averaging: ours, keras-swa's, Keras' own, and what the machine can do."""

import math

import common
import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.swa.average import DeviceAverage, HostAverage
from ascend_keras.compat import keras, tf

DECAY = 0.999
MEMCPY, ADD, GRAPH_SUM, GRAPH_EMA = "memcpy", "NumPy b += a", "in-graph sum += w (G)", "in-graph e += c (w - e)"
EVENT, EMA_EVENT, HOST_EVENT = "our event", "our EMA event", "our event, storage on the host"
SWAP, INSTALL, LEND, RETURN = "our swap", "our install", "our loan for validation", "our return after validation"
SET_WEIGHTS, KERAS_EMA, KERAS_SWAP = "model.set_weights", "Keras use_ema", "Keras SwapEMAWeights"
# keras-swa's callback stops on Keras 3 before its first event; the formula of the event is what can be timed there.
PEER = "get_weights + keras-swa's formula in NumPy" if compat.KERAS3 else "keras-swa's event"


def dense_model(parameters, tensors):
    """A chain of square dense layers: so many parameters, but for rounding, in so many tensors, every other a bias."""
    layers = tensors // 2
    width = round((math.sqrt(1 + 4 * parameters / layers) - 1) / 2)
    return keras.Sequential([keras.Input((width,))] + [keras.layers.Dense(width) for _ in range(layers)])


def paths(model):
    """All paths over one model: {name: function, or (preparation, function)} for `common.interleaved`."""
    variables = model.trainable_weights
    buffer = np.ones(model.count_params(), np.float32)
    target = np.zeros_like(buffer)
    values = model.get_weights()
    equal, ema, swapped, fresh, host = averages(variables)
    found = {
        MEMCPY: lambda: np.copyto(target, buffer),
        ADD: lambda: np.add(target, buffer, out=target),
        GRAPH_SUM: _graph_sum(variables),
        EVENT: equal.add,
        HOST_EVENT: host.add,
        PEER: _peer_event(model),
        GRAPH_EMA: _graph_ema(variables),
        EMA_EVENT: ema.add,
        SWAP: swapped.exchange,
        INSTALL: (lambda: sample(fresh), fresh.install),
        SET_WEIGHTS: lambda: model.set_weights(values),
    }
    found.update({LEND: (equal.add, equal.lend), RETURN: equal.take_back})
    found.update(_keras_ema(model))
    return found


def averages(variables):
    """One with equal weights, an EMA, one that is installed, one to be installed, and one on the host."""
    kinds = [DeviceAverage(variables), DeviceAverage(variables, decay=DECAY, lends=False)]
    kinds += [DeviceAverage(variables, lends=False), DeviceAverage(variables, lends=False)]
    kinds += [HostAverage(variables, lends=False)]
    for average in kinds:
        sample(average)
    kinds[2].install()
    return kinds


def sample(average):
    """Starts an average over with one sample."""
    average.reset()
    average.add()


def _graph_sum(variables):
    sums = [compat.make_accumulator(v.shape, "float32") for v in variables]
    return compat.GraphOp(lambda: [_result(s.assign_add(tf.convert_to_tensor(v))) for s, v in zip(sums, variables)])


def _graph_ema(variables):
    averages = [compat.make_accumulator(v.shape, "float32") for v in variables]
    return compat.GraphOp(
        lambda: [_result(e.assign_add((v - e) * (1 - DECAY))) for e, v in zip(averages, map(_tensor, variables))]
    )


def _tensor(variable):
    return tf.convert_to_tensor(variable)


def _result(assigned):
    return assigned.op if compat.TF1 else assigned


def _peer_event(model):
    if compat.KERAS3:
        return _formula_event(model)
    from swa.tfkeras import SWA

    callback = SWA(start_epoch=2)
    callback.set_model(model)
    callback.swa_weights = model.get_weights()
    callback.is_swa_epoch, callback.is_swa_start_epoch, callback.is_batch_norm_epoch = True, False, False
    return lambda: callback.on_epoch_end(2)


def _formula_event(model):
    state = {"average": model.get_weights()}

    def event():
        state["average"] = [(a * 1.0 + w) / (1.0 + 1) for a, w in zip(state["average"], model.get_weights())]

    return event


def _keras_ema(model):
    """The average that Keras' optimizers keep, where they do, and the exchange of Keras 3's callback."""
    if not (compat.KERAS3 or compat.NEW_OPTIMIZERS):
        return {}
    optimizer = keras.optimizers.SGD(use_ema=True, ema_momentum=DECAY)
    optimizer.build(model.trainable_variables)
    update = optimizer._update_model_variables_moving_average  # what apply_gradients calls after each step
    found = {KERAS_EMA: tf.function(lambda: update(model.trainable_variables), autograph=False)}
    if compat.KERAS3:
        model.compile(optimizer, "mse", **common.compile_options())
        callback = keras.callbacks.SwapEMAWeights()
        callback.set_model(model)
        found[KERAS_SWAP] = (callback.on_test_end, callback.on_test_begin)
    return found
