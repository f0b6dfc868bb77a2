"""The reduction of gradients over ranks, put around an optimizer once."""


def distribute(optimizer, wrapper):
    """Returns `optimizer` with gradients averaged over the ranks by the adapter's `wrapper`.

    The adapters' wrappers change the instance in place, so that learning rate, schedules, slots and saving stay as they
    are; called twice they would reduce twice. An optimizer that carries the change already is returned as it is.

    Where to put it (rule: reduce, then test, then maybe apply): on TF 2.6 around the loss-scale optimizer, whose
    apply_gradients tests; on TF 1.15 around the inner optimizer, whose get_gradients comes before the test.

    Args:
        optimizer: a Keras optimizer.
        wrapper: `npu_distributed_optimizer_wrapper` or `npu_distributed_keras_optimizer_wrapper`.
    """
    return optimizer if is_distributed(optimizer) else wrapper(optimizer)


def is_distributed(optimizer):
    """Whether an adapter's wrapper has changed this instance: both replace its `_compute_gradients`."""
    return "_compute_gradients" in vars(optimizer)


def undistribute(optimizer):
    """Takes the change of an adapter's wrapper back: where a wrapper goes around, none may be inside as well."""
    if is_distributed(optimizer):
        for name in ("compute_gradients", "_compute_gradients", "get_gradients", "get_gradient", "apply_gradients"):
            vars(optimizer).pop(name, None)
