"""train_full_8p.sh and train_performance_8p.sh, with a stub in place of the recipe and a TensorFlow in name only."""

import glob
import json
import os
import signal

import pytest
from test_scripts import IMAGENET, NUMBERS, SCRIPTS, data_folder, train, training  # noqa: F401

from ascend_keras import recipes
from ascend_keras.distributed import rank_table

SCRIPTS_8P = [name.replace("_1p", "_8p") for name in SCRIPTS]
RANKED = """
import json, os, sys, time
print("rank", os.environ["ASCEND_KERAS_RANK"], flush=True)
seen = dict(environment=dict(os.environ), arguments=sys.argv[1:], cwd=os.getcwd(), pid=os.getpid())
seen["cores"] = sorted(os.sched_getaffinity(0))
folder = [word.split("=", 1)[1] for word in sys.argv if word.startswith("--output_dir=")][-1]
with open(os.path.join(folder, "ckpt", "seen%s.json" % os.environ["ASCEND_KERAS_RANK"]), "w") as file:
    json.dump(seen, file)
if "--note=hang" in sys.argv:
    print("hanging", flush=True)
    time.sleep(600)
if "--note=fail" in sys.argv and os.environ["ASCEND_KERAS_RANK"] == "1":
    if "--note=once" not in sys.argv or os.environ["ASCEND_KERAS_RESTARTS"] == "0":
        print("no such device", flush=True)
        sys.exit(37)
"""


@pytest.fixture
def ranked(training):  # noqa: F811
    """The checkout of `training`, whose recipe for blobs writes down what each rank was given, and trains nothing."""
    script = training.path / "examples" / "swa_blobs.py"
    # The flags are read from the source, which is not run: the stub ends before.
    script.write_text(
        "if True:\n"
        + "".join("    " + line + "\n" for line in RANKED.splitlines())
        + "    sys.exit(0)\n"
        + script.read_text()
    )
    return training


def seen(checkout, folder=None):
    """What the ranks were given, in order."""
    paths = sorted((folder or checkout.output).glob("ckpt/seen*.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("script", SCRIPTS_8P)
def test_help(training, script):  # noqa: F811
    done = train(training, "--help", script=script)
    assert (done.returncode, done.err) == (0, "")
    assert done.out.startswith("usage: bash test/{} --data_path=PATH".format(script))
    for name in ("data_path", "rank_table", "devices", "max_restarts", "bind_core", "note"):
        assert "  --{}".format(name) in done.out


@pytest.mark.parametrize("script", SCRIPTS_8P)
def test_data_path_is_required_in_the_words_of_the_convention(training, script):  # noqa: F811
    done = train(training, "--devices=0,1", script=script)
    assert (done.returncode, done.out, done.err) == (1, '[Error] para "data_path" must be config\n', "")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--devices=0", "This script trains on two devices or more, each of them named once. Received: --devices=0."),
        ("--devices=0,1,1", "each of them named once. Received: --devices=0,1,1."),
        ("--devices=0-x", "Devices are numbers and ranges of them, such as 0-3 or 4,5. Received: 0-x."),
        ("--devices=3-2", "Devices are numbers and ranges of them"),
        ("--devices=0,1,7-5", "Devices are numbers and ranges of them"),
        ("--rank_table=/none.json", "--rank_table=/none.json: "),
        ("--max_restarts=some", "Restarts are counted. Received: --max_restarts=some."),
        ("--device=0,1", "Unknown flag. Did you mean --devices? Received: --device=0,1."),
    ],
)
def test_wrong_flags_are_status_2(training, argument, message):  # noqa: F811
    done = train(training, "--data_path=./", argument, script="train_full_8p.sh")
    assert (done.returncode, done.out) == (2, "")
    assert message in done.err
    assert not training.output.exists()


@pytest.mark.parametrize("flag", ["--devices=0,1", "--rank_table=x", "--max_restarts=1"])
def test_the_scripts_for_one_device_know_nothing_of_ranks(training, flag):  # noqa: F811
    done = train(training, "--data_path=./", flag)
    assert done.returncode == 2
    assert "Unknown flag." in done.err


