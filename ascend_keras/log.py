"""The logger of the library: one line each to stderr, silent on ranks above 0 below a warning."""

import logging

from ascend_keras.distributed import cluster

logger = logging.getLogger("ascend_keras")


def _configure():
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[ascend_keras] %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    # Only rank 0 talks: eight ranks that each say the same thing hide the one that says something else.
    logger.setLevel(logging.INFO if cluster.rank_for_log() == 0 else logging.WARNING)


if not logger.handlers:
    _configure()
