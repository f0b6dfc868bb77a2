"""Whether all ranks ended with the same bits. For debugging: it costs a copy to the host and a sum over the ranks."""

import os
import zlib

import numpy as np

from ascend_keras import compat
from ascend_keras.log import logger

SWITCH = "ASCEND_KERAS_DEBUG"
_PIECES = 4  # bytes of a CRC-32
LENGTH = 1 + 2 * _PIECES


def wanted():
    """Whether the environment asks for the comparison. All ranks must have the same answer, as it is a collective."""
    return os.environ.get(SWITCH, "").strip().lower() not in ("", "0", "false", "no", "off")


def compare(variables, reduce):
    """Compares a hash of the values of `variables` over the ranks, and logs an error on every rank if it differs.

    Args:
        variables: in the same order on all ranks.
        reduce: a function that returns the sum of a float64 vector over the ranks.

    Returns:
        Whether the bits of all ranks are the same, up to collisions of CRC-32; the same on every rank.
    """
    crc = 0
    for value in compat.stream_values(variables):
        crc = zlib.crc32(np.ascontiguousarray(value).tobytes(), crc)
    # Numbers have no variance just where n * sum(x^2) == sum(x)^2. Of single bytes, the sums are exact.
    pieces = np.frombuffer(np.uint32(crc).tobytes(), np.uint8).astype(np.float64)
    sums = np.asarray(reduce(np.concatenate([[1.0], pieces, pieces**2])), np.float64)
    size, first, second = sums[0], sums[1 : 1 + _PIECES], sums[1 + _PIECES :]
    same = bool(np.all(size * second == first**2))
    if same:
        logger.debug("SWA: %d ranks have the same average, CRC-32 %08x", int(size), crc)
    else:
        logger.error(
            "SWA: the average is not the same on all %d ranks; here its CRC-32 is %08x. Were the gradients reduced, "
            "and did all ranks take the same steps?",
            int(size),
            crc,
        )
    return same
