"""Cross-entropy in float64, target by target, and how a test gets at the numbers of any stack."""

import numpy as np

from ascend_keras import compat
from ascend_keras.compat import tf

FORMS = ("all", "others")
# Labels of six classes.
SHAPES = [(5,), (4, 3), (2, 3, 4)]


def value(tensor):
    """A tensor as an array, bfloat16 as float32."""
    tensor = tf.convert_to_tensor(tensor)
    tensor = tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor
    return compat.get_session().run(tensor) if compat.TF1 else tensor.numpy()


def call_unknown(function, *arrays):
    """What a function of tensors gives when their shapes are known only at run time."""
    if compat.TF1:
        places = [tf.placeholder(array.dtype, None) for array in arrays]
        return compat.get_session().run(function(*places), dict(zip(places, arrays)))
    signature = [tf.TensorSpec(None, array.dtype) for array in arrays]
    return tf.nest.map_structure(
        value, tf.function(lambda *given: function(*given), input_signature=signature)(*arrays)
    )


def gradient(function, array, dtype=tf.float32):
    """The gradient of a function at an array that is cast to `dtype` first."""
    point = tf.cast(tf.constant(array), dtype)
    if compat.TF1:
        return value(tf.gradients(function(point), point)[0])
    with tf.GradientTape() as tape:
        tape.watch(point)
        result = function(point)
    return value(tape.gradient(result, point))


def data(shape=(5,), classes=6, seed=0, spread=3.0):
    random = np.random.RandomState(seed)
    return random.randint(0, classes, shape), (spread * random.randn(*(shape + (classes,)))).astype(np.float32)


def targets(labels, classes, smoothing=0.0, form="all"):
    """The smoothed target of each label, one entry after the other, in float64."""
    off = smoothing / classes if form == "all" else smoothing / (classes - 1)
    on = 1 - smoothing + off if form == "all" else 1 - smoothing
    result = np.full(np.shape(labels) + (classes,), off, np.float64)
    for place in np.ndindex(*np.shape(labels)):
        result[place + (labels[place],)] = on
    return result


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropy(target, logits):
    return -(target * log_softmax(logits)).sum(-1)
