"""The recipe AlexNet on cats and dogs: each of its flags, and a whole run through the shell script on photographs."""

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

SCRIPT = recipes.SCRIPTS["alexnet_cats_vs_dogs"]
CHANGED = {
    "backend": "host",
    "batch_size": "7",
    "checkpoint_dir": "/somewhere",
    "data_dump_flag": "true",
    "data_path": "/other",
    "display_every": "3",
    "do_checkpoint": "false",
    "dropout": "0.2",
    "epoch": "3",
    "held_out": "9",
    "image_size": "128",
    "kernels_every": "0",
    "learning_rate": "0.1",
    "loss_scale": "128",
    "max_checkpoint_to_save": "2",
    "mode": "train",
    "momentum": "0.8",
    "on_bad_image": "error",
    "output_dir": "other",
    "over_dump": "true",
    "pca_noise": "0",
    "plateau_epochs": "5",
    "plateau_factor": "0.5",
    "plateau_gain": "0.1",
    "precision_mode": "force_fp32",
    "profiling": "true",
    "resize": "squash",
    "restore_exclude": "dense,dense_1",
    "restore_path": "weights.npz",
    "resume": "true",
    "save_interval": "4",
    "seed": "3",
    "step": "33",
    "ten_crop": "true",
    "threads": "1",
    "variant": "modelzoo",
    "weight_decay": "0.001",
}
TOGETHER = {
    "data_dump_step": ["--data_dump_flag", "--data_dump_step=3"],
    "data_save_path": ["--over_dump", "--data_save_path=dumps"],
}
# The name of the case in the result files, and a check, not a setting.
ELSEWHERE = {"bind_core", "case_suffix", "mul_rank_size"}


def test_every_flag_changes_the_configuration(tmp_path):
    flags = recipes.script_flags(SCRIPT)
    aliases = {name: flag.help[len("the same as --") :] for name, flag in flags.items() if "the same as" in flag.help}
    assert set(flags) - set(aliases) == set(CHANGED) | set(TOGETHER) | ELSEWHERE
    base = ["--data_path=/data", "--output_dir=" + str(tmp_path)]
    cases = {name: ["--{}={}".format(name, value)] for name, value in CHANGED.items()}
    for name, together in TOGETHER.items():
        cases[name + " without"], cases[name] = together[:1], together
    cases.update({name: ["--{}={}".format(name, CHANGED.get(aliases[name], "1"))] for name in aliases})
    cases[""] = []
    ordered = sorted(cases)
    found = dict(zip(ordered, resolve_all("alexnet_cats_vs_dogs", [base + cases[name] for name in ordered])))
    assert all(isinstance(config, dict) for config in found.values()), found
    same = [name for name in CHANGED if found[name] == found[""]]
    same += [name for name in TOGETHER if found[name] == found[name + " without"]]
    assert not same, "flags that do nothing: {}".format(same)
    different = [name for name, target in aliases.items() if target in CHANGED and found[name] != found[target]]
    assert not different, "aliases that are none: {}".format(different)
    default = found[""]
    assert default["optimizer"] == dict(learning_rate=0.001, momentum=0.9)
    assert default["loss"] == dict(label_smoothing=0.0, weight_decay=5e-4, apply_to="weights")
    assert default["plateau"] == dict(every=10, min_gain=0.02, factor=0.1)
    assert (default["training_data"]["batch_size"], default["training_data"]["pca_noise"]) == (100, 0.1)
    assert default["model"] == dict(name="alexnet_two_tower", variant=None, image_size=227, dropout=0.5)


def test_wrong_flags_are_refused_and_ranks_raise_the_learning_rate():
    cases = {
        "--data_path must be given": [],
        "Received: --variant=torchvision": ["--data_path=/d", "--variant=torchvision"],
        "Received: --image_size=67": ["--data_path=/d", "--ten_crop", "--image_size=67"],
        "Received: --rank_size=2, where the environment has 4": ["--data_path=/d", "--mul_rank_size=2"],
        "--mul_device_id is refused: the environment variable ASCEND_DEVICE_ID": ["--mul_device_id=1"],
        "Did you mean --plateau_epochs?": ["--plateau_epoch=3"],
    }
    found = resolve_all("alexnet_cats_vs_dogs", list(cases.values()) + [["--data_path=/d"]], ranks=4)
    for message, text in zip(cases, found):
        assert message in text
    assert found[-1]["optimizer"]["learning_rate"] == 0.004


