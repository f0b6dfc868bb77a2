"""The result files and lines, byte by byte, and as the tools of ModelZoo read them."""

import io
import json
import math
import os
import subprocess
import sys
import time

import pytest

from ascend_keras import report


def result(**changes):
    values = dict(
        network="SWA_ID0252_for_TensorFlow",
        batch_size=16384,
        case_name="SWA_ID0252_for_TensorFlow_bs16384_1p_acc",
        actual_fps=1234567.891,
        train_accuracy=0.82345,
        e2e_training_time=41.6,
        backend="host",
        device_type="aarch64",
    )
    values.update(changes)
    return report.RunResult(**values)


def finish(folder, losses=(0.9, 0.41), **changes):
    out = io.StringIO()
    summary = report.finish(str(folder), result(**changes), losses, out)
    return summary, out.getvalue()


def read(folder, name):
    with open(os.path.join(str(folder), name)) as file:
        return file.read()


CASE = "SWA_ID0252_for_TensorFlow_bs16384_1p_acc"


def test_key_values_to_the_byte(tmp_path):
    finish(tmp_path)
    # 1000 * 16384 / 1234567.891 = 13.27104...
    assert read(tmp_path, CASE + ".log") == (
        "Network = SWA_ID0252_for_TensorFlow\n"
        "RankSize = 1\n"
        "BatchSize = 16384\n"
        "DeviceType = aarch64\n"
        "CaseName = SWA_ID0252_for_TensorFlow_bs16384_1p_acc\n"
        "ActualFPS = 1234567.89\n"
        "TrainingTime = 13.2710\n"
        "TrainAccuracy = 0.823450\n"
        "ActualLoss = 0.410000\n"
        "E2ETrainingTime = 42\n"
        "Backend = host\n"
    )


def test_final_block_to_the_byte(tmp_path):
    _, printed = finish(tmp_path)
    assert printed == (
        "------------------ Final result ------------------\n"
        "Final Performance images/sec : 1234567.89\n"
        "Final Train Accuracy : 0.823450\n"
        "E2E Training Duration sec : 42\n"
    )


def test_block_goes_to_the_present_stdout(tmp_path, capsys):
    report.finish(str(tmp_path), result(), [0.5])
    assert "Final Train Accuracy : 0.823450\n" in capsys.readouterr().out


def test_loss_file_has_a_loss_a_line(tmp_path):
    finish(tmp_path, losses=[1.5, 0.25, 0.0000123456789])
    assert read(tmp_path, "train_{}_loss.txt".format(CASE)) == "1.50000\n0.250000\n0.0000123457\n"


def test_summary_holds_the_unrounded_numbers(tmp_path):
    summary, _ = finish(tmp_path, details={"compile_seconds": 0.75})
    assert json.loads(read(tmp_path, "summary.json")) == summary
    assert summary["actual_fps"] == 1234567.891
    assert summary["training_time"] == 1000.0 * 16384 / 1234567.891
    assert summary["losses"] == [0.9, 0.41]
    assert summary["details"] == {"compile_seconds": 0.75}


def test_given_loss_and_step_time_are_kept_and_ranks_count(tmp_path):
    summary, _ = finish(tmp_path, actual_loss=-0.5, training_time=2.5, rank_size=8)
    assert (summary["actual_loss"], summary["training_time"], summary["rank_size"]) == (-0.5, 2.5, 8)
    other, _ = finish(tmp_path, actual_fps=1024.0, batch_size=128, rank_size=8)
    assert other["training_time"] == 1000.0


def test_only_whole_files_remain(tmp_path):
    finish(tmp_path / "new" / "folder")
    names = ["summary.json", "train_{}_loss.txt".format(CASE), CASE + ".log"]
    assert sorted(os.listdir(str(tmp_path / "new" / "folder"))) == sorted(names)


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch):
    finish(tmp_path)
    before = read(tmp_path, CASE + ".log")

    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        finish(tmp_path, train_accuracy=0.1)
    assert read(tmp_path, CASE + ".log") == before
    assert not [name for name in os.listdir(str(tmp_path)) if "partial" in name]


def shell(command, folder):
    return subprocess.check_output(["bash", "-c", command], cwd=str(folder), universal_newlines=True).strip()


def test_greps_of_the_convention_read_the_numbers(tmp_path):
    _, printed = finish(tmp_path, actual_fps=0.000123456, train_accuracy=1.0, e2e_training_time=0.2)
    (tmp_path / "train_0.log").write_text(printed)
    log = "train_0.log"
    assert (
        shell("grep 'Final Performance images/sec :' %s | awk -F ':' '{print $2 + 0}'" % log, tmp_path) == "0.000123456"
    )
    assert shell("grep 'Final Train Accuracy :' %s | awk '{print $NF * 2}'" % log, tmp_path) == "2"
    assert shell("expr $(grep 'E2E Training Duration sec :' %s | awk '{print $NF}') + 1" % log, tmp_path) == "2"
    assert shell("awk 'END {print}' train_%s_loss.txt" % CASE, tmp_path) == "0.410000"
    assert shell("grep ^ActualFPS *_acc.log | cut -d ' ' -f 3", tmp_path) == "0.000123456"


