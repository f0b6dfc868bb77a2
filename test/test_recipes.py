"""Which recipe for which data, and the command line of the training scripts."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from recipe_flags import resolve_all

from ascend_keras import recipes
from ascend_keras.recipes import Flag, UsageError


def make(folder, *paths):
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("")
    return str(folder)


@pytest.mark.parametrize(
    "paths, described",
    [
        (["train-00000-of-01024", "validation-00000-of-00128"], "ImageNet TFRecords (train-00000-of-01024)"),
        (["train/train-00007-of-01024"], "ImageNet TFRecords (train/train-00007-of-01024)"),
        (["n01440764/a.JPEG"], "ImageNet class folders (n01440764)"),
        (["train/n01440764/a.JPEG"], "ImageNet class folders (train/n01440764)"),
        (["cat.0.jpg", "dog.0.jpg"], "cats-vs-dogs files (cat.0.jpg)"),
        (["train/dog.12499.jpg"], "cats-vs-dogs files (train/dog.12499.jpg)"),
        (["PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg"], "cats-vs-dogs folders (PetImages/Cat)"),
        (["some.tfrecord"], "TFRecords (some.tfrecord)"),
        (["train/roses/1.png"], "class folders of images (train/roses)"),
        ([], None),
        (["train.py", "cat.txt", "train/notes.txt", "train/sub/readme.md", "n1/x"], None),
        (["cat/x.py"], None),
        (["dogs-vs-cats.zip"], "cats-vs-dogs zip (dogs-vs-cats.zip)"),
        (["kagglecatsanddogs_5340.zip", "readme.txt"], "cats-vs-dogs zip (kagglecatsanddogs_5340.zip)"),
        (["other.zip"], None),
    ],
)
def test_data_sets_are_recognised(tmp_path, paths, described):
    assert recipes.recognise(make(tmp_path, *paths)) == described


def test_a_file_or_nothing_is_no_data_set(tmp_path):
    assert recipes.recognise(make(tmp_path, "x") + "/x") is None
    assert recipes.recognise(str(tmp_path / "absent")) is None


def test_auto_takes_swa_for_anything_else_and_says_why(tmp_path):
    name, reason = recipes.choose("auto", str(tmp_path))
    assert name == "swa_blobs"
    assert reason.startswith("recipe swa_blobs: ")
    assert "{} holds no image data set".format(tmp_path) in reason


@pytest.mark.parametrize(
    "names, described",
    [
        (["train/cat.0.jpg", "train/dog.0.jpg"], "cats-vs-dogs zip (train/cat.0.jpg)"),
        (["readme.txt", "PetImages/Cat/0.jpg"], "cats-vs-dogs zip (PetImages/Cat/0.jpg)"),
        (["roses/0.jpg", "cat.txt"], None),
    ],
)
def test_a_zip_is_known_by_what_is_in_it(tmp_path, names, described):
    path = str(tmp_path / "some.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    assert recipes.recognise(path) == described


@pytest.mark.parametrize(
    "paths, recipe, why",
    [
        (["validation-00000-of-00128"], "alexnet_imagenet", "ImageNet TFRecords (validation-00000-of-00128)"),
        (["train/n01440764/a.JPEG"], "alexnet_imagenet", "ImageNet class folders (train/n01440764)"),
        (["train/roses/1.png"], "alexnet_imagenet", "class folders of images (train/roses)"),
        (["cat.0.jpg"], "alexnet_cats_vs_dogs", "cats-vs-dogs files (cat.0.jpg)"),
        (
            ["PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg"],
            "alexnet_cats_vs_dogs",
            "cats-vs-dogs folders (PetImages/Cat)",
        ),
        (["dogs-vs-cats.zip"], "alexnet_cats_vs_dogs", "cats-vs-dogs zip (dogs-vs-cats.zip)"),
    ],
)
def test_auto_chooses_by_the_data_and_says_why(tmp_path, paths, recipe, why):
    folder = make(tmp_path, *paths)
    what = {"alexnet_imagenet": "AlexNet for ImageNet", "alexnet_cats_vs_dogs": "AlexNet for cats and dogs"}[recipe]
    reason = "recipe {}: {}, as {} looks like {} (--recipe=auto)".format(recipe, what, folder, why)
    assert recipes.choose("auto", folder) == (recipe, reason)
    assert recipes.choose("swa_blobs", folder) == ("swa_blobs", "recipe swa_blobs: asked for by --recipe")


def test_auto_refuses_data_that_it_has_no_recipe_for(tmp_path):
    path = make(tmp_path, "some.tfrecord")
    with pytest.raises(UsageError, match=r"looks like TFRecords .* no recipe for it.*--recipe=swa_blobs"):
        recipes.choose("auto", path)


def test_auto_refuses_a_path_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="There is no such folder. Received: --data_path=.*absent"):
        recipes.choose("auto", str(tmp_path / "absent"))


def test_unknown_recipe_has_a_near_match():
    with pytest.raises(UsageError, match="Did you mean swa_blobs. Received: --recipe=swa-blobs. Known are auto"):
        recipes.choose("swa-blobs", "./")


# --- flags ---------------------------------------------------------------------------------------------------------

KNOWN = {
    "epochs": Flag("epochs", False, "None", "passes"),
    "data_path": Flag("data_path", False, "required", "data"),
    "profiling": Flag("profiling", True, "False", "profile"),
    "normal": Flag("normal", False, "None", "begins with no"),
}


@pytest.mark.parametrize(
    "arguments, values",
    [
        (["--epochs=3"], {"epochs": "3"}),
        (["--epochs", "3", "--profiling"], {"epochs": "3", "profiling": "true"}),
        (["--epochs=3", "--epochs=4"], {"epochs": "4"}),
        (["--noprofiling"], {"profiling": "false"}),
        (["--profiling=False"], {"profiling": "False"}),
        (["--data-path=a b=c"], {"data_path": "a b=c"}),
        (["--normal=", "--epochs", "-1"], {"normal": "", "epochs": "-1"}),
    ],
)
def test_parse(arguments, values):
    assert dict(recipes.parse(arguments, KNOWN)) == values


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--epoch=3", "Unknown flag. Did you mean --epochs? Received: --epoch=3."),
        ("--qqqq", "Unknown flag. Received: --qqqq."),
        ("--data_pathX=/d", "Did you mean --data_path? Received: --data_pathX=/d."),
        ("--noepochs", "Unknown flag. Did you mean --epochs? Received: --noepochs."),
        ("--epochs", "The flag needs a value: --epochs=... Received: --epochs."),
        ("-e", "Flags begin with --. Received: -e."),
        ("data", "Flags begin with --. Received: data."),
    ],
)
def test_parse_refuses(argument, message):
    with pytest.raises(UsageError) as caught:
        recipes.parse([argument, "--profiling"], KNOWN)
    assert message in str(caught.value)


def test_parse_names_all_problems():
    with pytest.raises(UsageError) as caught:
        recipes.parse(["--a=1", "b", "--epochs"], KNOWN)
    assert len(str(caught.value).splitlines()) == 4


def test_flags_are_read_from_the_source(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from absl import flags\n"
        "import no_such_module\n"
        "print('not run')\n"
        "flags.DEFINE_integer('epochs', 3, 'passes', lower_bound=1)\n"
        "flags.DEFINE_alias('train_epochs', 'epochs')\n"
        "flags.DEFINE_boolean('profile', False, 'whether ' 'to')\n"
        "flags.DEFINE_enum('kind', 'a', sorted(KINDS), 'which')\n"
    )
    assert list(recipes.script_flags(str(script)).values()) == [
        Flag("epochs", False, "3", "passes"),
        Flag("train_epochs", False, "3", "the same as --epochs"),
        Flag("profile", True, "False", "whether to"),
        Flag("kind", False, "a", "which"),
    ]


def test_flags_of_modules_beside_the_script_are_its_flags(tmp_path):
    (tmp_path / "shared.py").write_text(
        "from absl import flags\nimport script\nimport os\nflags.DEFINE_integer('seed', 1, 'seed')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import shared\nfrom absl import flags\nflags.DEFINE_alias('random_seed', 'seed')\n"
        "flags.DEFINE_string('x', None, 'x')\n"
    )
    assert list(recipes.script_flags(str(script)).values()) == [
        Flag("seed", False, "1", "seed"),
        Flag("random_seed", False, "1", "the same as --seed"),
        Flag("x", False, "None", "x"),
    ]


@pytest.mark.parametrize("recipe", sorted(recipes.SCRIPTS))
def test_flags_read_are_those_that_absl_knows(recipe):
    script = recipes.SCRIPTS[recipe]
    environment = dict(os.environ, PYTHONPATH=recipes.CHECKOUT)
    done = subprocess.run([sys.executable, script, "--helpxml"], env=environment, capture_output=True, text=True)
    shown = set()
    for flag in re.findall(r"<flag>(.*?)</flag>", done.stdout, re.DOTALL):
        if "<key>yes</key>" in flag:
            shown.add(re.search("<name>(.*?)</name>", flag).group(1))
    assert set(recipes.script_flags(script)) == shown


SWA_CHANGED = {
    "backend": "host",
    "batch_size": "7",
    "data_dump_flag": "true",
    "dataset": "digits",
    "epochs": "9",
    "learning_rate": "0.3",
    "loss_scale": "128",
    "lr_schedule": "constant",
    "max_steps": "1",
    "over_dump": "true",
    "precision_mode": "force_fp32",
    "profiling": "true",
    "resume": "true",
    "seed": "3",
    "swa_freq": "2",
    "swa_lr": "0.01",
    "swa_lr2": "0.02",
    "swa_start_epoch": "5",
}
# Where files go, what they are called, what a run is told by ModelZoo's scripts and makes itself; tested elsewhere.
SWA_ELSEWHERE = {"bind_core", "case_suffix", "data_path", "output_dir"}
SWA_TOGETHER = {"data_dump_step": ["--data_dump_flag"], "data_save_path": ["--over_dump"]}


def test_every_flag_of_swa_changes_its_configuration(tmp_path):
    flags = recipes.script_flags(recipes.SCRIPTS["swa_blobs"])
    names = {name for name, flag in flags.items() if "the same as" not in flag.help}
    assert names == set(SWA_CHANGED) | SWA_ELSEWHERE | set(SWA_TOGETHER)
    base = ["--output_dir=" + str(tmp_path), "--epochs=100", "--batch_size=10"]
    cases = {name: ["--{}={}".format(name, value)] for name, value in SWA_CHANGED.items()}
    cases.update({name + " with": others + ["--{}=1".format(name)] for name, others in SWA_TOGETHER.items()})
    cases.update({name + " without": others for name, others in SWA_TOGETHER.items()})
    cases[""] = []
    found = dict(zip(cases, resolve_all("swa_blobs", [base + case for case in cases.values()], 1000)))
    assert all(isinstance(config, dict) for config in found.values()), found
    assert not [name for name in SWA_CHANGED if found[name] == found[""]]
    assert not [name for name in SWA_TOGETHER if found[name + " with"] == found[name + " without"]]


# --- the script ----------------------------------------------------------------------------------------------------


def test_device_must_be_a_number():
    code = recipes.plan("acc", ["--data_path=./"], {"ASCEND_DEVICE_ID": "../.."})
    assert "ASCEND_DEVICE_ID must be a whole number" in code
    assert code.endswith(">&2; exit 2")


def test_a_folder_with_checkpoints_of_another_training_is_refused(tmp_path):
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "ckpt-00007.npz").write_bytes(b"of last week")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND_KERAS_")}
    done = subprocess.run(
        [sys.executable, recipes.SCRIPTS["swa_blobs"], "--output_dir=" + str(tmp_path), "--dataset=digits"],
        env=dict(environment, PYTHONPATH=recipes.CHECKOUT, TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
    )
    # Status 2 is what the launcher does not start again, so that no restart resumes it either.
    assert done.returncode == 2
    assert "The folder holds checkpoints of another training. Received: 1 of them in " in done.stderr
    assert (tmp_path / "ckpt" / "ckpt-00007.npz").read_bytes() == b"of last week"
