"""What ranks on NPUs do with gradients: averaged, slices of embeddings too, before they are clipped; grouped as asked.

Two ranks train on the fakes; a NumPy account in float64 says what the weights have to be.
"""

import json

import numpy as np
import pytest

SCRIPT = """
import json, os
import numpy as np
import tensorflow as tf
from ascend_keras import backends, compat
from ascend_keras.backends import npu_hccl, npu_options
from ascend_keras.backends.base import Settings
from ascend_keras.distributed import cluster

keras = tf.keras
given = json.loads(os.environ["GIVEN"])
who = cluster.from_environment()
hccl, problems = npu_hccl.resolve(given["fusion"], 600, 1904, adapter="tf115", ranks=who.size)
name = backends.choose("npu")[0]
backend = backends.open_backend(name, Settings(npu_options.resolve({}), who, hccl=hccl))
backend.before_run(1, {"train": 1})
words, x, y = (np.array(given[key][who.rank]) for key in ("words", "x", "y"))
seen = {"problems": problems}

def weights_after(layers, weights, data, loss_scale, **options):
    model = keras.Sequential(layers)
    optimizer = backend.assemble(keras.optimizers.SGD(given["rate"], **options), loss_scale)
    model.compile(optimizer, "mse")
    model.set_weights([np.array(one) for one in weights])
    model.fit(data, y, batch_size=len(y), epochs=2, shuffle=False, verbose=0)
    return [one.tolist() for one in model.get_weights()]

def embedding():
    return [
        keras.layers.Embedding(5, 2, input_length=3),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(1, use_bias=False),
    ]

for loss_scale in (None, 8.0):
    seen["embedding, loss scale {}".format(loss_scale)] = weights_after(
        embedding(), [given["table"], given["kernel"]], words, loss_scale)
for clip in ("clipnorm", "clipvalue"):
    seen[clip] = weights_after(
        [keras.layers.Dense(1, use_bias=False, input_shape=(2,))], [given["kernel"]], x, None, **{clip: 0.05})
if compat.TF1:
    variable = tf.Variable(np.array([1.0, 2.0], "float32"), use_resource=True)
    optimizer = backend.assemble(keras.optimizers.SGD(1.0), None)
    step = optimizer.minimize(lambda: (who.rank + 1.0) * tf.reduce_sum(variable), [variable])
    session = keras.backend.get_session()
    session.run(variable.initializer)
    session.run(step)
    seen["minimize"] = session.run(variable).tolist()
print("RESULT " + json.dumps(seen))
"""

RATE = 0.5
GIVEN = {
    "rate": RATE,
    # A word twice in an example, in two examples, on both ranks; word 4 nowhere.
    "words": [[[0, 0, 1], [1, 2, 0]], [[1, 3, 3], [0, 1, 1]]],
    "x": [[[1.0, 2.0], [0.5, -1.0]], [[-4.0, -1.0], [3.0, 2.0]]],
    "y": [[[0.3], [-0.7]], [[2.0], [0.1]]],
    "table": [[0.1, -0.2], [0.4, 0.3], [-0.5, 0.2], [0.6, -0.1], [0.7, 0.8]],
    "kernel": [[0.9], [-0.6]],
}


@pytest.fixture(scope="module", params=[[0.5, 0.5], 0], ids=["two groups", "each alone"])
def run(request, module_adapter):
    """(fusion, what each of two ranks saw, the events of each)."""
    given = dict(GIVEN, fusion=request.param)
    results = module_adapter.run(SCRIPT, ranks=2, env={"GIVEN": json.dumps(given), "HCCL_EXEC_TIMEOUT": None})
    for rank, result in enumerate(results):
        assert result.returncode == 0, "rank {}:\n{}".format(rank, result.stderr[-3000:])
        assert result.value["problems"] == []
    events = [[] if module_adapter.real else module_adapter.events(rank=rank) for rank in range(2)]
    return request.param, [result.value for result in results], events


