"""The data of each rank: its part of what the user gives to a verb of Keras, and as many steps as all others make.

`parts` says which rows and batches a rank takes, `agreement` what the ranks settle among themselves.
"""

from ascend_keras.compat import keras, tf
from ascend_keras.distributed import parts
from ascend_keras.distributed.agreement import Role, agree


def for_fit(x, y, validation_data, arguments, cluster, gather):
    """This rank's part of the data of a `fit`.

    Training: rank r of R takes the rows x[r::R] of arrays, the batches r, r + R, ... of a `tf.data.Dataset`, the items
    r, r + R, ... of a `keras.utils.Sequence`; equally much on every rank, what is left over is dropped, and rank 0 says
    so. `validation_split` is cut off before, as Keras cuts. Validation: the same, but together all examples once.
    `batch_size`, `steps_per_epoch` and `validation_steps` are those of each rank.

    Functions of a `tf.distribute.InputContext` bring the part of this rank by themselves, and `shard=False` says that
    all data is this rank's already: then every rank makes the steps of the smallest part.

    Args:
        x, y, validation_data: as NPUTrainer.fit takes them; functions are called here.
        arguments: the other arguments of `fit`. `shard` is taken out; `sample_weight` and `validation_split` are cut;
            steps are added where a function tells them, and left out where validation data was cut to them.
        cluster: the ranks.
        gather: gets a float64 vector and returns those of all ranks, (size, length): a collective, made once.

    Returns:
        x, y, validation_data, arguments for `model.fit`.

    Raises:
        ValueError: the data of a rank cannot be prepared or cut, leaves a rank with nothing, is not the same
            everywhere, or has no known number of steps. All ranks raise; one that failed alone raises its own error.
    """
    arguments = dict(arguments)
    shard = arguments.pop("shard", True)

    def check():
        _check(shard, cluster)
        _take_steps(arguments, "steps_per_epoch", x, cluster)
        _take_steps(arguments, "validation_steps", validation_data, cluster)

    if cluster.size == 1:
        check()
        return open_function(x, cluster), y, open_function(validation_data, cluster), arguments

    def prepare():
        check()
        train, own = _open((x, y, arguments.get("sample_weight")), shard, cluster)
        tested, tested_own = _open(validation_data, shard, cluster)
        if validation_data is None:
            (train, tested), tested_own = _split(train, arguments), own
        size = arguments.get("batch_size")
        tested_size = arguments.get("validation_batch_size") or size
        return [
            _role(for_train, train, own, arguments.get("steps_per_epoch"), size, cluster),
            _role(for_test, tested, tested_own, arguments.get("validation_steps"), tested_size, cluster),
        ]

    for_train, for_test = Role("x", training=True), Role("validation_data", training=False)
    train, tested = agree("fit", prepare, [for_train, for_test], cluster, gather)
    x, y = _put_back(train, x, y, arguments)
    _drop_steps(arguments, "validation_steps", tested)
    return x, y, _like(validation_data, tested), arguments


def for_evaluate(x, y, arguments, cluster, gather):
    """This rank's part of the data of an `evaluate`; together the ranks have every example exactly once.

    Nothing is dropped, so the parts of two ranks may differ by a row or a batch. `steps` counts those of each rank.

    Args, errors: as `for_fit`.

    Returns:
        x, y, arguments for `model.evaluate`.
    """
    arguments = dict(arguments)
    shard = arguments.pop("shard", True)

    def check():
        _check(shard, cluster)
        _take_steps(arguments, "steps", x, cluster)

    if cluster.size == 1:
        check()
        return open_function(x, cluster), y, arguments

    def prepare():
        check()
        tested, own = _open((x, y, arguments.get("sample_weight")), shard, cluster)
        return [nothing, _role(for_test, tested, own, arguments.get("steps"), arguments.get("batch_size"), cluster)]

    # The role of training is there for a vector of one length, as for each length a graph is compiled.
    nothing, for_test = Role("", training=True), Role("x", training=False)
    _, tested = agree("evaluate", prepare, [nothing, for_test], cluster, gather)
    x, y = _put_back(tested, x, y, arguments)
    _drop_steps(arguments, "steps", tested)
    return x, y, arguments


