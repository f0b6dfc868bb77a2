"""Gradient descent with momentum in the form of TensorFlow 1, which the AlexNet recipes train with."""

from ascend_keras.compat import SlotOptimizer, register, tf
from ascend_keras.optimizers import arguments as check


@register
class Momentum(SlotOptimizer):
    """The momentum optimizer that keeps the learning rate out of what it accumulates.

    For a weight w with gradient g, starting from a = 0:

        a = momentum * a + g
        w = w - rate * a                             or, with nesterov=True:
        w = w - rate * (g + momentum * a)

    Keras' SGD accumulates v = momentum * v - rate * g and adds v, which is the same as long as the rate is constant.
    Once the rate falls, here the accumulated gradients go on with the new rate, there with the rates of their steps.

    Args:
        learning_rate: a number >= 0, which can be assigned later, or a LearningRateSchedule.
        momentum: a number in [0, 1).
        nesterov: True to look ahead.
        name: name of the optimizer.
        arguments: what every optimizer of the Keras at hand takes: `clipnorm`, `clipvalue`, ...

    Raises:
        ValueError: an argument is out of range; all problems are listed.

    Reference: Sutskever et al., On the importance of initialization and momentum in deep learning, 2013; the form is
    that of TensorFlow 1's MomentumOptimizer, and of PyTorch's SGD.
    """

    def __init__(self, learning_rate, momentum=0.9, nesterov=False, name="Momentum", **arguments):
        check.raise_all(
            check.rate(learning_rate),
            check.number("momentum", momentum, 0, 1),
            check.flag("nesterov", nesterov),
        )
        super().__init__(learning_rate, name, **arguments)
        self.momentum = float(momentum)
        self.nesterov = nesterov

    def slots(self):
        """The sum of gradients."""
        return [("momentum", "zeros")]

    def apply_operation(self, variable, slots, gradient, rate):
        """One fused update."""
        return tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slots[0].handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov,
            use_locking=True,
        )

    def get_config(self):
        """The arguments of the constructor."""
        return dict(super().get_config(), momentum=self.momentum, nesterov=self.nesterov)
