"""The training scripts, with a stub in place of the recipe and a TensorFlow in name only."""

import json
import os
import pathlib
import signal
import sys
import time

import pytest
from script_checkout import Checkout

SHARED = """
from absl import flags
flags.DEFINE_string("note", "none", "anything")
"""
STUB = """
import json, os, sys, time
import shared
from absl import app, flags
FLAGS = flags.FLAGS
flags.DEFINE_string("data_path", None, "data")
flags.DEFINE_string("precision_mode", None, "precision")
flags.DEFINE_boolean("over_dump", False, "dump")
flags.DEFINE_integer("status", 0, "exit status")
flags.DEFINE_boolean("crash", False, "raise")
flags.DEFINE_boolean("hang", False, "sleep")
flags.DEFINE_string("output_dir", None, "output")
flags.DEFINE_string("case_suffix", None, "suffix")
flags.DEFINE_boolean("bind_core", False, "bound")
NETWORK_FLAGS

def main(_):
    print("stub on stdout")
    print("stub on stderr", file=sys.stderr)
    seen = dict(flags=FLAGS.flag_values_dict(), environment=dict(os.environ), cwd=os.getcwd(), start=time.time())
    seen.update(pid=os.getpid(), cores=sorted(os.sched_getaffinity(0)))
    with open(os.path.join(FLAGS.output_dir, "ckpt", "seen.json"), "w") as file:
        json.dump(seen, file)
    if FLAGS.hang:
        print("hanging", flush=True)
        time.sleep(600)
    if FLAGS.crash:
        raise RuntimeError("no device")
    if FLAGS.status:
        sys.exit(FLAGS.status)
    print("Final Train Accuracy : 0.5")

app.run(main)
"""

OF_NETWORKS = """
flags.DEFINE_enum("mode", "train", ["train", "evaluate", "train_and_evaluate"], "what")
flags.DEFINE_integer("batch_size", 1, "images")
flags.DEFINE_float("lr", 1.0, "rate")
flags.DEFINE_alias("learning_rate", "lr")
flags.DEFINE_integer("max_epochs", 1, "epochs")
flags.DEFINE_alias("epoch", "max_epochs")
flags.DEFINE_integer("max_train_steps", None, "steps")
flags.DEFINE_alias("step", "max_train_steps")
flags.DEFINE_integer("iterations_per_loop", 1, "steps")
flags.DEFINE_list("restore_exclude", "dense_2", "layers")
flags.DEFINE_boolean("resume", False, "go on")
flags.DEFINE_boolean("eval", False, "evaluate")
flags.DEFINE_string("checkpoint_dir", None, "folder")
flags.DEFINE_alias("data_dir", "data_path")
"""


@pytest.fixture
def training(tmp_path):
    """A checkout whose recipe is a stub, run by the Python of these tests with a TensorFlow in name only."""
    checkout = Checkout(tmp_path)
    examples = checkout.path / "examples"
    (examples / "shared.py").write_text(SHARED)
    (examples / "swa_blobs.py").write_text(STUB.replace("NETWORK_FLAGS", ""))
    for name in ("alexnet_imagenet", "alexnet_cats_vs_dogs"):
        (examples / (name + ".py")).write_text(STUB.replace("NETWORK_FLAGS", OF_NETWORKS))
    modules = checkout.fake / "modules"
    modules.mkdir()
    (modules / "tensorflow.py").write_text("__version__ = '2.21.0'\n")
    (modules / "sklearn.py").write_text("")
    (checkout.bin / "python3").write_text('#!/bin/sh\nexec "{}" "$@"\n'.format(sys.executable))
    (checkout.bin / "python3").chmod(0o755)
    checkout.modules = modules
    checkout.output = checkout.path / "test" / "output" / "0"
    return checkout


def train(checkout, *arguments, **changes):
    script = changes.pop("script", "train_full_1p.sh")
    changes.setdefault("PYTHONPATH", checkout.modules)
    return checkout.run(checkout.path / "test" / script, *arguments, **changes)


def seen(checkout, folder=None):
    return json.loads(((folder or checkout.output) / "ckpt" / "seen.json").read_text())


SCRIPTS = ["train_full_1p.sh", "train_performance_1p.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_training(training, script, flag):
    done = train(training, "--data_path=./", flag, script=script)
    assert (done.returncode, done.err) == (0, "")
    for name in ("data_path", "recipe", "precision_mode", "over_dump", "bind_core", "overwrite", "note", "status"):
        assert "  --{}".format(name) in done.out
    assert "case_suffix" not in done.out
    assert not training.output.exists()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [[], ["--data_path="], ["--note=x"]])
