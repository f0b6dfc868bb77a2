"""The result of a run, in the files and lines that ModelZoo's tools read. Imports no TensorFlow.

docs/log-format.md describes every file and line.
"""

import dataclasses
import json
import math
import os
import platform
import sys
import time
from typing import IO, Any, Dict, Iterable, List, Mapping, Optional, Sequence

START_VARIABLE = "ASCEND_KERAS_START"
SUMMARY_FILE = "summary.json"
KINDS = ("acc", "perf")
_IMPORTED = time.time()


@dataclasses.dataclass
class RunResult:
    """What a finished run reports.

    Args:
        network: name of the recipe, as in `Network = ...`.
        batch_size: examples a step and device.
        case_name: see `case_name()`; also the name of the result file.
        actual_fps: examples per second over all devices, in steady state: compilation left out, input wait left in.
        train_accuracy: accuracy of the final weights, in [0, 1].
        e2e_training_time: seconds from the start of the script to now, see `started()`.
        backend: the backend that trained, for example `host` or `npu_bridge`.
        actual_loss: loss of the run; None takes the last of the losses given to `finish`.
        training_time: milliseconds a step; None takes `batch_size * rank_size / actual_fps`.
        rank_size: number of devices.
        device_type: machine architecture, as `uname -m` says it.
        details: anything else worth keeping, for `summary.json` alone.
    """

    network: str
    batch_size: int
    case_name: str
    actual_fps: float
    train_accuracy: float
    e2e_training_time: float
    backend: str
    actual_loss: Optional[float] = None
    training_time: Optional[float] = None
    rank_size: int = 1
    device_type: str = dataclasses.field(default_factory=platform.machine)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def case_name(network: str, batch_size: int, rank_size: int, kind: str, bind_core: bool = False) -> str:
    """The ModelZoo name of a test case: `<network>[_bindcore]_bs<batch_size>_<rank_size>p_<kind>`.

    Args:
        kind: `acc` for a training to full accuracy, `perf` for a measurement of speed.

    Raises:
        ValueError: `kind` is neither of the two.
    """
    if kind not in KINDS:
        raise ValueError("`kind` must be one of {}. Received: kind={!r}.".format(", ".join(KINDS), kind))
    return "{}{}_bs{}_{}p_{}".format(network, "_bindcore" if bind_core else "", batch_size, rank_size, kind)


def started() -> float:
    """When the run began, in seconds since the epoch: ASCEND_KERAS_START if set, else the start of this process.

    The scripts in test/ set the variable before they prepare the environment's Python, so that the end-to-end time is
    what a user waited.

    Raises:
        ValueError: ASCEND_KERAS_START is no time of the past.
    """
    text = os.environ.get(START_VARIABLE)
    if not text:
        return _process_start()
    try:
        start = float(text)
    except ValueError:
        start = math.nan
    # The clocks of `date` and of Python may differ by a rounding.
    if not 0 < start <= time.time() + 1:
        raise ValueError(
            "{0} must be the start of the run in seconds since the epoch, as `date +%s` prints it. "
            "Received: {0}={1!r}. Unset it to count from the start of the process.".format(START_VARIABLE, text)
        )
    return start


def _process_start() -> float:
    try:
        with open("/proc/self/stat") as file:
            # The name of the program, in parentheses, may contain blanks; field 22 is counted from after it.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    return min(time.time() - age, _IMPORTED) if age >= 0 else _IMPORTED


def finish(
    output_dir: str, result: RunResult, losses: Sequence[float], file: Optional[IO[str]] = None
) -> Dict[str, Any]:
    """Writes the result files of a run into `output_dir` and prints the final block.

    `<case_name>.log` holds the `Key = value` lines, `train_<case_name>_loss.txt` one loss a line, `summary.json` all of
    it. Each file appears whole or not at all.

    Args:
        losses: training loss of every epoch (or logged step), in order.
        file: where the block is printed; None is `sys.stdout`.

    Returns:
        What was written to `summary.json`.

    Raises:
        ValueError: a value is missing, not finite or out of its range; names all such values.
    """
    losses = [float(loss) for loss in losses]
    _check(result, losses)
    summary = _summary(result, losses)
    os.makedirs(output_dir, exist_ok=True)
    name = result.case_name
    _write(output_dir, "train_{}_loss.txt".format(name), "".join(_number(loss) + "\n" for loss in losses))
    _write(output_dir, name + ".log", "".join("{} = {}\n".format(*line) for line in _key_values(summary)))
    _write(output_dir, SUMMARY_FILE, json.dumps(summary, indent=2, sort_keys=True) + "\n")
    print(_final_block(summary), file=file or sys.stdout, flush=True)
    return summary


def load(folder: str) -> List[Dict[str, Any]]:
    """The summaries of the run in `folder`, or of the runs in its sub-folders, in order of their names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a `summary.json` is no result of a run.
    """
    folders = [folder]
    if os.path.isdir(folder) and not os.path.exists(os.path.join(folder, SUMMARY_FILE)):
        folders = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    paths = [os.path.join(each, SUMMARY_FILE) for each in folders]
    summaries = [_load_file(path) for path in paths if os.path.exists(path)]
    if not summaries:
        raise FileNotFoundError(
            "No {} in the folder or one level below. Received: {!r}. Give the output folder of a finished run.".format(
                SUMMARY_FILE, folder
            )
        )
    return summaries


