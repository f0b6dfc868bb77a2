"""What happens to an image that cannot be decoded: it is named, counted, and skipped or made an error."""

import re
import threading

import numpy as np

from ascend_keras import compat
from ascend_keras.log import logger

_NAMES = 100


class BadImages:
    """The images that were skipped in this process.

    Attributes:
        count: how many different images.
        names: the names of the first 100 of them.
    """

    def __init__(self):
        self.names = []
        self._seen = set()
        self._lock = threading.Lock()

    @property
    def count(self):
        return len(self._seen)

    def add(self, position):
        """Notes a position; returns whether it is a new one."""
        with self._lock:
            is_new = position not in self._seen
            self._seen.add(position)
            return is_new

    def name(self, name, reason):
        """Names an image that `add` has called new, in the log and in `names`."""
        if len(self.names) < _NAMES:
            self.names.append(name)
        logger.warning("bad image skipped: %s: %s", name, reason)

    def __repr__(self):
        return "BadImages(count={}, names={})".format(self.count, self.names)


def reason_of(source, position, transform):
    """Why an image cannot be had, in a line: it is read and decoded once more, alone.

    Args:
        source: a Source.
        position: of the image.
        transform: TensorFlow, element -> anything; what failed.
    """

    def again():
        position_tensor = compat.tf.constant(position, compat.tf.int64)
        row = {key: values[0] for key, values in source.describe(np.array([position], np.int64)).items()}
        _open_odd_name(row.get("path", b""))
        fields = {key: compat.tf.constant(value) for key, value in row.items()}
        return transform(source.read(dict(fields, index=position_tensor)))

    try:
        compat.run_apart(again)
    except (compat.tf.errors.OpError, OSError, ValueError) as error:
        text = " ".join(_text_of(error).split())
        # What TensorFlow adds is about its graph, not about the image.
        return re.sub(r"\{\{.*?\}\} *| *\[Op:.*$| *\[\[\{?\{?node.*$", "", text)[:300] or type(error).__name__
    return "it could be read at a second attempt"


def _open_odd_name(path):
    """Raises OSError for a file that cannot be opened and whose name is no UTF-8: TF 1.15 crashes on such an error."""
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        with open(path, "rb"):
            pass


def _text_of(error):
    if isinstance(error, UnicodeDecodeError):
        # TensorFlow's text has the name of the file, which need not be UTF-8.
        return bytes(error.object).decode("utf-8", "backslashreplace")
    return str(getattr(error, "message", None) or error)
