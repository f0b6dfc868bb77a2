"""What ranks compare before a run: no difference missed, none seen where there is none."""

import functools
import json
import os
import subprocess
import sys
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from ascend_keras import schedules
from ascend_keras.backends import npu_options
from ascend_keras.backends.base import Settings
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import fingerprint, texts
from ascend_keras.distributed.cluster import Cluster

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
pytestmark = pytest.mark.usefixtures("fresh_graph")


def compare_all(*descriptions):
    """Runs `compare` as each rank; returns the message, which has to be one, or None where none raised."""
    sent = [json.dumps(list(description.items())) for description in descriptions]
    messages, calls = [], []
    for rank, mine in enumerate(descriptions):

        def gather(text, rank=rank):
            assert text == sent[rank]
            calls.append(rank)
            return list(sent)

        try:
            fingerprint.compare(mine, gather, rank)
        except ValueError as error:
            messages.append(str(error))
    assert calls == list(range(len(descriptions)))  # one collective a rank
    assert len(messages) in (0, len(descriptions)) and len(set(messages)) <= 1
    return messages[0] if messages else None


def of(**entries):
    return OrderedDict(sorted(entries.items()))


# --- the message --------------------------------------------------------------------------------------------------


def test_equal_descriptions_say_nothing_and_take_one_collective():
    assert compare_all(*[of(batch_size="32", epochs="3")] * 4) is None


def test_message_names_values_and_ranks_on_every_rank():
    usual, other = of(batch_size="32", epochs="3"), of(batch_size="64", epochs="3")
    assert compare_all(usual, other, usual, usual) == (
        "The ranks are not about to do the same, and would wait for each other for ever. Received:\n"
        "  batch_size: 32 on ranks 0, 2, 3; 64 on rank 1\n"
        "Start the same script with the same arguments and files on every rank, without branches on the rank."
    )


def test_three_values_and_an_entry_that_some_lack():
    message = compare_all(of(a="1"), of(a="2", steps="5"), of(a="3", steps="5"))
    assert "  a: 1 on rank 0; 2 on rank 1; 3 on rank 2\n" in message
    assert "  steps: nothing on rank 0; 5 on ranks 1, 2\n" in message


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("TensorFlow", "Install the same versions on every machine."),
        ("data x", "Give every rank the same whole data: the trainer takes each rank's part by itself."),
        ("callbacks", "Give every rank the same callbacks: files are written by rank 0 alone in any case."),
        ("seed", "Give NPUTrainer the same seed on every rank."),
    ],
)
def test_remedy(name, remedy):
    assert compare_all({name: "1"}, {name: "2"}).split("\n")[2:] == [remedy]


