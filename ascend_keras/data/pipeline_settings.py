"""The arguments of the input pipeline, checked."""

from typing import Any, Optional

import numpy as np

from ascend_keras.data.source import Source, raise_all
from ascend_keras.data.threads import cpu_count

_RESIZES = ("short_side", "squash")


class Settings:
    """The arguments of `data.images`, checked.

    Raises:
        ValueError: an argument is out of range; all are listed.
    """

    source: Any
    batch_size: int
    image_size: int
    training: bool
    seed: int
    resize: str
    resize_to: Any
    flip: bool
    crop: bool
    color_jitter: float
    pca_noise: float
    shuffle_buffer: int
    threads: Optional[int]
    on_bad_image: str
    start_step: int
    deterministic: Any

    def __init__(self, arguments):
        self.__dict__.update(arguments)
        raise_all(self._problems())
        self.deterministic = self.deterministic is not False
        self.resize_to = self.resize_to or int(self.image_size * 256 / 224)
        self.parallel = self.threads or cpu_count()

    def _problems(self):
        problems = []
        if not isinstance(self.source, Source):
            problems.append(
                "`source` must be a Source, such as data.imagenet(path). Received: source={!r}.".format(self.source)
            )
        for name, least in (
            ("batch_size", 1),
            ("image_size", 1),
            ("shuffle_buffer", 1),
            ("start_step", 0),
            ("seed", 0),
        ):
            problems += not_whole(name, getattr(self, name), least)
        for name in ("resize_to", "threads"):
            problems += not_whole(name, getattr(self, name), 1) if getattr(self, name) is not None else []
        if not problems and self.resize_to is not None and self.resize_to < self.image_size:
            problems.append(
                "`resize_to` must be at least `image_size`. Received: resize_to={}, image_size={}.".format(
                    self.resize_to, self.image_size
                )
            )
        if not problems and self.start_step and not self.training:
            problems.append("Evaluation starts at batch 0. Received: start_step={}.".format(self.start_step))
        if not problems and self.seed >= 2**63:
            problems.append("`seed` must be below 2**63. Received: seed={}.".format(self.seed))
        for name in ("color_jitter", "pca_noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                problems.append("`{0}` must be a number >= 0. Received: {0}={1!r}.".format(name, value))
        for name, known in (("resize", _RESIZES), ("on_bad_image", ("skip", "error"))):
            if getattr(self, name) not in known:
                problems.append(
                    "`{0}` must be {1}. Received: {0}={2!r}.".format(
                        name, " or ".join(map(repr, known)), getattr(self, name)
                    )
                )
        return problems


def not_whole(name, value, least):
    """What is wrong with a whole number, as a list of at most one text."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        return ["`{0}` must be a whole number >= {1}. Received: {0}={2!r}.".format(name, least, value)]
    return []
