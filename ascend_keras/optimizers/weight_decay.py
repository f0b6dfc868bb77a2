"""Coupled L2: half the sum of the squared weights, times a factor, as a part of the loss.

The gradient of weight_decay * w^2 / 2 is weight_decay * w, so that a plain gradient step shrinks each weight by the
factor 1 - rate * weight_decay. With momentum or RMSProp this differs from decoupled decay (AdamW), which acts past the
accumulators; the recipes couple.

Reference: Krogh and Hertz, A Simple Weight Decay Can Improve Generalization, 1992; Loshchilov and Hutter, Decoupled
Weight Decay Regularization, 2019, on the difference.
"""

import weakref

from ascend_keras import compat
from ascend_keras.compat import keras, tf
from ascend_keras.log import logger
from ascend_keras.optimizers import arguments as check

# The roles that each choice leaves out.
EXEMPT = {"all": (), "weights": ("bias", "beta"), "no_norm_no_bias": ("bias", "beta", "gamma")}

_terms = weakref.WeakKeyDictionary()  # type: ignore[var-annotated]


def l2_loss(variables, weight_decay):
    """weight_decay * sum(w^2) / 2 over `variables`, computed in float32 whatever their dtype.

    Args:
        variables: variables or tensors of any shape.
        weight_decay: a number >= 0.

    Returns:
        A float32 scalar tensor; zero for no variables.
    """
    halves = [tf.nn.l2_loss(tf.cast(variable, tf.float32)) for variable in variables]
    return weight_decay * tf.add_n(halves) if halves else tf.zeros(())


class CoupledL2(keras.regularizers.Regularizer):
    """`l2_loss` of one weight; the mark of what `add_weight_decay` has done."""

    def __init__(self, weight_decay):
        self.weight_decay = weight_decay

    def __call__(self, variable):
        """The term of one weight, a float32 scalar."""
        return l2_loss([variable], self.weight_decay)


def decayed_variables(model, apply_to="all"):
    """The variables of a model that train and that `apply_to` chooses, each once.

    Args:
        model: a Keras model with weights; nested models and wrapper layers count with what they hold.
        apply_to: "all"; "weights": all but biases and the offsets (beta) of normalisation; "no_norm_no_bias": all but
            biases and the offsets and factors (beta, gamma) of normalisation. A bias is what its layer holds as `bias`
            or as `..._bias`, an offset or factor what it holds as `beta` or `gamma`.

    Returns:
        A list of variables.

    Raises:
        ValueError: an argument is wrong, or the model has no weights yet.
    """
    check.raise_all(*_problems(model, 0, apply_to))
    trained = {id(variable) for variable in model.trainable_variables}
    return [variable for _, _, variable in _choose(model, apply_to) if id(variable) in trained]


def add_weight_decay(model, weight_decay, apply_to="all"):
    """Makes every training of `model` minimise its loss plus `l2_loss` of the chosen variables.

    Call it once the model has weights, and compile afterwards. The loss that Keras shows contains the term, in
    evaluation too; `l2_term` tells how much it is. A variable that is frozen at compile time adds nothing. Asking for
    what is there already changes nothing.

    The term belongs to this model in this process: a file does not hold it. After `load_model`, add it again and
    compile again. (On Keras 3 it belongs to the variables, so that another model with the same layers has it as well.)

    Args:
        model: a Keras model with weights. On TF 1.15 its loss must be float32, which Keras' own losses of float16
            outputs are not; those of `ascend_keras.losses` are.
        weight_decay: a number >= 0, such as 1e-4; 0 adds nothing.
        apply_to: as for `decayed_variables`; frozen variables are chosen too, and decay once they train.

    Raises:
        ValueError: an argument is wrong, the model has no weights, or a chosen weight is regularized otherwise; all
            problems are listed.
    """
    check.raise_all(*_problems(model, weight_decay, apply_to))
    ours = compat.get_regularizers(model)
    fresh, problems = [], []
    for layer, attribute, variable in _choose(model, apply_to) if weight_decay else []:
        regularizer = ours.get(id(variable)) or getattr(layer, attribute + "_regularizer", None)
        if regularizer is None:
            fresh.append((variable, CoupledL2(weight_decay)))
        elif not isinstance(regularizer, CoupledL2) or regularizer.weight_decay != weight_decay:
            problems.append(_conflict(layer, attribute, regularizer, weight_decay))
    check.raise_all(*problems)
    if fresh:
        compat.set_regularizers(model, fresh)
        _warn_if_compiled(model)
    _term(model)


def l2_term(model):
    """What weight decay adds to the loss of `model` now, with the weights as they are: a float.

    `val_loss - l2_term(model)` is the validation loss without it. On TF 1.15 the operation is built by
    `add_weight_decay`, and again only where other variables train; later calls add nothing to the graph.
    """
    return _term(model)()


def _term(model):
    """The graph that computes the term, built for the variables that train."""
    trained = {id(variable): variable for variable in model.trainable_variables}
    regularizers = compat.get_regularizers(model).items()
    factors = {key: l2.weight_decay for key, l2 in regularizers if key in trained and isinstance(l2, CoupledL2)}
    if _terms.get(model, (None,))[0] != factors:

        def build():
            terms = [l2_loss([trained[key]], factor) for key, factor in factors.items()]
            return tf.add_n(terms) if terms else tf.zeros(())

        _terms[model] = factors, compat.GraphValue(build)
    return _terms[model][1]


def _choose(model, apply_to):
    """Triples (layer, attribute, variable) of the chosen weights of a model, a tied variable with its first layer."""
    found = {}
    for layer in [model] + compat.all_layers(model):
        for attribute, variable in compat.own_weights(layer):
            if _role(layer, attribute) not in EXEMPT[apply_to]:
                found.setdefault(id(variable), (layer, attribute, variable))
    return list(found.values())


def _role(layer, attribute):
    if attribute.endswith("_bias"):
        return "bias"
    root_mean_square = getattr(keras.layers, "RMSNormalization", None)
    if root_mean_square and isinstance(layer, root_mean_square):
        return "gamma"
    return attribute


def _problems(model, weight_decay, apply_to):
    problems = [check.not_negative("weight_decay", weight_decay)]
    if apply_to not in EXEMPT:
        problems.append(
            "apply_to must be one of {}. Received: apply_to={!r}.".format(", ".join(map(repr, EXEMPT)), apply_to)
        )
    if not isinstance(model, keras.Model):
        problems.append("model must be a Keras model. Received: model={!r}.".format(model))
    elif not model.built:
        problems.append(
            "The model has no weights yet. Received: model={!r}. Call model.build(input_shape), or give its first "
            "layer an input shape.".format(model.name)
        )
    return problems


def _conflict(layer, attribute, regularizer, weight_decay):
    ours = isinstance(regularizer, CoupledL2)
    return "{} of layer {!r} is regularized already, by {}. Received: weight_decay={!r}. {}".format(
        attribute,
        layer.name,
        "weight_decay={!r}".format(regularizer.weight_decay) if ours else type(regularizer).__name__,
        weight_decay,
        "Build the model anew to change it." if ours else "Leave one of the two out.",
    )


def _warn_if_compiled(model):
    if getattr(model, "optimizer", None) is not None:
        logger.warning(
            "add_weight_decay: the model %r is compiled already. Compile it again, with optimizer=model.optimizer to "
            "keep the optimizer's state; until then it may train without the decay",
            model.name,
        )
