"""What is wrong with an argument of a model, in words; None where nothing is."""

import difflib
import numbers

from ascend_keras.models.layers import IMAGENET_MEAN, IMAGENET_STD, PixelNormalization

NORMALIZE = (True, "mean", False)


def raise_all(*problems):
    """Raises one ValueError with all the problems that are not None."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError("\n".join(found))


def whole(name, value, least, reason=""):
    """A whole number from `least` on."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least:
        return None
    return "{0} must be a whole number of at least {1}{3}. Received: {0}={2!r}.".format(name, least, value, reason)


def choice(name, value, known):
    """One of `known`."""
    # By type as well, for 1 == True.
    if any(type(value) is type(other) and value == other for other in known):
        return None
    listed = ", ".join(map(repr, known))
    return "{0} must be one of {1}.{3} Received: {0}={2!r}.".format(name, listed, value, near(value, known))


def rate(name, value):
    """A share that is dropped: a number in [0, 1)."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) < 1:
        return None
    return "{0} must be a number in [0, 1). Received: {0}={1!r}.".format(name, value)


def near(name, known):
    """' Did you mean X?' where X of `known` is close to `name`, else nothing."""
    texts = [text for text in known if isinstance(text, str)]
    found = difflib.get_close_matches(name, texts, n=1) if isinstance(name, str) else []
    return " Did you mean {!r}?".format(found[0]) if found else ""


def normalize_pixels(x, normalize, reverse_channels=False):
    """What one of `NORMALIZE` does to RGB images of 0..255; their dtype counts for nothing."""
    if normalize is False and not reverse_channels:
        return x
    mean = IMAGENET_MEAN if normalize is not False else None
    std = IMAGENET_STD if normalize is True else None
    return PixelNormalization(mean, std, reverse_channels, name="normalization")(x)
