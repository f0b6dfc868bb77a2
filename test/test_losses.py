"""Cross-entropies against targets made one by one and summed in float64, on every stack."""

import numpy as np
import pytest
from losses_oracle import FORMS, SHAPES, call_unknown, cross_entropy, data, gradient, log_softmax, targets, value

from ascend_keras import compat, losses
from ascend_keras.compat import keras, tf


@pytest.fixture(autouse=True)
def fresh_graph():
    compat.set_seed(0)
    yield
    if compat.TF1:
        keras.backend.clear_session()


# --- the value --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_equals_smoothed_targets(shape, dtype):
    labels, logits = data(shape)
    cast = tf.cast(tf.constant(logits), dtype)
    rounded = value(cast)
    for smoothing in (0.0, 0.1, 1.0):
        for form in FORMS:
            result = losses.sparse_categorical_crossentropy(
                tf.constant(labels), cast, True, label_smoothing=smoothing, smoothing_over=form
            )
            assert result.dtype == (tf.float64 if dtype == "float64" else tf.float32)
            expected = cross_entropy(targets(labels, 6, smoothing, form), rounded)
            np.testing.assert_allclose(value(result), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_categorical_equals_smoothed_targets(shape, dtype):
    labels, logits = data(shape)
    cast = tf.cast(tf.constant(logits), dtype)
    rounded = value(cast)
    for smoothing in (0.0, 0.1, 1.0):
        for form in FORMS:
            result = losses.categorical_crossentropy(
                tf.constant(np.eye(6)[labels]), cast, True, label_smoothing=smoothing, smoothing_over=form
            )
            expected = cross_entropy(targets(labels, 6, smoothing, form), rounded)
            np.testing.assert_allclose(value(result), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_soft_labels_are_smoothed_too(form):
    _, logits = data((3,))
    soft = np.array([[0.5, 0.5, 0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4, 0, 0], [0, 0, 0, 0, 0, 1]])
    spread = 0.2 / 6 if form == "all" else (1 - soft) * 0.2 / 5
    result = losses.categorical_crossentropy(
        tf.constant(soft), tf.constant(logits), True, label_smoothing=0.2, smoothing_over=form
    )
    np.testing.assert_allclose(value(result), cross_entropy(0.8 * soft + spread, logits), rtol=2e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_of_any_type_with_and_without_an_axis_of_one(shape, dtype):
    labels, logits = data(shape)
    expected = cross_entropy(targets(labels, 6, 0.1), logits)
    for given in (labels, labels[..., np.newaxis]):
        given = tf.constant(given.astype(dtype))
        result = losses.sparse_categorical_crossentropy(given, tf.constant(logits), True, label_smoothing=0.1)
        np.testing.assert_allclose(value(result), expected, rtol=2e-6)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_classes_on_axis_1(shape):
    labels, logits = data(shape)
    first = np.moveaxis(logits, -1, 1)
    options = dict(axis=1, label_smoothing=0.1)
    expected = cross_entropy(targets(labels, 6, 0.1), logits)
    for given in (labels, np.expand_dims(labels, 1), labels[..., np.newaxis]):
        result = losses.sparse_categorical_crossentropy(tf.constant(given), tf.constant(first), True, **options)
        np.testing.assert_allclose(value(result), expected, rtol=2e-6)
    one_hot = np.moveaxis(np.eye(6)[labels], -1, 1)
    result = losses.categorical_crossentropy(tf.constant(one_hot), tf.constant(first), True, **options)
    np.testing.assert_allclose(value(result), expected, rtol=2e-6)


def test_shapes_that_are_known_only_at_run_time():
    labels, logits = data((4, 3))
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1, smoothing_over="others", ignore_class=2)
    dense = losses.CategoricalCrossentropy(True, label_smoothing=0.1, smoothing_over="others")

    def both(labels, one_hot, logits):
        return loss.call(labels, logits), dense.call(one_hot, logits)

    one_hot = np.eye(6, dtype=np.float32)[labels]
    sparse, full = call_unknown(both, labels.astype(np.int32), one_hot, logits)
    expected = cross_entropy(targets(labels, 6, 0.1, "others"), logits)
    np.testing.assert_allclose(full, expected, rtol=2e-6)
    if compat.TF_VERSION < (2, 10):  # where the loss itself has to see to the mean
        expected = expected * expected.size / (labels != 2).sum()
    np.testing.assert_allclose(sparse, np.where(labels == 2, 0.0, expected), rtol=2e-6)


def test_without_smoothing_it_is_the_loss_of_keras():
    labels, logits = data((7,))
    probabilities = np.exp(log_softmax(logits)).astype(np.float32)
    weights = tf.constant(np.arange(7, dtype=np.float32))
    for from_logits, predictions in ((True, logits), (False, probabilities), (False, 3 * probabilities)):
        given = tf.constant(labels), tf.constant(predictions)
        ours, theirs = losses.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy
        assert value(ours(from_logits)(*given)) == value(theirs(from_logits=from_logits)(*given))
        assert value(ours(from_logits)(*given, sample_weight=weights)) == value(
            theirs(from_logits=from_logits)(*given, sample_weight=weights)
        )
        given = tf.constant(np.eye(6, dtype=np.float32)[labels]), tf.constant(predictions)
        ours, theirs = losses.CategoricalCrossentropy, keras.losses.CategoricalCrossentropy
        np.testing.assert_allclose(
            value(ours(from_logits)(*given)), value(theirs(from_logits=from_logits)(*given)), rtol=1e-6
        )


def test_smoothed_rank_2_is_the_dense_loss_of_keras():
    labels, logits = data((7,))
    one_hot = tf.constant(np.eye(6, dtype=np.float32)[labels])
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = value(keras_loss(one_hot, tf.constant(logits)))
    ours = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1)
    np.testing.assert_allclose(value(ours(tf.constant(labels), tf.constant(logits))), expected, rtol=1e-6)


@pytest.mark.skipif(not compat.TF1, reason="Keras after TF 1.15 counts the classes on the last axis.")
def test_keras_of_tf_115_takes_the_classes_from_axis_1():
    labels, logits = data((2, 3))
    one_hot = np.eye(6, dtype=np.float32)[labels]
    right = cross_entropy(targets(labels, 6, 0.1), logits).mean()
    wrong = cross_entropy(0.9 * one_hot + 0.1 / 3, logits).mean()
    given = tf.constant(one_hot), tf.constant(logits)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    assert abs(value(theirs(*given)) - wrong) < 1e-6 * wrong
    ours = losses.CategoricalCrossentropy(True, label_smoothing=0.1)
    assert abs(value(ours(*given)) - right) < 1e-6 * right
    assert wrong - right > 0.1


@pytest.mark.skipif(compat.TF_VERSION >= (2, 15), reason="Keras 2.15 casts the smoothing to the dtype of the logits.")
def test_keras_before_2_15_fails_on_float16_with_smoothing():
    labels, logits = data((4,))
    given = tf.constant(np.eye(6)[labels]), tf.cast(tf.constant(logits), tf.float16)
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(*given)
    expected = cross_entropy(targets(labels, 6, 0.1), value(given[1])).mean()
    result = losses.CategoricalCrossentropy(True, label_smoothing=0.1)(*given)
    np.testing.assert_allclose(value(result), expected, rtol=2e-6)


# --- range ------------------------------------------------------------------------------------------------------------


def test_float16_does_not_overflow():
    logits = np.array([[60000.0, -60000.0], [0.0, 0.0], [0.0, 10.0]], np.float16)
    given = tf.constant([1, 0, 1]), tf.constant(logits)
    result = losses.sparse_categorical_crossentropy(*given, from_logits=True)
    assert value(result).tolist()[0] == logits[0].astype(np.float64).dot([1, -1])
    np.testing.assert_allclose(value(result)[1:], [np.log(2), np.log1p(np.exp(-10.0))], atol=1e-7)
    total = losses.SparseCategoricalCrossentropy(True, reduction="sum")(*given)
    np.testing.assert_allclose(value(total), logits[0].astype(np.float64).dot([1, -1]) + np.log(2), rtol=1e-6)


def test_a_common_offset_of_the_logits_costs_nothing():
    labels, logits = data((5,))
    logits = np.round(logits * 8) / 8  # so that adding the offset is exact
    near = losses.sparse_categorical_crossentropy(tf.constant(labels), tf.constant(logits), True, label_smoothing=0.1)
    far = losses.sparse_categorical_crossentropy(
        tf.constant(labels), tf.constant(logits + np.float32(2**20)), True, label_smoothing=0.1
    )
    assert value(near).tolist() == value(far).tolist()


def test_probabilities_are_clipped_as_keras_clips_them():
    labels = np.array([0, 1, 2])
    given = np.array([[0.0, 0.3, 0.7], [0.2, 0.4, 0.6], [0.0, 0.0, 1.0]], np.float32)
    clipped = np.clip(given.astype(np.float64), 1e-7, 1 - 1e-7)
    expected = cross_entropy(targets(labels, 3, 0.1), np.log(clipped))
    result = losses.sparse_categorical_crossentropy(tf.constant(labels), tf.constant(given), label_smoothing=0.1)
    np.testing.assert_allclose(value(result), expected, rtol=2e-6)
    hard = losses.sparse_categorical_crossentropy(tf.constant(labels), tf.constant(given))
    assert abs(value(hard)[0] - -np.log(1e-7)) < 1e-5  # 16.1 instead of infinity
    clipped = np.clip(given / given.sum(-1, keepdims=True, dtype=np.float64), 1e-7, 1 - 1e-7)
    expected = -(targets(labels, 3, 0.1) * np.log(clipped)).sum(-1)
    one_hot = tf.constant(np.eye(3)[labels])
    result = losses.categorical_crossentropy(one_hot, tf.constant(given), label_smoothing=0.1)
    np.testing.assert_allclose(value(result), expected, rtol=1e-5)


def test_from_logits_after_a_softmax_says_so():
    outputs = (
        tf.nn.softmax(tf.constant([[0.0, 40.0, 0.0]]))
        if compat.TF1
        else keras.activations.softmax(tf.constant([[0.0, 40.0, 0.0]]))
    )
    with pytest.warns(UserWarning, match="from_logits=True, but its input comes from a softmax"):
        result = losses.sparse_categorical_crossentropy(tf.constant([0]), outputs, from_logits=True)
    assert value(result).tolist() == [40.0]


# --- what is left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [-1, 255, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_ignored_class_counts_in_nothing(shape, ignored):
    labels, logits = data(shape)
    labels = labels.copy()
    labels[..., 0] = ignored
    kept = labels != ignored
    weights = np.random.RandomState(1).rand(*shape).astype(np.float32)
    each = np.where(kept, cross_entropy(targets(np.where(kept, labels, 0), 6, 0.1), logits), 0.0)
    given = tf.constant(labels), tf.constant(logits)
    options = dict(label_smoothing=0.1, ignore_class=ignored)
    loss = losses.SparseCategoricalCrossentropy(True, **options)
    np.testing.assert_allclose(value(loss(*given)), each.sum() / kept.sum(), rtol=2e-6)
    weighted = loss(*given, sample_weight=tf.constant(weights))
    np.testing.assert_allclose(value(weighted), (each * weights).sum() / kept.sum(), rtol=2e-6)
    total = losses.SparseCategoricalCrossentropy(True, reduction="sum", **options)
    np.testing.assert_allclose(value(total(*given)), each.sum(), rtol=2e-6)
    single = losses.SparseCategoricalCrossentropy(True, reduction=None, **options)
    np.testing.assert_allclose(value(single(*given)), each, rtol=2e-6)


def test_nothing_left_is_zero():
    given = tf.constant([-1, -1]), tf.constant(data((2,))[1])
    assert value(losses.SparseCategoricalCrossentropy(True, ignore_class=-1, label_smoothing=0.1)(*given)) == 0.0


@pytest.mark.skipif(compat.TF_VERSION < (2, 10), reason="Keras has ignore_class from 2.10 on.")
def test_ignored_class_with_a_mask_is_as_in_keras():
    labels, logits = data((4, 3))
    results = []
    for cls in (losses.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy):
        predictions = tf.constant(logits)
        predictions._keras_mask = tf.constant([[True, True, False]] * 4)
        results.append(value(cls(from_logits=True, ignore_class=2)(tf.constant(labels), predictions)))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    kept = (labels != 2) & np.array([True, True, False])
    np.testing.assert_allclose(results[0], cross_entropy(targets(labels, 6), logits)[kept].mean(), rtol=2e-6)


def test_what_is_ignored_may_be_infinite():
    labels, logits = np.array([-1, 1]), np.array([[np.inf, np.nan, 0.0], [1.0, 2.0, 3.0]], np.float32)
    loss = losses.SparseCategoricalCrossentropy(True, ignore_class=-1, label_smoothing=0.1)
    expected = cross_entropy(targets(labels[1:], 3, 0.1), logits[1:])[0]
    np.testing.assert_allclose(value(loss(tf.constant(labels), tf.constant(logits))), expected, rtol=1e-6)
    slope = gradient(lambda z: loss(tf.constant(labels), z), logits)
    assert slope[0].tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(slope[1]).all()


# --- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_softmax_minus_target(shape, form):
    labels, logits = data(shape)
    options = dict(label_smoothing=0.1, smoothing_over=form, reduction="sum")
    expected = np.exp(log_softmax(logits)) - targets(labels, 6, 0.1, form)
    sparse = losses.SparseCategoricalCrossentropy(True, **options)
    np.testing.assert_allclose(gradient(lambda z: sparse(tf.constant(labels), z), logits), expected, atol=1e-6)
    dense, one_hot = losses.CategoricalCrossentropy(True, **options), tf.constant(np.eye(6)[labels])
    np.testing.assert_allclose(gradient(lambda z: dense(one_hot, z), logits), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradient_in_half_precision(dtype):
    if dtype == "bfloat16" and compat.TF1:
        pytest.skip("TF 1.15 has no gradient through a cast from bfloat16.")
    labels, logits = data((5,))
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1)
    slope = gradient(lambda z: loss(tf.constant(labels), z), logits, dtype)
    rounded = value(tf.cast(tf.constant(logits), dtype))
    expected = (np.exp(log_softmax(rounded)) - targets(labels, 6, 0.1)) / 5
    np.testing.assert_allclose(slope, expected, atol=2e-4 if dtype == "float16" else 2e-3)


# --- labels that name no class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-1, 6])
def test_label_out_of_range_is_an_error_on_a_cpu(label):
    if compat.host_device() != "CPU":
        pytest.skip("TensorFlow raises on a CPU only.")
    given = tf.constant([label, 1]), tf.constant(data((2,))[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside the valid range"):
        value(losses.sparse_categorical_crossentropy(*given, from_logits=True))


def one_hot_kernel(labels=None, logits=None):
    """A device that compares labels with class numbers: one that is none of them costs nothing."""
    return -tf.reduce_sum(tf.one_hot(labels, 6) * tf.nn.log_softmax(logits), axis=-1)


@pytest.mark.parametrize("label", [-1, 6])
def test_label_out_of_range_never_looks_like_a_loss(label, monkeypatch):
    labels, logits = data((2,))
    monkeypatch.setattr(tf.nn, "sparse_softmax_cross_entropy_with_logits", one_hot_kernel)
    expected = cross_entropy(targets(labels, 6, 0.1), logits)[1]

    def loss(logits):
        given = tf.constant([label, labels[1]]), logits
        return losses.sparse_categorical_crossentropy(*given, from_logits=True, label_smoothing=0.1)

    result = value(loss(tf.constant(logits)))
    assert not np.isfinite(result[0])
    np.testing.assert_allclose(result[1], expected, rtol=2e-6)
    slope = gradient(lambda z: tf.reduce_sum(loss(z)), logits)
    assert not np.isfinite(slope[0]).any()
    assert np.isfinite(slope[1]).all()


@pytest.mark.skipif(compat.TF_VERSION < (2, 15), reason="No XLA for the CPU before TF 2.15.")
def test_xla_computes_the_same():
    labels, logits = data((4, 3))
    loss = losses.SparseCategoricalCrossentropy(True, label_smoothing=0.1, ignore_class=2)
    compiled = tf.function(loss, jit_compile=True)(tf.constant(labels), tf.constant(logits))
    expected = cross_entropy(targets(labels, 6, 0.1), logits)[labels != 2].mean()
    np.testing.assert_allclose(value(compiled), expected, rtol=2e-6)


# --- arguments and shapes ---------------------------------------------------------------------------------------------


def test_all_problems_of_the_arguments_are_listed():
    with pytest.raises(ValueError) as caught:
        losses.SparseCategoricalCrossentropy(label_smoothing=1.5, smoothing_over="keras", axis="last", ignore_class=0.5)
    assert str(caught.value).splitlines() == [
        "label_smoothing must be a number in [0, 1]. Received: label_smoothing=1.5.",
        "smoothing_over must be 'all' or 'others'. Received: smoothing_over='keras'.",
        "axis must be an integer. Received: axis='last'.",
        "ignore_class must be an integer. Received: ignore_class=0.5.",
    ]
    with pytest.raises(ValueError, match=r"label_smoothing must be a number in \[0, 1\]. Received: .*=-0.1\.$"):
        losses.CategoricalCrossentropy(label_smoothing=-0.1)
    with pytest.raises(ValueError, match=r"Received: label_smoothing=nan\.$"):
        losses.CategoricalCrossentropy(label_smoothing=float("nan"))


@pytest.mark.parametrize("shape", [(5, 6), (5, 1, 1), ()])
def test_labels_that_are_no_class_numbers(shape):
    with pytest.raises(ValueError) as caught:
        losses.sparse_categorical_crossentropy(tf.zeros(shape), tf.zeros((5, 6)), True)
    assert str(caught.value) == (
        "Labels must be class numbers, of the shape of the predictions without the class axis, or with an axis of one "
        "in its place. Received: labels of shape {}, predictions of shape (5, 6) (classes last). One-hot labels belong "
        "to CategoricalCrossentropy.".format(str(shape).replace(",)", ")"))
    )


@pytest.mark.parametrize("shape", [(6,), (6, 1), (5, 6, 1), (1, 6)])
def test_labels_that_are_not_one_hot(shape):
    with pytest.raises(ValueError) as caught:
        losses.categorical_crossentropy(tf.zeros(shape), tf.zeros((6, 6)), True)
    assert str(caught.value).startswith("Labels must be one-hot, of the shape of the predictions. Received: labels of")
    assert str(caught.value).endswith("Class numbers belong to SparseCategoricalCrossentropy.")


@pytest.mark.parametrize("function", [losses.sparse_categorical_crossentropy, losses.categorical_crossentropy])
def test_labels_of_another_shape_are_an_error_at_run_time_too(function):
    labels = np.zeros((6, 2) if "sparse" in function.__name__ else 6, np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call_unknown(function, labels, np.zeros((6, 6), np.float32))


def test_an_axis_that_does_not_exist():
    with pytest.raises(ValueError, match="^axis must name an axis. Received: axis=2, a tensor of rank 2.$"):
        losses.sparse_categorical_crossentropy(tf.zeros((5,)), tf.zeros((5, 6)), True, axis=2)


def test_one_class_has_no_others():
    with pytest.raises(ValueError, match="^Smoothing needs at least 2 classes. Received: classes=1.$"):
        losses.sparse_categorical_crossentropy(
            tf.zeros((5,)), tf.zeros((5, 1)), True, label_smoothing=0.1, smoothing_over="others"
        )
