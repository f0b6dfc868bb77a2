"""A copy of the checkout for tests of the shell scripts: its path has a blank, its Pythons only pretend."""

import os
import pathlib
import shutil
import subprocess

import pytest

TEST = pathlib.Path(__file__).resolve().parent
ROOT = TEST.parent
TOOLS = ["bash", "cat", "chmod", "cksum", "cp", "cut", "date", "dirname", "env", "flock", "getconf", "grep", "head"]
TOOLS += ["ls", "mkdir", "mkfifo", "mktemp", "mv", "nproc", "rm", "sed", "sh", "sleep", "tail", "taskset", "tee"]


# What a script does for the Python at hand depends on this folder, whose name is fixed by CANN.
no_cann = pytest.mark.skipif(os.path.isdir("/usr/local/Ascend"), reason="this is an NPU host")


class Checkout:
    """A copy of what the scripts need, and a folder of tools that is all of PATH."""

    def __init__(self, folder):
        self.path = folder / "check out"
        self.bin = folder / "bin"
        self.fake = folder / "fake"
        for path in (self.bin, self.fake, self.path / "examples", self.path / "ascend_keras", self.path / ".ci"):
            path.mkdir(parents=True)
        shutil.copytree(str(TEST / "constraints"), str(self.path / "test" / "constraints"))
        for script in TEST.glob("*.sh"):
            shutil.copy(str(script), str(self.path / "test"))
        shutil.copy(str(ROOT / ".ci" / "run"), str(self.path / ".ci"))
        # What needs no TensorFlow: the recipes' scripts and the command line, with the launcher.
        for module in ["__init__", "__main__", "log", "report"] + [p.stem for p in ROOT.glob("ascend_keras/cli*.py")]:
            shutil.copy(str(ROOT / "ascend_keras" / (module + ".py")), str(self.path / "ascend_keras"))
        for package in ("recipes", "distributed"):
            shutil.copytree(str(ROOT / "ascend_keras" / package), str(self.path / "ascend_keras" / package))
        for tool in TOOLS:
            if shutil.which(tool):
                (self.bin / tool).symlink_to(shutil.which(tool))
        (self.fake / "tensorflow").write_text("no TensorFlow\n")
        self.venvs = self.path / ".venv"

    def python(self, *versions):
        """Puts Pythons of these versions on PATH, the first as python3, too."""
        source = (TEST / "data" / "fake_python.sh").read_text()
        for version in versions:
            target = self.bin / ("python" + version)
            target.write_text(source.replace("version=VERSION", "version=" + version))
            target.chmod(0o755)
            if version == versions[0]:
                (self.bin / "python3").symlink_to(target)

    def environment(self, **changes):
        values = {"PATH": str(self.bin), "HOME": str(self.fake), "FAKE_DIR": str(self.fake), "PYENV_ROOT": "/none"}
        values.update(changes)
        return {key: str(value) for key, value in values.items() if value is not None}

    def start(self, *command, **changes):
        cwd = changes.pop("cwd", str(self.fake))
        return subprocess.Popen(
            ["bash"] + [str(part) for part in command],
            cwd=str(cwd),
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def run(self, *command, **changes):
        process = self.start(*command, **changes)
        process.out, process.err = process.communicate(timeout=120)
        return process

    def env(self, stack="", **changes):
        """Sources env.sh under `set -eu` and prints what it set."""
        code = '. test/env.sh "$1" || exit; echo "$PYTHON|$PYTHONPATH|${TF_USE_LEGACY_KERAS-}|${CANN_SOURCED-}"'
        return self.run("-euc", code, "bash", stack, cwd=self.path, **changes)

    def start_env(self, stack):
        return self.start("-c", '. test/env.sh "$1" && echo "$PYTHON"', "bash", stack, cwd=self.path)

    def calls(self, word):
        log = self.fake / "calls"
        return [line for line in log.read_text().splitlines() if word in line] if log.exists() else []
