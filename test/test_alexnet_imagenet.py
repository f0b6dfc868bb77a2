"""The recipe AlexNet on ImageNet: each of its flags, and whole runs through the shell scripts on photographs."""

import json
import os
import subprocess
import sys

import image_files
import modelzoo_parsers as parsers
import numpy as np
import pytest
from recipe_flags import ROOT, resolve_all

from ascend_keras import recipes
from ascend_keras.recipes import lines

SCRIPT = recipes.SCRIPTS["alexnet_imagenet"]

# --- flags ----------------------------------------------------------------------------------------------------------

CHANGED = {
    "alexnet_version": "xavier",
    "backend": "host",
    "batch_size": "7",
    "checkpoint_dir": "/somewhere",
    "color_jitter": "0.4",
    "data_dump_flag": "true",
    "data_path": "/other",
    "debug": "true",
    "display_every": "3",
    "do_checkpoint": "false",
    "dtype": "float32",
    "epochs_between_evals": "2",
    "eval": "true",
    "image_size": "128",
    "iterations_per_loop": "100",
    "label_smoothing": "0.2",
    "log_name": "other.log",
    "loss_scale": "128",
    "lr": "0.1",
    "max_checkpoint_to_save": "2",
    "max_epochs": "20",
    "max_train_steps": "33",
    "mode": "train",
    "momentum": "0.8",
    "num_classes": "10",
    "on_bad_image": "error",
    "output_dir": "other",
    "over_dump": "true",
    "precision_mode": "force_fp32",
    "profiling": "true",
    "resize": "squash",
    "restore_exclude": "dense,dense_1",
    "restore_path": "weights.npz",
    "resume": "true",
    "save_checkpoints_steps": "112590",
    "save_summary_steps": "7",
    "seed": "3",
    "shard": "false",
    "shuffle_buffer": "5",
    "synthetic": "true",
    "threads": "1",
    "use_nesterov": "false",
    "variant": "modelzoo",
    "warmup_epochs": "2",
    "weight_decay": "0.001",
}
# What acts only together with another flag.
TOGETHER = {
    "data_dump_step": ["--data_dump_flag", "--data_dump_step=3"],
    "data_save_path": ["--over_dump", "--data_save_path=dumps"],
    "synthetic_images": ["--synthetic", "--synthetic_images=100"],
}
# The name of the case in the result files (tested below), and a check, not a setting.
ELSEWHERE = {"bind_core", "case_suffix", "rank_size"}


def own_flags():
    """Names of the flags of the script, and its aliases with what they stand for."""
    found = recipes.script_flags(SCRIPT)
    aliases = {name: flag.help[len("the same as --") :] for name, flag in found.items() if "the same as" in flag.help}
    return sorted(set(found) - set(aliases)), aliases


@pytest.fixture(scope="module")
def configurations(tmp_path_factory):
    """The configuration for each flag, and for each alias, by its name; "" for none."""
    _, aliases = own_flags()
    base = ["--data_path=/data", "--output_dir=" + str(tmp_path_factory.mktemp("output"))]
    cases = {name: ["--{}={}".format(name, value)] for name, value in CHANGED.items()}
    for name, together in TOGETHER.items():
        cases[name + " without"], cases[name] = together[:1], together
    cases.update({name: ["--{}={}".format(name, CHANGED.get(aliases[name], "1"))] for name in aliases})
    cases[""] = []
    ordered = sorted(cases)
    return dict(zip(ordered, resolve_all("alexnet_imagenet", [base + cases[name] for name in ordered])))


def test_every_flag_changes_the_configuration(configurations):
    names, aliases = own_flags()
    assert set(names) == set(CHANGED) | set(TOGETHER) | ELSEWHERE
    found = configurations
    assert all(isinstance(config, dict) for config in found.values()), found
    same = [name for name in CHANGED if found[name] == found[""]]
    same += [name for name in TOGETHER if found[name] == found[name + " without"]]
    assert not same, "flags that do nothing: {}".format(same)
    different = [name for name, target in aliases.items() if target in CHANGED and found[name] != found[target]]
    assert not different, "aliases that are none: {}".format(different)