def test_data_path_is_required_in_the_words_of_the_convention(training, script, arguments):
    done = train(training, *arguments, script=script)
    assert (done.returncode, done.out, done.err) == (1, '[Error] para "data_path" must be config\n', "")


@pytest.mark.parametrize("argument", ["--presicion_mode=x", "--case_suffix=x", "data", "--note"])
def test_a_wrong_flag_is_status_2(training, argument):
    done = train(training, "--data_path=./", argument)
    assert done.returncode == 2
    assert done.out == ""
    assert argument in done.err
    assert ("Did you mean --precision_mode?" in done.err) == ("mode" in argument)


@pytest.mark.parametrize("script, suffix", list(zip(SCRIPTS, ["acc", "perf"])))
def test_a_training(training, script, suffix):
    before = time.time()
    done = train(training, "--data_path=./", script=script)
    assert done.returncode == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("recipe swa_blobs: ")
    assert lines[1:] == ["stub on stdout", "stub on stderr", "Final Train Accuracy : 0.5"]
    assert (training.output / "train_0.log").read_text().splitlines() == lines[1:]
    stub = seen(training)
    assert stub["flags"]["case_suffix"] == suffix
    assert stub["flags"]["output_dir"] == str(training.output)
    assert stub["flags"]["bind_core"] is False
    assert stub["cwd"] == str(training.fake)
    environment = stub["environment"]
    names = ("JOB_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "ASCEND_GLOBAL_LOG_LEVEL")
    assert [environment[name] for name in names] == ["10087", "1", "0", "3"]
    assert before - 1 <= int(environment["ASCEND_KERAS_START"]) <= stub["start"]


def test_flags_and_environment_reach_the_recipe(training):
    value = "two  words; $(touch pwned) 'quoted' \"twice\" * \\"
    done = train(
        training,
        "--data_path=./",
        "--note=" + value,
        "--over_dump",
        "--precision_mode",
        "force_fp32",
        JOB_ID="7",
        ASCEND_DEVICE_ID="3",
        RANK_SIZE="8",
        ASCEND_GLOBAL_LOG_LEVEL="1",
    )
    assert done.returncode == 0, done.err
    assert "RANK_SIZE=8 is not used" in done.out
    folder = training.output.parent / "3"
    assert (folder / "train_3.log").exists()
    stub = seen(training, folder)
    assert [stub["flags"][name] for name in ("note", "over_dump", "precision_mode")] == [value, True, "force_fp32"]
    environment = stub["environment"]
    names = ("JOB_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "ASCEND_GLOBAL_LOG_LEVEL")
    assert [environment[name] for name in names] == ["7", "1", "3", "1"]
    assert not (training.fake / "pwned").exists()


@pytest.mark.parametrize("arguments, status", [(["--status=37"], 37), (["--crash"], 1), (["--status=abc"], 1)])
def test_a_failing_training_fails_the_script_without_a_summary(training, arguments, status):
    done = train(training, "--data_path=./", *arguments)
    assert done.returncode == status
    assert "Final" not in done.out
    assert "the training failed with exit status {}".format(status) in done.err
    assert (training.output / "train_0.log").exists()


def test_a_terminated_script_ends_the_training(training):
    process = training.start(
        training.path / "test" / "train_full_1p.sh", "--data_path=./", "--hang", PYTHONPATH=training.modules
    )
    for line in process.stdout:
        if line == "hanging\n":
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(seen(training)["pid"], 0)


def test_a_former_run_is_kept(training):
    for number in range(3):
        assert train(training, "--data_path=./", "--note=run {}".format(number)).returncode == 0
    folders = [training.output, pathlib.Path(str(training.output) + ".1"), pathlib.Path(str(training.output) + ".2")]
    assert [seen(training, folder)["flags"]["note"] for folder in folders] == ["run 2", "run 0", "run 1"]


def test_a_former_run_is_deleted_when_asked(training):
    for _ in range(2):
        assert train(training, "--data_path=./", "--overwrite").returncode == 0
    assert [path.name for path in training.output.parent.iterdir()] == ["0"]


def test_a_run_that_is_resumed_stays_where_it_is(training):
    folder = data_folder(training, IMAGENET)
    path = "--data_dir=" + str(folder)  # the other name of data_path
    assert train(training, path, "--note=first").returncode == 0
    done = train(training, path, "--note=second", "--resume", "--checkpoint_dir=here")
    assert done.returncode == 0, done.err
    assert [entry.name for entry in training.output.parent.iterdir()] == ["0"]
    flags = seen(training)["flags"]
    assert (flags["note"], flags["resume"], flags["data_path"]) == ("second", True, str(folder))
    assert flags["checkpoint_dir"] == str(training.fake / "here")
    assert (training.output / "train_0.log").read_text().count("stub on stdout") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--resume", "--overwrite"], "--overwrite would delete what --resume goes on with."),
        (["--mode=evaluate"], "This script trains. Received: --mode=evaluate. Use test/eval_1p.sh"),
        (["--eval"], "This script trains. Received: --mode=evaluate."),
    ],
)
def test_what_a_training_cannot_do(training, arguments, message):
    write_run(training)
    done = train(training, "--data_path=" + str(data_folder(training, IMAGENET)), *arguments)
    assert (done.returncode, done.out) == (2, "")
    assert message in done.err
    assert (training.output / "train_0.log").read_text() == "the training\n"


