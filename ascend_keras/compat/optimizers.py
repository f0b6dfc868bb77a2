"""Optimizers of the old family, of the new one, of Keras 3, and what wraps them."""

from ascend_keras.compat.stack import KERAS3, NEW_OPTIMIZERS, TF1, keras, tf


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


def learning_rate_source(optimizer):
    """What makes the learning rate: a schedule, a function, a number or the variable that holds it; None for none."""
    optimizer = inner_optimizer(optimizer)
    return optimizer._hyper.get("learning_rate") if hasattr(optimizer, "_hyper") else _learning_rate_slot(optimizer)


def has_schedule(optimizer):
    """Whether the learning rate is a LearningRateSchedule, which cannot be assigned."""
    return isinstance(_learning_rate_slot(optimizer), keras.optimizers.schedules.LearningRateSchedule)


def get_learning_rate(optimizer, behind=0):
    """The learning rate of the next step, as a Python float; a schedule is evaluated at `optimizer.iterations`.

    Args:
        optimizer: the optimizer.
        behind: 1 for the rate of the step just done, where it is a schedule.
    """
    optimizer = inner_optimizer(optimizer)
    rate = _learning_rate_slot(optimizer)
    if rate is None:
        raise ValueError("The optimizer has no learning rate. Received: optimizer={!r}".format(optimizer))
    if has_schedule(optimizer):
        if TF1:
            return float(keras.backend.get_value(_rate_tensor(optimizer, rate, behind)))
        # Keras 3 divides `iterations` by the steps of gradient accumulation, but not the step of a schedule.
        rate = rate((optimizer._iterations if KERAS3 else optimizer.iterations) - behind)
    if TF1:
        return float(keras.backend.get_value(rate))
    # Variables of a distribution strategy have numpy(), but no array interface.
    return float(rate.numpy() if hasattr(rate, "numpy") else rate)


def _rate_tensor(optimizer, schedule, behind):
    """The rate of the next step, or of the one `behind` it, on TF 1.15, added to the graph once."""
    name = "_ascend_keras_rate_{}".format(behind)
    known = vars(optimizer).get(name)
    if known is None or known[0] is not schedule or known[1].graph is not tf.get_default_graph():
        known = schedule, schedule(tf.cast(optimizer.iterations - behind, tf.float32))
        vars(optimizer)[name] = known
    return known[1]


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


def optimizer_variables(optimizer):
    """All variables of an optimizer, its slots, counters and loss scale among them, in a fixed order."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def optimizer_state(optimizer):
    """All that the next step of an optimizer depends on, as pairs of a name and a variable, in a fixed order.

    More than Keras lists: the variable of the learning rate, where there is one, the loss scale with its counter, and
    variables that were hung on the optimizer. First come those of the inner optimizer, then those of its wrapper.
    """
    inner = inner_optimizer(optimizer)
    listed = optimizer_variables(inner) + [_learning_rate_slot(inner)] + _hung_on(inner)
    if optimizer is not inner:
        listed += optimizer_variables(optimizer) + _dynamic_scale(optimizer) + _hung_on(optimizer)
    variables = {id(thing): thing for thing in listed if hasattr(thing, "assign")}
    return [(getattr(v, "path", v.name).split(":")[0], v) for v in variables.values()]


def _hung_on(optimizer):
    attributes = sorted(vars(optimizer).items())
    return [value for _, value in attributes if isinstance(value, tf.Variable)]


def _dynamic_scale(optimizer):
    if TF1 or KERAS3 or not getattr(optimizer, "dynamic", False):
        return []
    return [loss_scale_variable(optimizer), optimizer.dynamic_counter]


def optimizer_family(optimizer):
    """The generation that an optimizer belongs to; within one, those of a class have the same variables."""
    if KERAS3:
        return "Keras 3"
    new = NEW_OPTIMIZERS and not isinstance(inner_optimizer(optimizer), keras.optimizers.legacy.Optimizer)
    return "Keras 2.11" if new else "OptimizerV2"


def build_optimizer(model):
    """Makes the variables that the optimizer of a compiled model keeps for the weights, if training has not yet.

    Raises:
        ValueError: the model has no weights yet, or no optimizer.
    """
    problem = None
    if getattr(model, "optimizer", None) is None:
        problem = "is not compiled. Compile it first."
    elif not (model.built and model.weights):
        problem = "has no weights yet. Call it on a batch first, or model.build(input_shape)."
    elif TF1 and not model.inputs:
        problem = "has no inputs yet. Call model.train_on_batch on any batch first."
    if problem:
        raise ValueError("The model {} Received: model={!r}.".format(problem, model.name))
    if TF1:
        model._make_train_function()
        return
    optimizer = model.optimizer if KERAS3 else inner_optimizer(model.optimizer)
    with model.distribute_strategy.scope():
        if hasattr(optimizer, "_create_all_weights"):
            optimizer._create_all_weights(model.trainable_variables)
        elif not (KERAS3 and optimizer.built):
            optimizer.build(model.trainable_variables)


def loads_by_itself(optimizer):
    """Whether a plain Keras loads the optimizer from a saved model, with its state."""
    if NEW_OPTIMIZERS and isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return False  # Keras 2.15 makes the class, and then restores nothing into the optimizer inside
    return type(optimizer).__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow", "tensorflow_core")


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
