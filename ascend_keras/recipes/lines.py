"""The lines that ModelZoo's AlexNet recipes print, and readers of them. docs/log-format.md describes each.

A reader goes by the names in a line, never by its columns: from step 100,000 on, or with other digits of the speed,
blanks vanish from the line and columns move.
"""

import collections
import datetime
import re

HEADER = "Step   Epoch   Speed   Loss   FinLoss   LR"
EVALUATION_HEADER = " step  epoch  top1    top5     loss   checkpoint_time(UTC)"
EVALUATION_END = "Finished evaluation"


def format_versions(python, tensorflow):
    """The first line of a log: PY3.7.16TF1.15.5."""
    return "PY{}TF{}".format(python, tensorflow)


StepLine = collections.namedtuple("StepLine", "step epoch fps loss total_loss lr batch_time")
StepLine.__doc__ = """What a line tells.

    step: steps done, from 1; epoch: passes over the data, a fraction; fps: examples per second over all devices;
    loss, total_loss: mean training loss without and with weight decay; lr: learning rate of the step just done;
    batch_time: seconds of one call of the device.
"""
EvaluationRow = collections.namedtuple("EvaluationRow", "step epoch top1 top5 loss time")
EvaluationRow.__doc__ = """A row of the table: top1 and top5 in percent, `time` a datetime in UTC."""

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
# Older logs have no comma behind step, epoch and total_loss.
_STEP_LINE = re.compile(
    ",?\\s*".join(re.escape(name) + ":" + _NUMBER for name in StepLine._fields).replace("fps", "FPS")
)
_ROW = re.compile(
    r"\s*(\d+)" + 4 * (r"\s+" + _NUMBER.replace(r"\s*", "", 1)) + r"\s+(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*$"
)
_TIME = "%Y-%m-%d %H:%M:%S"


def format_step(line):
    """The log line of a `StepLine`, without an end of line."""
    return (
        "step:{:6d}, epoch:{:5.1f}, FPS:{:7.1f}, loss:{:6.3f}, total_loss:{:6.3f}, lr:{:7.5f}, batch_time:{:3.6f}"
    ).format(*line)


def parse_steps(text):
    """The `StepLine`s in a log, with commas or in the older form without; anything around them is passed over."""
    found = _STEP_LINE.finditer(text)
    return [StepLine(int(match.group(1)), *map(float, match.groups()[1:])) for match in found]


def format_evaluation(rows, samples):
    """The block that an evaluation prints.

    Args:
        rows: `EvaluationRow`s; their time is UTC whatever zone it is told in, and without a zone taken for UTC.
        samples: examples that were evaluated.
    """
    lines = ["Evaluating", "Validation dataset size: {}".format(samples), EVALUATION_HEADER]
    return "\n".join(lines + [format_row(row) for row in rows] + [EVALUATION_END])


def format_row(row):
    """One row of the table."""
    time = row.time if row.time.tzinfo is None else row.time.astimezone(datetime.timezone.utc)
    numbers = "{:5d}  {:5.1f}  {:5.3f}  {:6.2f}  {:6.2f}  ".format(row.step, row.epoch, row.top1, row.top5, row.loss)
    return numbers + time.strftime(_TIME)


def parse_evaluation(text):
    """The `EvaluationRow`s of all tables in a log, in order; their times have the zone UTC."""
    rows, inside = [], False
    for line in text.splitlines():
        # Warnings of others may stand between the rows.
        match = _ROW.match(line) if inside else None
        if match:
            time = datetime.datetime.strptime(match.group(6), _TIME).replace(tzinfo=datetime.timezone.utc)
            rows.append(EvaluationRow(int(match.group(1)), *([float(n) for n in match.groups()[1:5]] + [time])))
        inside = line.strip() == EVALUATION_HEADER.strip() or (inside and line.strip() != EVALUATION_END)
    return rows


CatsLine = collections.namedtuple("CatsLine", "epoch step step_time fps")
CatsLine.__doc__ = (
    """A step of the cats-vs-dogs recipe: epoch and step in it, both from 0; seconds; images per second."""
)
_CATS_LINE = re.compile(r"epoch (\d+) step: (\d+) step_time{} FPS{}".format(_NUMBER, _NUMBER))
_CATS_LOSS = re.compile(r"epoch: (\d+)  batch loss:{}  time elapsed:{}".format(_NUMBER, _NUMBER))


def format_cats_step(line):
    """`epoch E step: I step_time T.TTT FPS F.FFFFF`"""
    return "epoch {} step: {} step_time {:.3f} FPS {:.5f}".format(*line)


def parse_cats_steps(text):
    """The `CatsLine`s in a log."""
    return [
        CatsLine(int(m.group(1)), int(m.group(2)), float(m.group(3)), float(m.group(4)))
        for m in _CATS_LINE.finditer(text)
    ]


def format_cats_loss(epoch, loss, seconds):
    """A line of loss.txt: `epoch: N  batch loss: x  time elapsed: s`, N from 1."""
    return "epoch: {}  batch loss: {:.6f}  time elapsed: {:.3f}".format(epoch, loss, seconds)


def parse_cats_losses(text):
    """Triples of epoch, loss and seconds of a loss.txt."""
    return [(int(m.group(1)), float(m.group(2)), float(m.group(3))) for m in _CATS_LOSS.finditer(text)]
