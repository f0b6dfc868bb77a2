"""The command line, in processes of its own and, for errors, in this one."""

import json
import os
import re
import subprocess
import sys

import pytest

import ascend_keras
from ascend_keras import cli, doctor, report

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*arguments, **changes):
    environment = dict(os.environ, PYTHONPATH=ROOT, **changes)
    command = [sys.executable, "-m", "ascend_keras"] + list(arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def make_run(folder, case="Net_bs8_1p_acc", accuracy=0.5):
    result = report.RunResult("Net", 8, case, 100.0, accuracy, 3.0, "host")
    with open(os.devnull, "w") as nowhere:
        report.finish(str(folder), result, [0.7], nowhere)


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["report", "--help"], ["--version"]])
def test_help_and_version_load_no_tensorflow(arguments):
    code = (
        "import sys\nfrom ascend_keras import cli\n"
        "try:\n    cli.main({!r})\nexcept SystemExit as exit:\n    status = exit.code\n"
        "heavy = {{'tensorflow', 'keras', 'numpy', 'absl'}} & set(sys.modules)\n"
        "sys.exit(repr((status, heavy)) if status or heavy else 0)"
    ).format(arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in ("doctor", "report", "recipe"):
        assert re.search(r"^ +{} +\w".format(command), done.stdout, re.MULTILINE)


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, "ascend_keras {}\n".format(ascend_keras.__version__))


def test_without_a_command_the_help_is_shown_and_the_status_is_that_of_wrong_usage(capsys):
    assert cli.main([]) == 2
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["docter"], ["doctor", "--bakend=npu"], ["report"], ["recipe"], ["doctor", "--js"]]
)
def test_wrong_usage_has_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_report_shows_runs_as_a_table(tmp_path, capsys):
    make_run(tmp_path / "one", accuracy=0.25)
    make_run(tmp_path / "two", accuracy=0.75)
    assert cli.main(["report", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines] == ["accuracy", "0.250000", "0.750000"]


def test_report_as_json(tmp_path, capsys):
    make_run(tmp_path)
    assert cli.main(["report", "--json", str(tmp_path)]) == 0
    [summary] = json.loads(capsys.readouterr().out)
    assert summary["case_name"] == "Net_bs8_1p_acc"


def test_an_error_is_one_line_and_status_1(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ascend-keras: No summary.json in the folder")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        cli.main(["--debug", "report", str(tmp_path)])


def test_a_reader_that_goes_is_no_traceback(tmp_path):
    make_run(tmp_path)
    # Far more than a pipe holds, so that the writer meets its end.
    code = "{} -m ascend_keras report {} | head -n 1".format(sys.executable, ". " * 3000)
    environment = dict(os.environ, PYTHONPATH=ROOT)
    done = subprocess.run(["bash", "-c", code], cwd=str(tmp_path), env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("case ")
    assert done.stderr == ""


@pytest.mark.parametrize("flag", ["--data-path", "--data_path"])
def test_flags_take_dashes_and_underscores(tmp_path, capsys, flag):
    folder = tmp_path / "a_b"
    folder.mkdir()
    assert cli.main(["recipe", flag + "=" + str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("recipe swa_blobs: ")
    assert str(folder) in out


def test_recipe_that_is_not_known(capsys):
    assert cli.main(["recipe", "--data-path=./", "--recipe=swa_blob"]) == 1
    assert "Did you mean swa_blobs?" in capsys.readouterr().err


@pytest.mark.parametrize("status, expected", [("ok", 0), ("FAIL", 1)])
def test_doctor_has_the_status_of_the_chosen_backend(monkeypatch, capsys, status, expected):
    findings = [doctor.Finding("npu-smi", "FAIL", "broken", "mend it"), doctor.Finding("chosen backend", status, "why")]
    monkeypatch.setattr(doctor, "examine", lambda backend: findings)
    assert cli.main(["doctor"]) == expected
    assert capsys.readouterr().out.splitlines()[:2] == ["npu-smi         FAIL  broken", " " * 22 + "-> mend it"]
    assert cli.main(["doctor", "--json"]) == expected
    assert json.loads(capsys.readouterr().out)["usable"] == (status == "ok")


def test_doctor_of_an_unknown_backend(capsys):
    assert cli.main(["doctor", "--backend=gpu"]) == 1
    assert "Unknown backend. Received: backend='gpu'. Available: auto, npu, " in capsys.readouterr().err
