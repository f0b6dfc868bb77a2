"""The one place that knows which TensorFlow and which Keras are installed.

Four stacks are served: TF 1.15 (graph mode), TF 2.6, TF 2.15 (Keras 2) and TF 2.21 (Keras 3, or legacy Keras with
TF_USE_LEGACY_KERAS=1). Every difference between them that the library has to bridge is bridged here, by a function
or a constant that says what is wanted instead of what version gives it.
"""

from ascend_keras.compat.data import (
    count_steps,
    is_endless,
    open_dataset,
    watch_training_data,
)
from ascend_keras.compat.models import (
    all_layers,
    build_on,
    overrides_train_step,
    steps_per_execution,
)
from ascend_keras.compat.optimizers import (
    get_learning_rate,
    has_schedule,
    inner_optimizer,
    is_keras_optimizer,
    loads_by_itself,
    loss_scale_variable,
    optimizer_variables,
    replace_skip,
    set_learning_rate,
    take_out,
)
from ascend_keras.compat.precision import (
    HAS_BFLOAT16,
    computes_in_float16,
    dtype_policy,
)
from ascend_keras.compat.stack import (
    KERAS3,
    KERAS_VERSION,
    NEW_OPTIMIZERS,
    TF1,
    TF_VERSION,
    accuracy_key,
    enable_determinism,
    has_seed,
    host_device,
    keras,
    register,
    set_seed,
    stack_name,
    tf,
)
from ascend_keras.compat.variables import (
    GraphOp,
    existing_variables,
    get_session,
    get_values,
    make_accumulator,
    set_values,
    weight_path,
)

__all__ = [
    "GraphOp",
    "HAS_BFLOAT16",
    "KERAS3",
    "KERAS_VERSION",
    "NEW_OPTIMIZERS",
    "TF1",
    "TF_VERSION",
    "accuracy_key",
    "all_layers",
    "build_on",
    "computes_in_float16",
    "count_steps",
    "dtype_policy",
    "enable_determinism",
    "existing_variables",
    "get_learning_rate",
    "get_session",
    "get_values",
    "has_schedule",
    "has_seed",
    "host_device",
    "inner_optimizer",
    "is_endless",
    "is_keras_optimizer",
    "keras",
    "loads_by_itself",
    "loss_scale_variable",
    "make_accumulator",
    "open_dataset",
    "optimizer_variables",
    "overrides_train_step",
    "register",
    "replace_skip",
    "set_learning_rate",
    "set_seed",
    "set_values",
    "stack_name",
    "steps_per_execution",
    "take_out",
    "tf",
    "watch_training_data",
    "weight_path",
]
