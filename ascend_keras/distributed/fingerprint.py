"""What has to be equal on all ranks, compared before a run: ranks that differ would wait for each other for ever."""

import json
from collections import OrderedDict
from typing import Any, Callable, List, Mapping, Optional, Sequence

from ascend_keras import compat
from ascend_keras.backends import npu_values
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import texts

# Arguments of the verbs of Keras that decide how many steps there are, and what is in them. Others, such as `verbose`
# and `workers`, may differ.
COMPARED = (
    "epochs",
    "initial_epoch",
    "steps_per_epoch",
    "batch_size",
    "validation_split",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
    "shuffle",
    "class_weight",
    "steps",
)
# Differences told in one message.
MOST = 20

_REMEDIES = [
    (("ascend_keras", "TensorFlow", "Keras", "Python"), "Install the same versions on every machine."),
    (("data",), "Give every rank the same whole data: the trainer takes each rank's part by itself."),
    (("callbacks",), "Give every rank the same callbacks: files are written by rank 0 alone in any case."),
    (("seed",), "Give NPUTrainer the same seed on every rank."),
]
_REMEDY = "Start the same script with the same arguments and files on every rank, without branches on the rank."


def describe(
    verb: str,
    model,
    arguments: Optional[Mapping[str, Any]] = None,
    data: Optional[Mapping[str, Any]] = None,
    callbacks: Sequence[Any] = (),
    settings=None,
    whole: bool = True,
    **further,
) -> "OrderedDict[str, str]":
    """Describes a run, in short texts that are equal in every process that is about to do the same.

    Initial weights are not in it (rank 0 gives its own to all), nor names of layers where they differ by a number only,
    which Keras counts through in each process, nor values of path options, which may well be a rank's own.

    Args:
        verb: "fit", "evaluate" or "predict".
        model: the model, compiled or not, with weights if it shall be compared by their shapes.
        arguments: those of the verb; the ones in `COMPARED` count.
        data: what is given to the verb, by name: whole arrays, datasets, Sequences; functions of an InputContext make a
            rank's own part, so that only their kind is compared.
        callbacks: the callbacks of the verb, in order.
        settings: `backends.base.Settings` of the trainer: options, number of ranks and product.
        whole: whether every rank is given the whole data; of parts, sizes are not compared.
        further: more to compare, such as backend="host", loss_scale="dynamic", seed=0.

    Returns:
        Name to text, in the order in which differences shall be told.
    """
    entries = [("verb", verb)] + compat.all_versions()
    if settings is not None:
        entries += [("ranks", str(settings.cluster.size)), ("product", str(settings.product))]
        entries += _options(settings.options)
    for name, value in further.items():
        entries += texts.flatten(name, value)
    given = arguments or {}
    for name in COMPARED:
        if given.get(name) is not None:
            entries += texts.flatten(name, given[name])
    for name, value in (data or {}).items():
        entries += _data("data {}".format(name), value, whole)
    names = [texts.class_name(callback).rpartition(".")[2] for callback in callbacks]
    entries.append(("callbacks", texts.shorten(", ".join(names) or "none")))
    return OrderedDict(entries + _compiled(model) + _layers(model))


def compare(mine: Mapping[str, str], gather_texts: Callable[[str], List[str]], rank: Optional[int] = None) -> None:
    """Compares the descriptions of all ranks. A collective: every rank calls it, or the others wait.

    Args:
        mine: this rank's description, of `describe`.
        gather_texts: takes a text and returns those of all ranks, in rank order.
        rank: this rank, None where it is not known.

    Raises:
        ValueError: the ranks differ; on every rank with the same message, which names what differs, the values, and the
            ranks that have them.
        RuntimeError: what came back as this rank's own is not what was sent.
    """
    sent = json.dumps(list(mine.items()))  # ASCII whatever is in it
    received = list(gather_texts(sent))
    if rank is not None and received[rank] != sent:
        raise RuntimeError(
            "The collectives of this backend return another text than was sent. Received: rank={}, {} characters for "
            "{}.".format(rank, len(received[rank]), len(sent))
        )
    if any(text != received[0] for text in received):
        raise ValueError(difference([OrderedDict(json.loads(text)) for text in received]))


def difference(descriptions: Sequence[Mapping[str, str]]) -> str:
    """The message about descriptions that differ, the same wherever it is made.

    Args:
        descriptions: one a rank, in rank order.
    """
    names = OrderedDict((name, None) for description in descriptions for name in description)
    differing = [name for name in names if len({description.get(name) for description in descriptions}) > 1]
    told = _first_of_layers(differing)
    lines = ["  {}: {}".format(name, _values(name, descriptions)) for name in told[:MOST]]
    if len(differing) > len(lines):
        lines.append("  and {} more entries".format(len(differing) - len(lines)))
    remedies = OrderedDict((_remedy(name), None) for name in told)
    return "The ranks are not about to do the same, and would wait for each other for ever. Received:\n{}\n{}".format(
        "\n".join(lines), " ".join(remedies)
    )


