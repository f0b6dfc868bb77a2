"""The other ranks of a run on hosts: whether they have come, and whether they are still there. No TensorFlow."""

import atexit
import os
import socket
import threading
import time

from ascend_keras.log import logger

# Seconds that the ranks may start apart from one another.
CONNECT_TIMEOUT = 300.0
TIMEOUT_VARIABLE = "ASCEND_KERAS_CONNECT_TIMEOUT"
# Seconds between two looks at the other ranks.
PERIOD = 2.0


def connect_timeout(environ=None):
    """Seconds to wait for the other ranks, from ASCEND_KERAS_CONNECT_TIMEOUT.

    Raises:
        ValueError: it is not a number above 0.
    """
    text = (os.environ if environ is None else environ).get(TIMEOUT_VARIABLE) or str(CONNECT_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(
            "{0} must be seconds above 0. Received: {0}={1!r}. Unset it for {2:g}.".format(
                TIMEOUT_VARIABLE, text, CONNECT_TIMEOUT
            )
        )
    return seconds


def check_port(cluster):
    """Raises RuntimeError if the port of this rank is taken; TensorFlow would share it, or die without a word."""
    address = cluster.addresses[cluster.rank]
    port = split(address)[1]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise RuntimeError(
                "Rank {} cannot listen on its port: {}. Received: address={!r} of TF_CONFIG. Choose a free port, or "
                "end the process that has it (`ss -ltnp`).".format(cluster.rank, error.strerror, address)
            ) from error


def wait_for_ranks(cluster, limit):
    """Waits until every other rank listens.

    Raises:
        RuntimeError: some do not within `limit` seconds; they are named.
    """
    missing = {rank: address for rank, address in enumerate(cluster.addresses) if rank != cluster.rank}
    deadline, told = time.monotonic() + limit, time.monotonic() + 20.0
    while missing:
        missing = {rank: address for rank, address in missing.items() if not listens(address)}
        now = time.monotonic()
        names = ", ".join("rank {} at {}".format(*item) for item in sorted(missing.items()))
        if missing and now >= deadline:
            raise RuntimeError(
                "Rank {} of {} waited {:g} s, and these did not come: {}. See whether they run and reach this machine, "
                "or wait longer with {}=SECONDS.".format(cluster.rank, cluster.size, limit, names, TIMEOUT_VARIABLE)
            )
        if missing and now >= told:
            told = now + 60.0
            logger.info("waiting for %s", names)
        time.sleep(0.05 if missing else 0.0)


def listens(address, otherwise=False):
    """Whether somebody accepts connections at an address; `otherwise` where that cannot be told for now."""
    try:
        socket.create_connection(split(address), timeout=2.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return otherwise
    return True


def split(address):
    """Host and port of "host:port", an IPv6 address in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Watch(threading.Thread):
    """Calls `lost` with a message when a rank no longer listens, once.

    A collective waits on a rank to fetch something as well as to send something, and TensorFlow notices the end of the
    connection in the second case only.

    Args:
        cluster: a `Cluster` with addresses, all of whose ranks listen.
        lost: a function of a text.
    """

    def __init__(self, cluster, lost):
        super().__init__(name="watch of ranks", daemon=True)
        self._others = [item for item in enumerate(cluster.addresses) if item[0] != cluster.rank]
        self._lost = lost
        self._ended = threading.Event()

    def run(self):
        """Looks every few seconds, until the process ends or a rank is lost."""
        atexit.register(self._ended.set)
        while not self._ended.wait(PERIOD):
            for rank, address in self._others:
                # Twice, since a queue that is full for a moment may refuse as well.
                if not listens(address, otherwise=True) and not listens(address, otherwise=True):
                    if not self._ended.is_set():
                        self._lost("rank {} at {} has ended".format(rank, address))
                    return
