"""A loss-scale optimizer for tf.keras of TF 1.15 that can be compiled, saved and loaded like any other.

Nothing that TF 1.15 or its adapter brings does that: Keras' experimental one has no config, and the adapter's takes
only tf.train optimizers. The arithmetic is that of TF 2's tf.keras.mixed_precision.LossScaleOptimizer, step by step.
"""

import contextlib

from ascend_keras.compat import keras, register, tf
from ascend_keras.optimizers.loss_scale_rule import GROWTH_STEPS, INITIAL_SCALE


def wrap(optimizer, loss_scale, float_status):
    """Puts a LossScaleOptimizer around `optimizer`; one that is there and scales otherwise is replaced."""
    if not isinstance(optimizer, LossScaleOptimizer):
        optimizer = LossScaleOptimizer(optimizer, loss_scale)
    elif optimizer.loss_scale != loss_scale:
        optimizer = LossScaleOptimizer(optimizer.inner_optimizer, loss_scale)
    optimizer.float_status = float_status
    return optimizer


@register
class LossScaleOptimizer(keras.optimizers.Optimizer):
    """Scales the loss, unscales the gradients, and applies them only if no operation overflowed.

    Args:
        optimizer: the Keras optimizer to wrap. Its `lr`, `iterations`, slots and clipping stay its own; clipping acts
            on the unscaled gradients.
        loss_scale: "dynamic" or a number >= 1 that stays fixed.
        initial_scale: first dynamic scale.
        growth_steps: good steps in a row after which the dynamic scale doubles.
        name: name of the optimizer.

    Attributes:
        float_status: a `FloatStatus` where overflow is read from the device, else None: gradients are tested.
        scale, good_steps, skipped_steps: the state, Keras-tracked scalar variables.
    """

    def __init__(
        self,
        optimizer,
        loss_scale="dynamic",
        initial_scale=INITIAL_SCALE,
        growth_steps=GROWTH_STEPS,
        name="LossScaleOptimizer",
    ):
        super().__init__(name)
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._growth_steps = int(growth_steps)
        self._initial_scale = float(initial_scale)
        self.float_status = None
        start = self._initial_scale if loss_scale == "dynamic" else float(loss_scale)
        self.scale = self._state("loss_scale", tf.float32, start)
        self.good_steps = self._state("good_steps", tf.int64, 0)
        self.skipped_steps = self._state("skipped_steps", tf.int64, 0)
        self._track_trackable(optimizer, "inner_optimizer")

    def _state(self, name, dtype, value):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name, shape=(), dtype=dtype, initializer=initializer, trainable=False)

    @property
    def loss_scale(self):
        """ "dynamic", or the number that stays fixed."""
        return self._loss_scale

    @property
    def inner_optimizer(self):
        """The optimizer inside."""
        return self._optimizer

    # --- one step -----------------------------------------------------------------------------------------------

    def get_gradients(self, loss, params):
        """The unscaled gradients of `loss`; where the inner optimizer reduces over ranks, they are reduced already."""
        scale = self.scale.read_value()
        with self._scaled_clipping(scale):
            gradients = self._optimizer.get_gradients(loss * tf.cast(scale, loss.dtype), params)
        return [_multiply(gradient, 1.0 / scale) for gradient in gradients]

    @contextlib.contextmanager
    def _scaled_clipping(self, scale):
        # The inner optimizer clips what it computes, which is scaled; so its limits are scaled as long as it does.
        limits = {name: getattr(self._optimizer, name, None) for name in ("clipnorm", "clipvalue")}
        limits = {name: value for name, value in limits.items() if value is not None}
        for name, value in limits.items():
            setattr(self._optimizer, name, value * scale)
        try:
            yield
        finally:
            for name, value in limits.items():
                setattr(self._optimizer, name, value)

    def apply_gradients(self, grads_and_vars, name=None):
        """Applies the unscaled gradients, or skips them, and moves the scale."""
        grads_and_vars = [(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
        finite = self._no_overflow([gradient for gradient, _ in grads_and_vars])
        applied = tf.cond(
            finite,
            lambda: tf.group(self._optimizer.apply_gradients(grads_and_vars, name)),
            lambda: tf.group(self._optimizer.iterations.assign_add(1)),
        )
        return tf.group(applied, *self._move_scale(finite))

    def _no_overflow(self, gradients):
        if self.float_status is None:
            # |NaN| <= max is false as well. IsFinite itself is not among the operations the NPU supports on TF 1.15.
            tests = [tf.reduce_all(tf.abs(values) <= values.dtype.max) for values in map(_values, gradients)]
            return tf.reduce_all(tf.stack(tests))
        with tf.control_dependencies([_values(gradient) for gradient in gradients]):
            status = self.float_status.read()
        with tf.control_dependencies([status]):
            clear = self.float_status.clear()
        with tf.control_dependencies([clear]):
            status = tf.identity(status)
        if self.float_status.all_reduce is not None:
            status = self.float_status.all_reduce(status)
        return tf.reduce_all(tf.equal(status, 0))

    def _move_scale(self, finite):
        scale, good_steps = self.scale.read_value(), self.good_steps.read_value() + 1
        with tf.control_dependencies([scale, good_steps]):
            count = self.skipped_steps.assign_add(tf.cast(tf.logical_not(finite), tf.int64))
            if self._loss_scale != "dynamic":
                return [count]
            grow = good_steps >= self._growth_steps
            # A scale that would overflow stays.
            grown = tf.where_v2(tf.logical_and(grow, scale * 2.0 <= tf.float32.max), scale * 2.0, scale)
            kept = tf.logical_and(finite, tf.logical_not(grow))
            good_steps = tf.where_v2(kept, good_steps, tf.zeros_like(good_steps))
            new_scale = tf.where_v2(finite, grown, tf.maximum(scale * 0.5, 1.0))
            return [count, self.good_steps.assign(good_steps), self.scale.assign(new_scale)]

    # --- what callbacks, checkpoints and files see: the inner optimizer -------------------------------------------

    @property
    def iterations(self):
        """Steps done, skipped ones included."""
        return self._optimizer.iterations

    @iterations.setter
    def iterations(self, variable):
        self._optimizer.iterations = variable

    @property
    def learning_rate(self):
        """The learning rate of the inner optimizer."""
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self._optimizer.learning_rate = value

    lr = learning_rate

    @property
    def weights(self):
        """The inner optimizer's weights, then the state of the scale."""
        return list(self._optimizer.weights) + [self.scale, self.good_steps, self.skipped_steps]

    def variables(self):
        """Same as `weights`."""
        return self.weights

    def get_slot_names(self):
        """Names of the inner optimizer's slots."""
        return self._optimizer.get_slot_names()

    def get_slot(self, var, slot_name):
        """A slot of the inner optimizer."""
        return self._optimizer.get_slot(var, slot_name)

    def get_config(self):
        """Everything that makes an equal optimizer; the device's float status is attached anew by compile."""
        return {
            "name": self._name,
            "optimizer": keras.optimizers.serialize(self._optimizer),
            "loss_scale": self._loss_scale,
            "initial_scale": self._initial_scale,
            "growth_steps": self._growth_steps,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the optimizer of a config."""
        config = dict(config)
        inner = keras.optimizers.deserialize(config.pop("optimizer"), custom_objects=custom_objects)
        return cls(inner, **config)


def _values(gradient):
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _multiply(gradient, factor):
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)
