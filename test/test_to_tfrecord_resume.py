"""A run that writes TFRecords, killed, started again, or started with something else."""

import fcntl
import os
import subprocess
import sys

import image_files
import pytest
from tfrecord_folders import by_name, contents, examples, make_source, read, write_lines

from ascend_keras.data import plan
from ascend_keras.data.to_tfrecord import to_tfrecord

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def own_photographs(tmp_path):
    """For tests that change the files."""
    return make_source(tmp_path / "source")[0]


def test_a_second_run_writes_nothing(photographs, tmp_path):
    to_tfrecord(photographs[0], str(tmp_path), shards=3)
    before = contents(str(tmp_path))
    assert to_tfrecord(photographs[0], str(tmp_path), shards=3).written == 0
    assert contents(str(tmp_path)) == before


def test_missing_shards_are_written_again(photographs, tmp_path):
    to_tfrecord(photographs[0], str(tmp_path), shards=3)
    before = contents(str(tmp_path))
    os.remove(str(tmp_path / "train-00001-of-00003"))
    os.remove(str(tmp_path / ".train.work" / "train-00002-of-00003.json"))
    assert to_tfrecord(photographs[0], str(tmp_path), shards=3).written == 2
    assert contents(str(tmp_path)) == before


def begin_then(own_photographs, tmp_path, **changes):
    to_tfrecord(own_photographs, str(tmp_path / "out"), shards=2)
    return lambda: to_tfrecord(own_photographs, str(tmp_path / "out"), **dict(dict(shards=2), **changes))


def test_changes_of_the_source_are_named(own_photographs, tmp_path):
    again = begin_then(own_photographs, tmp_path)
    files = [path for path, _, _ in plan.scan(own_photographs)]
    grown, removed, touched = (os.path.join(own_photographs, path) for path in files[:3])
    with open(grown, "ab") as file:
        file.write(b"12345")
    size = os.path.getsize(grown)
    os.remove(removed)
    os.utime(touched, (1, 1))
    added = image_files.make_photographs(own_photographs, classes=1, per_class=5, names=[files[0].split(os.sep)[0]])[0][
        4
    ]
    os.utime(touched, (1, 1))
    with open(grown, "ab") as file:
        file.truncate(size)
    with pytest.raises(ValueError) as caught:
        again()
    lines = str(caught.value).splitlines()
    assert lines[0] == "An earlier run was begun with another source or other settings:"
    assert "  added: " + os.path.relpath(added, own_photographs) in lines
    assert "  written anew: " + files[2] in lines


def test_a_removed_file_and_one_of_another_size_are_named(own_photographs, tmp_path):
    again = begin_then(own_photographs, tmp_path)
    files = plan.scan(own_photographs)
    os.remove(os.path.join(own_photographs, files[0][0]))
    with open(os.path.join(own_photographs, files[1][0]), "ab") as file:
        file.write(b"12345")
    with pytest.raises(ValueError) as caught:
        again()
    assert str(caught.value).splitlines()[1:3] == [
        "  removed: " + files[0][0],
        "  size was {:,} bytes, is {:,}: {}".format(files[1][1], files[1][1] + 5, files[1][0]),
    ]


@pytest.mark.parametrize(
    "changes, line", [({"seed": 1}, "  seed: was 0, is 1"), ({"shards": 3}, "  shards: was 2, is 3")]
)
def test_other_settings_are_named(own_photographs, tmp_path, changes, line):
    with pytest.raises(ValueError) as caught:
        begin_then(own_photographs, tmp_path, **changes)()
    assert line in str(caught.value).splitlines()


def test_shards_that_left_out_images_are_no_start_for_a_strict_run(own_photographs, tmp_path):
    strict = begin_then(own_photographs, tmp_path, on_bad_image="error")
    with pytest.raises(ValueError) as caught:
        strict()
    assert str(caught.value).splitlines()[1] == "  on_bad_image: was skip, is error"


def test_a_strict_run_may_go_on_leaving_out_images_and_not_back(own_photographs, tmp_path):
    def run(on_bad_image):
        return to_tfrecord(own_photographs, str(tmp_path / "out"), shards=2, on_bad_image=on_bad_image).written

    assert [run("error"), run("error"), run("skip")] == [2, 0, 0]
    with pytest.raises(ValueError, match="on_bad_image: was skip, is error"):
        run("error")


def test_restart_leaves_nothing_of_the_other_run(own_photographs, tmp_path):
    begin_then(own_photographs, tmp_path, shards=3, restart=True)()
    to_tfrecord(own_photographs, str(tmp_path / "straight"), shards=3)
    assert contents(str(tmp_path / "out")) == contents(str(tmp_path / "straight"))


@pytest.mark.parametrize("restart", [False, True])
def test_shards_without_a_plan_are_not_touched(own_photographs, tmp_path, restart):
    (tmp_path / "train-00000-of-00009").write_bytes(b"mine")
    with pytest.raises(ValueError, match="There are files of that split already, and no plan that says what they are"):
        to_tfrecord(own_photographs, str(tmp_path), restart=restart)
    assert (tmp_path / "train-00000-of-00009").read_bytes() == b"mine"


