"""What to do about a callback of the package keras-swa."""

import warnings

from ascend_keras import compat
from ascend_keras.callbacks.batch_norm import Batches, BatchNormPass, batch_norm_layers
from ascend_keras.compat import keras

# Warned already, in this process.
_WARNED = set()


def is_keras_swa(callback):
    """Whether a callback is `swa.tfkeras.SWA` of keras-swa or derives from it, or of a copy as in Huawei's ModelZoo."""
    return any(cls.__name__ == "SWA" and cls.__module__.split(".")[0] == "swa" for cls in type(callback).__mro__)


class KerasSWARepair(keras.callbacks.Callback):
    """Warns that keras-swa leaves batch normalization ruined, and repairs it after training if that is wanted.

    keras-swa sets the momentum of batch normalization for its last epoch when it is part of the graph already: after n
    batches the statistics hold 1 - momentum^n of the truth, 15 % after 16 batches at the default 0.99. Those of layers
    that are not trainable it resets for good. The averaged weights are right. The repair is the pass of
    `reestimate_batch_norm` over the data of `fit`; layers that are not trainable get back what they had.

    Args:
        repair: whether to repair the statistics when training ends. Put this callback behind that of keras-swa.

    Raises:
        RuntimeError: on Keras 3, where keras-swa does not run.
        ValueError: at the start of training, where a repair is wanted and the data is not known.
    """

    def __init__(self, repair=False):
        super().__init__()
        if compat.KERAS3:
            raise RuntimeError(
                "keras-swa does not run on Keras 3. Received: a callback swa.tfkeras.SWA on {}. Replace its import by "
                "`from ascend_keras.callbacks import SWA`.".format(compat.stack_name())
            )
        self.summary = None
        self._repair = repair
        self._reduce = None
        self._pass = None
        self._batches = None
        self._frozen = []

    def set_ranks(self, reduce, is_main):
        """Tells of several ranks, see `SWA.set_ranks`; NPUTrainer does."""
        self._reduce = reduce

    def on_train_begin(self, logs=None):
        """Warns once a process; finds data for the repair, which on TF 1.15 is added to the graph."""
        self.summary = None
        frozen = [layer for layer in batch_norm_layers(self.model) if not layer.trainable]
        variables = [v for layer in frozen for v in (layer.moving_mean, layer.moving_variance)]
        self._frozen = list(zip(variables, compat.get_values(variables)))
        self._pass = BatchNormPass(self.model)
        if self._repair:
            self._prepare()
        else:
            self._warn()

    def _warn(self):
        layers = len(batch_norm_layers(self.model))
        if _WARNED or not layers:
            return
        _WARNED.add("batch normalization")
        warnings.warn(
            "keras-swa leaves the statistics of batch normalization at 1 - momentum^n of the data after n batches: the "
            "averaged model may be ruined where training looks right. Received: a callback swa.tfkeras.SWA, layers of "
            "batch normalization: {}. Use ascend_keras.callbacks.SWA, whose first arguments are the same, or "
            "fit(..., repair_bn=True).".format(layers)
        )

    def _prepare(self):
        arguments = compat.fit_arguments(self.model)
        if arguments.get("x") is None:
            raise ValueError(
                "repair_bn needs the training data. Received: repair_bn=True outside of fit. Call "
                "ascend_keras.callbacks.batch_norm.reestimate_batch_norm(model, data) after the training."
            )
        data = arguments["x"] if arguments.get("y") is None else (arguments["x"], arguments["y"])
        self._batches = Batches(data, arguments.get("steps_per_epoch"), arguments.get("batch_size"))
        if compat.TF1 and self._pass.layers:
            self._pass.build(self._reduce)

    def on_train_end(self, logs=None):
        """Repairs the statistics."""
        if not self._repair:
            self._warn()  # some layers come into being with the first batch
            return
        compat.set_values([v for v, _ in self._frozen], [value for _, value in self._frozen])
        found = self._pass if compat.TF1 else BatchNormPass(self.model)
        if found.layers:
            self.summary = found.run(self._batches, reduce=self._reduce)