@pytest.mark.parametrize("argument", ["--mode=train", "--resume", "--overwrite"])
def test_what_an_evaluation_cannot_do(training, argument):
    write_run(training)
    done = evaluate(training, "--data_path=./", argument)
    assert (done.returncode, done.out) == (2, "")
    assert "Received: {}. Leave it out.".format(argument) in done.err


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_a_folder_that_holds_something_else_is_left_alone(training, arguments):
    kept = training.fake / "home" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    done = train(training, "--data_path=./", "--output_dir=" + str(kept.parent), *arguments)
    assert done.returncode == 1
    assert "holds something that is no former run" in done.err
    assert [path.name for path in kept.parent.iterdir()] == ["thesis.txt"]


def test_bound_to_cores(training):
    core = max(os.sched_getaffinity(0))
    command = 'exec taskset -c {} bash "$0" --data_path=./ --bind_core=yes'.format(core)
    done = training.run("-c", command, training.path / "test" / "train_full_1p.sh", PYTHONPATH=training.modules)
    assert done.returncode == 0, done.err
    assert "bound to the cores {}\n".format(core) in done.out
    assert seen(training)["cores"] == [core]
    assert seen(training)["flags"]["bind_core"] is True


@pytest.mark.parametrize("value", ["false", "0", ""])
def test_not_bound_to_cores_when_refused(training, value):
    done = train(training, "--data_path=./", "--bind_core=" + value)
    assert "bound" not in done.out
    assert seen(training)["flags"]["bind_core"] is False


def test_binding_without_taskset_is_an_error(training):
    if (training.bin / "taskset").exists():
        (training.bin / "taskset").unlink()
    done = train(training, "--data_path=./", "--bind_core")
    assert done.returncode == 1
    assert "--bind_core needs taskset" in done.err


IMAGENET = ["train-00000-of-00001"]
CATS = ["cat.0.jpg", "dog.0.jpg"]
CONSTANTS = {
    ("alexnet_imagenet", "acc"): ("train_and_evaluate", 128, 0.0075, 150, None, 100),
    ("alexnet_imagenet", "perf"): ("train", 256, 0.015, 1, 5000, 100),
    ("alexnet_cats_vs_dogs", "acc"): ("train", 1, 1.0, 35, None, 1),
    ("alexnet_cats_vs_dogs", "perf"): ("train", 1, 1.0, 1, 600, 1),
}
NUMBERS = ("mode", "batch_size", "lr", "max_epochs", "max_train_steps", "iterations_per_loop")


@pytest.mark.parametrize("files, recipe", [(IMAGENET, "alexnet_imagenet"), (CATS, "alexnet_cats_vs_dogs")])
@pytest.mark.parametrize("script, suffix", list(zip(SCRIPTS, ["acc", "perf"])))
def test_the_data_choose_the_recipe_and_its_constants(training, files, recipe, script, suffix):
    folder = data_folder(training, files)
    done = train(training, "--data_path=" + str(folder), script=script)
    assert done.returncode == 0, done.err
    first = done.out.splitlines()[0]
    assert first.startswith("recipe {}: AlexNet for ".format(recipe))
    assert "{} looks like".format(folder) in first
    flags = seen(training)["flags"]
    assert tuple(flags[name] for name in NUMBERS) == CONSTANTS[recipe, suffix]
    assert flags["data_path"] == str(folder)


def data_folder(training, files):
    folder = training.fake / "data"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("")
    return folder


