"""The part of each rank: rows of arrays, batches of datasets, items of Sequences.

Expected rows are taken from the whole data by NumPy: the step of one rank with the global batch, of which rank r of R
has every R-th row from r on. All ranks are played in this process.
"""

import numpy as np
import pytest
from played_ranks import (
    Lists,
    Numbers,
    as_sequence,
    dataset_of,
    evaluate,
    fit,
    full_batches,
    kept_log,
    read,
    rows,
    same,
)

from ascend_keras import compat
from ascend_keras.compat import keras, tf

pytestmark = pytest.mark.usefixtures("fresh_graph")

RANKS = [2, 3, 4, 8]


@pytest.fixture
def log():
    with kept_log() as found:
        yield found


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("count, batch", [(48, 2), (65, 4), (71, 3), (23, 5), (8, 1)])
def test_arrays_step_for_step(size, count, batch):
    x, y = rows(count), np.arange(count)
    results = fit(size, x, y, batch_size=batch, epochs=3)
    used = count - count % size
    steps = range(0, used, size * batch)
    for rank, (own_x, own_y, validation_data, arguments) in enumerate(results):
        assert validation_data is None and arguments == {"batch_size": batch, "epochs": 3}
        assert len(own_x) == count // size
        for step, first in enumerate(steps):
            of_all = np.arange(first, min(first + size * batch, used))  # the step of one rank
            chosen = slice(step * batch, (step + 1) * batch)
            same([own_x[chosen], own_y[chosen]], [x[of_all[rank::size]], y[of_all[rank::size]]])
        assert -(-len(own_x) // batch) == len(steps)


def test_arrays_of_all_forms():
    whole = rows(10)

    class Table:  # as pandas has it: an index by labels, and one by places
        def __init__(self, values):
            self.values, self.shape = values, values.shape

        @property
        def iloc(self):
            return self

        def __getitem__(self, chosen):
            return Table(self.values[chosen])

    x = {"a": whole, "b": [whole * 2, (whole + 1,)], "table": Table(whole)}
    y = (list(range(10)), None)
    for rank, (own, target, _, arguments) in enumerate(
        fit(3, x, y, sample_weight=np.arange(10) / 8, class_weight={0: 2})
    ):
        same(own.pop("table").values, whole[rank:9:3])
        same(own, {"a": whole[rank:9:3], "b": [whole[rank:9:3] * 2, (whole[rank:9:3] + 1,)]})
        same(target[0], np.arange(10)[rank:9:3])
        assert type(target) is tuple and target[1] is None and arguments["class_weight"] == {0: 2}
        same(arguments["sample_weight"], np.arange(rank, 9, 3) / 8)


def test_tensors():
    dense = np.where(rows(7, 4) % 3 == 0, rows(7, 4), 0)
    tensor = tf.constant(dense)
    evaluated = compat.get_session().run if compat.TF1 else lambda value: value
    for rank, (own, _, _) in enumerate(evaluate(3, tensor)):
        same(np.asarray(evaluated(own)), dense[rank::3])
    ragged = tf.ragged.constant([[1], [2, 3], [], [4, 5, 6], [7]])
    expected = [[[1], [4, 5, 6]], [[2, 3], [7]], [[]]]
    for rank, (own, _, _) in enumerate(evaluate(3, ragged)):
        assert evaluated(own).to_list() == expected[rank]


@pytest.mark.skipif(compat.TF1, reason="TF 1.15: a sparse tensor says nothing of its rows before it is run")
def test_sparse_tensors():
    dense = np.where(rows(11, 4) % 3 == 0, rows(11, 4), 0)
    for size in (2, 3, 4):
        for rank, (own, _, _, _) in enumerate(fit(size, tf.sparse.from_dense(dense))):
            same(tf.sparse.to_dense(own).numpy(), dense[rank : 11 // size * size : size])


def test_scipy():
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.eye(9, 4)
    for rank, (own, _, _) in enumerate(evaluate(4, sparse.coo_matrix(dense))):
        same(own.toarray(), dense[rank::4])


def test_rows_left_over_are_named_by_rank_0(log):
    fit(8, rows(1003), np.arange(1003))
    assert log == [("INFO", "x: 3 of 1003 rows are left out, so that each of 8 ranks has 125 rows")]


def test_nothing_left_over_nothing_said(log):
    fit(8, rows(1000), validation_data=(rows(16), np.arange(16)))
    assert log == []


@pytest.mark.parametrize("share, count", [(0.25, 20), (0.1, 21), (0.3, 11), (0.5, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_validation_split_is_cut_before(share, count, weighted):
    x, y, weights = rows(count), np.arange(count), np.arange(count) / 4
    more = {"sample_weight": weights} if weighted else {}
    cut = int(count * (1 - share))  # the last part, as Keras cuts
    for rank, (own, target, held_out, arguments) in enumerate(fit(3, x, y, validation_split=share, **more)):
        assert "validation_split" not in arguments
        same([own, target], [x[rank : cut // 3 * 3 : 3], y[rank : cut // 3 * 3 : 3]])
        same(held_out, tuple(part[cut:][rank::3] for part in ((x, y, weights) if weighted else (x, y))))
        assert not weighted or np.array_equal(arguments["sample_weight"], weights[rank : cut // 3 * 3 : 3])


def test_validation_data_has_every_row_once():
    x, y, weights = rows(11), np.arange(11), np.arange(11) / 4
    for size in RANKS:
        seen = []
        for rank, (_, _, held_out, _) in enumerate(fit(size, rows(8), validation_data=(x, y, weights))):
            same(held_out, (x[rank::size], y[rank::size], weights[rank::size]))
            seen.extend(held_out[1])
        assert sorted(seen) == list(range(11))
    bare, listed = fit(2, rows(8), validation_data=x)[1][2], fit(2, rows(8), validation_data=[x, y])[1][2]
    same(bare, x[1::2])
    same(listed, [x[1::2], y[1::2]])


def test_validation_split_says_nothing_beside_validation_data():
    for _, _, held_out, arguments in fit(2, rows(8), validation_data=(rows(4), rows(4)), validation_split=0.5):
        assert len(held_out[0]) == 2 and arguments == {"validation_split": 0.5}


def test_evaluation_has_every_row_once():
    x, y = rows(13), np.arange(13)
    for size in RANKS:
        for rank, (own, target, arguments) in enumerate(evaluate(size, x, y, sample_weight=y / 8, batch_size=4)):
            same([own, target, arguments["sample_weight"]], [x[rank::size], y[rank::size], y[rank::size] / 8])
            assert arguments["batch_size"] == 4


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, examples, batch", [(2, 48, 2), (2, 47, 2), (3, 50, 3), (4, 47, 2), (8, 31, 2)])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("length", ["known", "unknown"])
def test_datasets_step_for_step(size, examples, batch, fixed, length):
    found = [own for own, _, _, _ in fit(size, dataset_of(examples, batch, fixed, length))]
    full = full_batches(examples, batch)
    steps = len(full) // size
    parts = [read(own) for own in found]
    for rank, part in enumerate(parts):
        same(part, full[: steps * size][rank::size])
    of_one = list(range(0, steps * size * batch, size * batch))  # where the steps of one rank begin
    for step, first in enumerate(of_one):
        together = np.concatenate([part[step][1] for part in parts])
        same(together, np.arange(first, first + size * batch))
    batches = len(full) if fixed else -(-examples // batch)
    keeps = length == "known" and (fixed or batches % size != 0)
    assert [compat.count_steps(own) for own in found] == [steps if keeps else None] * size


def test_datasets_of_unknown_length_do_not_run_out(log):
    full = full_batches(15, 2)  # seven and one of one row: four groups, or three
    for rank, (own, _, _, _) in enumerate(fit(2, dataset_of(15, 2), steps_per_epoch=4)):
        same(read(own, 8), (full[rank:6:2] * 3)[:8])
        assert compat.is_endless(own)
    assert log[1:] == [("INFO", "x: its length is not known, so it is repeated for steps_per_epoch to come true")]


@pytest.mark.parametrize("fixed", [False, True])
def test_datasets_without_end(fixed):
    full = full_batches(17, 3) * 5  # each pass ends with a batch of two, which is left out
    for rank, (own, _, _, arguments) in enumerate(fit(3, dataset_of(17, 3, fixed, "endless"), steps_per_epoch=4)):
        same(read(own, 8), full[rank::3][:8])
        assert compat.is_endless(own) and arguments == {"steps_per_epoch": 4}


def test_datasets_of_all_structures():
    ids = np.arange(14)
    data = {"one": {"a": ids, "b": {"c": ids * 2}}, "two": ({"a": ids}, ids, ids / 8), "three": ids, "four": (ids,)}
    for whole in data.values():
        dataset = tf.data.Dataset.from_tensor_slices(whole).batch(2).filter(lambda *_: True)
        for rank, (own, _, _, _) in enumerate(fit(2, dataset)):
            chosen = [np.r_[2 * k : 2 * k + 2] for k in range(rank, 6, 2)]
            same(read(own), [tf.nest.map_structure(lambda leaf: leaf[at], whole) for at in chosen])  # noqa: B023


def test_sparse_and_ragged_components():
    dense, lists = np.eye(12, 5), [[k] * (k % 3) for k in range(11)]
    sparse = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(dense), np.arange(12))).batch(2)
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(lists)).batch(2)
    for rank, (own, _, _, _) in enumerate(fit(3, sparse)):
        batches = list(compat.open_dataset(own)())
        assert [np.asarray(ids).tolist() for _, ids in batches] == [[k, k + 1] for k in (2 * rank, 6 + 2 * rank)]
        indices = [np.asarray(part.indices).tolist() for part, _ in batches]
        assert indices == [np.argwhere(dense[k : k + 2]).tolist() for k in (2 * rank, 6 + 2 * rank)]
    for rank, (own, _, _, _) in enumerate(fit(3, ragged)):  # six batches, the last with one row
        assert [batch.to_list() for batch in compat.open_dataset(own)()] == [lists[2 * rank : 2 * rank + 2]]


def test_training_data_is_not_looked_at():
    """Each rank reads all of it, once, when Keras does."""
    reads = []

    def count(value):
        reads.append(int(value))
        return value

    for batches in (5, 6):
        dataset = tf.data.Dataset.range(2 * batches).batch(2)
        dataset = dataset.map(lambda value: tf.numpy_function(count, [value[0]], tf.int64))
        own = fit(2, dataset.batch(1, drop_remainder=True))[1][0]
        assert reads == []
        assert np.ravel(read(own)).tolist() == [2, 6, 10][: batches // 2]
        assert set(reads) >= set(range(0, 2 * (batches // 2 * 2), 2)) and len(set(reads)) == len(reads)
        reads.clear()


@pytest.mark.parametrize("size, length", [(2, "known"), (3, "unknown"), (8, "known")])
def test_evaluation_has_every_batch_once(size, length):
    dataset = dataset_of(35, 2, length=length)
    found = [own for own, _, _ in evaluate(size, dataset)]
    whole, parts = read(dataset), [read(own) for own in found]
    for rank, part in enumerate(parts):
        same(part, whole[rank::size])
    assert [compat.count_steps(own) for own in found] == [len(part) if length == "known" else None for part in parts]
    assert sorted(np.concatenate([labels for part in parts for _, labels in part])) == list(range(35))


def threads_and_order(dataset):
    options = dataset.options()
    threading = getattr(options, "threading", None) or options.experimental_threading
    strict = options.deterministic if hasattr(options, "deterministic") else options.experimental_deterministic
    return threading.private_threadpool_size, strict


@pytest.mark.parametrize("length", ["known", "unknown"])
def test_batches_are_counted_in_order(length):
    any_order = compat.set_data_options(dataset_of(35, 2, length=length), threads=3, deterministic=False)
    if compat.TF1:
        for result in evaluate(2, any_order) + fit(2, any_order):
            assert isinstance(result, ValueError) and "Received: the option experimental_deterministic=F" in str(result)
        return
    assert threads_and_order(any_order) == (3, False)
    for own in [result[0] for result in evaluate(2, any_order) + fit(2, any_order)]:
        assert threads_and_order(own) == (3, True), "the other options stay"
    assert threads_and_order(fit(2, any_order, shard=False, steps_per_epoch=1)[0][0]) == (3, False), "nothing is cut"


def test_options_of_strict_datasets_stay():
    for own, _, _ in evaluate(2, compat.set_data_options(dataset_of(35, 2), threads=3)):
        assert threads_and_order(own) == (3, True)


def test_steps_of_evaluation_end_with_the_part():
    for whole in (dataset_of(20, 2), Numbers(20, 2)):  # ten batches
        for steps, lengths in ((3, [3, 3, 2, 2]), (4, [3, 3, 2, 2]), (2, [2] * 4), (1, [1] * 4)):
            results = evaluate(4, whole, steps=steps)
            assert [compat.count_steps(own) for own, _, _ in results] == lengths
            assert [arguments for _, _, arguments in results] == [{}] * 4, "which have to be equal on all ranks"
    results = evaluate(2, dataset_of(20, 2, length="endless"), steps=3)
    assert [arguments for _, _, arguments in results] == [{"steps": 3}] * 2
    for *_, held_out, arguments in fit(4, rows(8), None, dataset_of(20, 2), validation_steps=1):
        assert compat.count_steps(held_out) == 1 and arguments == {}


# --- Sequences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("examples, batch", [(48, 2), (47, 2), (50, 3), (31, 3)])
def test_sequences_step_for_step(size, examples, batch):
    full, whole = full_batches(examples, batch), Numbers(examples, batch)
    for rank, (own, _, held_out, _) in enumerate(fit(size, whole, validation_data=whole)):
        assert isinstance(own, keras.utils.Sequence)
        same([own[k] for k in range(len(own))], full[: len(full) // size * size][rank::size])
        same([held_out[k] for k in range(len(held_out))], [whole[k] for k in range(len(whole))][rank::size])


@pytest.mark.parametrize("examples", [48, 47])
def test_sequences_of_lists(examples):
    whole = Lists(examples, 2)
    parts = [own for own, _, _, _ in fit(3, whole)]
    assert [len(own) for own in parts] == [examples // 2 // 3] * 3, "a smaller item breaks the last group"
    same(parts[1][0], [rows(examples)[2:4], np.arange(2, 4)])


def test_a_part_of_a_sequence_behaves_as_the_whole():
    whole = Numbers(48, 2)
    own = fit(2, whole)[1][0]
    own.on_epoch_end()
    assert whole.ends == 1
    with pytest.raises(IndexError):
        own[len(own)]
    if compat.KERAS3:
        assert (own.workers, own.max_queue_size, own.use_multiprocessing) == (3, 5, False)


# --- with Keras -----------------------------------------------------------------------------------------------------


class Record(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.steps, self.tests, self.validation = 0, 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_test_batch_end(self, batch, logs=None):
        self.tests += 1

    def on_epoch_end(self, epoch, logs=None):
        self.validation.append(logs.get("val_loss"))


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 makes the weights when it compiles")
def test_models_are_built_on_a_part():
    x, y = rows(20), rows(20)
    whole = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    sequence = as_sequence(x, y, 2)
    unknown = whole.filter(lambda *_: True)
    for given in ((x, y), (whole, None), (unknown, None), (sequence, None), (Lists(20, 2), None)):
        model = keras.Sequential([keras.layers.Dense(2)])
        compat.build_on(model, fit(2, *given)[1][0])
        assert model.layers[0].kernel.shape == (3, 2)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "unknown", "sequence"])
def test_keras_trains_on_every_part(kind):
    """The loss is mean(y ** 2), since the model says zero; y is chosen so that every mean is exact in float32."""
    size, batch, (count, held) = 3, 2, (20, 12)
    x, y = rows(count), np.arange(count, dtype="float32")[:, None]
    val_x, val_y = rows(held), np.arange(held, dtype="float32")[:, None]
    data, held_out, more = (x, y), (val_x, val_y), {"batch_size": batch}
    if kind in ("dataset", "unknown"):
        data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(batch), None)
        held_out = tf.data.Dataset.from_tensor_slices((val_x, val_y)).batch(batch)
        data = (data[0].filter(lambda *_: True), None) if kind == "unknown" else data
        more = {}
    elif kind == "sequence":
        data, held_out, more = (as_sequence(x, y, batch), None), as_sequence(val_x, val_y, batch), {}
    for rank, (own, target, own_held, arguments) in enumerate(fit(size, *data, held_out, epochs=2, verbose=0, **more)):
        model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(3,))])
        model.compile(keras.optimizers.SGD(0.0), "mse", **(dict(jit_compile=False) if compat.KERAS3 else {}))
        record = Record()
        model.fit(own, target, validation_data=own_held, callbacks=[record], shuffle=False, **arguments)
        assert record.steps == 2 * 3  # 6 of 20 rows in batches of 2, or 3 of 10 batches
        mine = (
            val_y[rank::size]
            if kind == "arrays"
            else np.concatenate([val_y[2 * k : 2 * k + 2] for k in (rank, rank + 3)])
        )
        assert record.tests == 2 * 2
        assert record.validation == [float(np.mean(mine.astype("float64") ** 2))] * 2
