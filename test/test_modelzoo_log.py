"""The recipes' log lines: their form, the numbers in them, and that ModelZoo's parsers read these."""

import datetime
import math
import os
import sys

import modelzoo_parsers as parsers
import numpy as np
import pytest

from ascend_keras import compat, losses, metrics, optimizers, schedules
from ascend_keras.callbacks import CatsVsDogsLog, Curves, MetricsFile, ModelZooLog, StepReport, StopAtStep
from ascend_keras.compat import keras, tf
from ascend_keras.recipes import lines

QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    keras.backend.clear_session()


class Collect(StepReport):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.lines = []

    def report(self, line):
        self.lines.append(line)


class HandClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def linear(rate=0.5, weight_decay=0.0, **options):
    """Two weights of 3.0 each, whose L2 term is 9 * weight_decay."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((2, 1), 3.0, np.float32)])
    optimizers.add_weight_decay(model, weight_decay)
    model.compile(keras.optimizers.SGD(rate), "mse", **dict(QUICK, **options))
    return model


def drive(callback, clock, epochs, steps, model=None):
    """Calls the hooks as Keras does: `epochs` has for each execution its seconds, the index of its last step, and the
    loss of each of its steps."""
    callback.set_model(linear() if model is None else model)
    callback.model.stop_training = False
    callback.set_params({"steps": steps})
    callback.on_train_begin()
    for epoch, executions in enumerate(epochs):
        callback.on_epoch_begin(epoch)
        seen = []
        for seconds, index, batch_losses in executions:
            clock.now += seconds
            seen += batch_losses
            loss = sum(batch_losses) if compat.TF1 else sum(seen) / len(seen)
            callback.on_train_batch_end(index, {"loss": loss})
        callback.on_test_begin()
        clock.now += 50.0  # validation, checkpoints
        callback.on_epoch_end(epoch, {"loss": 1.0})
    callback.on_train_end()


# --- the form -------------------------------------------------------------------------------------------------------

LATE = lines.StepLine(187700, 150.0, 33339.04, 1.2345, 2.3456, 0.0000066, 3.05)
EARLY = lines.StepLine(700, 0.5593, 33339.04, 6.912, 7.944, 0.00671, 3.0749)


def test_the_line_has_the_recipes_form():
    assert lines.format_step(EARLY) == (
        "step:   700, epoch:  0.6, FPS:33339.0, loss: 6.912, total_loss: 7.944, lr:0.00671, batch_time:3.074900"
    )
    assert lines.format_step(LATE) == (
        "step:187700, epoch:150.0, FPS:33339.0, loss: 1.234, total_loss: 2.346, lr:0.00001, batch_time:3.050000"
    )
    fields = (700, 0.5593, 33339.04, 6.912, 7.944, 0.00671, 3.0749)
    form = "step:%6i, epoch:%5.1f, FPS:%7.1f, loss:%6.3f, total_loss:%6.3f, lr:%7.5f, batch_time:%3.6f"
    assert lines.format_step(EARLY) == form % fields


@pytest.mark.parametrize(
    "line",
    [EARLY, LATE, LATE._replace(step=10**7, epoch=12345.6, fps=1234567.8, loss=1234.5), EARLY._replace(fps=9.5)],
)
def test_both_comma_styles_are_read(line):
    text = lines.format_step(line)
    without = text.replace(", epoch", " epoch").replace(", FPS", " FPS").replace(", lr", " lr")
    for form in (text, without, "[rank 0] " + text + "\n"):
        [read] = lines.parse_steps(form)
        assert read.step == line.step
        assert read[1:] == pytest.approx(tuple(line[1:]), abs=0.06, rel=1e-3)
        assert parsers.fps_by_name(form) == read.fps
        assert parsers.losses_by_name(form) == [read.total_loss]


def test_a_log_is_read_whatever_stands_around_its_lines():
    text = "x\n{}\nloss: 3\n{}\n{}".format(lines.HEADER, lines.format_step(EARLY), lines.format_step(LATE))
    assert [line.step for line in lines.parse_steps(text)] == [700, 187700]
    assert parsers.mean_fps_by_name(text) == pytest.approx(33339.0)


def test_the_columns_of_the_recipes_scripts_hold_where_the_format_keeps_them_apart():
    text = lines.format_step(EARLY)
    assert (parsers.fps_by_column(text), parsers.losses_by_column(text)) == ("33339", ["7.944"])
    # The defect of those scripts: at 187,700 columns have grown together, and names still tell.
    text = lines.format_step(LATE)
    assert (parsers.fps_by_column(text), parsers.losses_by_column(text)) == ("", ["batch_time:3.050000"])
    assert (parsers.fps_by_name(text), parsers.losses_by_name(text)) == (33339.0, [2.346])


def test_the_evaluation_table():
    zone = datetime.timezone(datetime.timedelta(hours=8))
    time = datetime.datetime(2020, 5, 13, 7, 30, 9, tzinfo=zone)
    rows = [
        lines.EvaluationRow(6300, 5.0, 18.5021, 39.331, 4.784, time),
        lines.EvaluationRow(187700, 150.0, 60.12, 82.06, 2.57, time.replace(tzinfo=None)),
    ]
    text = lines.format_evaluation(rows, 50000)
    assert text.splitlines() == [
        "Evaluating",
        "Validation dataset size: 50000",
        " step  epoch  top1    top5     loss   checkpoint_time(UTC)",
        " 6300    5.0  18.502   39.33    4.78  2020-05-12 23:30:09",
        "187700  150.0  60.120   82.06    2.57  2020-05-13 07:30:09",
        "Finished evaluation",
    ]
    read = lines.parse_evaluation("before\n 1 2 3 4 5\n" + text + "\nafter")
    assert [row[:5] for row in read] == [(6300, 5.0, 18.502, 39.33, 4.78), (187700, 150.0, 60.12, 82.06, 2.57)]
    assert read[0].time == time
    assert parsers.top1(text) == 60.12
    warned = text.replace("\n187700", "\nWARNING: something\n\n187700")
    assert lines.parse_evaluation(warned + "\n 1 2 3 4 5 2020-05-12 23:30:09") == read


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_speed_leaves_out_compilation_and_what_is_between_epochs():
    clock = HandClock()
    log = Collect(2, 8, 32, loop=100, clock=clock)
    drive(
        log,
        clock,
        [
            [(7.0, 0, [9.0]), (0.25, 1, [7.0]), (0.5, 2, [1.0]), (0.5, 3, [2.0])],
            [(1.0, 0, [3.0]), (3.0, 1, [6.0]), (0.5, 2, [5.0]), (0.5, 3, [7.0])],
        ],
        steps=4,
    )
    assert log.compile_seconds == 7.0
    assert [line.step for line in log.lines] == [2, 4, 6, 8]
    assert [line.fps for line in log.lines] == [8 / 0.25, 16.0, 4.0, 16.0]
    assert [line.batch_time for line in log.lines] == [25.0, 50.0, 200.0, 50.0]
    assert [line.epoch for line in log.lines] == [0.5, 1.0, 1.5, 2.0]
    assert [line.loss for line in log.lines] == pytest.approx([8.0, 1.5, 4.5, 6.0], rel=1e-6)
    assert [line.total_loss for line in log.lines] == [line.loss for line in log.lines]


def test_an_interval_across_epochs_and_the_rest_at_the_end():
    clock = HandClock()
    log = Collect(3, 1, 4, clock=clock)
    epochs = [[(1.0, i, [float(10 * e + i)]) for i in range(4)] for e in range(2)]
    drive(log, clock, epochs, steps=4)
    assert [line.step for line in log.lines] == [3, 6, 8]
    # Steps 1-3, 4-6, 7-8; their losses are 0 1 2 3 and 10 11 12 13.
    assert [line.loss for line in log.lines] == pytest.approx([1.0, 8.0, 12.5], rel=1e-6)
    assert [line.fps for line in log.lines] == [1.0, 1.0, 1.0]


def test_the_same_without_knowing_the_steps_of_an_epoch():
    clock = HandClock()
    log = Collect(3, 1, 4, clock=clock)
    drive(log, clock, [[(1.0, i, [float(10 * e + i)]) for i in range(4)] for e in range(2)], steps=None)
    assert [(line.step, line.fps) for line in log.lines] == [(3, 1.0), (6, 1.0), (8, 1.0)]
    assert [line.loss for line in log.lines] == pytest.approx([1.0, 8.0, 12.5], rel=1e-6)


@pytest.mark.skipif(compat.TF1, reason="TF 1.15 runs one step per execution")
def test_several_steps_an_execution():
    clock = HandClock()
    log = Collect(4, 10, 80, clock=clock)
    drive(
        log,
        clock,
        [[(5.0, 3, [1.0, 2.0, 3.0, 4.0]), (2.0, 7, [5.0, 6.0, 7.0, 8.0])], [(4.0, 3, [1.0] * 4), (2.0, 9, [3.0] * 4)]],
        steps=8,
    )
    # The first line would be that of the compilation alone: its steps are in the second.
    assert [(line.step, line.fps) for line in log.lines] == [(8, 20.0), (12, 10.0), (16, 20.0)]
    assert [line.loss for line in log.lines] == pytest.approx([4.5, 1.0, 3.0])


def test_a_run_of_one_execution_has_a_line_all_the_same():
    clock = HandClock()
    log = Collect(1, 8, 8, clock=clock)
    drive(log, clock, [[(2.0, 0, [1.5])]], steps=1)
    assert [(line.step, line.fps, line.loss) for line in log.lines] == [(1, 4.0, 1.5)]


def test_the_line_of_step_187700(capsys, tmp_path):
    clock = HandClock()
    path = str(tmp_path / "training.log")
    log = ModelZooLog(100, 1024, 1281167, path=path, initial_step=187500, clock=clock)
    steps = [(0.030714, index, [2.571]) for index in range(200)]
    drive(log, clock, [steps], steps=None, model=linear(6.58e-6, weight_decay=0.1))
    printed = capsys.readouterr().out
    # total_loss is what Keras minimises; 0.1 * (9 + 9) / 2 of it is weight decay.
    last = "step:187700, epoch:150.0, FPS:33339.8, loss: 1.671, total_loss: 2.571, lr:0.00001, batch_time:3.071400"
    assert printed.splitlines()[-1] == last
    versions = "PY{}.{}.{}TF{}".format(*sys.version_info[:3], tf.__version__)
    assert printed.splitlines()[:2] == [versions, "Step   Epoch   Speed   Loss   FinLoss   LR"]
    assert parsers.fps_by_name(printed) == 33339.8
    assert parsers.losses_by_name(printed) == [2.571, 2.571]
    with open(path) as file:
        assert file.read() == printed


def test_all_ranks_read_alike(monkeypatch):
    """A variable is read by a graph on the device: a rank that does not run it leaves the others waiting."""
    reads = []
    for name in ("get_learning_rate", "get_values"):
        original = getattr(compat, name)
        monkeypatch.setattr(
            compat, name, lambda *a, name=name, original=original, **k: (reads.append(name), original(*a, **k))[1]
        )
    found = []
    for is_main in (True, False):
        clock = HandClock()
        log = ModelZooLog(1, 8, 16, clock=clock)
        log.set_ranks(None, is_main)
        del reads[:]
        drive(log, clock, [[(1.0, 0, [1.0]), (1.0, 1, [2.0])]], steps=2)
        found.append(list(reads))
    assert found[0] == found[1]
    assert found[0].count("get_learning_rate") >= 2


def test_only_the_main_rank_prints_and_writes(capsys, tmp_path):
    for is_main, count in ((True, 4), (False, 0)):
        clock = HandClock()
        folder = tmp_path / str(is_main)
        callbacks = [
            ModelZooLog(1, 8, 16, path=str(folder / "training.log"), clock=clock),
            MetricsFile(str(folder / "metrics.csv"), 1, 8, 16, clock=clock),
            CatsVsDogsLog(str(folder), 1, 8, 16, clock=clock),
            Curves(str(folder)),
        ]
        for callback in callbacks:
            callback.set_ranks(None, is_main)
            drive(callback, clock, [[(1.0, 0, [1.0]), (1.0, 1, [2.0])]], steps=2)
        assert len(os.listdir(str(folder)) if folder.exists() else []) in ((3, 5) if count else (0,))
        out = capsys.readouterr().out
        assert bool(out) == is_main
        assert len(lines.parse_steps(out)) == (1 if is_main else 0)


@pytest.mark.parametrize(
    "counts",
    [dict(every=0), dict(every=True), dict(batch_size=1.5), dict(epoch_samples=None), dict(loop=0)],
)
def test_counts_are_checked(counts):
    given = dict(dict(every=1, batch_size=1, epoch_samples=1), **counts)
    with pytest.raises(ValueError, match="whole numbers >= 1. Received: {}=".format(*counts)):
        ModelZooLog(**given)
    with pytest.raises(ValueError, match="initial_step=-1"):
        ModelZooLog(1, 1, 1, initial_step=-1)


# --- in a training --------------------------------------------------------------------------------------------------

CLASSES, FEATURES, BATCH, STEPS, EPOCHS = 3, 4, 5, 4, 3
DECAY, SMOOTHING = 0.05, 0.1


def batches():
    random = np.random.RandomState(3)
    x = random.randn(STEPS * BATCH, FEATURES).astype(np.float32)
    return x, random.randint(0, CLASSES, STEPS * BATCH).astype(np.int32)


def expected_lines(x, y, rates):
    """Losses of each step and L2 terms after it, of softmax regression by gradient descent in float64."""
    weights = np.linspace(-0.5, 0.5, FEATURES * CLASSES).reshape(FEATURES, CLASSES)
    found = []
    for step, rate in enumerate(rates):
        at = slice(step % STEPS * BATCH, (step % STEPS + 1) * BATCH)
        logits = x[at].astype(np.float64) @ weights
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        target = np.eye(CLASSES)[y[at]] * (1 - SMOOTHING) + SMOOTHING / CLASSES
        loss = -(target * log_p).sum(axis=1).mean()
        gradient = x[at].astype(np.float64).T @ (np.exp(log_p) - target) / BATCH
        weights = weights - rate * (gradient + DECAY * weights)
        found.append((loss, DECAY * (weights**2).sum() / 2))
    return found


@pytest.mark.parametrize("with_metric", [True, False])
@pytest.mark.parametrize("validate", [True, False])
def test_losses_and_rates_are_those_of_the_steps(with_metric, validate):
    x, y = batches()
    schedule = schedules.WarmupCosine(0.5, total_epochs=EPOCHS, warmup_steps=3, steps_per_epoch=STEPS, staircase=True)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, use_bias=False)])
    model.set_weights([np.linspace(-0.5, 0.5, FEATURES * CLASSES).reshape(FEATURES, CLASSES).astype(np.float32)])
    optimizers.add_weight_decay(model, DECAY)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)
    metric = metrics.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING, name="cross_entropy")
    model.compile(optimizers.Momentum(schedule, momentum=0.0), loss, weighted_metrics=[metric], **QUICK)
    logs = [Collect(every, BATCH, len(x), metric=metric if with_metric else None) for every in (1, 3)]
    validation = dict(validation_data=(x[:8], y[:8])) if validate else {}
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=logs, **validation)
    rates = [_rate(step) for step in range(STEPS * EPOCHS)]
    wanted = expected_lines(x, y, rates)
    for log in logs:
        steps = [line.step for line in log.lines]
        # The first step compiles; with a report a step it is in the line of the second.
        assert steps == ([2] + list(range(3, 13)) if log is logs[0] else [3, 6, 9, 12])
        for before, line in zip([0] + steps, log.lines):
            cross_entropy = np.mean([loss for loss, _ in wanted[before : line.step]])
            l2 = wanted[line.step - 1][1]
            if with_metric:
                assert line.loss == pytest.approx(cross_entropy, rel=1e-5)
                assert line.total_loss - line.loss == pytest.approx(l2, rel=1e-4)
            else:
                # Keras' loss has the L2 terms of the weights before each step; that of the report is taken off.
                initial = DECAY * (np.linspace(-0.5, 0.5, 12) ** 2).sum() / 2
                terms = [initial] + [term for _, term in wanted]
                total = cross_entropy + np.mean(terms[before : line.step])
                assert line.total_loss == pytest.approx(total, rel=1e-5)
                assert line.total_loss - line.loss == pytest.approx(l2, rel=1e-4)
            assert line.lr == pytest.approx(rates[line.step - 1], rel=1e-6)
            assert line.epoch == line.step / STEPS
            assert line.fps > 0


def _rate(step):
    if step < 3:
        return 0.5 * (step + 1) / 3
    return 0.5 * (1 + math.cos(math.pi * (step // STEPS) / EPOCHS)) / 2


@pytest.mark.parametrize("last_step", [1, 4, 6, 8, 12])
def test_stops_at_exactly_the_step(last_step):
    model = linear()
    x, y = np.zeros((20, 2), np.float32), np.zeros((20, 1), np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5, drop_remainder=True).repeat()
    log = Collect(100, 5, 20)
    stop = StopAtStep(last_step)
    model.fit(data, epochs=3, steps_per_epoch=4, verbose=0, callbacks=[stop, log])
    assert log.step == last_step
    assert log.lines[-1].step == last_step
    iterations = compat.inner_optimizer(model.optimizer).iterations
    assert int(keras.backend.get_value(iterations) if compat.TF1 else iterations.numpy()) == last_step


def test_stop_at_step_counts_on():
    model = linear()
    x = np.zeros((20, 2), np.float32)
    stop = StopAtStep(10, initial_step=4)
    log = Collect(100, 5, 20, initial_step=4)
    model.fit(x, x[:, :1], batch_size=5, epochs=4, initial_epoch=1, verbose=0, callbacks=[stop, log])
    assert log.step == 10


@pytest.mark.parametrize("arguments", [(0,), (5, 5), (True,), (2.5,), (3, -1)])
def test_stop_at_step_refuses(arguments):
    with pytest.raises(ValueError, match="initial_step < last_step. Received: last_step="):
        StopAtStep(*arguments)


# --- the other files ------------------------------------------------------------------------------------------------


def test_metrics_file_is_a_table_that_goes_on(tmp_path):
    path = str(tmp_path / "new" / "metrics.csv")
    for initial in (0, 2):
        clock = HandClock()
        log = MetricsFile(path, 2, 8, 32, initial_step=initial, clock=clock)
        drive(log, clock, [[(1.0, 0, [3.0]), (0.5, 1, [5.0])]], steps=2)
    with open(path) as file:
        assert file.read() == (
            "step,epoch,fps,loss,total_loss,lr,batch_time\n2,0.5,16.0,4.0,4.0,0.5,1.0\n4,1.0,16.0,4.0,4.0,0.5,1.0\n"
        )


def test_lines_of_cats_vs_dogs(tmp_path, capsys):
    clock = HandClock()
    log = CatsVsDogsLog(str(tmp_path), 1, 100, 2500, clock=clock)
    log.set_model(linear())
    log.model.stop_training = False
    log.set_params({"steps": 25})
    log.on_train_begin()
    for epoch in range(2):
        log.on_epoch_begin(epoch)
        for step in range(25):
            clock.now += 9.0 if epoch == step == 0 else 0.5
            log.on_train_batch_end(step, {"loss": 0.5})
        log.on_epoch_end(epoch, {"loss": 0.5, "top1": 0.6125, "val_top1": 0.641})
    log.on_train_end()
    out = capsys.readouterr().out
    told = out.splitlines()
    assert told[0] == "first 1 step(s): 9.000 s, compilation included"
    assert told[1] == "epoch 0 step: 1 step_time 0.500 FPS 200.00000"
    steps = lines.parse_cats_steps(out)
    assert [(line.epoch, line.step) for line in steps] == [(e, s) for e in range(2) for s in range(25)][1:]
    assert {(line.step_time, line.fps) for line in steps} == {(0.5, 200.0)}
    assert [line for line in told if line.startswith("progress")] == [
        "progress : 80.0%  loss :0.500000",
        "progress : 60.0%  loss :0.500000",
    ]
    accuracies = ["test accuracy 64.1000", "train accuracy 61.2500"]
    assert told[-2:] == accuracies
    assert told.count(accuracies[0]) == 2
    text = (tmp_path / "loss.txt").read_text()
    assert text == (
        "epoch: 1  batch loss: 0.500000  time elapsed: 21.000\nepoch: 2  batch loss: 0.500000  time elapsed: 33.500\n"
    )
    assert lines.parse_cats_losses(text) == [(1, 0.5, 21.0), (2, 0.5, 33.5)]
    assert (parsers.cats_fps(out), parsers.cats_accuracy(out)) == (200.0, 61.25)


def test_curves_are_drawn_and_go_on(tmp_path):
    pytest.importorskip("matplotlib")
    first = Curves(str(tmp_path))
    first.on_train_begin()
    first.on_epoch_end(0, {"top1": 0.5, "loss": 2.0, "val_top1": 0.4})
    second = Curves(str(tmp_path))
    second.load_state_dict(first.state_dict())
    second.on_epoch_end(1, {"top1": 0.75, "loss": 1.0})
    second.on_train_end()
    for name in ("acc.png", "loss.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    state = second.state_dict()
    assert state["top1"].tolist() == [[1.0, 0.5], [2.0, 0.75]]
    assert state["val_top1"].tolist() == [[1.0, 0.4]]


def test_curves_without_matplotlib_say_so_and_go_on(tmp_path, monkeypatch, caplog):
    import logging
    import sys

    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    logger = logging.getLogger("ascend_keras")
    logger.addHandler(caplog.handler)
    curves = Curves(str(tmp_path))
    curves.on_train_begin()
    curves.on_epoch_end(0, {"loss": 1.0})
    curves.on_train_end()
    logger.removeHandler(caplog.handler)
    [record] = caplog.records
    assert "pip install 'ascend_keras[plot]'" in record.getMessage()
    assert os.listdir(str(tmp_path)) == []
