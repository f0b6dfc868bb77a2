"""Models by name, for scripts that take the name as a flag."""

import inspect
from typing import Any, Callable, Dict

from ascend_keras.models import arguments as check
from ascend_keras.models.alexnet import alexnet
from ascend_keras.models.mlp import blobs_mlp, digits_cnn
from ascend_keras.models.two_tower import alexnet_two_tower

_BUILDERS: Dict[str, Callable[..., Any]] = {
    "alexnet": alexnet,
    "alexnet_two_tower": alexnet_two_tower,
    "blobs_mlp": blobs_mlp,
    "digits_cnn": digits_cnn,
}


def get(name, **options):
    """Builds a model by its name.

    Args:
        name: one of `models.list()`.
        options: the arguments of the function of that name in `ascend_keras.models`, such as `classes`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: there is no such model, or it has no such option, or the option's value is out of range.
    """
    if name not in _BUILDERS:
        known = names()
        raise ValueError(
            "There is no model of this name.{} Received: name={!r}. Known are {}.".format(
                _near(name, known), name, ", ".join(known)
            )
        )
    known = list(inspect.signature(_BUILDERS[name]).parameters)
    check.raise_all(*[_unknown(name, option, value, known) for option, value in options.items() if option not in known])
    return _BUILDERS[name](**options)


def names():
    """The names that `get` knows, in alphabetical order."""
    return sorted(_BUILDERS)


def _near(name, known):
    # A name with something behind it is rather that name than another one as long.
    begun = [other for other in known if isinstance(name, str) and name.startswith(other)]
    return check.near(max(begun, key=len) if begun else name, known)


def _unknown(name, option, value, known):
    text = "{} has no option of this name.{} Received: {}={!r}. Its options are {}."
    return text.format(name, check.near(option, known), option, value, ", ".join(known))
