"""Ranks that are not about to do the same end with one message on all, in real processes, and none waits for ever."""

import pytest
import ranks

# Seconds for a launch; the issue of a hang is that there is no end at all.
LIMIT = 60
DIFFERENT = """
import json, os
import numpy as np
from ascend_keras import NPUTrainer, compat
from ascend_keras.compat import keras, tf

rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
x, y = np.ones((16, 3), "f"), np.ones((16, 1), "f")
quick = dict(jit_compile=False) if compat.KERAS3 else {}

def build(trainer, width=4):
    with trainer.scope():
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(width)(inputs)))
    return trainer.compile(model, keras.optimizers.SGD(0.1), "mse", **quick)

def uneven(context, known=True):
    data = tf.data.Dataset.range(6 + 2 * context.input_pipeline_id).map(lambda i: (tf.ones([3]), tf.ones([1])))
    return (data if known else data.filter(lambda a, b: True)).batch(2, drop_remainder=True)

found = {}
def attempt(name, run):
    try:
        history = run()
        steps = history.params["steps"]  # for arrays, TF 1.15 does not tell
        found[name] = [len(history.history["loss"]), None if steps is None else int(steps)]
    except Exception as error:
        found[name] = "%s: %s" % (type(error).__name__, error)

with NPUTrainer("host") as trainer:
    fit = lambda model, *data, **more: trainer.fit(model, *data, verbose=0, **more)
    attempt("batch size", lambda: fit(build(trainer), x, y, batch_size=[4, 8][rank]))
    attempt("model", lambda: fit(build(trainer, [4, 5][rank]), x, y))
    attempt("size of the data", lambda: fit(build(trainer), x[: 16 - 4 * rank], y[: 16 - 4 * rank], batch_size=4))
    attempt("epochs", lambda: fit(build(trainer), x, y, epochs=1 + rank))
    attempt("uneven parts", lambda: fit(build(trainer), uneven))
    attempt("uneven parts of unknown length", lambda: fit(build(trainer), lambda context: uneven(context, False)))
    attempt("one raises", lambda: fit(build(trainer), x, y[:15] if rank else y, batch_size=4))
    attempt("all is well again", lambda: fit(build(trainer), x, y, batch_size=4))
with NPUTrainer("host", seed=rank) as trainer:
    attempt("seed", lambda: trainer.fit(build(trainer), x, y, verbose=0))
print("RESULT " + json.dumps(found))
"""
MISSING = """
import json, os
import numpy as np
from ascend_keras import NPUTrainer
from ascend_keras.compat import keras

rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
with NPUTrainer("host") as trainer:
    path = os.path.join(os.environ["FOLDER"], "part%d.npy" % rank)
    np.save(path, np.ones((8, 3), "f")) if rank == 0 else None
    data = np.load(path)
    model = trainer.compile(keras.Sequential([keras.layers.Dense(1, input_shape=(3,))]), "sgd", "mse")
    trainer.fit(model, data, np.ones((8, 1), "f"), verbose=0)
"""


@pytest.fixture(scope="module")
def found():
    """What two ranks say of each attempt."""
    return ranks.values(ranks.run_host(DIFFERENT, 2, timeout=3 * LIMIT))


@pytest.mark.parametrize(
    "name, text",
    [
        ("batch size", "The batch size given for x differs among the ranks. Received: rank 0: 4, rank 1: 8."),
        ("model", "float32 (3, 4), float32 (4,) on rank 0; Dense 'dense', float32 (3, 5), float32 (5,) on rank 1"),
        ("size of the data", "x must be the same on all ranks"),
        ("epochs", "epochs: 1 on rank 0; 2 on rank 1"),
        ("seed", "seed: 0 on rank 0; 1 on rank 1"),
        ("uneven parts of unknown length", "Give steps_per_epoch, the steps of each rank."),
    ],
)
def test_one_message_on_all_ranks(found, name, text):
    first, second = found[0][name], found[1][name]
    assert first == second
    assert first.startswith("ValueError: ")
    assert text in first and "Received" in first


def test_rows_that_do_not_match_on_one_rank_are_its_own_error(found):
    assert "rank 1" in found[0]["one raises"]
    assert found[1]["one raises"].startswith("ValueError: ")
    assert "15" in found[1]["one raises"]


def test_uneven_parts_of_known_length_make_the_steps_of_the_smallest(found):
    assert found[0]["uneven parts"] == found[1]["uneven parts"] == [1, 3]


def test_ranks_go_on_after_a_message(found):
    assert [value["all is well again"] for value in found] in ([[1, 2], [1, 2]], [[1, None], [1, None]])


def test_a_file_that_one_rank_misses_ends_both(tmp_path):
    first, second = ranks.run_host(MISSING, 2, env={"FOLDER": str(tmp_path)}, timeout=LIMIT)
    assert second.returncode == 1
    assert "FileNotFoundError" in second.stderr and "part1.npy" in second.stderr
    assert first.returncode != 0
