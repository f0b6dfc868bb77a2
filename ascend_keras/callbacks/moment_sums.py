"""Moments of batches, added up to those of all data."""

import numpy as np


class Sums:
    """Sums of moments over batches, in float64: per layer one vector of N, sum(n mu), sum(n (var + mu^2))."""

    def __init__(self, layers):
        self.batches = 0
        self.samples = 0
        self._names = [layer.name for layer in layers]
        self._vectors = [np.zeros(1 + 2 * int(np.prod(layer.moving_mean.shape))) for layer in layers]

    def __len__(self):
        """The number of values that ranks exchange."""
        return sum(map(len, self._vectors))

    def add(self, moments, samples):
        """Adds a batch of so many samples: per layer a list with (count, mean, variance) for each of its calls."""
        self.batches += 1
        self.samples += samples
        for vector, calls in zip(self._vectors, moments):
            for count, mean, variance in calls:
                n = float(count)
                mean, variance = (np.asarray(part, np.float64).ravel() for part in (mean, variance))
                if n:
                    vector += np.concatenate([[n], n * mean, n * (variance + mean**2)])

    def give_up(self, reduce):
        """Lets the other ranks, which wait for this one, fail as well."""
        if reduce is not None and self._vectors:
            reduce(np.full(len(self), np.nan))

    def reduce(self, reduce):
        """Adds up over ranks, if there is a function for it, and checks what is there."""
        if reduce is not None and self._vectors:
            ends = np.cumsum([len(vector) for vector in self._vectors])[:-1]
            self._vectors = np.split(np.asarray(reduce(np.concatenate(self._vectors)), np.float64), ends)
        if not self.batches:
            raise ValueError("There is no data to re-estimate batch normalization from. Received: 0 batches.")
        bad = [name for name, vector in zip(self._names, self._vectors) if not np.isfinite(vector).all()]
        if bad:
            raise ValueError(
                "Batch statistics are not finite. Received: NaN or infinity in layers {}. Look at the data and the "
                "weights, and at the other ranks if there are any.".format(", ".join(bad))
            )

    def count(self, index):
        """The number of values per channel that a layer has seen."""
        return self._vectors[index][0]

    def population(self, index):
        """Mean and variance of what a layer has seen, per channel."""
        vector = self._vectors[index] / self.count(index)
        mean, square = np.split(vector[1:], 2)
        return mean, np.maximum(square - mean**2, 0)
