"""Checkpoint files: whole or not there, whatever happens to the process or to the disk."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from ascend_keras import checkpoint_files as files

ARRAYS = [
    ("whole", np.arange(6, dtype=np.int64).reshape(2, 3) - 2**40),
    ("half/deep", np.array([1.5, -0.0, np.inf, np.nan], np.float16)),
    ("seed", np.array([1, 2**32 - 1], np.uint32)),
    ("scalar", np.array(0.1)),
    ("flags", np.array([True, False])),
    ("empty", np.zeros((0, 3), np.float32)),
    ("text", np.array(["dense/kernel", "größer"])),
]
META = {"epoch": 3, "text": "ü", "logs": {"loss": 0.1, "bad": float("nan"), "far": float("-inf")}, "list": [1, None]}


def write(path, arrays=ARRAYS, meta=META):
    files.write(str(path), meta, iter(arrays))
    return str(path)


def test_what_was_written_is_read(tmp_path):
    meta, arrays = files.read(write(tmp_path / "a.npz"))
    # NaN is not equal to itself, but its text is.
    assert json.dumps({key: meta[key] for key in META}) == json.dumps(META)
    assert sorted(arrays) == sorted(name for name, _ in ARRAYS)
    for name, array in ARRAYS:
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()
        assert arrays[name].shape == array.shape
    assert os.listdir(str(tmp_path)) == ["a.npz"]


def test_narrow_floats_are_widened(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -(2.0**-100), np.inf]).astype(ml_dtypes.bfloat16)
    read = files.read(write(tmp_path / "a.npz", [("a", array)]))[1]["a"]
    assert read.dtype == np.float32
    assert read.astype(ml_dtypes.bfloat16).tobytes() == array.tobytes()


def test_no_object_is_pickled(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write(tmp_path / "a.npz", [("a", np.array([{}], object))])
    assert os.listdir(str(tmp_path)) == []


def test_writer_that_fails_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "a.npz")

    def arrays():
        yield "first", np.zeros(9)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write(path, {}, arrays())
    assert os.listdir(str(tmp_path)) == ["a.npz"]
    assert files.read_meta(path)["epoch"] == 3


def test_every_changed_byte_is_noticed(tmp_path):
    path = write(tmp_path / "a.npz", ARRAYS[:3])
    with open(path, "rb") as file:
        good = file.read()
    expected = {name: array.tobytes() for name, array in ARRAYS[:3]}
    messages = []
    for index in range(len(good)):
        with open(path, "wb") as file:
            # In a text, a digit becomes another one.
            file.write(good[:index] + bytes([good[index] ^ 0x01]) + good[index + 1 :])
        try:
            meta, arrays = files.read(path)
        except files.DamagedFileError as error:
            messages.append(str(error))
        else:
            # A byte that says nothing of the content, such as a date.
            assert {name: array.tobytes() for name, array in arrays.items()} == expected
            assert (meta["epoch"], meta["text"]) == (3, "ü")
    start = "This is no whole ascend_keras checkpoint. Received: {!r}".format(path)
    assert len([message for message in messages if message.startswith(start)]) > len(good) // 2


def test_changed_shape_of_a_large_array_is_noticed(tmp_path):
    path = write(tmp_path / "a.npz", [("a", np.zeros(30000))])
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content.replace(b"(30000,)", b"(20000,)"))
    files.read_meta(path)
    with pytest.raises(files.DamagedFileError, match="goes on behind its end|Bad CRC"):
        files.read(path)


def test_every_cut_is_noticed(tmp_path):
    path = write(tmp_path / "a.npz", ARRAYS[:2])
    with open(path, "rb") as file:
        good = file.read()
    for length in range(len(good)):
        with open(path, "wb") as file:
            file.write(good[:length])
        with pytest.raises(files.DamagedFileError, match="This is no whole ascend_keras checkpoint"):
            files.read_meta(path)


def test_other_files_are_no_checkpoints(tmp_path):
    np.savez(str(tmp_path / "a.npz"), x=np.zeros(3))
    np.save(str(tmp_path / "b.npz.npy"), np.zeros(3))
    np.savez(str(tmp_path / "c.npz"), meta=np.frombuffer(b'{"format": "other", "version": 1}', np.uint8))
    np.savez(str(tmp_path / "d.npz"), meta=np.frombuffer(b"[1]", np.uint8))
    for name in ("a.npz", "b.npz.npy", "c.npz", "d.npz"):
        with pytest.raises(files.DamagedFileError, match="This is no whole ascend_keras checkpoint"):
            files.read_meta(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "none.npz"))


def test_later_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VERSION", 2)
    path = write(tmp_path / "ckpt-00001.npz")
    monkeypatch.setattr(files, "VERSION", 1)
    with pytest.raises(
        ValueError, match="A later version of ascend_keras wrote this .* of version 2, where 1 is"
    ) as error:
        files.read_meta(path)
    assert "Upgrade ascend_keras." in str(error.value)
    with pytest.raises(ValueError, match="A later version"):
        # Not one to pass over in silence.
        list(files.Folder(str(tmp_path), 5).whole())


def test_numbers_are_sorted_as_numbers(tmp_path):
    folder = files.Folder(str(tmp_path), 2)
    for epoch in (99999, 100000, 7):
        write(folder.numbered_path(epoch))
    assert [epoch for epoch, _ in folder.numbered()] == [100000, 99999, 7]
    folder.prune()
    assert sorted(os.listdir(str(tmp_path))) == ["ckpt-100000.npz", "ckpt-99999.npz"]


@pytest.mark.parametrize("links", [True, False])
def test_best_is_a_copy(links, tmp_path, monkeypatch):
    def no_link(*paths):
        raise OSError("links are not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    folder = files.Folder(str(tmp_path), 1)
    assert folder.best_meta() is None
    for epoch in (1, 2):
        write(folder.numbered_path(epoch), meta={"epoch": epoch})
        folder.make_best(folder.numbered_path(epoch))
        assert folder.best_meta()["epoch"] == epoch
    os.remove(folder.numbered_path(2))
    assert files.read(folder.best)[1]["seed"].tolist() == [1, 2**32 - 1]
    assert sorted(os.listdir(str(tmp_path))) == ["best.npz", "ckpt-00001.npz"]


def test_leftover_that_shares_its_bytes_with_a_checkpoint_is_not_written_to(tmp_path):
    folder = files.Folder(str(tmp_path), 5)
    first, second = folder.numbered_path(1), folder.numbered_path(2)
    write(first, meta={"epoch": 1})
    for name in (".best.npz.{}.tmp", ".ckpt-00002.npz.{}.tmp"):
        os.link(first, str(tmp_path / name.format(os.getpid())))
    write(second, meta={"epoch": 2})
    folder.make_best(second)
    assert [meta["epoch"] for _, _, meta in folder.whole()] == [2, 1]
    assert folder.best_meta()["epoch"] == 2
    assert sorted(os.listdir(str(tmp_path))) == ["best.npz", "ckpt-00001.npz", "ckpt-00002.npz"]


KILLER = """
import builtins, os, signal, sys
import numpy as np
from ascend_keras import checkpoint_files as files