def table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """The summaries as a text table, a line each."""
    rows = [("case", "backend", "images/sec", "ms/step", "accuracy", "loss", "seconds")]
    rows += [
        (
            summary["case_name"],
            summary["backend"],
            _number(summary["actual_fps"]),
            _number(summary["training_time"]),
            _number(summary["train_accuracy"]),
            _number(summary["actual_loss"]),
            str(summary["e2e_training_time"]),
        )
        for summary in summaries
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = ["{:<{}}  {:<{}}".format(row[0], widths[0], row[1], widths[1]) for row in rows]
    numbers = ["".join("  {:>{}}".format(*cell) for cell in zip(row[2:], widths[2:])) for row in rows]
    return "\n".join(map("".join, zip(aligned, numbers)))


def _check(result: RunResult, losses: Sequence[float]) -> None:
    problems = []

    def check(name, accepted, wanted):
        value = getattr(result, name)
        if not (accepted(value) or (value is None and name in ("actual_loss", "training_time"))):
            problems.append("`{0}` must be {1}. Received: {0}={2!r}.".format(name, wanted, value))

    for name in ("network", "case_name", "backend", "device_type"):
        check(name, _is_word, "a name without blanks and slashes")
    for name in ("batch_size", "rank_size"):
        check(name, lambda value: _is_number(value) and value >= 1 and value == int(value), "a whole number >= 1")
    for name in ("actual_fps", "training_time", "e2e_training_time"):
        check(name, lambda value: _is_number(value) and value > 0, "finite and > 0")
    check("train_accuracy", lambda value: _is_number(value) and 0 <= value <= 1, "in [0, 1]")
    check("actual_loss", _is_number, "finite")
    wrong = [index for index, loss in enumerate(losses) if not _is_number(loss)]
    if wrong:
        problems.append(
            "All losses must be finite. Received: losses[{}]={!r}, {} such of {}.".format(
                wrong[0], losses[wrong[0]], len(wrong), len(losses)
            )
        )
    if not losses:
        problems.append("At least one loss is needed. Received: losses=[]. Train for at least one epoch.")
    if problems:
        raise ValueError("The run has no valid result.\n" + "\n".join("- " + problem for problem in problems))


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(value)
    except TypeError:
        return False


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not any(char.isspace() or char in "/\\" for char in value)


def _summary(result: RunResult, losses: Sequence[float]) -> Dict[str, Any]:
    fps = float(result.actual_fps)
    batch_size, rank_size = int(result.batch_size), int(result.rank_size)
    return {
        "network": result.network,
        "rank_size": rank_size,
        "batch_size": batch_size,
        "device_type": result.device_type,
        "case_name": result.case_name,
        "actual_fps": fps,
        "training_time": float(result.training_time or 1000.0 * batch_size * rank_size / fps),
        "train_accuracy": float(result.train_accuracy),
        "actual_loss": losses[-1] if result.actual_loss is None else float(result.actual_loss),
        # Whole seconds, as `date +%s` gives them: tools subtract them with `expr`.
        "e2e_training_time": max(1, round(result.e2e_training_time)),
        "backend": result.backend,
        "losses": list(losses),
        "details": dict(result.details),
    }


def _key_values(summary: Mapping[str, Any]) -> List[Any]:
    return [
        ("Network", summary["network"]),
        ("RankSize", summary["rank_size"]),
        ("BatchSize", summary["batch_size"]),
        ("DeviceType", summary["device_type"]),
        ("CaseName", summary["case_name"]),
        ("ActualFPS", _number(summary["actual_fps"])),
        ("TrainingTime", _number(summary["training_time"])),
        ("TrainAccuracy", _number(summary["train_accuracy"])),
        ("ActualLoss", _number(summary["actual_loss"])),
        ("E2ETrainingTime", summary["e2e_training_time"]),
        ("Backend", summary["backend"]),
    ]


def _final_block(summary: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "------------------ Final result ------------------",
            "Final Performance images/sec : {}".format(_number(summary["actual_fps"])),
            "Final Train Accuracy : {}".format(_number(summary["train_accuracy"])),
            "E2E Training Duration sec : {}".format(summary["e2e_training_time"]),
        ]
    )


def _number(value: float) -> str:
    """Plain decimal digits, at least six significant and two behind the point: neither awk nor bc reads 1.2e-07."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return "{:.{}f}".format(value, max(2, 5 - magnitude))


def _write(folder: str, name: str, text: str) -> None:
    path = os.path.join(folder, name)
    partial = "{}.{}.partial".format(path, os.getpid())
    try:
        with open(partial, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _load_file(path: str) -> Dict[str, Any]:
    needed = ("case_name", "backend", "actual_fps", "training_time", "train_accuracy", "actual_loss")
    try:
        with open(path) as file:
            summary = json.load(file)
        missing = [key for key in needed + ("e2e_training_time",) if key not in summary]
    except (ValueError, TypeError) as error:
        raise ValueError("The file is no result of a run. Received: {!r} ({}).".format(path, error)) from error
    if missing:
        raise ValueError("The file is no result of a run: it lacks {}. Received: {!r}.".format(missing, path))
    return summary
