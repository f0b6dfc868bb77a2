"""Data that ranks bring themselves, and what all ranks say when it does not fit together. See played_ranks."""

import numpy as np
import pytest
from played_ranks import dataset_of, evaluate, fit, fit_each, kept_log, message_of, play, predict, read, rows, same

from ascend_keras import compat, data
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import shards
from ascend_keras.distributed.cluster import Cluster

pytestmark = pytest.mark.usefixtures("fresh_graph")


@pytest.fixture
def log():
    with kept_log() as found:
        yield found


# --- own parts ------------------------------------------------------------------------------------------------------


def of_rank(rank, numbers):
    """The batches that `function_of` makes."""
    return [np.array([rank, number]) for number in numbers]


def function_of(lengths, length="known"):
    """A function that makes the batches of a rank, [rank, number]."""

    def make(context):
        rank = context.input_pipeline_id
        assert context.num_input_pipelines == context.num_replicas_in_sync == len(lengths)
        dataset = tf.data.Dataset.range(lengths[rank]).map(lambda k: tf.stack([tf.constant(rank, tf.int64), k]))
        if length == "unknown":
            return dataset.filter(lambda _: True)
        return dataset.repeat() if length == "endless" else dataset

    return make


def test_functions_take_the_steps_of_the_smallest(log):
    for rank, (own, _, _, _) in enumerate(fit(3, function_of([5, 3, 4]))):
        same(read(own), of_rank(rank, range(3)))
        assert compat.count_steps(own) == 3
    text = "x: every rank takes 3 batches, as many as the smallest part has; left out: 2 of rank 0, 1 of rank 2"
    assert log == [("INFO", text)]


def test_equal_functions_are_left_alone(log):
    for rank, (own, _, held_out, arguments) in enumerate(fit(2, function_of([4, 4]), None, function_of([3, 2]))):
        same(read(own), of_rank(rank, range(4)))
        same(read(held_out), of_rank(rank, range([3, 2][rank])))  # every example counts
        assert arguments == {}
    assert log == []


def test_functions_of_unknown_length_need_steps():
    text = message_of(fit(2, function_of([4, 5], "unknown")))
    assert text == (
        "Each rank has its own part of x, and how many steps all of them can make is not known. Received: rank 0: "
        "unknown, rank 1: unknown. Give steps_per_epoch, the steps of each rank."
    )
    assert "without end, rank 1: without end" in message_of(fit(2, function_of([4, 5], "endless")))


def test_functions_of_unknown_length_never_run_out(log):
    for rank, (own, _, _, _) in enumerate(fit(2, function_of([4, 2], "unknown"), steps_per_epoch=3)):
        assert compat.is_endless(own)
        same(read(own, 5), of_rank(rank, [k % [4, 2][rank] for k in range(5)]))
    assert log == [("INFO", "x: its length is not known, so it is repeated for steps_per_epoch to come true")]


def test_functions_of_which_some_have_no_end():
    def make(context):
        return function_of([4, 4], "endless" if context.input_pipeline_id else "known")(context)

    for rank, (own, _, _, _) in enumerate(fit(2, make)):
        same(read(own), of_rank(rank, range(4)))


def test_functions_without_end_keep_it():
    for own, _, _, arguments in fit(2, function_of([4, 4], "endless"), steps_per_epoch=7):
        assert compat.is_endless(own) and arguments == {"steps_per_epoch": 7}


def test_own_arrays_take_the_rows_of_the_smallest(log):
    parts = [(rows(7), np.arange(7)), (rows(5) + 100, np.arange(5))]
    results = fit_each([{"x": x, "y": y} for x, y in parts], shard=False)
    for (x, y), (own, target, _, arguments) in zip(parts, results):
        same([own, target], [x[:5], y[:5]])
        assert arguments == {}
    assert log == [("INFO", "x: every rank takes 5 rows, as many as the smallest part has; left out: 2 of rank 0")]


def test_own_data_is_evaluated_as_it_is():
    x = rows(7)
    for own, target, arguments in evaluate(2, x, x, shard=False, steps=2):
        assert own is not None and np.array_equal(own, x) and np.array_equal(target, x) and arguments == {"steps": 2}
    for rank, (own, _, _) in enumerate(evaluate(2, function_of([3, 2], "unknown"))):
        same(read(own), of_rank(rank, range([3, 2][rank])))


