"""Numbers with names, brought together from all ranks, and refused on all of them where the names differ."""

import zlib

import numpy as np

# Every message has this many numbers, so that one graph on the device serves all, and two ranks that are at different
# places of a training meet in a message that tells them so, not in a collective that never ends.
LENGTH = 32
_HEADER = 3
_ROOM = LENGTH - _HEADER


class Exchange:
    """Exchanges numbers between the ranks of a backend. A collective: every rank has to call it at the same points.

    Args:
        backend: an open backend with `gather_over_ranks`, `gather_texts` and `prepare_sum`.
    """

    def __init__(self, backend):
        self._backend = backend

    def prepare(self):
        """Builds what it needs, for TF 1.15, where nothing may be added to a graph later."""
        self._backend.prepare_sum(LENGTH)

    def gather(self, what, names, values):
        """The numbers of all ranks; one collective for up to 29 of them.

        Args:
            what: what the numbers are, in a few words.
            names: their names, in the same order on all ranks.
            values: as many numbers; NaN and Inf are numbers.

        Returns:
            (ranks, len(names)) float64, the same bits on all ranks.

        Raises:
            ValueError: the ranks do not bring the same; on all of them.
        """
        values = np.asarray(values, np.float64)
        code = zlib.crc32("\n".join([what] + list(names)).encode("utf-8"))
        head = [float(zlib.crc32(what.encode("utf-8"))), float(len(values)), float(code)]
        first = self._message(np.concatenate([head, values[:_ROOM]]))
        if not (first[:, :_HEADER] == first[0, :_HEADER]).all():
            self._refuse(what, names)
        parts = [first[:, _HEADER:]]
        for start in range(_ROOM, len(values), LENGTH):
            parts.append(self._message(values[start : start + LENGTH]))
        return np.concatenate(parts, axis=1)[:, : len(values)]

    def add(self, what, names, values):
        """The sums of the numbers over the ranks: `gather`, and then `add_over_ranks`."""
        return add_over_ranks(self.gather(what, names, values))

    def require_equal(self, what, names, values, remedy):
        """Raises on all ranks where a number is not the same on all of them.

        Args:
            what, names, values: as for `gather`.
            remedy: what to do about it, a sentence.

        Raises:
            ValueError: a number differs, or the ranks do not bring the same.
        """
        check_equal(what, names, self.gather(what, names, values), remedy)

    def _message(self, values):
        vector = np.zeros(LENGTH)
        vector[: len(values)] = values
        return np.asarray(self._backend.gather_over_ranks(vector), np.float64)

    def _refuse(self, what, names):
        texts = self._backend.gather_texts("{}: {}".format(what, ", ".join(names) or "nothing"))
        raise ValueError(
            "The ranks are at different places of the training, or have different models. Received:\n  {}\nRun the "
            "same script with the same arguments on every rank.".format(
                "\n  ".join("rank {}: {}".format(rank, text) for rank, text in enumerate(texts))
            )
        )


def check_equal(what, names, rows, remedy):
    """Raises where a column of what `Exchange.gather` returned is not the same in all rows; NaN is the same as NaN.

    Args:
        what, names, remedy: as for `Exchange.require_equal`.
        rows: (ranks, len(names)).

    Raises:
        ValueError: a number differs.
    """
    wrong = [
        "{}: {}".format(name, ", ".join("{:.9g} on rank {}".format(value, at) for at, value in enumerate(column)))
        for name, column in zip(names, rows.T)
        if not ((column == column[0]) | (np.isnan(column) & np.isnan(column[0]))).all()
    ]
    if wrong:
        raise ValueError("The ranks differ in {}. Received:\n  {}\n{}".format(what, "\n  ".join(wrong), remedy))


def add_over_ranks(rows):
    """The sum of the rows of a (ranks, length) array, added in rank order, so that all ranks get the same bits."""
    total = np.zeros(rows.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for row in rows:
            total = total + row
    # Of two NaN, processors differ in the one that a sum takes its bits from.
    total[np.isnan(total)] = np.nan
    return total


def add_in_messages(reduce, values):
    """Adds numbers over ranks by vectors of the one length that an `Exchange` has, too.

    Args:
        reduce: a function that returns the sum of a float64 vector over the ranks.
        values: any number of numbers.
    """
    vector = np.zeros(-(-len(values) // LENGTH) * LENGTH)
    vector[: len(values)] = values
    return np.concatenate([np.asarray(reduce(part)) for part in vector.reshape(-1, LENGTH)] + [[]])[: len(values)]