UGLY = sorted(name.split(".")[0] for name in image_files.ugly_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, output = tmp_path_factory.mktemp("kaggle"), tmp_path_factory.mktemp("cats") / "out"
    # 200 photographs, and 19 files as real sets have them, 4 of which are unreadable.
    image_files.make_kaggle(str(folder), per_class=100)
    for kind, path in image_files.ugly(str(folder), huge=False).items():
        os.rename(path, str(folder / "dog.{}.jpg".format(1000 + UGLY.index(kind))))
    flags = ["--data_path=" + str(folder), "--output_dir=" + str(output), "--image_size=67", "--batch_size=40"]
    flags += ["--epoch=3", "--held_out=19", "--plateau_epochs=2", "--plateau_gain=2", "--save_interval=2", "--seed=3"]
    environment = dict(os.environ, PYTHON=sys.executable, TF_CPP_MIN_LOG_LEVEL="3")
    done = subprocess.run(
        ["bash", os.path.join(ROOT, "test", "train_full_1p.sh")] + flags,
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, output


def test_the_log_has_the_recipes_lines(trained):
    text, output = trained
    assert text.splitlines()[0].startswith("recipe alexnet_cats_vs_dogs: AlexNet for cats and dogs, as ")
    steps = lines.parse_cats_steps(text)
    # 200 images of 219 are for training: five batches of 40. The first step compiles.
    assert [(line.epoch, line.step) for line in steps] == [(epoch, step) for epoch in range(3) for step in range(5)][1:]
    for line in steps:
        assert line.fps > 0
        assert line.step_time == pytest.approx(40 / line.fps, abs=6e-4)
    assert parsers.cats_fps(text) == steps[-1].fps
    assert text.count("test accuracy ") == text.count("train accuracy ") == 3
    losses = lines.parse_cats_losses((output / "loss.txt").read_text())
    summary = json.loads((output / "summary.json").read_text())
    assert [epoch for epoch, _, _ in losses] == [1, 2, 3]
    assert [loss for _, loss, _ in losses] == pytest.approx(summary["losses"], abs=1e-6)
    # No accuracy can gain 200 points; the decision falls after the third epoch.
    assert text.count("[learning rate reducing] 0.0001") == 1


def test_every_photograph_is_counted_and_the_bad_ones_are_named(trained):
    text, output = trained
    rows = lines.parse_evaluation(text)
    assert [(row.step, row.epoch) for row in rows] == [(5, 1.0), (10, 2.0), (15, 3.0)]
    assert text.count("Validation dataset size: 19") == 3
    summary = json.loads((output / "summary.json").read_text())
    assert summary["train_accuracy"] == pytest.approx(rows[-1].top1 / 100, abs=1e-5)
    for kind in image_files.UNREADABLE:
        assert "dog.{}.jpg: ".format(1000 + UGLY.index(kind)) in text
    assert "4 image(s) could not be decoded and were skipped" in text
    assert summary["details"]["bad_images"] == 4


def test_the_files_of_the_recipe(trained):
    _, output = trained
    case = "AlexNet_ID0259_for_TensorFlow_bs40_1p_acc"
    assert parsers.result_file((output / (case + ".log")).read_text())["CaseName"] == case
    assert sorted(path.name for path in (output / "ckpt").iterdir()) == ["ckpt-00002.npz", "ckpt-00003.npz"]
    kernels = output / "first_kernel_visualization"
    assert sorted(path.name for path in kernels.iterdir()) == [
        "result{:04d}.{}".format(epoch, kind) for epoch in (1, 2, 3) for kind in ("npy", "png")
    ]
    assert np.load(str(kernels / "result0003.npy")).shape == (96, 11, 11, 3)
    for name in ("acc.png", "loss.png"):
        assert (output / name).read_bytes()[:4] == b"\x89PNG"