def test_flags_go_before_the_constants_under_any_name(training):
    folder = data_folder(training, IMAGENET)
    path = "--data_path=" + str(folder)
    done = train(training, path, "--learning_rate=0.5", "--epoch=7", script="train_performance_1p.sh")
    assert done.returncode == 0, done.err
    # The length is what was asked for: that of the constants, in steps, is not there.
    numbers = {name: seen(training)["flags"][name] for name in NUMBERS}
    assert numbers == dict(zip(NUMBERS, ("train", 256, 0.5, 7, None, 100)))


def test_another_recipe_than_that_of_the_data(training):
    folder = data_folder(training, IMAGENET)
    done = train(training, "--data_path=" + str(folder), "--recipe=swa_blobs")
    assert done.returncode == 0
    assert done.out.splitlines()[0] == "recipe swa_blobs: asked for by --recipe"


def test_a_flag_of_another_recipe_is_named_as_such(training):
    done = train(training, "--data_path=./", "--lr=0.5")
    assert (done.returncode, done.out) == (2, "")
    lines = done.err.splitlines()
    assert lines[0] == (
        "--lr is a flag of alexnet_cats_vs_dogs and alexnet_imagenet, not of this recipe. Received: --lr=0.5."
    )
    assert lines[1].startswith("The recipe swa_blobs: ")


def test_data_without_a_recipe_are_refused_before_anything_is_made(training):
    folder = data_folder(training, ["x.tfrecord"])
    done = train(training, "--data_path=" + str(folder))
    assert done.returncode == 1
    assert "looks like TFRecords (x.tfrecord), and there is no recipe for it" in done.err
    assert not training.output.exists()


def evaluate(training, *arguments, **changes):
    return train(training, *arguments, script="eval_1p.sh", **changes)


def write_run(training, folder=None, recipe="alexnet_imagenet"):
    folder = folder or training.output
    (folder / "ckpt").mkdir(parents=True)
    flags = dict(lr=0.5, restore_exclude=["a", "b"], mode="train", data_path="/gone", case_suffix="perf")
    config = {name: {"value": value, "origin": "flag"} for name, value in flags.items()}
    config["batch_size"] = {"value": 99, "origin": "default"}
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "flags": config}))
    (folder / "train_0.log").write_text("the training\n")
    return folder


def test_an_evaluation_has_the_flags_of_its_training(training):
    write_run(training)
    done = evaluate(training, "--data_path=./", "--batch_size=7")
    assert done.returncode == 0, done.err
    assert done.out.splitlines()[0] == "recipe alexnet_imagenet: that of the run in {}".format(training.output)
    flags = seen(training)["flags"]
    names = ("mode", "lr", "restore_exclude", "batch_size", "data_path", "output_dir", "case_suffix")
    expected = ["evaluate", 0.5, ["a", "b"], 7, str(training.fake), str(training.output), None]
    assert [flags[name] for name in names] == expected
    assert (training.output / "train_0.log").read_text() == "the training\n"
    assert "stub on stdout" in (training.output / "eval_0.log").read_text()
    assert [path.name for path in training.output.parent.iterdir()] == ["0"]


def test_an_evaluation_that_fails_fails_the_script(training):
    write_run(training)
    done = evaluate(training, "--data_path=./", "--status=3")
    assert done.returncode == 3
    assert "the evaluation failed with exit status 3; its output is in" in done.err


@pytest.mark.parametrize(
    "recipe, arguments, message",
    [
        (None, [], "There is no run of a recipe to evaluate. Received: --output_dir="),
        ("swa_blobs", [], "The recipe swa_blobs evaluates when it trains, and only then."),
        ("alexnet_imagenet", ["--recipe=alexnet_cats_vs_dogs"], "The run in the folder is of another recipe"),
    ],
)
def test_nothing_to_evaluate(training, recipe, arguments, message):
    if recipe:
        write_run(training, recipe=recipe)
    done = evaluate(training, "--data_path=./", *arguments)
    assert done.returncode == 1
    assert message in done.err


def test_help_of_the_evaluation(training):
    done = evaluate(training, "--help")
    assert (done.returncode, done.err) == (0, "")
    assert done.out.startswith("usage: bash test/eval_1p.sh --data_path=PATH")


def test_wrong_flags_are_found_before_an_environment_is_made(training):
    (training.modules / "tensorflow.py").unlink()
    done = train(training, "--data_path=./", "--nonsense", PYTHONPATH="")
    assert done.returncode == 2
    assert not training.venvs.exists()