def arrays(key):
    return [np.array(one) for one in GIVEN[key]]


def trained(ranks_gradients, weights, limit=lambda gradient: gradient):
    """Weights after two steps of gradient descent with the mean of the ranks' gradients."""
    weights = [np.array(one, np.float64) for one in weights]
    for _ in range(2):
        per_rank = [ranks_gradients(rank, weights) for rank in range(2)]
        weights = [one - RATE * limit((a + b) / 2) for one, a, b in zip(weights, *per_rank)]
    return weights


def gradients_of_embedding(rank, weights):
    (table, kernel), words, y = weights, arrays("words")[rank], arrays("y")[rank]
    hidden = table[words].mean(1)
    slope = 2 * (hidden @ kernel - y) / len(y)
    of_table = np.zeros_like(table)
    for example, of_hidden in zip(words, slope @ kernel.T):
        for word in example:
            of_table[word] += of_hidden / 3
    return [of_table, hidden.T @ slope]


def gradients_of_dense(rank, weights):
    (kernel,), x, y = weights, arrays("x")[rank], arrays("y")[rank]
    return [x.T @ (2 * (x @ kernel - y) / len(y))]


@pytest.mark.parametrize("loss_scale", [None, 8.0])
def test_slices_of_an_embedding_are_averaged(run, loss_scale):
    expected = trained(gradients_of_embedding, [GIVEN["table"], GIVEN["kernel"]])
    seen = [values["embedding, loss scale {}".format(loss_scale)] for values in run[1]]
    assert seen[0] == seen[1]
    for got, wanted in zip(seen[0], expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert seen[0][0][4] == [np.float32(one) for one in GIVEN["table"][4]]


@pytest.mark.parametrize(
    "clip, limit",
    [
        ("clipnorm", lambda gradient: gradient * min(1, 0.05 / np.linalg.norm(gradient))),
        ("clipvalue", lambda gradient: np.clip(gradient, -0.05, 0.05)),
    ],
)
def test_gradients_are_clipped_after_their_mean(run, clip, limit):
    expected = trained(gradients_of_dense, [GIVEN["kernel"]], limit)
    seen = [values[clip] for values in run[1]]
    assert seen[0] == seen[1]
    np.testing.assert_allclose(seen[0][0], expected[0], rtol=1e-5)
    # Clipped before the mean they would be elsewhere: the data tells the two orders apart.
    before = [np.array(GIVEN["kernel"])]
    for _ in range(2):
        before = [
            one - RATE * sum(limit(gradients_of_dense(rank, before)[0]) for rank in range(2)) / 2 for one in before
        ]
    assert np.abs(before[0] - expected[0]).max() > 1e-3


def test_minimize_averages_too(run):
    values = run[1]
    if "minimize" not in values[0]:
        pytest.skip("On TF 2 minimize passes apply_gradients, as fit does.")
    assert values[0]["minimize"] == values[1]["minimize"] == [1.0 - 1.5, 2.0 - 1.5]


def test_groups_and_timeouts_reach_hccl_in_time(run, module_adapter):
    fusion, _, events = run
    if module_adapter.real:
        pytest.skip("Only the fakes keep a record.")
    for seen in events:
        kinds = [event["event"] for event in seen]
        strategies = [event for event in seen if event["event"].startswith("set_split_strategy")]
        assert [event["size"] for event in strategies] == ([] if fusion == 0 else [[50.0, 50.0]])
        assert {event["fusion"] for event in seen if event["event"] == "all_reduce_built"} == {0 if fusion == 0 else 1}
        if strategies:
            assert kinds.index("set_split_strategy_by_size") < kinds.index("all_reduce_built")
        opened = [event for event in seen if event["event"] in ("open", "ge_init")]
        assert opened[0]["hccl"] == {"HCCL_CONNECT_TIMEOUT": "600", "HCCL_EXEC_TIMEOUT": "1904"}
