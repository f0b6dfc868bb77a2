"""Batch normalization for the averaged weights: where the data comes from, and the pass over it."""

from typing import Any

import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks.batch_norm import Batches, BatchNormPass, batch_norm_layers
from ascend_keras.callbacks.merged_statistics import MergedStatistics, merge_arrays

# The words of keras-swa, for tools that look for them, and then what is true here.
ANNOUNCEMENT = (
    "Model uses batch normalization. SWA will require last epoch to be a forward pass and will run with no learning "
    "rate (here that is a pass of its own after the last epoch, which trains like the others)"
)
# Batches of bn="partial". In the table of docs/swa.md the variances are then off by a quarter percent in the median.
PARTIAL_STEPS = 16


class Statistics:
    """Makes the moving statistics of a model fit its averaged weights, and remembers the others.

    Args:
        settings: the arguments of SWA.
    """

    def __init__(self, settings):
        self._settings = settings
        self._source: Any = None
        self._pass: Any = None
        self._batches = None
        self._other = []
        self._merged = 0

    def averaged_variables(self, model):
        """The statistics that are averaged along with the weights: those of bn="average"."""
        if self._settings.bn != "average":
            return []
        layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
        return [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]

    def prepare(self, model, steps, reduce):
        """Finds the layers and the data of the running `fit`; on TF 1.15 builds all that is added to the graph.

        Args:
            model: the model.
            steps: steps of an epoch, None if they are unknown.
            reduce: sum over ranks, None on one rank.

        Returns:
            Whether there is anything to re-estimate, as far as is known: a model may wait for its first batch.

        Raises:
            ValueError: there is, and no data is known for it.
        """
        self._other, self._merged = [], 0
        self._source = self._find_source(model, steps) if self._settings.bn not in ("off", "average") else None
        if reduce is not None and compat.TF1 and self._source is None:
            MergedStatistics(model).prepare(reduce)
            self._prepare_averages(model, reduce)
        found = self._find_layers(model)
        if found:
            self._pass.build(reduce) if compat.TF1 else self._pass.check_reach()
        return found

    def _find_layers(self, model):
        fresh = BatchNormPass(model)
        if not fresh.layers or self._source is None:
            self._pass = None
            return False
        if self._pass is None or self._pass.model is not model or self._pass.layers != fresh.layers:
            self._pass = fresh
        if self._batches is None:
            self._batches = self._open()
        return True

    def _find_source(self, model, steps):
        settings = self._settings
        limit = settings.bn_steps or (PARTIAL_STEPS if settings.bn == "partial" else None)
        self._batches = None
        if settings.bn_data is not None:
            return settings.bn_data, limit, settings.batch_size
        arguments = compat.fit_arguments(model)
        data = arguments.get("x")
        if data is not None and arguments.get("y") is not None:
            data = (data, arguments["y"])
        return data, limit or steps, settings.batch_size or arguments.get("batch_size")

    def _open(self):
        data, limit, batch_size = self._source
        if data is None:
            raise ValueError(
                "The model has batch normalization, whose statistics must be re-estimated for the averaged weights, "
                "but the training data is not known here. Received: bn={!r}, bn_data=None. Give it as "
                "bn_data=.".format(self._settings.bn)
            )
        return Batches(data, limit, batch_size)

    def complete(self, model):
        """Looks for the layers again, as some come into being with the first batch.

        Returns:
            Whether there is anything to re-estimate.
        """
        return self._pass is not None if compat.TF1 else self._find_layers(model)

    def install(self, reduce):
        """Re-estimates the statistics and returns the summary.

        Args:
            reduce: sum over ranks, None on one rank.
        """
        variables = [v for layer in self._pass.layers for v in (layer.moving_mean, layer.moving_variance)]
        before = compat.get_values(variables)
        summary = self._pass.run(self._batches, reduce=reduce)
        self._other = list(zip(variables, before))
        return summary

    def merge(self, model, reduce):
        """Without a re-estimation: makes one of the statistics that the ranks have gathered; `reduce` as above."""
        if reduce is not None and self._source is None:
            MergedStatistics(model).merge(reduce)

    def merge_averages(self, model, average, reduce):
        """Makes one of the averages that the ranks have of their statistics, where those are sampled within an epoch.

        At the end of an epoch the statistics are merged already. One sum over the ranks, none where there is no new
        sample since the last.

        Args:
            model: the model.
            average: the average, None before there is one.
            reduce: sum over ranks, None on one rank.
        """
        variables = self._averaged_apart(model) if reduce is not None and average is not None else []
        if not variables or average.count == self._merged:
            return
        self._merged = average.count
        means = average.means_of(variables)
        merged = merge_arrays([mean.ravel() for mean in means], len(variables) // 2, reduce)
        average.replace_means(variables, [new.reshape(old.shape) for new, old in zip(merged, means)])

    def _averaged_apart(self, model):
        """The means and then the variances that every rank samples by itself."""
        variables = self.averaged_variables(model) if self._settings.per_step else []
        return variables[::2] + variables[1::2]

    def _prepare_averages(self, model, reduce):
        variables = self._averaged_apart(model)
        if variables and hasattr(reduce, "prepare"):
            # As many squares as there are means.
            sizes = [int(np.prod([int(size) for size in v.shape])) for v in variables]
            reduce.prepare(1 + sum(sizes) + sum(sizes[: len(sizes) // 2]))

    def re_estimated(self):
        """The variables that `install` has set, in the order of the layers; [] where it was not called."""
        return [variable for variable, _ in self._other]

    def exchange(self):
        """Exchanges the statistics with those of the raw weights."""
        variables, values = [v for v, _ in self._other], [value for _, value in self._other]
        self._other = list(zip(variables, compat.get_values(variables)))
        compat.set_values(variables, values)

    def others(self):
        """The statistics that are not in the model now: pairs of variable and array."""
        return list(self._other)
