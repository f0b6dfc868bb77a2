"""What a checkpoint holds of a training, and how it gets back into one.

Arrays by name: `weight_00000`, ... with `names`, as `saving.save` writes them, so that `saving.load_weights` takes a
checkpoint, too; `seed_00000`, ... the state of random numbers; `optimizer_00000`, ...; `callback_00000/key`, ...
"""

from typing import Any, Dict, List, NamedTuple

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import keras, tf

GROUPS = ("weight", "seed", "optimizer")
_NOUNS = {"weight": "weight", "seed": "seed state", "optimizer": "optimizer variable"}


# --- from a training ----------------------------------------------------------------------------------------------


def capture(model, holders):
    """The state of a training, at the end of an epoch.

    Args:
        model: a compiled model.
        holders: a dict of what has a state besides: see `holders_of`.

    Returns:
        A dict of JSON values, and a generator of pairs of a name and an array, which reads the variables when it runs.
    """
    groups = _groups(model)
    states = [(name,) + _split(name, holder.state_dict()) for name, holder in holders.items()]
    meta = {
        "stack": compat.stack_name(),
        "optimizer": _describe(model.optimizer),
        "variables": {group: [name for name, _ in groups[group]] for group in GROUPS},
        "callbacks": [{"name": name, "values": values, "arrays": sorted(arrays)} for name, values, arrays in states],
    }
    return meta, _arrays(groups, [arrays for _, _, arrays in states])


def _groups(model):
    named = {"weight": model.weights, "seed": compat.seed_variables(model)}
    groups = {group: [(compat.weight_path(v), v) for v in variables] for group, variables in named.items()}
    return dict(groups, optimizer=compat.optimizer_state(model.optimizer))


def _describe(optimizer):
    inner = compat.inner_optimizer(optimizer)
    return {
        "class": type(inner).__name__,
        "family": compat.optimizer_family(optimizer),
        "loss_scaled": optimizer is not inner,
    }


def _arrays(groups, states):
    yield "names", np.array([name for name, _ in groups["weight"]], dtype=np.str_)
    for group in GROUPS:
        for index, value in enumerate(compat.stream_values([variable for _, variable in groups[group]])):
            yield "{}_{:05d}".format(group, index), value
    for index, arrays in enumerate(states):
        for key in sorted(arrays):
            yield "callback_{:05d}/{}".format(index, key), arrays[key]


def _split(name, state):
    """The JSON values and the arrays of a callback's state."""
    arrays = {key: np.asarray(value) for key, value in state.items() if isinstance(value, (np.ndarray, np.generic))}
    values = {key: value for key, value in state.items() if key not in arrays}
    wrong = [key for key, value in values.items() if not _is_json(value)]
    wrong += [key for key, array in arrays.items() if array.dtype.kind == "O"]
    if wrong:
        raise ValueError(
            "The state of a callback may hold NumPy arrays of numbers and JSON values only. Received: {} from {}."
            "state_dict().".format(", ".join("{}={!r}".format(key, state[key]) for key in wrong), name)
        )
    return values, arrays


def _is_json(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)


# --- back into a training -----------------------------------------------------------------------------------------


class RestoreReport(NamedTuple):
    """What `Checkpoint.restore` did.

    Attributes:
        epoch: epochs that were finished: the `initial_epoch` of `fit`.
        path: the file.
        stopped: whether a callback had ended the training with that epoch.
        restored: what was restored, a tuple of texts.
        missing: what was not, and why, a tuple of texts.
    """

    epoch: int
    path: str
    stopped: bool
    restored: tuple
    missing: tuple

    def __str__(self):
        text = "restored from {}, after {} epoch{}: {}".format(
            self.path, self.epoch, "" if self.epoch == 1 else "s", ", ".join(self.restored) or "nothing"
        )
        text += "; a callback had stopped the training there" if self.stopped else ""
        return text + ("; not restored: {}".format("; ".join(self.missing)) if self.missing else "")