def test_the_defaults_are_the_recipes(configurations):
    config = configurations[""]
    assert config["schedule"] == dict(peak=0.06, warmup_epochs=5, total_epochs=150, staircase=True)
    assert config["optimizer"] == dict(momentum=0.9, nesterov=True)
    assert config["loss"] == dict(label_smoothing=0.1, weight_decay=1e-4, apply_to="all")
    assert config["training_data"]["batch_size"] == 128
    assert config["model"] == dict(name="alexnet", version="he_uniform", variant=None, image_size=224)
    assert config["input"] == dict(dtype="uint8", shard=True)
    assert config["start"]["exclude"] == ["dense_2"]
    assert (config["log"]["every"], config["checkpoint"]["keep"], config["epochs_between_evals"]) == (1251, 5, 5)


def test_wrong_flags_are_refused():
    together = {
        "--data_path must be given, or --synthetic": [],
        "Received: --eval, --mode=train": ["--data_path=/d", "--eval", "--mode=train"],
        "Received: --warmup_epochs=5, --max_epochs=3": ["--data_path=/d", "--max_epochs=3"],
        "Received: --rank_size=8, where the environment has 2": ["--data_path=/d", "--rank_size=8"],
        "Received: --nodo_checkpoint": ["--data_path=/d", "--resume", "--nodo_checkpoint"],
        "Received: --restore_path=w.npz": ["--data_path=/d", "--resume", "--restore_path=w.npz"],
        "Received: --mode=evaluate, --restore_path=w.npz": ["--data_path=/d", "--eval", "--restore_path=w.npz"],
        "Received: --mode=evaluate, --resume": ["--data_path=/d", "--mode=evaluate", "--resume"],
        "Received: loss_scale='abc'": ["--data_path=/d", "--loss_scale=abc"],
    }
    values = [["--lr=fast"], ["--mode=test"], ["--batch_size=0"], ["--lr=0"], ["--label_smoothing=2"]]
    values += [["--num_classes=0"]]
    cases = list(together.values()) + values + [["--data_path=/d", "--group_size=2"]]
    found = resolve_all("alexnet_imagenet", cases, ranks=2)
    for message, text in zip(together, found):
        assert message in text
    for [argument], text in zip(values, found[len(together) :]):
        assert text.startswith("exit 2: ")
        assert argument.split("=")[0].strip("-") in text
    assert found[-1]["ranks"] == 2


def run_script(*arguments):
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    return subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT] + list(arguments),
        env=environment,
        capture_output=True,
        text=True,
    )


def test_unknown_and_retired_flags_exit_2_and_are_all_named():
    done = run_script("--warmup_epoch=3", "--display=1", "--group_siez=8", "stray")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Unknown flag. Did you mean --warmup_epochs? Received: --warmup_epoch=3." in done.stderr
    assert "Unknown flag. Did you mean --group_size? Received: --group_siez=8." in done.stderr
    assert "--display is refused: it has never done anything; --display_every" in done.stderr
    assert "Flags begin with --. Received: stray." in done.stderr


def test_values_that_the_library_refuses_exit_2(tmp_path):
    common_flags = ["--synthetic", "--backend=host", "--image_size=64", "--output_dir=" + str(tmp_path)]
    done = run_script("--precision_mode=bogus", *common_flags)
    assert done.returncode == 2, done.stderr
    assert "bogus" in done.stderr and "Traceback" not in done.stderr
    done = run_script("--synthetic_images=9", "--batch_size=10", *common_flags)
    assert done.returncode == 2, done.stderr
    assert "Received: batch_size=10, 9 images" in done.stderr and "Traceback" not in done.stderr


# --- whole runs -----------------------------------------------------------------------------------------------------

SMALL = ["--image_size=64", "--seed=1"]
# 219 files in batches of 40; five epochs of warm-up.
FILES, STEPS, LEARN_EPOCHS, LEARN_LR, LEARN_COSINE, WARMUP = 219, 5, 30, 0.002, 40, 5


