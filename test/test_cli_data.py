"""`ascend-keras data`: its arguments, its output, and its exit status."""

import json
import os
import signal
import subprocess
import sys
import time

import image_files
import pytest

from ascend_keras import cli

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def contents(folder):
    found = {}
    for name in os.listdir(folder):
        if not name.startswith("."):
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
    return found


@pytest.mark.parametrize(
    "arguments", [["data", "--help"], ["data", "to-tfrecord", "--help"], ["data", "check", "--help"], ["data"]]
)
def test_help_loads_no_tensorflow(arguments):
    code = (
        "import sys\nfrom ascend_keras import cli\n"
        "try:\n    status = cli.main({!r})\nexcept SystemExit as exit:\n    status = exit.code\n"
        "print(status, sorted({{'tensorflow', 'keras', 'numpy'}} & set(sys.modules)))"
    ).format(arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "{} []".format(2 if arguments == ["data"] else 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["to-tfrecord", "a"], "the following arguments are required: OUTPUT"),
        (["to-tfrecord", "a", "b", "--shards=0"], "argument --shards: must be a whole number from 1 on, not '0'"),
        (["to-tfrecord", "a", "b", "--workers=x"], "argument --workers: must be a whole number from 1 on, not 'x'"),
        (["to-tfrecord", "a", "b", "--on-bad-image=ignore"], "argument --on-bad-image: invalid choice: 'ignore'"),
        (["to-tfrecord", "a", "b", "--shard=3"], "unrecognized arguments: --shard=3"),
        (["check"], "the following arguments are required: PATH"),
        (["chek", "a"], "invalid choice: 'chek'"),
    ],
)
def test_wrong_usage_has_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cli.main(["data"] + arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_write_then_check(tmp_path, capsys):
    source, output = str(tmp_path / "source"), str(tmp_path / "out")
    image_files.make_photographs(source, classes=2, per_class=3)
    assert cli.main(["data", "to-tfrecord", source, output, "--shards=2", "--seed", "5"]) == 0
    assert capsys.readouterr().out == ("6 images of 2 classes in 2 files, 2 of them written now; 0 images left out\n")
    assert cli.main(["data", "check", output]) == 0
    assert capsys.readouterr().out == ("train: TFRecords, 6 images in 2 files, 2 classes of 3 to 3 images, 0 broken\n")


def test_broken_images_are_named_and_the_status_is_1(tmp_path, capsys):
    image_files.make_photographs(tmp_path / "source", classes=1, per_class=2, names=["a"])
    (tmp_path / "source" / "a" / "bad.jpg").write_bytes(b"")
    assert cli.main(["data", "check", str(tmp_path / "source")]) == 1
    assert capsys.readouterr().out.splitlines()[1] == "  broken: a/bad.jpg: the file is empty"
    assert cli.main(["data", "check", "--json", str(tmp_path / "source")]) == 1
    [finding] = json.loads(capsys.readouterr().out)
    assert finding["broken"] == [{"name": "a/bad.jpg", "reason": "the file is empty"}]
    assert cli.main(["data", "to-tfrecord", str(tmp_path / "source"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("; 1 images left out, see train.skipped.txt\n")
    arguments = [str(tmp_path / "source"), str(tmp_path / "strict"), "--on_bad_image=error"]
    assert cli.main(["data", "to-tfrecord"] + arguments) == 1
    assert capsys.readouterr().err.startswith("ascend-keras: An image cannot be used.")


def test_names_that_are_not_utf8_are_printed_with_escapes(tmp_path, capsys):
    folder = tmp_path / "source" / "a"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    assert cli.main(["data", "check", str(tmp_path / "source")]) == 1
    assert "  broken: a/caf\\udce9.jpg: the file is empty" in capsys.readouterr().out.splitlines()


def test_restart_says_that_finished_files_go(capsys):
    with pytest.raises(SystemExit):
        cli.main(["data", "to-tfrecord", "--help"])
    help_of_restart = " ".join(capsys.readouterr().out.split("--restart")[-1].split())
    assert help_of_restart == "delete all that an earlier run has written, finished files too, and begin anew"


def test_a_seed_that_numpy_does_not_take(tmp_path, capsys):
    assert cli.main(["data", "to-tfrecord", str(tmp_path), str(tmp_path / "out"), "--seed=-1"]) == 1
    assert capsys.readouterr().err == (
        "ascend-keras: `seed` must be a whole number from 0 to 4294967295. Received: seed=-1. Give another.\n"
    )


def test_a_source_that_is_not_there(tmp_path, capsys):
    assert cli.main(["data", "to-tfrecord", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("ascend-keras: There is no such folder.")
    assert cli.main(["data", "check", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("ascend-keras: There is no such file or folder.")


def start(source, output, **options):
    command = [sys.executable, "-W", "ignore", "-m", "ascend_keras", "data", "to-tfrecord", source, output]
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    return subprocess.Popen(command + ["--shards=40", "--workers=2"], env=environment, **options)


def wait_for_shards(process, folder, count):
    """Waits until so many shards are there, or the process has ended."""
    while process.poll() is None:
        if os.path.isdir(folder) and sum(name.startswith("train-") for name in os.listdir(folder)) >= count:
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A source, and the bytes that a run without interruption makes of it."""
    folder = tmp_path_factory.mktemp("straight")
    source, output = str(folder / "source"), str(folder / "out")
    image_files.make_photographs(source, classes=4, per_class=50, sides=(200, 300))
    assert cli.main(["data", "to-tfrecord", source, output, "--shards=40"]) == 0
    return source, contents(output)


def test_killed_by_another_process_and_started_again(straight, tmp_path):
    source, expected = straight
    output = str(tmp_path / "out")
    process = start(source, output, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_shards(process, output, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main(["data", "to-tfrecord", source, output, "--shards=40"]) == 0
    assert contents(output) == expected


@pytest.fixture
def interruptible():
    """A shell's background job, which the tests may be, ignores Ctrl-C, and its children inherit that."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_ctrl_c_says_how_to_go_on(straight, tmp_path, interruptible):
    source, expected = straight
    output = str(tmp_path / "out")
    process = start(source, output, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    wait_for_shards(process, output, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Interrupted. The same command goes on with the missing files." in errors
    assert cli.main(["data", "to-tfrecord", source, output, "--shards=40"]) == 0
    assert contents(output) == expected