@pytest.mark.parametrize("value", [0.0, 1e-7, 1e-12, 0.1, 9.999999, 123456.0, 3e15])
def test_numbers_have_no_exponent_and_keep_six_digits(value):
    text = report._number(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=5e-6, abs=0)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("AlexNet", 128, 8, "acc"), "AlexNet_bs128_8p_acc"),
        (("AlexNet", 256, 1, "perf"), "AlexNet_bs256_1p_perf"),
        (("AlexNet", 256, 1, "perf", True), "AlexNet_bindcore_bs256_1p_perf"),
    ],
)
def test_case_name(arguments, expected):
    assert report.case_name(*arguments) == expected


def test_case_name_knows_two_kinds():
    with pytest.raises(ValueError, match=r"`kind` must be one of acc, perf. Received: kind='full'"):
        report.case_name("AlexNet", 1, 1, "full")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"actual_fps": math.nan}, "`actual_fps` must be finite and > 0. Received: actual_fps=nan."),
        ({"actual_fps": 0.0}, "`actual_fps` must be finite and > 0. Received: actual_fps=0.0."),
        ({"actual_fps": None}, "`actual_fps` must be finite and > 0. Received: actual_fps=None."),
        ({"training_time": -1.0}, "`training_time` must be finite and > 0. Received: training_time=-1.0."),
        (
            {"e2e_training_time": math.inf},
            "`e2e_training_time` must be finite and > 0. Received: e2e_training_time=inf.",
        ),
        ({"train_accuracy": 82.3}, "`train_accuracy` must be in [0, 1]. Received: train_accuracy=82.3."),
        ({"train_accuracy": "0.8"}, "`train_accuracy` must be in [0, 1]. Received: train_accuracy='0.8'."),
        ({"actual_loss": math.nan}, "`actual_loss` must be finite. Received: actual_loss=nan."),
        ({"batch_size": 0}, "`batch_size` must be a whole number >= 1. Received: batch_size=0."),
        ({"rank_size": 1.5}, "`rank_size` must be a whole number >= 1. Received: rank_size=1.5."),
        ({"network": "Alex Net"}, "`network` must be a name without blanks and slashes. Received: network='Alex Net'."),
        ({"case_name": "../x"}, "`case_name` must be a name without blanks and slashes. Received: case_name='../x'."),
        ({"backend": ""}, "`backend` must be a name without blanks and slashes. Received: backend=''."),
        ({"losses": []}, "At least one loss is needed. Received: losses=[]."),
        ({"losses": [1.0, math.nan, math.inf]}, "losses[1]=nan, 2 such of 3."),
    ],
)
def test_an_invalid_value_is_refused_and_nothing_written(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        finish(tmp_path / "run", **changes)
    assert message in str(caught.value)
    assert not os.path.exists(str(tmp_path / "run"))


def test_all_invalid_values_are_named_at_once(tmp_path):
    with pytest.raises(ValueError) as caught:
        finish(tmp_path, actual_fps=-1.0, train_accuracy=2.0, losses=[])
    assert len(str(caught.value).splitlines()) == 4


def test_start_is_that_of_the_script(monkeypatch):
    monkeypatch.setenv("ASCEND_KERAS_START", "1700000000")
    assert report.started() == 1700000000.0


@pytest.mark.parametrize("text", ["soon", "-1", "0", "99999999999", "nan"])
def test_start_must_be_a_time_of_the_past(monkeypatch, text):
    monkeypatch.setenv("ASCEND_KERAS_START", text)
    with pytest.raises(ValueError, match=r"must be the start of the run in seconds since the epoch.*Received"):
        report.started()


def test_start_is_else_that_of_the_process():
    code = (
        "import time; time.sleep(0.5); from ascend_keras import report; a = report.started(); "
        "time.sleep(0.3); print(a, report.started())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ASCEND_KERAS_START"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    before = time.time()
    out = subprocess.check_output([sys.executable, "-c", code], env=dict(environment, PYTHONPATH=root))
    first, second = map(float, out.split())
    # The clock of the kernel ticks in hundredths of a second.
    assert before - 0.1 <= first <= before + 0.49
    assert first == pytest.approx(second, abs=0.05)


def test_without_proc_the_start_is_that_of_the_import(monkeypatch):
    monkeypatch.delenv("ASCEND_KERAS_START", raising=False)
    monkeypatch.setattr(report, "open", lambda path: io.StringIO(""), raising=False)
    assert report.started() == report._IMPORTED


def test_load_reads_one_run_or_a_folder_of_runs(tmp_path):
    finish(tmp_path / "b", train_accuracy=0.5)
    finish(tmp_path / "a", train_accuracy=0.25)
    (tmp_path / "a file").write_text("")
    assert [summary["train_accuracy"] for summary in report.load(str(tmp_path))] == [0.25, 0.5]
    assert [summary["train_accuracy"] for summary in report.load(str(tmp_path / "b"))] == [0.5]


@pytest.mark.parametrize("text", ["{", "[]", '{"case_name": "x"}', "3"])
def test_load_refuses_what_is_no_result(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"The file is no result of a run.*summary.json"):
        report.load(str(tmp_path))


def test_load_of_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="Give the output folder of a finished run"):
        report.load(str(tmp_path / "absent"))


def test_table_is_aligned(tmp_path):
    summaries = [finish(tmp_path)[0], finish(tmp_path, case_name="short", actual_fps=5.0)[0]]
    lines = report.table(summaries).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["case", "backend", "images/sec", "ms/step", "accuracy", "loss", "seconds"]
    assert lines[2].split() == ["short", "host", "5.00000", "3276800.00", "0.823450", "0.410000", "42"]