def bash(script, *arguments, **environment):
    """Runs a script of test/ with the Python of these tests; returns the process, and its output."""
    environment = dict(os.environ, PYTHON=sys.executable, TF_CPP_MIN_LOG_LEVEL="3", **environment)
    for name in ("RANK_SIZE", "RANK_ID", "ASCEND_DEVICE_ID"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", os.path.join(ROOT, "test", script)] + list(arguments),
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four photographs of each of 10 classes for training, of which the same ones are for evaluation."""
    folder = tmp_path_factory.mktemp("photographs")
    image_files.make_photographs(str(folder / "train"), classes=10, per_class=4)
    (folder / "validation").symlink_to("train")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 photographs of 10 classes, and among them 19 files as real sets have them, 4 of which are unreadable."""
    folder = tmp_path_factory.mktemp("many")
    image_files.make_photographs(str(folder / "train"), classes=10, per_class=20)
    image_files.ugly(str(folder / "train" / "coffee"), huge=False)  # they are of this class
    (folder / "validation").symlink_to("train")
    assert sum(len(files) for _, _, files in os.walk(str(folder / "train"))) == FILES
    return folder


@pytest.fixture(scope="module")
def learnt(many, tmp_path_factory):
    """The output of train_full_1p.sh, long enough to know all photographs."""
    output = tmp_path_factory.mktemp("full") / "out"
    flags = ["--batch_size=40", "--max_epochs={}".format(LEARN_COSINE), "--lr={}".format(LEARN_LR)]
    flags += ["--max_train_steps={}".format(LEARN_EPOCHS * STEPS)]
    flags += ["--save_checkpoints_steps=1000", "--iterations_per_loop=5", "--epochs_between_evals=1000", "--bind_core"]
    done = bash("train_full_1p.sh", "--data_path=" + str(many), "--output_dir=" + str(output), *SMALL + flags)
    return done.stdout, output


def test_the_network_learns_all_photographs(learnt):
    text, _ = learnt
    assert text.splitlines()[0].startswith("recipe alexnet_imagenet: AlexNet for ImageNet, as ")
    [row] = lines.parse_evaluation(text)
    assert (row.step, row.epoch, row.top1, row.top5) == (LEARN_EPOCHS * STEPS, LEARN_EPOCHS, 100.0, 100.0)
    assert "Validation dataset size: {}".format(FILES) in text
    for kind in image_files.UNREADABLE:
        assert "coffee/{}.".format(kind) in text, kind
    assert parsers.top1(text) == 100.0
    assert parsers.summary(text)["Final Train Accuracy"] == 1.0


def test_the_log_of_a_training(learnt):
    text, output = learnt
    log = (output / "train_0.log").read_text()
    assert lines.parse_steps(log) == lines.parse_steps(text)
    assert lines.parse_steps((output / "alexnet_training.log").read_text()) == lines.parse_steps(text)
    steps = lines.parse_steps(text)
    # The first call compiles and may be all of the first line, whose steps the second one has then.
    assert steps[0].step in (STEPS, 2 * STEPS)
    assert [line.step for line in steps] == list(range(steps[0].step, LEARN_EPOCHS * STEPS + 1, STEPS))
    assert text.count(lines.HEADER) == 1
    for line in steps:
        assert line.epoch == pytest.approx(line.step * 40 / FILES, abs=0.0501)
        # Half the squares of the he_uniform weights, of which the dense layers are most: 0.9397 at the start.
        assert line.total_loss - line.loss == pytest.approx(0.94, abs=0.015)
        # The rate of the step just done: of the rise, or of the staircase of the cosine.
        epoch = (line.step - 1) // STEPS
        rate = LEARN_LR * (1 + np.cos(np.pi * epoch / LEARN_COSINE)) / 2
        rate = LEARN_LR * line.step / (WARMUP * STEPS) if epoch < WARMUP else rate
        assert line.lr == pytest.approx(rate, abs=6e-6)
    assert parsers.fps_by_name(log) == steps[-1].fps > 0
    assert parsers.losses_by_name(log) == [line.total_loss for line in steps]


def test_the_results_of_a_training(learnt):
    text, output = learnt
    case = "AlexNet_ID0072_for_TensorFlow_bindcore_bs40_1p_acc"
    result = parsers.result_file((output / (case + ".log")).read_text())
    keys = ["Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "ActualFPS", "TrainingTime", "TrainAccuracy"]
    assert list(result) == keys + ["ActualLoss", "E2ETrainingTime", "Backend"]
    assert (result["Network"], result["RankSize"], result["BatchSize"]) == (case[:29], "1", "40")
    assert (result["CaseName"], float(result["TrainAccuracy"])) == (case, 1.0)
    summary = json.loads((output / "summary.json").read_text())
    told = parsers.summary(text)
    assert told["Final Performance images/sec"] == pytest.approx(summary["actual_fps"], rel=1e-5)
    assert told["E2E Training Duration sec"] == summary["e2e_training_time"]
    assert summary["training_time"] == pytest.approx(40000 / summary["actual_fps"])
    assert summary["details"]["accuracy_on"] == "validation images"
    assert len(summary["losses"]) == LEARN_EPOCHS
    config = json.loads((output / "config.json").read_text())
    assert config["recipe"] == "alexnet_imagenet"
    assert config["flags"]["image_size"] == {"value": 64, "origin": "flag"}
    assert config["flags"]["momentum"] == {"value": 0.9, "origin": "default"}
    assert config["resolved"]["model"]["image_size"] == 64
    assert [path.name for path in (output / "ckpt").iterdir()] == ["ckpt-{:05d}.npz".format(LEARN_EPOCHS)]
    assert (output / "metrics.csv").read_text().startswith("step,epoch,fps,loss,total_loss,lr,batch_time\n")


def test_an_evaluation_afterwards_says_the_same(learnt, many):
    text, output = learnt
    config = (output / "config.json").read_text()
    flags = ["--data_path=" + str(many), "--output_dir=" + str(output), "--batch_size=16"]
    done = bash("eval_1p.sh", *flags, TZ="Asia/Shanghai")
    [row], [before] = lines.parse_evaluation(done.stdout), lines.parse_evaluation(text)
    assert row[:5] == before[:5]
    assert done.stdout.rstrip().splitlines()[-1] == "Finished evaluation"
    assert "Final" not in done.stdout
    assert (output / "config.json").read_text() == config
    # The time is that of the checkpoint, in UTC whatever the zone of the machine.
    path = output / "ckpt" / "ckpt-{:05d}.npz".format(LEARN_EPOCHS)
    assert row.time.timestamp() == int(path.stat().st_mtime)
    assert "FPS" in (output / "train_0.log").read_text()


def test_a_run_to_an_exact_step_that_is_resumed(photographs, tmp_path):
    """13 steps, in the middle of an epoch, of which 10 are done by a first run; fine-tuned from a file afterwards."""
    path, output = "--data_path=" + str(photographs), tmp_path / "out"
    flags = SMALL + ["--batch_size=8", "--max_epochs=3", "--iterations_per_loop=1", "--display_every=5", path]
    flags += ["--warmup_epochs=1", "--lr=0.001", "--output_dir=" + str(output)]
    first = run_script(*flags + ["--max_train_steps=10", "--mode=train", "--max_checkpoint_to_save=1"])
    assert first.returncode == 0, first.stderr
    assert [line.step for line in lines.parse_steps(first.stdout)] == [5, 10]
    assert [entry.name for entry in (output / "ckpt").iterdir()] == ["ckpt-00002.npz"]
    assert "Evaluating" not in first.stdout
    again = run_script(*flags + ["--max_train_steps=13", "--resume", "--epochs_between_evals=1"])
    assert again.returncode == 0, again.stderr
    assert [line.step for line in lines.parse_steps(again.stdout)] == [13]
    assert [(row.step, row.epoch) for row in lines.parse_evaluation(again.stdout)] == [(13, 3.0)]
    done = run_script(*flags + ["--mode=evaluate"])
    assert [(row.step, row.epoch) for row in lines.parse_evaluation(done.stdout)] == [(10, 2.0), (13, 3.0)]
    refused = run_script(*flags + ["--max_train_steps=15", "--resume"])
    assert refused.returncode == 2, refused.stderr
    assert "ckpt-00003.npz with 13 steps done, where 3 epoch(s) of this run have 15." in refused.stderr


def test_a_run_of_one_call_of_the_device_has_a_result(tmp_path):
    flags = ["--synthetic", "--synthetic_images=16", "--num_classes=10", "--batch_size=4", "--max_train_steps=4"]
    done = run_script(*SMALL + flags + ["--mode=train", "--output_dir=" + str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["actual_fps"] > 0
