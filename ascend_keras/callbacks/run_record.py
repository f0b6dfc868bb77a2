"""What the result of a run needs of the whole training, that of processes before a restart as well."""

import numpy as np

from ascend_keras.compat import keras


class RunRecord(keras.callbacks.Callback):
    """Keeps losses, last numbers and speed of a training, over restarts that go on from a `Checkpoint`.

    Put it behind a `Throughput` and in front of the `Checkpoint`, which carries its state.

    Attributes:
        losses: the training loss of every epoch so far.
        logs: the numbers of the last epoch, by name.
        samples, steps, seconds: what was measured, see `Throughput`, in all processes of the training.

    Args:
        throughput: the `Throughput` of the same `fit`.
    """

    def __init__(self, throughput):
        super().__init__()
        self._throughput = throughput
        self._before = {"samples": 0.0, "steps": 0.0, "seconds": 0.0}
        self.losses, self.logs = [], {}

    @property
    def samples(self):
        """Examples measured."""
        return self._measured("samples")

    @property
    def steps(self):
        """Steps measured."""
        return self._measured("steps")

    @property
    def seconds(self):
        """Seconds measured."""
        return self._measured("seconds")

    def _measured(self, name):
        return self._before[name] + getattr(self._throughput, name)

    @property
    def images_per_sec(self):
        """Examples per second over all devices; NaN when nothing was measured."""
        return self.samples / self.seconds if self.seconds else float("nan")

    def on_epoch_end(self, epoch, logs=None):
        """Takes note of the epoch."""
        self.logs = {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}
        self.losses.append(self.logs.get("loss", float("nan")))

    def state_dict(self):
        """The state as a flat dict: `losses`, float64 (epochs,); `logs`; `samples`, `steps` and `seconds`."""
        measured = {name: float(getattr(self, name)) for name in self._before}
        return dict(measured, losses=np.array(self.losses, np.float64), logs=self.logs)

    def load_state_dict(self, state):
        """Goes on from a state of `state_dict`.

        Raises:
            ValueError: the state is of another kind.
        """
        missing = sorted({"losses", "logs", *self._before} - set(state))
        if missing:
            raise ValueError("This is no state of a RunRecord. Received: one without {}.".format(", ".join(missing)))
        self.losses = [float(loss) for loss in np.asarray(state["losses"])]
        self.logs = dict(state["logs"])
        self._before = {name: float(state[name]) for name in self._before}
