"""The states of random numbers of several ranks: not those of rank 0, but well defined by them."""

import numpy as np

from ascend_keras import compat


class RankSeeds:
    """Gives each rank the state of rank 0 with the number of the rank added to its key.

    With one state on all ranks dropout would draw the same masks for the n-th sample of each rank; with states of their
    own, which no checkpoint of rank 0 has, a resumed training would differ. The key is the first of the numbers of a
    Keras 3 state, whose second one counts, and the last one of a state of Keras 2, whose first ones count. So rank r
    keeps its distance from rank 0 while both count, and a checkpoint of rank 0 brings back the states of all ranks.

    Keras 2 has such states after `enable_tf_random_generator()` alone. Elsewhere masks come from operations in the
    graph, whose state is out of reach: ranks with one seed draw the same masks.

    Args:
        model: the model.
        backend: an open backend with several ranks.
    """

    def __init__(self, model, backend):
        self._backend = backend
        # Layers may share a generator.
        self._variables = list({id(v): v for v in compat.seed_variables(model)}.values())

    def spread(self):
        """Sets the states; one collective where there are any."""
        if not self._variables:
            return
        states = [np.array(value) for value in compat.get_values(self._variables)]
        words = np.concatenate([np.ascontiguousarray(state).ravel().view(np.uint32) for state in states])
        first = np.asarray(self._backend.gather_over_ranks(words.astype(np.float64)), np.float64)[0]
        rest = first.astype(np.uint32)
        for index, state in enumerate(states):
            count = state.size * state.itemsize // 4
            states[index] = rest[:count].view(state.dtype).reshape(state.shape).copy()
            rest = rest[count:]
            place = 0 if compat.KERAS3 else -1
            with np.errstate(over="ignore"):
                states[index][place] += state.dtype.type(self._backend.settings.cluster.rank or 0)
        compat.set_values(self._variables, states)
