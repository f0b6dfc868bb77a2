"""What NPUTrainer does around a verb of Keras so that several ranks stay one; on one rank, next to nothing."""

from ascend_keras import compat
from ascend_keras.callbacks import watchdog
from ascend_keras.distributed import fingerprint


class Together:
    """The ranks of a trainer.

    Args:
        backend: an open backend.
        patience: seconds without a step after which the watchdog ends a run; None for no watchdog.
        settings: what else has to be equal on all ranks, by name, such as the seed.
    """

    def __init__(self, backend, patience, settings):
        self._backend, self._patience, self._settings = backend, patience, settings
        # Whether a training is going on, in which batch-norm statistics are each rank's own until they are merged.
        self.fitting = False

    @property
    def _cluster(self):
        return self._backend.settings.cluster

    def watched(self):
        """A context in which a run is watched over, a training with all verbs in it; gives the callbacks for it."""
        patience = None if self.fitting else self._patience
        return watchdog.watched(patience, self._cluster.rank, self._cluster.size)

    def begin(self, verb, model, x, steps, arguments, given, whole=True, callbacks=()):
        """Makes sure that all ranks are about to do the same, with the same model.

        Args:
            verb: "fit", "evaluate" or "predict".
            model: the model.
            x: this rank's data.
            steps: steps by phase, as `Backend.before_run` takes them.
            arguments: those of the verb.
            given, whole, callbacks: what the user gave; see `fingerprint.describe`.

        Returns:
            The arguments as this rank needs them.

        Raises:
            ValueError: the ranks differ, or one of them cannot go on; on all of them.
        """
        per_execution = compat.steps_per_execution(model)
        if self._cluster.size == 1:
            self._backend.before_run(per_execution, steps)
            return arguments

        def prepare():
            self._backend.before_run(per_execution, steps)
            compat.build_on(model, x)  # so that there is something to compare, and to broadcast
            settings = self._backend.settings
            named = dict(self._settings, backend=self._backend.name, hccl=settings.hccl.given())
            return fingerprint.describe(verb, model, arguments, given, callbacks, settings, whole, **named)

        fingerprint.compare(self.all_or_none(prepare), self._backend.gather_texts, self._cluster.rank)
        if verb != "fit" and not self.fitting:
            # A training gives all ranks the model of rank 0; what was made or loaded since may differ.
            self._backend.synchronise(list(model.weights))
        # Eight progress bars would hide each other.
        return arguments if self._cluster.is_main else dict(arguments, verbose=0)

    def all_or_none(self, work):
        """The result of `work()`, which succeeds on all ranks, or raises on all: an error of one is told to the others.

        A collective: none goes on before all have come here, so that what rank 0 has written is there for the others.
        """
        if self._cluster.size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001 - whatever it is, the others must not wait for this rank
            error = raised
        told = self._backend.gather_texts("" if error is None else "{}: {}".format(type(error).__name__, error))
        if error is not None:
            raise error
        failed = ["rank {}: {}".format(rank, text) for rank, text in enumerate(told) if text]
        if failed:
            raise ValueError("Another rank cannot go on, so all stop. Received: {}".format("; ".join(failed)))
        return result
