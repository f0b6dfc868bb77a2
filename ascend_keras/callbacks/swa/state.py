"""The state of SWA, to be carried from one process to the next."""

import io
import json

import numpy as np

from ascend_keras.compat import tf

VERSION = 1


def to_bytes(state):
    """A state as the bytes of a .npz file: its arrays, and the rest as JSON under "json"."""
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    rest = {key: value for key, value in state.items() if key not in arrays}
    stream = io.BytesIO()
    np.savez(stream, json=np.array(json.dumps(rest)), **arrays)
    return stream.getvalue()


def from_bytes(data):
    """The state that `to_bytes` wrote."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files if name != "json"}
        return dict(json.loads(str(file["json"])), **arrays)


def pack_sums(names, sums):
    """The entries of a state for the sums of an average."""
    packed = {"sum_{:05d}".format(index): np.asarray(value) for index, value in enumerate(sums)}
    return dict(packed, names=list(names))


class Sums:
    """The sums in a state, until there is an average to take them up."""

    def __init__(self, state):
        self._names = state["names"]
        self._arrays = [state["sum_{:05d}".format(index)] for index in range(len(self._names))]

    def load_into(self, average, count):
        """Gives them to an average.

        Raises:
            ValueError: they are of another model; all differences are listed.
        """
        variables, problems = average.variables, []
        if len(self._arrays) != len(variables):
            problems.append("the state holds {} arrays, the model has {}".format(len(self._arrays), len(variables)))
        for name, array, variable in zip(self._names, self._arrays, variables):
            shape = tuple(map(int, variable.shape))
            if array.shape != shape:
                problems.append("{}: {} in the state, {} in the model".format(name, array.shape, shape))
        if problems:
            raise ValueError("This state of SWA is of another model. Received:\n  {}".format("\n  ".join(problems)))
        average.load(self._arrays, count)


def epoch_problems(epoch, expected):
    """What is wrong with a training that begins at `epoch` under a state of the end of `expected` epochs."""
    if epoch == expected:
        return []
    text = "The state of SWA is of another epoch. Received: initial_epoch={}, state after {}. Give fit the latter."
    return [text.format(epoch, expected)]


def check(state, unit, kind):
    """Refuses a state that cannot be taken up.

    Args:
        state: what `SWA.state_dict` returned.
        unit: unit of the SWA that is to take it up.
        kind: its kind of average.

    Raises:
        ValueError: the state is of another version, unit or kind.
    """
    if not isinstance(state, dict) or "sampled" not in state:
        raise ValueError("This is no state of SWA. Received: {!r}.".format(type(state).__name__))
    expected = {"version": VERSION, "unit": unit, "average": kind}
    problems = [
        "`{}` is {!r} in the state, {!r} here.".format(name, state.get(name), value)
        for name, value in expected.items()
        if state.get(name) != value
    ]
    if problems:
        raise ValueError("This state of SWA does not fit. Received:\n  {}".format("\n  ".join(problems)))


class TrackableState(tf.train.experimental.PythonState):
    """The state of one SWA as a part of a `tf.train.Checkpoint`, for TF 2.

    Args:
        swa: the callback.
    """

    def __init__(self, swa):
        super().__init__()
        self._swa = swa

    def serialize(self):
        """The state as bytes."""
        return to_bytes(self._swa.state_dict())

    def deserialize(self, string_value):
        """Gives the callback the state."""
        self._swa.load_state_dict(from_bytes(string_value))
