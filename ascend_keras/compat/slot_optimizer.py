"""The base class of our own optimizers, in the family of optimizers that the Keras at hand has."""

from ascend_keras.compat.stack import KERAS3, NEW_OPTIMIZERS, keras, tf


class _NewFamily(keras.optimizers.Optimizer):
    """Keras 2.11 and later, Keras 3."""

    def __init__(self, learning_rate, name, **arguments):
        if KERAS3:
            super().__init__(learning_rate=learning_rate, name=name, **arguments)
        else:
            # By default the base class would subtract zero times the weights at every step.
            super().__init__(name=name, **dict({"weight_decay": None}, **arguments))
            self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, variables):
        """Makes the slots of `variables`, once."""
        built = getattr(self, "built" if KERAS3 else "_built", False)
        super().build(variables)
        if not built:
            self._slot_variables = [
                [self._make_slot(variable, name, initializer) for variable in variables]
                for name, initializer in self.slots()
            ]
            self._built = True

    def _make_slot(self, variable, name, initializer):
        if KERAS3:
            return self.add_variable_from_reference(variable, name=name, initializer=initializer)
        value = keras.initializers.get(initializer)(shape=variable.shape, dtype=variable.dtype)
        return self.add_variable_from_reference(variable, name, initial_value=value)

    def update_step(self, gradient, variable, learning_rate=None):
        """Updates one variable and its slots."""
        key = self._var_key(variable)
        index = (self._trainable_variables_indices if KERAS3 else self._index_dict)[key]
        slots = [_native(variables[index]) for variables in self._slot_variables]
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate, variable.dtype)
        self.apply_operation(_native(variable), slots, tf.convert_to_tensor(gradient), rate)

    def get_config(self):
        """What makes an equal optimizer."""
        config = super().get_config()
        if not KERAS3:
            config["learning_rate"] = self._serialize_hyperparameter(self._learning_rate)
        return config


def _native(variable):
    return variable.value if KERAS3 and isinstance(variable, keras.Variable) else variable


class _OldFamily(keras.optimizers.Optimizer):
    """TF 1.15 and TF 2.6."""

    def __init__(self, learning_rate, name, **arguments):
        super().__init__(name, **arguments)
        self._set_hyper("learning_rate", arguments.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)

    def _create_slots(self, var_list):
        for name, initializer in self.slots():
            for variable in var_list:
                self.add_slot(variable, name, initializer)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        # In float32 whatever the variable is: in float16 a schedule would count no further than 2048 steps.
        rate = tf.cast(self._decayed_lr(tf.float32), var_dtype)
        apply_state[(var_device, var_dtype)] = {"lr_t": tf.identity(rate)}

    def _resource_apply_dense(self, grad, var, apply_state=None):
        device, dtype = var.device, var.dtype.base_dtype
        state = (apply_state or {}).get((device, dtype)) or self._fallback_apply_state(device, dtype)
        slots = [self.get_slot(var, name) for name, _ in self.slots()]
        return self.apply_operation(var, slots, grad, state["lr_t"])

    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices, **kwargs):
        # Without looking for duplicates first, as Keras does: their number is no static shape.
        dense = tf.math.unsorted_segment_sum(grad, indices, tf.shape(handle)[0])
        return self._resource_apply_dense(dense, handle, **kwargs)

    def get_config(self):
        """What makes an equal optimizer."""
        config = dict(super().get_config(), learning_rate=self._serialize_hyperparameter("learning_rate"))
        return dict(config, decay=self._initial_decay) if self._initial_decay else config


class SlotOptimizer(_NewFamily if KERAS3 or NEW_OPTIMIZERS else _OldFamily):  # type: ignore[misc]
    """An optimizer that updates a variable and its slots in one operation of TensorFlow, on every stack.

    Rates, schedules, clipping, saving are those of Keras. A sparse gradient acts as the dense one that it stands for,
    so that slots decay in rows that a batch did not use, too.

    Args:
        learning_rate: a number, which can be assigned later, or a LearningRateSchedule.
        name: name of the optimizer.
        arguments: what the base class of the Keras at hand takes: `clipnorm`, `clipvalue`, ...
    """

    def slots(self):
        """Names and initializers of the slots, a list of pairs."""
        raise NotImplementedError

    def apply_operation(self, variable, slots, gradient, rate):
        """Runs or returns the operation; `gradient` is dense, and with `rate` (a scalar) of the variable's dtype."""
        raise NotImplementedError
