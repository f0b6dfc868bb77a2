"""RMSProp in the form of TensorFlow 1 and MindSpore, which the Inception-ResNet-v2 recipe trains with."""

from ascend_keras.compat import SlotOptimizer, register, tf
from ascend_keras.optimizers import arguments as check


@register
class RMSPropFromOnes(SlotOptimizer):  # Keras takes a saved 'RMSProp', however it is spelt, for its own RMSprop.
    """RMSProp whose mean square starts at one, with epsilon inside the root and the rate inside the momentum.

    For a weight w with gradient g, starting from s = 1, d = 0:

        s = rho * s + (1 - rho) * g^2
        d = momentum * d + rate * g / sqrt(s + epsilon)
        w = w - d

    With centered=True, starting from m = 0, the root is that of the variance: m = rho * m + (1 - rho) * g, and
    sqrt(s - m^2 + epsilon). Keras' own RMSprop starts from s = 0; and without momentum the one of TF 1.15 and TF 2.6
    adds epsilon to the root instead. With the recipe's epsilon of one both change every step.

    Args:
        learning_rate: a number >= 0, which can be assigned later, or a LearningRateSchedule.
        rho: decay of the mean square, in [0, 1).
        momentum: a number in [0, 1).
        epsilon: a number > 0; the default is the recipe's.
        centered: True to divide by the standard deviation of the gradient.
        name: name of the optimizer.
        arguments: what every optimizer of the Keras at hand takes: `clipnorm`, `clipvalue`, ...

    Raises:
        ValueError: an argument is out of range; all problems are listed.

    Reference: Hinton, Neural Networks for Machine Learning, lecture 6e, 2012; Szegedy et al., Rethinking the Inception
    Architecture for Computer Vision, 2016, section 8 (decay 0.9, epsilon 1.0).
    """

    def __init__(self, learning_rate, rho=0.9, momentum=0.9, epsilon=1.0, centered=False, name="RMSProp", **arguments):
        check.raise_all(
            check.rate(learning_rate),
            check.number("rho", rho, 0, 1),
            check.number("momentum", momentum, 0, 1),
            check.positive("epsilon", epsilon),
            check.flag("centered", centered),
        )
        super().__init__(learning_rate, name, **arguments)
        self.rho = float(rho)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.centered = centered

    def slots(self):
        """Mean of the gradient, where it is needed; mean square; step."""
        mean = [("mean_gradient", "zeros")] if self.centered else []
        return mean + [("mean_square", "ones"), ("momentum", "zeros")]

    def apply_operation(self, variable, slots, gradient, rate):
        """One fused update."""
        operation = tf.raw_ops.ResourceApplyCenteredRMSProp if self.centered else tf.raw_ops.ResourceApplyRMSProp
        names = ("mg", "ms", "mom") if self.centered else ("ms", "mom")
        constants = {name: tf.constant(getattr(self, name), gradient.dtype) for name in ("rho", "momentum", "epsilon")}
        handles = {name: slot.handle for name, slot in zip(names, slots)}
        return operation(var=variable.handle, lr=rate, grad=gradient, use_locking=True, **handles, **constants)

    def get_config(self):
        """The arguments of the constructor."""
        names = ("rho", "momentum", "epsilon", "centered")
        return dict(super().get_config(), **{name: getattr(self, name) for name in names})