def for_predict(x, arguments, cluster, gather):
    """The data of a `predict`: all of it on every rank. With `shard=False` a function gives this rank's part.

    Args, errors: as `for_fit`.

    Returns:
        x, arguments for `model.predict`.
    """
    arguments = dict(arguments)
    shard = arguments.pop("shard", True)
    opened = []

    def prepare():
        _check(shard, cluster)
        reader = cluster._replace(size=1, rank=0) if shard else cluster
        _take_steps(arguments, "steps", x, reader)
        opened.append(open_function(x, reader))
        return nothing

    # Nothing is cut, but a rank at another verb would wait in a collective of its own.
    nothing = [Role("", training=True), Role("", training=False)]
    if cluster.size == 1:
        prepare()
    else:
        agree("predict", prepare, nothing, cluster, gather)
    return opened[0], arguments


def is_function(data):
    """Whether data is a function of a `tf.distribute.InputContext`."""
    return callable(data) and not isinstance(data, (tf.data.Dataset, keras.utils.Sequence))


def open_function(data, cluster):
    """Calls a function of a `tf.distribute.InputContext`; returns everything else as it is."""
    if not is_function(data):
        return data
    return data(
        tf.distribute.InputContext(
            num_input_pipelines=cluster.size,
            input_pipeline_id=cluster.rank or 0,
            num_replicas_in_sync=cluster.size,
        )
    )


def _check(shard, cluster):
    if not isinstance(shard, bool):
        raise ValueError("`shard` must be True or False. Received: shard={!r}. Leave it out for True.".format(shard))
    if cluster.rank is None:
        raise RuntimeError(
            "A rank takes its part of the data by its number. Received: rank=None. Create NPUTrainer first, which "
            "opens the device."
        )


def _take_steps(arguments, name, data, cluster):
    """The steps that a function of an InputContext tells by a method `steps(ranks)`, where none are given."""
    if is_function(data) and hasattr(data, "steps") and not arguments.get(name):
        arguments[name] = data.steps(cluster.size)


def _open(data, shard, cluster):
    """The source of an argument, and whether it is this rank's part already."""
    components = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    if len(components) and is_function(components[0]):
        opened = open_function(components[0], cluster)
        # A function may return what Keras takes for validation: inputs and targets.
        apart = len(components) == 1 and isinstance(opened, tuple)
        return parts.source_of(opened if apart else (opened,) + components[1:]), True
    return parts.source_of(components) if components else None, not shard


def _split(source, arguments):
    share = arguments.get("validation_split") or 0.0
    if not share or not isinstance(source, parts.Arrays):
        return source, None
    arguments.pop("validation_split")
    return source.split(share)


def _role(role, source, own, steps, batch_size, cluster):
    if source is None:
        return role
    if isinstance(source, parts.Stream) and not own:
        raise ValueError(
            "Generators and other iterators cannot be cut among ranks. Received: {} of type {}. Give a function of a "
            "tf.distribute.InputContext that returns the dataset of a rank, or shard=False where each rank has its own "
            "part already.".format(role.name, type(source.components[0]).__name__)
        )
    part = source if own else source.part(cluster.rank, cluster.size, role.training)
    # In training all ranks cut the same data in the same way, so all or none come out empty, and Keras says so.
    look = own or not role.training
    empty = part.is_empty() if look and part.length == parts.UNKNOWN else part.length == 0
    return role._replace(own=own, source=source, part=part, steps=steps, batch_size=batch_size, empty=empty)


def _put_back(role, x, y, arguments):
    if role.source is None:
        return x, y
    x, y, weights = role.part.components
    if weights is not None:
        arguments["sample_weight"] = weights
    return x, y


def _like(given, role):
    """The validation data of a role, in the form that was given."""
    if role.source is None:
        return given
    components = role.part.components
    if given is None and components[2] is None:
        components = components[:2]
    if isinstance(given, list):
        return list(components)
    return components if len(components) > 1 else components[0]


def _drop_steps(arguments, name, role):
    """Where the data itself has been cut to its steps, they are an argument no more."""
    if role.source is not None and role.steps is None:
        arguments.pop(name, None)
