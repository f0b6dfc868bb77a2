"""Weight-update sharding is not reproduced."""


def grouping_gradients_apply(apply_func, grads_and_vars, *args, **kwargs):
    raise NotImplementedError("The fake does not reproduce weight-update grouping.")


def grouping_broadcast(variables):
    raise NotImplementedError("The fake does not reproduce weight-update grouping.")
