"""The same work on many items, by threads of which all end when one fails."""

import concurrent.futures
import threading

from ascend_keras.data import threads


class StoppedError(Exception):
    """Another thread has failed, or the user has pressed Ctrl-C: this one has nothing more to do."""


class Pool:
    """Runs a function over items.

    Args:
        workers: number of threads; None takes one per CPU of this process, see `threads`.
    """

    def __init__(self, workers=None):
        self.workers = workers or threads.cpu_count()
        self._stop = threading.Event()

    def check(self):
        """To be called by the work now and then; raises StoppedError if it is to end."""
        if self._stop.is_set():
            raise StoppedError

    def map(self, function, items):
        """Returns what the function gives for each item, in their order; raises the first error of any."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise
        return [future.result() for future in futures]