def test_a_function_may_return_arrays_for_validation():
    held_out = fit(2, rows(4), None, lambda context: (rows(3 + context.input_pipeline_id),) * 2)[0][2]
    same(held_out, (rows(3),) * 2)


def test_own_generators_run_by_steps():
    generator = iter(())
    for own, _, _, arguments in fit(2, generator, shard=False, steps_per_epoch=3):
        assert own is generator and arguments == {"steps_per_epoch": 3}
    assert "Give steps_per_epoch" in message_of(fit(2, generator, shard=False))


def test_predict_is_not_cut():
    x = rows(7)
    for found, arguments in predict(2, x, shard=True, batch_size=2):
        assert found is x and arguments == {"batch_size": 2}

    def function(context):
        return context.num_input_pipelines, context.input_pipeline_id

    assert predict(2, function, shard=True) == [((1, 0), {})] * 2
    assert predict(2, function, shard=False) == [((2, 0), {}), ((2, 1), {})]


def test_images_tell_their_steps():
    source = data.synthetic(samples=43, image_size=8, classes=3)
    train, held_out = data.images(source, 4, 8), data.images(source, 4, 8, training=False)
    for own, _, own_held, arguments in fit(2, train, None, held_out):
        assert compat.is_endless(own) and arguments == {"steps_per_epoch": 5}  # 43 // 2 // 4
        assert compat.count_steps(own_held) == 6  # 22 images on the larger part
    for own, _, arguments in evaluate(2, held_out):
        assert compat.count_steps(own) == 6 and arguments == {}
    for own, arguments in predict(2, held_out):
        assert compat.count_steps(own) == 11 and arguments == {"steps": 11}, "all of it"


def test_one_rank_has_everything_and_asks_nobody():
    x, y = rows(3), rows(3)
    arguments = {"validation_split": 0.5, "shard": True}
    assert shards.for_fit(x, y, None, arguments, Cluster(), None) == (x, y, None, {"validation_split": 0.5})
    assert shards.for_evaluate(x, y, {"shard": False}, Cluster(), None) == (x, y, {})
    assert shards.for_evaluate(lambda context: context.num_input_pipelines, None, {}, Cluster(), None)[0] == 1
    assert shards.for_predict(lambda context: context.num_input_pipelines, {}, Cluster(), None) == (1, {})
    assert arguments == {"validation_split": 0.5, "shard": True}


# --- faults ---------------------------------------------------------------------------------------------------------


def test_fewer_rows_than_ranks():
    assert message_of(fit(8, rows(3))) == (
        "x is too small for a part on each rank. Received: 3 rows, 8 ranks; nothing is left for {}. Use fewer "
        "ranks.".format(", ".join("rank {}".format(rank) for rank in range(8)))
    )
    text = message_of(fit(4, rows(8), validation_data=(rows(3), rows(3))))
    assert text.startswith("validation_data is too small") and "3 rows, 4 ranks; nothing is left for rank 3." in text
    assert "x is too small" in message_of(evaluate(3, rows(2)))


@pytest.mark.parametrize("length, said", [("known", "2 batches, 3 ranks"), ("unknown", "too few batches, 3 ranks")])
def test_fewer_batches_than_ranks(length, said):
    text = message_of(evaluate(3, dataset_of(6, 3, length=length)))
    assert said + "; nothing is left for rank 2. Use fewer ranks or make batches smaller." in text


def test_an_empty_part_of_ones_own():
    for length in ("known", "unknown"):
        text = message_of(fit(3, function_of([2, 0, 2], length), steps_per_epoch=1))
        assert text.startswith("Every rank needs data. Received: x, which is empty on rank 1.")