def arrays(epoch):
    for index in range(3):
        yield "a{}".format(index), np.full(20000, epoch, np.float32)

def work(folder):
    folder.open()
    start = folder.numbered()[0][0] if folder.numbered() else 0
    for epoch in range(start + 1, start + 4):
        path = folder.numbered_path(epoch)
        files.write(path, {"epoch": epoch}, arrays(epoch))
        if epoch % 2:
            folder.make_best(path)
        folder.prune()

def killing(name, state):
    call = getattr(os, name)
    def killed(*args, **options):
        for _ in range(2):
            if _ == 1:
                result = call(*args, **options)
            state[0] -= 1
            if state[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(os, name, killed)

def opening(path, mode="r", *args, call=builtins.open, **options):
    assert "w" not in mode or path.endswith(".tmp"), path
    return call(path, mode, *args, **options)

def child(folder, moment):
    state = [moment]
    builtins.open = opening
    for name in ("fsync", "replace", "link", "remove", "makedirs"):
        killing(name, state)
    whole_write = np.lib.format.write_array
    def half(member, array, **options):
        state[0] -= 1
        if state[0] < 0:
            member.write(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        whole_write(member, array, **options)
    np.lib.format.write_array = half
    work(folder)
    os._exit(0)

def check(folder, before):
    whole = [(epoch, path) for epoch, path, _ in folder.whole()]
    assert whole == folder.numbered(), whole
    epochs = [epoch for epoch, _ in whole]
    # No gap, and nothing that was there is lost.
    assert epochs == [epochs[0] - index for index in range(len(epochs))] if epochs else not before, epochs
    assert not before or epochs[0] >= before, (epochs, before)
    for epoch, path in whole + ([(None, folder.best)] if os.path.exists(folder.best) else []):
        meta, content = files.read(path)
        assert epoch in (None, meta["epoch"])
        for index in range(3):
            assert (content["a{}".format(index)] == meta["epoch"]).all()
    return epochs[0] if epochs else 0

folder, moment, newest, left = files.Folder(sys.argv[1], 2), 0, 0, 0
had_best = False
while True:
    pid = os.fork()
    if pid == 0:
        child(folder, moment)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    newest = check(folder, newest)
    assert os.path.exists(folder.best) or not had_best
    had_best = os.path.exists(folder.best)
    left += sum(name.endswith(".tmp") for name in os.listdir(folder.path)) if moment else 0
    moment += 1
check(folder, newest)
assert sorted(os.listdir(folder.path)) == sorted(
    ["best.npz"] + ["ckpt-{:05d}.npz".format(epoch) for epoch, _ in folder.numbered()])
assert len(folder.numbered()) == 2
print(moment, left)
"""


def test_killed_at_any_moment_leaves_whole_files_only(tmp_path):
    """Kills a writer before and after each of its calls of the system, and inside the writing of each array."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path / "folder")],
        cwd=root,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    moments, leftovers = map(int, done.stdout.split())
    assert moments > 30
    assert leftovers > 10
