"""The mark by which a rank tells the launcher that it has started; see `--timeout` of `ascend-keras launch`."""

import os
from typing import Mapping, Optional


def path_of_mark(log_dir: str, rank: int) -> str:
    """Path of the file whose existence is the mark."""
    return os.path.join(log_dir, "rank_{}.started".format(rank))


def mark_started(environ: Optional[Mapping[str, str]] = None) -> None:
    """Makes the mark of this rank; nothing where no launcher has started the process.

    NPUTrainer calls it when it has been made. A script without it, that is launched with `--timeout`, calls it itself.
    """
    environ = os.environ if environ is None else environ
    log_dir, rank = environ.get("ASCEND_KERAS_LOG_DIR"), environ.get("ASCEND_KERAS_RANK", "")
    if not log_dir or not rank.isdigit():
        return
    try:
        with open(path_of_mark(log_dir, int(rank)), "w"):
            pass
    except OSError as error:
        from ascend_keras.log import logger

        # The training itself can go on; with --timeout the launcher will say that it saw no start.
        logger.warning("The mark of the start for the launcher cannot be written: %s", error)