def test_more_steps_than_a_rank_has():
    assert message_of(fit(4, dataset_of(100, 1), steps_per_epoch=100)) == (
        "steps_per_epoch counts the steps of each rank, and a rank has not as many. Received: steps_per_epoch=100, 25 "
        "batches on a rank. Give steps_per_epoch=25 or less, or none."
    )
    assert "=26, 25 batches" in message_of(fit(4, dataset_of(100, 1, True), steps_per_epoch=26))
    assert "=11, 10 batches" in message_of(fit(2, function_of([12, 10]), steps_per_epoch=11))
    assert "=6, 5 batches" in message_of(fit(2, rows(20), batch_size=2, steps_per_epoch=6))
    assert fit(2, rows(20), batch_size=2, steps_per_epoch=5)[1][3]["steps_per_epoch"] == 5


def test_generators_are_refused():
    for result in fit(2, (row for row in rows(4))):
        assert isinstance(result, ValueError)
        assert str(result) == (
            "Generators and other iterators cannot be cut among ranks. Received: x of type generator. Give a function "
            "of a tf.distribute.InputContext that returns the dataset of a rank, or shard=False where each rank has "
            "its own part already."
        )


def test_data_that_differs_among_ranks():
    text = message_of(fit_each([{"x": rows(8)}, {"x": rows(8)}, {"x": rows(6)}]))
    assert text == (
        "x must be the same on all ranks, each of which takes its part. Received: rank 0: 8 rows, rank 1: 8 rows, rank "
        "2: 6 rows. Give all ranks the same data, or shard=False where each has its own part already."
    )
    text = message_of(fit_each([{"x": rows(8)}, {"x": dataset_of(8, 2)}]))
    assert "x is of another kind on some ranks. Received: rank 0: arrays, rank 1: a tf.data.Dataset." in text
    text = message_of(fit_each([{"validation_data": (rows(4), rows(4))}, {}], x=rows(8)))
    assert "validation_data is of another kind" in text and "rank 1: nothing" in text


def test_arguments_that_differ_among_ranks():
    text = message_of(fit_each([{"batch_size": 2}, {}], x=rows(8)))
    assert text == (
        "The batch size given for x differs among the ranks. Received: rank 0: 2, rank 1: None. Give the same: it "
        "counts for each rank."
    )
    text = message_of(fit_each([{"steps_per_epoch": 3}, {"steps_per_epoch": 4}], x=function_of([9, 9])))
    assert "The number of steps given for x differs among the ranks. Received: rank 0: 3, rank 1: 4." in text
    text = message_of(fit_each([{"shard": False}, {}], x=rows(8)))
    assert "`shard` differs for x among the ranks. Received: rank 0: False, rank 1: True." in text


def test_a_fault_of_one_rank_stops_all():
    def make(context):
        if context.input_pipeline_id == 1:
            raise FileNotFoundError("part-1.tfrecord is missing")
        return tf.data.Dataset.range(4)

    results = fit(3, make)
    assert isinstance(results[1], FileNotFoundError) and str(results[1]) == "part-1.tfrecord is missing"
    for result in (results[0], results[2]):
        assert str(result) == (
            "Another rank could not prepare its data, so all stop. Received: an error on rank 1. The log of that rank "
            "says what it was."
        )
    assert isinstance(evaluate(3, make)[0], ValueError)


VERBS = {
    "fit": lambda x, *ranks: shards.for_fit(x, x, None, {}, *ranks),
    "evaluate": lambda x, *ranks: shards.for_evaluate(x, x, {}, *ranks),
    "predict": lambda x, *ranks: shards.for_predict(x, {}, *ranks),
}


@pytest.mark.parametrize(
    "first, second", [("predict", "evaluate"), ("fit", "predict"), ("predict", "fit"), ("evaluate", "fit")]
)
def test_ranks_at_different_verbs(first, second):
    verbs = [first, first, second]
    text = message_of(play(3, lambda cluster, gather: VERBS[verbs[cluster.rank]](rows(6), cluster, gather)))
    assert text == (
        "The ranks are at different verbs, and would wait for each other for ever. Received: rank 0: {0}, rank 1: {0}, "
        "rank 2: {1}. Call the same ones in the same order on every rank, without branches on the rank.".format(
            first, second
        )
    )