def test_two_processes_do_not_write_one_folder(own_photographs, tmp_path):
    work = tmp_path / ".train.work"
    work.mkdir()
    with open(str(work / "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="Another process is writing there"):
            to_tfrecord(own_photographs, str(tmp_path))


def test_both_splits_share_a_folder(own_photographs, tmp_path):
    for split in ("train", "validation"):
        to_tfrecord(own_photographs, str(tmp_path), split, shards=2)
    assert len(examples(str(tmp_path), "train")) == len(examples(str(tmp_path), "validation")) == 12


def test_splits_with_other_classes_are_refused(own_photographs, tmp_path):
    out = str(tmp_path / "out")
    to_tfrecord(own_photographs, out)
    names = sorted(os.listdir(own_photographs))
    image_files.make_photographs(tmp_path / "other", classes=2, per_class=1, names=[names[0], names[2]])
    with pytest.raises(ValueError) as caught:
        to_tfrecord(str(tmp_path / "other"), out, "validation")
    listed = os.path.join(out, "train.classes.txt")
    assert str(caught.value) == (
        "The splits do not have the same classes. Received: split='validation' with 2 ({}, {}), and train.classes.txt "
        "with 3 ({}). Give the same to both with --classes={}.".format(names[0], names[2], ", ".join(names), listed)
    )
    to_tfrecord(str(tmp_path / "other"), out, "validation", classes=listed)
    assert sorted(example["image/class/label"] for example in examples(out, "validation")) == [[1], [3]]


@pytest.mark.parametrize("below", ["", "records", os.path.join("a", "b")])
def test_the_output_is_not_among_the_images(own_photographs, below):
    before = sorted(os.listdir(own_photographs))
    with pytest.raises(ValueError, match="The output must not lie among the images"):
        to_tfrecord(own_photographs, os.path.join(own_photographs, below))
    assert sorted(os.listdir(own_photographs)) == before


def test_boxes_of_other_images(photographs, tmp_path):
    boxes = write_lines(tmp_path / "boxes.csv", ["n00007846_64193.JPEG,0,0,1,1"])
    with pytest.raises(
        ValueError, match=r"No box is of any of the images. .* which names n00007846_64193.JPEG; images"
    ):
        to_tfrecord(photographs[0], str(tmp_path / "out"), boxes=boxes)


SEEDS = "`seed` must be a whole number from 0 to 4294967295. Received: seed={}. Give another."


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"shards": 0}, "`shards` must be 1 or more. Received: shards=0."),
        ({"workers": -1}, "`workers` must be 1 or more. Received: workers=-1."),
        ({"seed": -1}, "`seed` must be a whole number from 0 to 4294967295. Received: seed=-1. Give another."),
        (
            {"seed": 2**32},
            "`seed` must be a whole number from 0 to 4294967295. Received: seed=4294967296. Give another.",
        ),
        ({"seed": 0.5}, "`seed` must be a whole number from 0 to 4294967295. Received: seed=0.5. Give another."),
        ({"split": "a/b"}, "`split` is the beginning of file names. Received: split='a/b'."),
        ({"on_bad_image": "ignore"}, '`on_bad_image` is "skip" or "error". Received: on_bad_image=\'ignore\'.'),
    ],
)
def test_wrong_arguments(photographs, tmp_path, arguments, message):
    with pytest.raises(ValueError) as caught:
        to_tfrecord(photographs[0], str(tmp_path / "out"), **arguments)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


# Children are forked before TensorFlow has threads, so that many can be killed in little time. Each is killed when it
# is about to do something for the n-th time, or has just done it.
KILLED = """
import os, signal, sys, threading
from ascend_keras.data import image_check, tfrecord_writer
from ascend_keras.data.to_tfrecord import to_tfrecord

source, output = sys.argv[1:]

def kill_at(owner, name, number, after):
    real, calls, lock = getattr(owner, name), [], threading.Lock()
    def patched(*arguments):
        with lock:
            calls.append(name)
            call = len(calls)
        if call == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments)
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, patched)

def run(folder, point=None, workers=1):
    child = os.fork()
    if not child:
        if point:
            kill_at(*point)
        to_tfrecord(source, folder, shards=3, workers=workers)
        os._exit(0)
    return os.waitpid(child, 0)[1]

def contents(folder):
    return {name: open(os.path.join(folder, name), "rb").read()
            for name in os.listdir(folder) if not name.startswith(".")}

assert run(output + "/straight") == 0
points = [(os, "replace", number, False) for number in range(1, 10)] + [(os, "replace", 3, True)]
points += [(image_check.ImageChecker, "as_rgb_jpeg", number, False) for number in (1, 12)]
points += [(tfrecord_writer, "sync", number, False) for number in (1, 3)]
many = [(os, "replace", number, number % 2) for number in (3, 4, 6)]
many += [(image_check.ImageChecker, "as_rgb_jpeg", 7, False)]
for index, (point, workers) in enumerate([(point, 1) for point in points] + [(point, 3) for point in many]):
    folder = "{}/{}".format(output, index)
    assert run(folder, point, workers) == signal.SIGKILL, point
    assert run(folder) == 0, point
    assert contents(folder) == contents(output + "/straight"), point
    assert sorted(os.listdir(folder + "/.train.work")) == sorted(os.listdir(output + "/straight/.train.work")), point
# One run that is killed again and again ends all the same.
for point in [(image_check.ImageChecker, "as_rgb_jpeg", 3, False)] + [(os, "replace", 2, True)] * 2:
    assert run(output + "/often", point) == signal.SIGKILL, point
assert run(output + "/often") == 0
assert contents(output + "/often") == contents(output + "/straight")
print("killed", len(points), len(many))
"""


def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(photographs, tmp_path):
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    bad = tmp_path / "source" / "bad"
    bad.mkdir(parents=True)
    (bad / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    image_files.make_photographs(tmp_path / "source", classes=2, per_class=6)
    image_files.make_photographs(tmp_path / "source", classes=1, per_class=1, names=["bad"])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "source"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "killed 14 4\n"
    stored = sorted(by_name(str(tmp_path / "straight")))
    assert len(stored) == 13
    assert read(str(tmp_path / "straight" / "train.skipped.txt")).startswith(b"bad/broken.jpg\t")