class Comparison:
    """A checkpoint beside a compiled model whose optimizer is built.

    Attributes: `restored` and `problems`, lists of texts: what fits, and what does not.

    Args:
        model: the model.
        meta, arrays: content of the file.
    """

    def __init__(self, model, meta, arrays):
        self.restored: List[str] = []
        self.problems: List[str] = []
        self._assignments: List[Any] = []
        present = _groups(model)
        for group in GROUPS:
            names = meta["variables"][group]
            saved = [(name, arrays["{}_{:05d}".format(group, index)]) for index, name in enumerate(names)]
            problems = _other_optimizer(meta, model.optimizer) if group == "optimizer" else []
            self._compare(group, saved, present[group], problems)

    def assign(self):
        """Gives the variables of the model their values, where they fit."""
        variables = [variable for variable, _ in self._assignments]
        compat.set_values(variables, [value for _, value in self._assignments])

    def _compare(self, group, saved, present, problems):
        if not problems and len(saved) != len(present):
            text = "{} in the file, {} in the model"
            problems = [text.format(len(saved), len(present))]
        fitting = []
        for (name, array), (_, variable) in zip(saved, present) if not problems else ():
            problem = _misfit(array, variable)
            if problem:
                problems.append("{}: {}".format(name, problem))
            else:
                fitting.append((variable, array.astype(_numpy_dtype(variable), copy=False)))
        self.problems += ["{}s: {}".format(_NOUNS[group], problem) for problem in problems]
        # Weights of the same number of layers are of use without the others: all but the last layer, for instance.
        if fitting and (group == "weight" or not problems):
            self._assignments += fitting
            self.restored.append("{} {}{}".format(len(fitting), _NOUNS[group], "" if len(fitting) == 1 else "s"))


def _other_optimizer(meta, optimizer):
    saved, present = meta["optimizer"], _describe(optimizer)
    if saved == present:
        return []
    return ["{} in the file, {} here".format(*map(_optimizer_text, (saved, present)))]


def _optimizer_text(description):
    scaled = " with loss scaling" if description["loss_scaled"] else ""
    return "{} of {}{}".format(description["class"], description["family"], scaled)


def _misfit(array, variable):
    shape, dtype = tuple(int(size) for size in variable.shape), _numpy_dtype(variable)
    if array.shape != shape:
        return "{} in the file, {} in the model".format(array.shape, shape)
    if np.issubdtype(array.dtype, np.integer) != np.issubdtype(dtype, np.integer):
        return "{} in the file, {} in the model".format(array.dtype, np.dtype(dtype))
    return None


def _numpy_dtype(variable):
    return tf.as_dtype(variable.dtype).as_numpy_dtype


# --- callbacks ------------------------------------------------------------------------------------------------------


def saved_states(meta, arrays) -> Dict[str, dict]:
    """The states of callbacks in a file, by the names of `holders_of`."""
    states = {}
    for index, entry in enumerate(meta["callbacks"]):
        own = {key: arrays["callback_{:05d}/{}".format(index, key)] for key in entry["arrays"]}
        states[entry["name"]] = dict(entry["values"], **own)
    return states


def holders_of(callbacks):
    """Those of `callbacks` that have a state, each as an object with `state_dict` and `load_state_dict`, by name.

    The name is that of the class; a second one of a class is "SWA#2".
    """
    holders: Dict[str, Any] = {}
    for callback in callbacks:
        holder = _holder(callback)
        if holder is not None:
            name, number = type(callback).__name__, 1
            while name in holders:
                number += 1
                name = "{}#{}".format(type(callback).__name__, number)
            holders[name] = holder
    return holders


def _holder(callback):
    if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
        return callback
    return KerasState(callback) if isinstance(callback, KerasState.CLASSES) else None


class KerasState:
    """The state of a callback that comes with Keras, which forgets it when a training begins: load it after that."""

    CLASSES = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau, keras.callbacks.ModelCheckpoint)
    _FIELDS = ("wait", "best", "cooldown_counter", "best_epoch", "stopped_epoch")

    def __init__(self, callback):
        self.callback = callback

    def state_dict(self):
        """The counters, and the weights that EarlyStopping keeps."""
        state = {name: _plain(getattr(self.callback, name)) for name in self._FIELDS if hasattr(self.callback, name)}
        for index, weight in enumerate(getattr(self.callback, "best_weights", None) or ()):
            state["best_weights_{:05d}".format(index)] = weight
        return state

    def load_state_dict(self, state):
        """Sets what is in the state and exists here."""
        for name in self._FIELDS:
            if name in state and hasattr(self.callback, name):
                setattr(self.callback, name, state[name])
        weights = [state[key] for key in sorted(state) if key.startswith("best_weights_")]
        if weights:
            self.callback.best_weights = weights


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value


def difference(states, holders):
    """Texts for the states in a file that no callback wants, and for the callbacks that have no state there."""
    unwanted = [
        "{}: its state is in the file, but it is not here".format(name) for name in states if name not in holders
    ]
    return unwanted + ["{}: the file has no state of it".format(name) for name in holders if name not in states]


def is_late(holder):
    """Whether a state has to be loaded after the training has begun."""
    return isinstance(holder, KerasState)


def is_of(holder, callbacks):
    """Whether the callback of a holder is among `callbacks`."""
    callback = holder.callback if isinstance(holder, KerasState) else holder
    return any(other is callback for other in callbacks)
