"""What a compiled model does not say of itself, or says under another name."""

import contextlib

from ascend_keras.compat.stack import KERAS3, TF1, keras, tf


def all_layers(model):
    """The layers of a model at any depth, those inside nested models and wrapper layers among them, each once."""
    if not TF1:
        return list(model._flatten_layers(include_self=False))
    from tensorflow.python.training.tracking import layer_utils

    found = {}
    for layer in layer_utils.filter_empty_layer_containers(getattr(model, "_layers", [])):
        found.update((id(inner), inner) for inner in [layer] + all_layers(layer))
    return list(found.values())


def is_complete(model):
    """Whether all layers of a model have made their weights; Keras 3 calls a model built that has none yet."""
    return bool(model.built and model.weights) and all(layer.built for layer in all_layers(model))


def seed_variables(model):
    """The variables in which the layers of a model keep the state of their random numbers, dropout's among them.

    Keras 3 has them for all. Keras 2 keeps such a state inside the operations, out of reach, unless
    `keras.backend.experimental.enable_tf_random_generator()` was called before the model was made (not on TF 2.6).
    """
    if KERAS3:
        weights = {id(weight) for weight in model.weights}
        return [variable for variable in model.variables if id(variable) not in weights]
    holders = [getattr(layer, "_random_generator", None) for layer in all_layers(model)]
    generators = [getattr(holder, "_generator", None) for holder in holders]
    return [generator.state for generator in generators if generator is not None]


def layer_state(model):
    """What the layers of a model keep beside their trainable weights, frozen or not: moving statistics, counters.

    The weights of a frozen layer are none of it, nor are the states of metrics and of random numbers.
    """
    attribute = "_non_trainable_variables" if KERAS3 else "_non_trainable_weights"
    owners = [owner for owner in [model] + all_layers(model) if not isinstance(owner, keras.metrics.Metric)]
    seeds = {id(variable) for variable in seed_variables(model)}
    found = {id(v): v for owner in owners for v in getattr(owner, attribute, ())}
    return [variable for variable in found.values() if id(variable) not in seeds]


def state_variables(model):
    """The variables that a forward pass in training mode may change: all but the trainable ones."""
    variables = {id(v): v for v in model.non_trainable_variables}
    for layer in all_layers(model):
        # The states of recurrent layers are among the variables of no model.
        states = layer.states if getattr(layer, "stateful", False) and hasattr(layer, "states") else None
        variables.update((id(v), v) for v in tf.nest.flatten(states) if v is not None)
    return list(variables.values())


@contextlib.contextmanager
def untracked_call(model):
    """On TF 1.15: inside, the model may be called without its layers taking note of updates and losses of the call."""
    layers = [model] + all_layers(model) if TF1 else []
    kept = [(layer, list(layer._updates), list(layer._losses)) for layer in layers]
    try:
        yield
    finally:
        for layer, updates, losses in kept:
            layer._updates[:], layer._losses[:] = updates, losses


def steps_per_execution(model):
    """Steps that a compiled model runs per call of its graph; 1 on TF 1.15, which has no such thing."""
    steps = getattr(model, "steps_per_execution" if KERAS3 else "_steps_per_execution", None)
    # Keras 2 keeps it in a variable; that of a distribution strategy has numpy(), but no number of its own.
    return 1 if steps is None else int(steps.numpy() if hasattr(steps, "numpy") else steps)


def compile_settings(model):
    """Loss, metrics and their weights as they were given to `compile`, by name; None where there are none."""
    if TF1:
        metrics, weighted = (getattr(model, "_compile_{}metrics".format(kind), None) for kind in ("", "weighted_"))
        weights = getattr(model, "loss_weights", None)
    else:
        losses = getattr(model, "_compile_loss" if KERAS3 else "compiled_loss", None)
        holder = getattr(model, "_compile_metrics" if KERAS3 else "compiled_metrics", None)
        metrics, weighted = (getattr(holder, "_user_{}metrics".format(kind), None) for kind in ("", "weighted_"))
        weights = getattr(losses, "_user_loss_weights", None)
    return {
        "loss": getattr(model, "loss", None),
        "loss_weights": weights,
        "metrics": metrics or None,
        "weighted_metrics": weighted or None,
    }


def overrides_train_step(model):
    """Whether a model has a training step of its own, which on Keras 3 must scale the loss by itself."""
    return KERAS3 and type(model).train_step is not keras.Model.train_step


def build_on(model, data):
    """Makes the weights of a model that waits for its first batch; does nothing for one that has them.

    Raises:
        RuntimeError: the first batch of such data would be lost by looking at it.
    """
    if model.built or TF1:
        return
    if isinstance(data, (tf.data.Dataset, keras.utils.Sequence)):
        first = next(iter(data.take(1))) if isinstance(data, tf.data.Dataset) else data[0]
        # A Sequence may give lists, which Keras takes as tuples.
        inputs = first[0] if isinstance(first, (tuple, list)) else first
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
