"""Runs scenario scripts in processes of their own, one or N ranks, against the fake or the real adapter."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

HERE = pathlib.Path(__file__).resolve().parent
FAKES = HERE / "fakes"
# Variables of a cluster, of the fakes and of the adapters: a scenario starts without those of the caller.
_CLUSTER = re.compile("^(RANK_|CM_|FAKE_ASCEND_|(JOB_ID|DEVICE_ID|ASCEND_DEVICE_ID|NPU_LOOP_SIZE|AOE_MODE|TF_CONFIG)$)")

Result = collections.namedtuple("Result", "returncode stdout stderr value")


def adapter_of(tf_version):
    """Name of the adapter made for a TensorFlow version, or None."""
    return {"1.15": "npu_bridge", "2.6": "npu_device"}.get(".".join(tf_version.split(".")[:2]))


class Adapter:
    """The adapter that belongs to the TensorFlow at hand.

    Attributes:
        name: "npu_bridge" or "npu_device".
        real: Whether the real package is used.
        env: Environment of a one-rank process.
        folder: Working directory of the scenarios.
    """

    def __init__(self, name, real, folder):
        self.name = name
        self.real = real
        self.folder = pathlib.Path(folder)
        self.env = self._base_environment()
        self._runs = 0
        self._record = None

    def _base_environment(self):
        env = {key: value for key, value in os.environ.items() if not _CLUSTER.match(key)}
        paths = [str(HERE.parent)] + ([] if self.real else [str(FAKES)])
        env["PYTHONPATH"] = os.pathsep.join(paths + [env["PYTHONPATH"]] if env.get("PYTHONPATH") else paths)
        env["TF_CPP_MIN_LOG_LEVEL"] = "3"
        env["PYTHONUNBUFFERED"] = "1"
        return env

    def run(self, script, ranks=1, env=None, rank_env=None, args=(), timeout=180):
        """Runs a scenario on `ranks` processes and waits for all of them.

        Args:
            script: Path of a Python file, or its text. A line "RESULT <json>" on stdout becomes `Result.value`.
            ranks: Number of processes; above 1 they get a rank table and RANK_SIZE, RANK_ID, ASCEND_DEVICE_ID.
            env: Variables to set on all ranks; a value of None removes the variable.
            rank_env: A list of such dictionaries, one a rank.
        Returns:
            A list of Result, one a rank.
        """
        self._runs += 1
        self._record = self.folder / "run{}".format(self._runs)
        self._record.mkdir()
        path = self._script_file(script)
        processes = []
        try:
            for rank in range(ranks):
                full = self._rank_environment(rank, ranks, env or {}, rank_env[rank] if rank_env else {})
                processes.append(self._start([sys.executable, str(path)] + list(args), full, rank))
            deadline = time.monotonic() + timeout
            codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
        finally:
            _end(processes)
        return [self._result(rank, code) for rank, code in enumerate(codes)]

    def run_one(self, script, **kwargs):
        """Runs a scenario on one rank, which has to succeed, and returns the value it printed."""
        (result,) = self.run(script, **kwargs)
        assert result.returncode == 0, result.stderr[-4000:]
        return result.value

    def collectives(self, rank=0):
        """The collectives that a rank executed in the last run, in the order of the graph."""
        entries = self._read("collectives", rank)
        if self.name == "npu_bridge":
            entries.sort(key=lambda entry: [int(part) for part in re.findall(r"\d+", entry["key"])])
        return entries

    def events(self, kind=None, rank=0):
        """What a rank recorded in the last run; see test/fakes/README.md."""
        return [event for event in self._read("events", rank) if kind in (None, event["event"])]

    def _read(self, stem, rank):
        if self.real:
            raise RuntimeError("Only the fakes keep records: guard this with `if not adapter.real`.")
        path = self._record / "{}.rank{}.jsonl".format(stem, rank)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _script_file(self, script):
        if isinstance(script, pathlib.Path) or str(script).endswith(".py"):
            return pathlib.Path(script).resolve()
        path = self._record / "scenario.py"
        path.write_text(textwrap.dedent(script))
        return path

    def _rank_environment(self, rank, ranks, env, own):
        full = dict(self.env)
        if not self.real:
            full["FAKE_ASCEND_DIR"] = str(self._record)
        if ranks > 1:
            full.update(
                RANK_SIZE=str(ranks),
                RANK_ID=str(rank),
                ASCEND_DEVICE_ID=str(rank),
                RANK_TABLE_FILE=str(self._rank_table(ranks)),
            )
        for key, value in list(env.items()) + list(own.items()):
            if value is None:
                full.pop(key, None)
            else:
                full[key] = str(value)
        return full

    def _rank_table(self, ranks):
        path = self._record / "rank_table.json"
        devices = [{"device_id": str(i), "rank_id": str(i)} for i in range(ranks)]
        table = {
            "version": "1.0",
            "server_count": "1",
            "status": "completed",
            "server_list": [{"server_id": "node0", "device": devices}],
        }
        path.write_text(json.dumps(table))
        return path

    def _start(self, command, env, rank):
        with open(str(self._record / "stdout{}".format(rank)), "wb") as out:
            with open(str(self._record / "stderr{}".format(rank)), "wb") as err:
                return subprocess.Popen(
                    command, env=env, cwd=str(self._record), stdout=out, stderr=err, start_new_session=True
                )

    def _result(self, rank, code):
        texts = [
            (self._record / "{}{}".format(stem, rank)).read_bytes().decode(errors="replace")
            for stem in ("stdout", "stderr")
        ]
        found = re.findall(r"^RESULT (.*)$", texts[0], re.MULTILINE)
        return Result(code, texts[0], texts[1], json.loads(found[-1]) if found else None)


def _end(processes):
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check_real(name):
    """Raises when the real adapter cannot be imported by a fresh process."""
    module = {"npu_bridge": "npu_bridge.npu_init", "npu_device": "npu_device"}[name]
    done = subprocess.run([sys.executable, "-c", "import " + module], capture_output=True)
    if done.returncode:
        raise RuntimeError(
            "--adapter=real was asked for, but {} cannot be imported: {}".format(
                module, done.stderr.decode(errors="replace").strip()[-2000:]
            )
        )