def test_of_the_layers_the_first_that_differs_is_told():
    first = OrderedDict([("layer {}".format(i), str(i)) for i in range(1, 9)] + [("layer 3.rate", "0.5")])
    second = OrderedDict([("layer {}".format(i), str(i + i // 3)) for i in range(1, 9)] + [("layer 3.rate", "0.4")])
    message = compare_all(first, second)
    assert message.split("\n")[1:3] == [
        "  layer 3: 3 on rank 0; 4 on rank 1",
        "  and 6 more entries",
    ]


def test_of_one_layer_with_other_settings_all_are_told():
    first = OrderedDict([("layer 1", "A"), ("layer 1.a", "1"), ("layer 1.b", "2"), ("layer 2.a", "1")])
    second = OrderedDict([("layer 1", "A"), ("layer 1.a", "3"), ("layer 1.b", "4"), ("layer 2.a", "5")])
    told = [line.split(":")[0].strip() for line in compare_all(first, second).split("\n")[1:-1]]
    assert told == ["layer 1.a", "layer 1.b", "and 1 more entries"]


def test_a_hundred_differences_are_a_short_message():
    first, second = ({"e{:03d}".format(i): str(i * k) for i in range(1, 101)} for k in (1, 2))
    lines = compare_all(first, second).split("\n")
    assert len(lines) == 2 + fingerprint.MOST + 1
    assert lines[-2] == "  and 80 more entries"


@pytest.mark.parametrize("text", ["größe 日本 \U0001f600", "nan", "a" * 100000, 'quote " \\ \n line', "", "\x00"])
def test_texts_of_any_kind_survive(text):
    assert compare_all({"a": text}, {"a": text}) is None
    assert compare_all({"a": text}, {"a": text + "!"})


@pytest.mark.parametrize(
    "ranks, text",
    [
        ([3], "rank 3"),
        ([3, 0, 2], "ranks 0, 2, 3"),
        (range(8), "ranks 0 to 7"),
        ([0, 2, 3, 4, 5, 9], "ranks 0, 2 to 5, 9"),
    ],
)
def test_rank_list(ranks, text):
    assert texts.rank_list(ranks) == text


def test_a_damaged_collective_is_not_taken_for_a_difference():
    with pytest.raises(RuntimeError, match="return another text than was sent. Received: rank=1, 0 characters for 12"):
        fingerprint.compare({"a": "1"}, lambda text: [text, ""], 1)


# --- texts --------------------------------------------------------------------------------------------------------


class Thing:
    pass


class Speaker:
    def __init__(self, **config):
        self.config = config

    def get_config(self):
        return self.config


class Broken:
    def get_config(self):
        raise KeyError("forgotten")


@pytest.mark.parametrize(
    "value, expected",
    [
        (np.float32(0.5), "0.5"),
        (float("nan"), "nan"),
        ({"b", "a"}, "{'a', 'b'}"),
        ([1, None, "x"], "[1, None, 'x']"),
        (functools.partial(max, 1, key=len), "partial(builtins.max, [1], {'key': builtins.len})"),
        (OrderedDict, "collections.OrderedDict"),
        (Thing(), "test_fingerprint.Thing"),
        (np.arange(3, dtype="int32"), "int32 array [0, 1, 2]"),
        (np.zeros(40, "float32"), "float32 array (40,), CRC-32 {:08x}".format(zlib.crc32(bytes(160)))),
        (np.dtype("float16"), "float16"),
        (lambda: 0, "test_fingerprint.<lambda>"),
    ],
)
def test_text(value, expected):
    assert texts.text_of(value) == expected


def test_long_and_ugly_texts_are_cut_to_one_printable_line():
    text = texts.shorten("x" * 500)
    assert text == "x" * 150 + "... (500 characters, CRC-32 {:08x})".format(zlib.crc32(b"x" * 500))
    assert texts.shorten("a\nb\udc80 <f at 0x7f00aa12>") == "a\\nb\\udc80 <f at ...>"


def test_objects_tell_their_configuration():
    pairs = list(texts.flatten("loss", Speaker(b=Speaker(c=1.5), a=[1, 2], name="loss_3")))
    said = "test_fingerprint.Speaker"
    assert pairs == [("loss", said), ("loss.a", "[1, 2]"), ("loss.b", said), ("loss.b.c", "1.5")]
    assert list(texts.flatten("loss", Broken())) == [("loss", "test_fingerprint.Broken")]


CODE = ["4wEAAAAA", None, None]


@pytest.mark.parametrize(
    "serialized, expected",
    [
        ({"class_name": "__lambda__", "config": {"value": CODE}}, [("a", "a lambda")]),
        ({"value": CODE}, [("a", "a lambda")]),
        ({"value": 1.5}, [("a.value", "1.5")]),
        ({"class_name": "DTypePolicy", "config": {"name": "float16"}}, [("a", "'float16'")]),
        (
            [{"class_name": "GRUCell", "config": {"name": "gru_cell_7", "units": 2}}],
            [("a", "list of 1"), ("a[0]", "'GRUCell'"), ("a[0].units", "2")],
        ),
    ],
)
def test_objects_that_keras_has_serialized(serialized, expected):
    assert list(texts.flatten("a", serialized)) == expected


# --- a whole run --------------------------------------------------------------------------------------------------


def build(units=4, rate=0.5, name="fc", extra=False, l2=0.01):
    layers = [
        keras.layers.Dense(units, name=name, input_shape=(3,), kernel_regularizer=keras.regularizers.l2(l2)),
        keras.layers.Dropout(rate, seed=7 if extra else None),
        keras.layers.Dense(2, kernel_initializer="zeros" if extra else "glorot_uniform"),
    ]
    return keras.Sequential(layers)


def run(model=None, optimizer=None, loss="mse", metrics=("mae",), options=None, size=2, data=None, **changes):
    """A description of a small run, with changes."""
    model = model or build()
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, metrics=list(metrics))
    settings = Settings(npu_options.resolve(options or {}), Cluster(size=size))
    arguments = dict({"epochs": 3, "batch_size": 32, "verbose": 0}, **changes.pop("arguments", {}))
    data = dict({"x": np.zeros((8, 3), "float32"), "y": np.zeros((8, 2), "float32")}, **(data or {}))
    further = dict({"backend": "host", "loss_scale": None, "seed": 1}, **changes.pop("further", {}))
    callbacks = changes.pop("callbacks", [keras.callbacks.EarlyStopping()])
    return fingerprint.describe("fit", model, arguments, data, callbacks, settings, **further)


def differing(first, second):
    return sorted(name for name in set(first) | set(second) if first.get(name) != second.get(name))


def dataset(rows, dtype="float32"):
    return tf.data.Dataset.from_tensor_slices((np.zeros((rows, 3), dtype), np.zeros((rows, 2)))).batch(4)


FUNCTION = {"x": lambda context: None, "y": None}
DIFFERENCES = {
    "learning rate": (dict(optimizer=lambda: keras.optimizers.SGD(0.2, momentum=0.9)), ["optimizer.learning_rate"]),
    "loss": (dict(loss="mae"), ["loss"]),
    "metrics": (dict(metrics=("mse",)), ["metrics"]),
    "epochs": (dict(arguments={"epochs": 4}), ["epochs"]),
    "validation_freq": (dict(arguments={"validation_freq": 2}), ["validation_freq"]),
    "class_weight": (dict(arguments={"class_weight": {0: 1.0}}), ["class_weight.0"]),
    "data size": (dict(data={"x": np.zeros((9, 3), "float32")}), ["data x"]),
    "data type": (dict(data={"x": np.zeros((8, 3), "uint8")}), ["data x"]),
    "callbacks": (dict(callbacks=[]), ["callbacks"]),
    "loss scale": (dict(further={"loss_scale": "dynamic"}), ["loss_scale"]),
    "seed": (dict(further={"seed": 2}), ["seed"]),
    "number of ranks": (dict(size=4), ["ranks"]),
    "option": (dict(options={"precision_mode": "force_fp32"}), ["option precision_mode"]),
    "regularization": (dict(model=lambda: build(l2=0.5)), ["layer 1.kernel_regularizer.l2"]),
    "dropout": (dict(model=lambda: build(rate=0.4)), ["layer 2.rate"]),
}


@pytest.mark.parametrize("case", sorted(DIFFERENCES))
def test_differences_are_seen_and_nothing_else(case):
    changes, expected = DIFFERENCES[case]
    changes = {key: value() if callable(value) else value for key, value in changes.items()}
    assert differing(run(), run(**changes)) == expected


def test_another_width_names_the_first_layer_that_differs():
    message = compare_all(run(), run(model=build(units=5)))
    assert "layer 1: Dense 'fc', float32 (3, 4), float32 (4,) on rank 0; Dense 'fc', float32 (3, 5)" in message
    assert "layer 3" not in message


def test_a_layer_more():
    l2 = keras.regularizers.l2(0.01)
    first = keras.layers.Dense(4, name="fc", input_shape=(3,), kernel_regularizer=l2)
    message = compare_all(run(), run(model=keras.Sequential([first, keras.layers.Dense(2)])))
    assert "  layer 2: Dropout 'dropout' on rank 0; Dense 'dense', float32 (4, 2), float32 (2,) on rank 1\n" in message


def test_the_dtype_of_weights():
    models = [
        keras.Sequential([keras.layers.Dense(2, dtype=dtype, input_shape=(3,))]) for dtype in ("float32", "float64")
    ]
    message = compare_all(*[run(model=model) for model in models])
    assert "  layer 1: Dense 'dense', float32 (3, 2), float32 (2,) on rank 0; Dense 'dense', float64 (3, 2)" in message


def test_class_and_configuration_of_the_optimizer_and_of_its_schedule():
    assert "  optimizer: SGD on rank 0; Adam on rank 1\n" in compare_all(
        run(), run(optimizer=keras.optimizers.Adam(0.1))
    )
    slow, fast = (run(optimizer=keras.optimizers.SGD(schedules.WarmupCosine(0.1, steps))) for steps in (100, 50))
    assert differing(slow, fast) == ["optimizer.learning_rate.total_steps"]


def test_sizes_of_datasets_and_their_structure():
    base = run(data={"x": dataset(8), "y": None})
    assert base["data x"] == "dataset of 2 batches"
    assert base["data x elements"] == "(float32 (None, 3), float64 (None, 2))"
    assert differing(base, run(data={"x": dataset(12), "y": None})) == ["data x"]
    assert differing(base, run(data={"x": dataset(8, "float64"), "y": None})) == ["data x elements"]


def test_of_parts_the_sizes_may_differ_and_the_rest_may_not():
    model = build()

    def parts(rows, dtype="float32", width=3):
        given = {"x": {"a": np.zeros((rows, width), dtype), "b": [1] * rows}, "validation_data": dataset(rows)}
        return fingerprint.describe("fit", model, {}, given, whole=False)

    assert compare_all(parts(8), parts(13)) is None
    assert parts(8)["data x"] == "{'a': float32 (None, 3), 'b': list}"
    for other in (parts(8, dtype="uint8"), parts(8, width=4)):
        assert "  data x: " in compare_all(parts(8), other)


def test_what_may_differ_does_not(tmp_path):
    keras.layers.Dense(1), keras.layers.Dense(1)  # two numbers that the other rank has not given away
    other = run(
        model=build(name="fc_2", extra=True),
        data=dict(FUNCTION),
        arguments={"verbose": 2},
        options={"op_compiler_cache_dir": str(tmp_path / "rank1")},
        metrics=[keras.metrics.MeanSquaredError(name="m_1")],
    )
    base = run(
        model=build(name="fc_1"),
        data={"x": functools.partial(max, 3), "y": None},
        options={"op_compiler_cache_dir": str(tmp_path / "rank0")},
        metrics=[keras.metrics.MeanSquaredError(name="m_2")],
    )
    assert compare_all(base, other) is None


def test_a_model_that_is_neither_compiled_nor_built():
    model = keras.Sequential([keras.layers.Dense(2)])
    description = fingerprint.describe("predict", model, {"steps": 3})
    assert description["layer 1"] == "Dense 'dense'"
    assert description["steps"] == "3" and "optimizer" not in description


SCRIPT = """
import functools, json, os, sys
import numpy as np
from ascend_keras import losses
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import fingerprint

class Odd:
    __name__ = "odd"

    def __call__(self, y_true, y_pred):
        return tf.reduce_mean(y_pred)

def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))

for _ in range(OTHERS):
    keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.Sequential(), keras.layers.GRUCell(2)
inputs = {name: keras.layers.Input((4,), name=name) for name in sorted({"left", "right", "third"})}
both = keras.layers.Lambda(lambda pair: pair[0] + pair[1])([inputs["left"], inputs["right"]])
inner = keras.Sequential([keras.layers.Dense(4, input_shape=(4,), activation=lambda x: x * 2)])
pairs = keras.layers.Reshape((2, 2))(inputs["third"])
pairs = keras.layers.RNN([keras.layers.GRUCell(2), keras.layers.GRUCell(2)], return_sequences=True)(pairs)
recurrent = keras.layers.Bidirectional(keras.layers.GRU(2))(pairs)
out = keras.layers.Dense(2, activity_regularizer=lambda x: 0.0 * tf.reduce_sum(x))(inner(both + 1.0))
model = keras.models.Model(list(inputs.values()), [out, keras.layers.Dense(1)(recurrent)])
model.compile(
    keras.optimizers.Adam(1e-3), [loss, losses.SparseCategoricalCrossentropy(from_logits=True)],
    metrics=[[Odd(), loss], [keras.metrics.AUC()]],
)
told = fingerprint.describe(
    "fit", model, {"class_weight": {name: 1.0 for name in {"a", "b", "c"}}, "batch_size": np.int64(8)},
    {"x": {name: np.zeros((5, 4)) for name in {"left", "right", "third"}}, "y": Odd()},
    [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: None)], thing=object(), names={"x", "y"},
    f=functools.partial(loss, Odd()))
print("RESULT " + json.dumps(list(told.items())))
"""


def test_a_process_with_another_hash_seed_and_number_of_layers_agrees(tmp_path):
    found = []
    for others, seed in ((1, "1"), (0, "2")):
        script = tmp_path / "script{}.py".format(others)  # compiled code tells its path
        script.write_text("OTHERS = {}\n".format(others) + SCRIPT)
        environ = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
        done = subprocess.run([sys.executable, str(script)], env=environ, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        found.append(json.loads(done.stdout.decode().rpartition("RESULT ")[2]))
    first, second = found
    assert len(first) > 60 and not [pair for pair in first if "0x" in pair[1]]
    assert first == second
