"""The doctor: what it finds in probes that answer, fail, crash, hang and talk."""

import sys

import pytest

from ascend_keras import doctor

BACKENDS = [
    ["npu_device", False, "needs TensorFlow 2.6.5."],
    ["npu_bridge", True, "adapter 1.15"],
    ["host", True, "TF"],
]


def probes(monkeypatch, tensorflow, backends):
    """Replaces the processes that look at TensorFlow and the backends by their answers, or by an exception."""

    def answer(code):
        value = backends if "availability" in code else tensorflow
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(doctor, "_probe", answer)


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


TF115 = {"tensorflow": "1.15.5", "imported": "1.15.5", "protobuf": "3.20.3", "numpy": "1.18.5", "h5py": "2.10.0"}


def test_a_sound_machine(monkeypatch):
    probes(monkeypatch, TF115, BACKENDS)
    found = by_subject(doctor.examine())
    assert found["tensorflow"] == ("tensorflow", "ok", "1.15.5", "")
    assert [found[name].status for name in ("protobuf", "numpy", "h5py")] == ["ok"] * 3
    assert found["backend npu_device"].status == "warn"
    assert found["chosen backend"] == ("chosen backend", "ok", 'npu_bridge by backend="auto"', "")
    assert doctor.is_usable(doctor.examine())


@pytest.mark.parametrize(
    "request_, chosen, statuses",
    [
        ("npu", "npu_bridge", ["FAIL", "ok", "ok"]),
        ("host", "host", ["warn", "ok", "ok"]),
        ("npu_device", None, ["FAIL", "ok", "ok"]),
    ],
)
def test_verdict_is_that_of_the_backend_asked_for(monkeypatch, request_, chosen, statuses):
    probes(monkeypatch, TF115, BACKENDS)
    findings = doctor.examine(request_)
    found = by_subject(findings)
    assert [found["backend " + row[0]].status for row in BACKENDS] == statuses
    assert doctor.is_usable(findings) == (chosen is not None)
    if chosen:
        assert found["chosen backend"].reason == '{} by backend="{}"'.format(chosen, request_)
    else:
        assert found["chosen backend"].remedy


def test_a_pin_that_breaks_the_import_is_named_with_its_remedy(monkeypatch):
    broken = {
        "tensorflow": "1.15.5",
        "protobuf": "4.24.4",
        "h5py": "3.8.0",
        "error": "Descriptors cannot be created\nX",
    }
    probes(monkeypatch, broken, BACKENDS)
    found = by_subject(doctor.examine())
    assert found["tensorflow"].status == "FAIL"
    assert found["tensorflow"].reason == "1.15.5 cannot be imported: Descriptors cannot be created"
    assert found["tensorflow"].remedy == "mend the versions below"
    assert found["protobuf"].status == found["h5py"].status == "FAIL"
    assert found["protobuf"].remedy == "pip install 'protobuf<3.21'"
    assert "numpy" not in found


def test_keras_of_a_newer_version_beside_tensorflow_26(monkeypatch):
    probes(monkeypatch, {"tensorflow": "2.6.5", "imported": "2.6.5", "keras": "2.10.0"}, BACKENDS)
    assert by_subject(doctor.examine())["keras"].remedy == "pip install 'keras<2.7'"


def test_no_tensorflow(monkeypatch):
    probes(monkeypatch, {"error": "No module named 'tensorflow'"}, RuntimeError("status 1: ModuleNotFoundError"))
    findings = doctor.examine()
    found = by_subject(findings)
    assert (found["tensorflow"].status, found["tensorflow"].reason) == ("FAIL", "not installed")
    assert "pip install '.[" in found["tensorflow"].remedy
    assert "ModuleNotFoundError" in found["chosen backend"].reason
    assert not doctor.is_usable(findings)


def test_a_probe_that_fails_is_a_finding(monkeypatch):
    probes(monkeypatch, RuntimeError("no answer within 180 s"), BACKENDS)
    assert by_subject(doctor.examine())["tensorflow"][1:3] == ("FAIL", "no answer within 180 s")


@pytest.mark.parametrize(
    "code, message",
    [
        ("import os; print('noise'); os.abort()", "the process ended with status -6: no output"),
        ("import sys; sys.exit('libge_runner.so is missing')", "status 1: libge_runner.so is missing"),
        ("raise ValueError('a\\nb')", "status 1: b"),
    ],
)
def test_a_probe_that_crashes_says_how(code, message):
    with pytest.raises(RuntimeError, match=message):
        doctor._probe(code)


def test_a_probe_may_talk():
    assert doctor._probe("import sys; print('hello'); sys.stderr.write('warning'); print('RESULT[1]')") == [1]


def test_a_probe_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(doctor, "TIMEOUT", 0.5)
    with pytest.raises(RuntimeError, match=r"no answer within 0.5 s"):
        doctor._probe("import time; time.sleep(600)")


@pytest.mark.parametrize(
    "version, status", [((3, 6, 9), "warn"), ((3, 7, 0), "ok"), ((3, 13, 1), "ok"), ((3, 14, 0), "warn")]
)
def test_python(monkeypatch, version, status):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert doctor._python().status == status


def test_environment_of_cann(monkeypatch, tmp_path):
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor.os.path, "isdir", lambda path: path == str(tmp_path))
    assert doctor._cann().status == "skip"
    monkeypatch.setenv("ASCEND_HOME_PATH", "/gone")
    assert doctor._cann()[1:] == ("warn", "ASCEND_HOME_PATH=/gone is no folder", "source set_env.sh of CANN")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert doctor._cann().status == "ok"


def test_npu_smi(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._npu_smi().status == "skip"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/local/bin/" + name)
    assert doctor._npu_smi() == ("npu-smi", "ok", "/usr/local/bin/npu-smi", "")


def test_ranks(monkeypatch):
    for name in ("RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "CM_WORKER_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASCEND_DEVICE_ID", "3")
    assert doctor._ranks().reason == "a single device, number 3"
    monkeypatch.setenv("RANK_SIZE", "eight")
    finding = doctor._ranks()
    assert finding.status == "FAIL"
    assert "RANK_SIZE='eight'" in finding.reason
    assert "\n" not in finding.reason


def test_on_this_machine():
    """The real probes, on the TensorFlow of the stack that runs this."""
    findings = doctor.examine("host")
    found = by_subject(findings)
    assert found["tensorflow"].status == "ok"
    assert found["backend host"].status == "ok"
    assert doctor.is_usable(findings)
    assert not [finding for finding in findings if finding.subject in doctor.PINS and finding.status == "FAIL"]
    assert "{}.{}".format(*sys.version_info[:2]) in found["python"].reason
