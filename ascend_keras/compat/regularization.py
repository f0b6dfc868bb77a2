"""The weights that a layer itself holds, and what they add to the loss of a model."""

import functools
import re

from ascend_keras.compat.models import all_layers
from ascend_keras.compat.stack import KERAS3, TF1, keras, tf
from ascend_keras.compat.variables import weight_path

# Where a model of Keras 2 keeps {id of the variable: (variable, regularizer)}.
_KEPT = "_ascend_keras_regularizers"


def own_weights(layer):
    """The weights that a layer holds itself and was made to train, frozen now or not: pairs (attribute, variable)."""
    held = layer._trainable_variables if KERAS3 else layer._trainable_weights
    attributes = {id(value): name.lstrip("_") for name, value in reversed(list(vars(layer).items()))}
    return [(attributes.get(id(variable)) or _last_name(variable), variable) for variable in held]


def _last_name(variable):
    # TF 1.15 numbers a name that its graph has already.
    return re.sub(r"_\d+$", "", weight_path(variable).split("/")[-1])


def get_regularizers(model):
    """What `set_regularizers` has put on a model and the models in it: {id of the variable: regularizer}.

    On Keras 3 a regularizer belongs to the variable, and those that layers were made with are among them.
    """
    if KERAS3:
        return {id(variable): variable.regularizer for variable in model.variables if variable.regularizer is not None}
    return dict(_kept_by([model] + all_layers(model)))


def set_regularizers(model, pairs):
    """Adds `regularizer(variable)`, a scalar, to the losses of a model for each of the pairs (variable, regularizer).

    A variable that does not train adds nothing. What a model adds that is nested in this one is not added twice.
    """
    if KERAS3:
        for variable, regularizer in pairs:
            variable.regularizer = regularizer
        return
    if _KEPT not in vars(model):
        # Past Keras' __setattr__, which would track the variables once more.
        vars(model)[_KEPT] = {}
        # One loss for the model and none for its layers: TF 1.15 counts a layer's losses once for each of its owners.
        model.add_loss(functools.partial(_sum_of_own, model))
    vars(model)[_KEPT].update((id(pair[0]), pair) for pair in pairs)


def _kept_by(layers):
    return [(key, pair[1]) for layer in layers for key, pair in vars(layer).get(_KEPT, {}).items()]


def _sum_of_own(model):
    if getattr(tf.compat.v1.get_default_graph(), "name", "").startswith("loss_fn_"):
        # Keras is writing a SavedModel, and gives what it traces of a model's losses this name. Loaded, the term could
        # not be told from others, and would be there twice once it is asked for again.
        return tf.zeros(())
    trained = {id(variable) for variable in model.trainable_variables}
    counted = trained - {key for key, _ in _kept_by(all_layers(model))}
    terms = [regularizer(variable) for key, (variable, regularizer) in vars(model)[_KEPT].items() if key in counted]
    return tf.add_n(terms) if terms else None


class GraphValue:
    """A scalar that is computed from variables in one graph call, built once.

    Args:
        build: a function without arguments that returns the scalar tensor.
    """

    def __init__(self, build):
        self._value = build() if TF1 else tf.function(build, autograph=False)

    def __call__(self):
        """The value now, as a Python float."""
        return float(keras.backend.get_value(self._value) if TF1 else self._value().numpy())