def _first_of_layers(names):
    # Behind a layer too many, all further ones differ; of another layer, all settings do.
    layers = [name for name in names if name.startswith("layer ")]
    told = layers[:1]
    if told and "." in told[0]:
        told = [name for name in layers if name.split(".")[0] == told[0].split(".")[0]]
    return [name for name in names if name not in layers or name in told]


def _values(name, descriptions):
    by_value: OrderedDict[str, List[int]] = OrderedDict()
    for rank, description in enumerate(descriptions):
        by_value.setdefault(description.get(name, "nothing"), []).append(rank)
    return "; ".join("{} on {}".format(value, texts.rank_list(ranks)) for value, ranks in by_value.items())


def _remedy(name):
    for prefixes, remedy in _REMEDIES:
        if name.startswith(prefixes):
            return remedy
    return _REMEDY


# --- parts of a description ---------------------------------------------------------------------------------------


def _options(options):
    entries = []
    for name in sorted(options):
        given = npu_values.options()[name].path is not None or name == "profiling_options"
        entries.append(("option {}".format(name), "given" if given else texts.shorten(texts.text_of(options[name]))))
    return entries


def _data(name, data, whole):
    if data is None:
        return [(name, "none")]
    if isinstance(data, tf.data.Dataset):
        entries = [(name, "dataset" + _batches(compat.count_steps(data) if whole else None))]
        return entries + [("{} elements".format(name), _structure(data.element_spec, True))]
    if isinstance(data, keras.utils.Sequence):
        return [(name, texts.class_name(data) + _batches(len(data) if whole else None))]
    if callable(data):
        return [(name, "a function of an InputContext")]
    if hasattr(data, "__next__"):
        return [(name, "a generator")]
    return [(name, _structure(data, whole))]


def _batches(count):
    return "" if count is None else " of {} batches".format(count)


def _structure(data, whole):
    if isinstance(data, dict):
        pairs = sorted((texts.text_of(key), _structure(value, whole)) for key, value in data.items())
        return texts.shorten("{{{}}}".format(", ".join("{}: {}".format(*pair) for pair in pairs)))
    shape = getattr(data, "shape", None)
    if shape is not None and getattr(shape, "rank", 0) is None:
        return "{} of any shape".format(_dtype(data))
    if shape is not None:
        return "{} {}".format(_dtype(data), texts.shape_text(shape if whole else [None] + list(shape)[1:]))
    if isinstance(data, tuple) or (isinstance(data, list) and data and hasattr(data[0], "shape")):
        return texts.shorten("({})".format(", ".join(_structure(part, whole) for part in data)))
    size = " of {}".format(len(data)) if whole and hasattr(data, "__len__") else ""
    return texts.class_name(data) + size


def _dtype(thing):
    dtype = getattr(thing, "dtype", None)
    return str(getattr(dtype, "name", dtype or type(thing).__name__)).replace("_ref", "")


def _compiled(model):
    optimizer = getattr(model, "optimizer", None)
    entries: List[Any] = []
    if optimizer is not None:
        entries += texts.flatten("optimizer", compat.inner_optimizer(optimizer))
    for name, value in compat.compile_settings(model).items():
        if value is not None:
            entries += texts.flatten(name, value)
    return entries


def _layers(model):
    # Keras 3 has the inputs of any model among its layers, Keras 2 those of functional ones.
    layers = [layer for layer in compat.all_layers(model) if not isinstance(layer, keras.layers.InputLayer)]
    weights = _weights(model)
    entries = [("model", "{}, {} layers, {} weights".format(texts.class_name(model), len(layers), len(weights)))]
    for number, layer in enumerate(layers, 1):
        entries += _layer("layer {}".format(number), layer)
    # Those that belong to no layer are the model's own.
    return entries + [("layer weights of the model", texts.shorten(", ".join(weights)))]


def _layer(name, layer):
    said = texts.without_number(getattr(layer, "name", ""))
    text = "{} {!r}".format(texts.class_name(layer), said)
    entries = [(name, texts.shorten(", ".join([text] + _weights(layer))))]
    # A model inside tells its layers one by one; what a Lambda runs has no text that is the same everywhere.
    if not isinstance(layer, (keras.Model, keras.layers.Lambda)):
        config = {key: value for key, value in texts.config_of(layer).items() if not key.endswith("initializer")}
        entries += texts.flatten_config(name, config)
    return entries


def _weights(layer):
    if not getattr(layer, "built", False):
        return []
    return ["{} {}".format(_dtype(weight), texts.shape_text(weight.shape)) for weight in layer.weights]
