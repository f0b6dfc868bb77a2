"""The reduction of gradients over ranks, put around an optimizer once."""

from ascend_keras import compat
from ascend_keras.compat import tf

# What a reduction of ours carries: the method that it replaced, None where the class's own shows again by itself.
_REPLACED = "ascend_keras_replaced"


def distribute(optimizer, wrapper):
    """Returns `optimizer` with gradients averaged over the ranks by the adapter's `wrapper`.

    The adapters' wrappers change the instance in place, so that learning rate, schedules, slots and saving stay as they
    are; called twice they would reduce twice. An optimizer that carries the change already is returned as it is.

    Where to put it (rule: reduce, then test, then maybe apply): on TF 2.6 around the loss-scale optimizer, whose
    apply_gradients tests; on TF 1.15 around the inner optimizer, whose get_gradients comes before the test.

    Args:
        optimizer: a Keras optimizer.
        wrapper: `npu_distributed_optimizer_wrapper` or `npu_distributed_keras_optimizer_wrapper`, or on a host a
            function that calls `average_gradients`.
    """
    return optimizer if is_distributed(optimizer) else wrapper(optimizer)


def is_distributed(optimizer):
    """Whether an adapter's wrapper, both of which replace `_compute_gradients`, or ours has changed this instance."""
    return "_compute_gradients" in vars(optimizer) or bool(_ours(optimizer))


def undistribute(optimizer):
    """Takes the change back: where a reduction goes around, none may be inside as well."""
    ours = _ours(optimizer)
    for name, method in ours.items():
        del vars(optimizer)[name]
        if getattr(method, _REPLACED) is not None:
            vars(optimizer)[name] = getattr(method, _REPLACED)
    if "_compute_gradients" in vars(optimizer):
        for name in ("compute_gradients", "_compute_gradients", "get_gradients", "get_gradient", "apply_gradients"):
            vars(optimizer).pop(name, None)


def average_gradients(optimizer, mean):
    """Averages gradients in the one method of `optimizer` that they all pass, before they are clipped.

    It is changed in place, like the adapters do it. On TF 1.15 the method is `get_gradients`, and the innermost
    optimizer is the one to give; elsewhere it is `apply_gradients`, on Keras 3 `apply`, and that of the outermost one.

    Args:
        optimizer: a Keras optimizer.
        mean: a function of gradients and variables, two lists, that returns the means over the ranks, a list.

    Returns:
        `optimizer`.
    """
    name, make = ("apply_gradients", _average_applied)
    if compat.TF1:
        name, make = ("get_gradients", _average_computed)
    elif compat.KERAS3:
        name, make = ("apply", _average_applied_keras3)
    method = make(optimizer, getattr(optimizer, name), mean)
    setattr(method, _REPLACED, vars(optimizer).get(name))
    vars(optimizer)[name] = method  # past __setattr__, so that Keras does not track it
    return optimizer


def _ours(optimizer):
    return {name: method for name, method in vars(optimizer).items() if hasattr(method, _REPLACED)}


def _average_applied(optimizer, original, mean):
    def apply_gradients(grads_and_vars, *args, **kwargs):
        pairs = list(grads_and_vars)
        gradients, variables = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return original(list(zip(mean(gradients, variables), variables)), *args, **kwargs)

    return apply_gradients


def _average_applied_keras3(optimizer, original, mean):
    def apply(grads, trainable_variables=None):
        grads = list(grads)
        variables = grads if trainable_variables is None else list(trainable_variables)
        return original(mean(grads, variables), trainable_variables)

    return apply


def _average_computed(optimizer, original, mean):
    def get_gradients(loss, params):
        params = tf.nest.flatten(params)
        # The method clips what it has computed. Without limits it does not, and we do it after the mean.
        limits = {name: vars(optimizer).pop(name) for name in ("clipnorm", "clipvalue") if name in vars(optimizer)}
        try:
            gradients = mean(original(loss, params), params)
        finally:
            vars(optimizer).update(limits)
        if "clipnorm" in limits:
            gradients = [tf.clip_by_norm(gradient, limits["clipnorm"]) for gradient in gradients]
        if "clipvalue" in limits:
            limit = limits["clipvalue"]
            gradients = [tf.clip_by_value(gradient, -limit, limit) for gradient in gradients]
        return gradients

    return get_gradients