def test_different_verbs_go_before_a_fault_of_one_rank():
    def call(cluster, gather):
        return VERBS["predict" if cluster.rank else "fit"]([rows(4), rows(5)], cluster, gather)

    results = play(2, call)
    assert "Received: rank 0: fit, rank 1: predict." in message_of(results)
    assert "same number of rows" in str(results[0].__cause__) and results[1].__cause__ is None


def test_a_fault_of_one_rank_stops_predict():
    def make(context):
        if context.input_pipeline_id == 1:
            raise FileNotFoundError("part-1.tfrecord is missing")
        return rows(4)

    results = predict(2, make, shard=False)
    assert isinstance(results[1], FileNotFoundError)
    assert str(results[0]).startswith("Another rank could not prepare its data") and "rank 1" in str(results[0])
    assert "`shard` must be True or False" in message_of(predict(2, rows(4), shard=1))


def test_rows_that_do_not_match():
    for result in fit(2, rows(8), np.arange(9)):
        assert "must have the same number of rows. Received: 8, 9 rows." in str(result)


class Unstepped:
    """As `HDF5Matrix` of TF 1.15, of whose slices the step is lost."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, chosen):
        return self.values[chosen.start : chosen.stop]


def test_slices_without_a_step_are_refused():
    for size in (2, 3):
        stop = 8 // size * size
        for rank, result in enumerate(fit(size, Unstepped(rows(8)), np.arange(8))):
            assert isinstance(result, ValueError)
            assert str(result) == (
                "Data of this type cannot be cut among ranks: slices of it are not what was asked for. Received: {} "
                "rows in place of {} from Unstepped[{}:{}:{}]. Give a NumPy array, such as data[:], or a "
                "tf.data.Dataset.".format(stop - rank, stop // size, rank, stop, size)
            )


@pytest.mark.skipif(not hasattr(keras.utils, "HDF5Matrix"), reason="HDF5Matrix is of old Keras")
def test_hdf5_matrix(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = str(tmp_path / "rows.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=rows(8))
    matrix = keras.utils.HDF5Matrix(path, "x")
    try:
        for result in fit(2, matrix, np.arange(8)):
            assert "from HDF5Matrix[" in str(result) and "Give a NumPy array" in str(result)
        same(fit(2, matrix[:], np.arange(8))[1][0], rows(8)[1::2])
    finally:
        matrix.data.file.close()
        keras.utils.HDF5Matrix.refs.clear()


def test_shard_is_true_or_false():
    for result in fit(2, rows(8), shard="no"):
        assert str(result) == "`shard` must be True or False. Received: shard='no'. Leave it out for True."


def test_a_rank_that_is_not_known():
    with pytest.raises(RuntimeError, match="Received: rank=None"):
        shards.for_fit(rows(4), None, None, {}, Cluster(2, None), lambda vector: np.zeros((2, len(vector))))


def test_unequal_parts_are_a_warning_on_npus_alone(log):
    evaluate(2, rows(7), mode="tf_config")
    assert log == []
    evaluate(2, rows(7), mode="rank_table")
    text = (
        "x: the parts of the ranks differ (4 rows, 3 rows); NPUs whose graphs or steps differ may wait for each other. "
    )
    assert log == [("WARNING", text + "Give a multiple of 2")] * 2  # of each rank


def test_shuffles_need_a_seed(log, monkeypatch):
    fit(2, dataset_of(16, 2, True))
    assert log == []
    monkeypatch.setattr(compat, "has_seed", lambda: False)
    fit(2, dataset_of(16, 2, True))
    assert log == [("INFO", "x: without a seed ranks that shuffle do so in different ways, and their parts overlap")]
    log.clear()
    fit(2, rows(16))
    evaluate(2, rows(16))
    evaluate(2, function_of([3, 3]))
    predict(2, dataset_of(16, 2))
    assert log == []
    text = (
        "{}: without a seed ranks that shuffle do so in different ways, so that some examples count several times and "
        "others never. Give NPUTrainer a seed, or data that is not shuffled"
    )
    evaluate(2, dataset_of(16, 2))
    fit(2, rows(16), validation_data=dataset_of(16, 2))
    assert log == [("WARNING", text.format("x")), ("WARNING", text.format("validation_data"))]  # of rank 0