def test_every_rank_gets_the_flags_and_its_number(ranked):
    value = "two  words; $(touch pwned) 'quoted'"
    done = train(ranked, "--data_path=./", "--devices=0-2", "--note=" + value, script="train_full_8p.sh", RANK_SIZE="5")
    assert done.returncode == 0, done.err
    assert done.out.splitlines()[0].startswith("recipe swa_blobs: ")
    ranks = seen(ranked)
    addresses = json.loads(ranks[0]["environment"]["TF_CONFIG"])["cluster"]["worker"]
    assert len(set(addresses)) == len(ranks) == 3
    for rank, stub in enumerate(ranks):
        config = json.loads(stub["environment"]["TF_CONFIG"])
        assert config == {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        assert "RANK_SIZE" not in stub["environment"]
        assert stub["cwd"] == str(ranked.fake)
        assert "--note=" + value in stub["arguments"]
        assert stub["arguments"][-3:] == [
            "--output_dir=" + str(ranked.output),
            "--bind_core=false",
            "--case_suffix=acc",
        ]
        assert (ranked.output / "ranks" / "rank_{}.log".format(rank)).read_text() == "rank {}\n".format(rank)
        assert "[rank {0}] rank {0}\n".format(rank) in done.out
    assert not (ranked.fake / "pwned").exists()
    assert [argument for argument in ranks[0]["arguments"] if "devices" in argument] == []


def test_a_failing_rank_fails_the_script(ranked):
    done = train(ranked, "--data_path=./", "--devices=0,1", "--note=fail", script="train_performance_8p.sh")
    assert done.returncode == 37
    assert "the training failed with exit status 37" in done.err
    assert "rank 1 failed: exit code 37" in done.out
    assert "no such device" in (ranked.output / "train_0.log").read_text()


def test_ranks_start_again_when_asked(ranked):
    done = train(
        ranked, "--data_path=./", "--devices=0,1", "--note=fail", "--max_restarts=2", script="train_full_8p.sh"
    )
    assert done.returncode == 37
    assert [stub["environment"]["ASCEND_KERAS_RESTARTS"] for stub in seen(ranked)] == ["2", "2"]


def test_a_terminated_script_ends_all_ranks(ranked):
    script = ranked.path / "test" / "train_full_8p.sh"
    process = ranked.start(script, "--data_path=./", "--devices=0,1", "--note=hang", PYTHONPATH=ranked.modules)
    hanging = 0
    for line in process.stdout:
        hanging += "hanging" in line
        if hanging == 2:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    for stub in seen(ranked):
        with pytest.raises(ProcessLookupError):
            os.kill(stub["pid"], 0)


def test_bound_to_cores(ranked):
    done = train(ranked, "--data_path=./", "--devices=0,1", "--bind_core", script="train_full_8p.sh")
    assert done.returncode == 0, done.err
    cores = [stub["cores"] for stub in seen(ranked)]
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) > 1:
        assert not set(cores[0]) & set(cores[1])
    assert sorted(set(cores[0] + cores[1])) == allowed
    assert "--bind_core=true" in seen(ranked)[0]["arguments"]


def test_constants_of_the_scripts(training):  # noqa: F811
    folder = data_folder(training, IMAGENET)
    expected = {
        "acc_8p": ("train_and_evaluate", "128", "0.06", "150", None, "100"),
        "perf_8p": ("train", "128", "0.06", None, "1000", "100"),
    }
    for kind, numbers in expected.items():
        code = recipes.plan(kind, ["--data_path=" + str(folder)], {})
        flags = code[code.index("flags=(") + len("flags=(") : code.index(")\nlaunch=")].split()
        values = dict(flag[2:].split("=", 1) for flag in flags)
        assert tuple(values.get(name) for name in NUMBERS) == numbers
        assert values["case_suffix"] == kind.split("_")[0]


NPUS = bool(glob.glob("/dev/davinci[0-9]*"))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "--backend npu -n 8 --devices 0,1,2,3,4,5,6,7" if NPUS else "--backend host -n 8"),
        (["--devices=4-7", "--backend=npu_bridge"], "--backend npu -n 4 --devices 4,5,6,7"),
        (["--devices=2,3", "--backend=host"], "--backend host -n 2"),
        (["--rank_table=TABLE"], "--backend npu --rank-table TABLE"),
        (
            ["--devices=0,1", "--backend=host", "--max_restarts=3", "--bind_core"],
            "--backend host -n 2 --max-restarts 3 --bind-cores",
        ),
    ],
)
def test_what_the_launcher_is_told(tmp_path, arguments, expected):
    table = tmp_path / "table.json"
    rank_table.write(rank_table.make([("127.0.0.1", {4: "", 5: ""})]), str(table))
    arguments = [argument.replace("TABLE", str(table)) for argument in arguments]
    code = recipes.plan("acc_8p", ["--data_path=./", "--output_dir=/out"] + arguments, {})
    launch = code[code.index("launch=(") + len("launch=(") : code.rindex(")")].split()
    at = launch.index("--log-dir")
    assert launch[at : at + 2] == ["--log-dir", "/out/ranks"]
    assert " ".join(launch[:at] + launch[at + 2 :]) == expected.replace("TABLE", str(table))
    first = {"--devices=4-7": "4", "--devices=2,3": "2", "--rank_table=" + str(table): "4"}
    assert "device={}\n".format(next((first[flag] for flag in arguments if flag in first), "0")) in code


def test_a_former_run_stays_where_ranks_cannot_be_started(ranked):
    (ranked.output / "ckpt").mkdir(parents=True)
    (ranked.output / "train_0.log").write_text("the former run\n")
    table = ranked.fake / "table.json"
    rank_table.write(rank_table.make([("127.0.0.1", {0: "", 1: ""})]), str(table))
    arguments = ["--data_path=./", "--overwrite", "--output_dir=" + str(ranked.output)]
    table.write_text(table.read_text().replace('"completed"', '"begun"'))
    done = train(ranked, "--rank_table=" + str(table), *arguments, script="train_full_8p.sh")
    assert done.returncode == 2
    assert "status" in done.err and "Received" in done.err
    assert (ranked.output / "train_0.log").read_text() == "the former run\n"
    done = train(ranked, "--devices=0,1", "--rank_table=" + str(table), *arguments, script="train_full_8p.sh")
    assert done.returncode == 2
    assert "The rank table says which devices there are." in done.err
