"""test/env.sh: which Python it finds, makes, reuses and leaves alone."""

import pytest
from script_checkout import Checkout, no_cann


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@no_cann
@pytest.mark.parametrize(
    "version, stack", [("3.7", "tf115"), ("3.8", "tf265"), ("3.9", "tf265"), ("3.10", "tf221"), ("3.13", "tf221")]
)
def test_an_environment_is_made_for_the_python_found(checkout, version, stack):
    checkout.python(version)
    done = checkout.env()
    python = checkout.venvs / stack / "bin" / "python"
    assert (done.returncode, done.out) == (0, "{}|{}||\n".format(python, checkout.path))
    assert len(done.err.splitlines()) == 1
    assert "installing TensorFlow (stack {})".format(stack) in done.err
    [install] = checkout.calls("pip install -c")
    assert "constraints/{}.txt tensorflow".format(stack) in install
    assert ("tf_keras" in install) == (stack == "tf221")


@no_cann
def test_it_is_reused_the_next_time(checkout):
    checkout.python("3.9")
    assert checkout.env().returncode == 0
    before = len(checkout.calls("pip"))
    done = checkout.env()
    assert (done.returncode, done.err) == (0, "")
    assert len(checkout.calls("pip")) == before
    assert len(checkout.calls("-m venv")) == 1


@pytest.mark.parametrize("tool", ["flock", "no flock"])
def test_three_that_start_together_make_one(checkout, tool):
    checkout.python("3.9")
    if tool == "no flock" and (checkout.bin / "flock").exists():
        (checkout.bin / "flock").unlink()
    processes = [checkout.start_env("tf265") for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert {process.returncode for process in processes} == {0}
    assert len({out for out, _ in outputs}) == 1
    assert len(checkout.calls("-m venv")) == 1


@no_cann
def test_a_half_made_one_is_made_anew(checkout):
    checkout.python("3.7")
    assert checkout.env().returncode == 0
    folder = checkout.venvs / "tf115"
    (folder / ".making").write_text("")
    (folder / ".stamp").unlink()
    (folder / "broken").write_text("")
    done = checkout.env()
    assert done.returncode == 0
    assert "was left half made" in done.err
    assert not (folder / "broken").exists()
    assert not (folder / ".making").exists()


@no_cann
def test_one_whose_python_is_gone_is_made_anew(checkout):
    checkout.python("3.7")
    assert checkout.env().returncode == 0
    (checkout.venvs / "tf115" / "bin" / "python").unlink()
    assert checkout.env().returncode == 0
    assert len(checkout.calls("-m venv")) == 2


@no_cann
def test_changed_constraints_complete_the_environment_without_making_it_anew(checkout):
    checkout.python("3.7")
    assert checkout.env().returncode == 0
    constraints = checkout.path / "test" / "constraints" / "tf115.txt"
    constraints.write_text(constraints.read_text() + "six==1.16.0\n")
    assert checkout.env().returncode == 0
    assert len(checkout.calls("-m venv")) == 1
    assert len(checkout.calls("pip install -c")) == 2


@no_cann
def test_errors_of_pip_are_shown_and_the_next_start_tries_again(checkout):
    checkout.python("3.11")
    (checkout.fake / "pip_fails").write_text("")
    done = checkout.env()
    assert done.returncode == 1
    assert "ERROR: No matching distribution found" in done.err
    assert "the environment tf221 could not be made" in done.err
    (checkout.fake / "pip_fails").unlink()
    assert checkout.env().returncode == 0


@no_cann
def test_a_folder_that_is_no_environment_is_left_alone(checkout):
    checkout.python("3.11")
    kept = checkout.fake / "mine" / "tf221" / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    done = checkout.env(ASCEND_KERAS_VENV_DIR=checkout.fake / "mine")
    assert done.returncode == 1
    assert "is in the way" in done.err
    assert kept.read_text() == "years of work"


def test_venv_dir_is_where_environments_are_made(checkout):
    checkout.python("3.11")
    done = checkout.env("tf215", ASCEND_KERAS_VENV_DIR=checkout.fake / "else where")
    assert done.out.startswith(str(checkout.fake / "else where" / "tf215" / "bin" / "python") + "|")
    assert not checkout.venvs.exists()


def test_a_stack_without_its_python_is_status_3(checkout):
    checkout.python("3.11")
    done = checkout.env("tf115")
    assert done.returncode == 3
    assert "No Python for the stack tf115 on this machine: it needs one of 3.7" in done.err


def test_pythons_of_pyenv_are_found_behind_shims_that_fail(checkout):
    checkout.python("3.11", "3.7")
    home = checkout.fake / "pyenv" / "versions" / "3.7.16" / "bin"
    home.mkdir(parents=True)
    (checkout.bin / "python3.7").rename(home / "python")
    (checkout.bin / "python3.7").write_text("#!/bin/sh\necho 'pyenv: python3.7: command not found' >&2; exit 127\n")
    (checkout.bin / "python3.7").chmod(0o755)
    done = checkout.env("tf115", PYENV_ROOT=checkout.fake / "pyenv")
    assert done.returncode == 0, done.err
    assert "for {} into".format(home / "python") in done.err


@no_cann
def test_a_machine_without_a_fitting_python_is_status_3(checkout):
    checkout.python("3.6")
    done = checkout.env()
    assert done.returncode == 3
    assert "No Python from 3.7 to 3.13" in done.err
    assert "version 3.6" in done.err


@no_cann
def test_another_python_is_taken_where_the_one_at_hand_is_too_new(checkout):
    checkout.python("3.14", "3.10")
    done = checkout.env()
    assert done.out.startswith(str(checkout.venvs / "tf221"))
    assert checkout.calls("3.10 -m venv")


@no_cann
def test_a_tensorflow_at_hand_is_used_and_nothing_made(checkout):
    checkout.python("3.7")
    (checkout.fake / "tensorflow").write_text("")
    done = checkout.env()
    assert (done.returncode, done.err) == (0, "")
    assert done.out.startswith(str(checkout.bin / "python3") + "|")
    assert not checkout.venvs.exists()


@no_cann
def test_a_tensorflow_that_lacks_something_is_said_and_left(checkout):
    checkout.python("3.9")
    (checkout.fake / "tensorflow").write_text("TensorFlow, but not sklearn\n")
    done = checkout.env()
    assert "python3 has TensorFlow, but not sklearn: using an environment of this project" in done.err
    assert done.out.startswith(str(checkout.venvs / "tf265"))


@pytest.mark.parametrize("sign", ["has_adapter", "ASCEND_OPP_PATH", "ASCEND_TOOLKIT_HOME"])
def test_on_an_npu_host_nothing_is_installed(checkout, sign):
    checkout.python("3.7")
    (checkout.fake / "has_adapter" if sign == "has_adapter" else checkout.fake / "none").write_text("")
    done = checkout.env(**({} if sign == "has_adapter" else {sign: "/opt/cann"}))
    assert done.returncode == 1
    assert "This is an NPU host, and {} has no TensorFlow".format(checkout.bin / "python3") in done.err
    assert "set PYTHON=" in done.err
    assert not checkout.calls("pip")
    assert not checkout.calls("venv")


def test_on_an_npu_host_the_installed_tensorflow_is_used_and_cann_sourced_once(checkout):
    checkout.python("3.7")
    (checkout.fake / "tensorflow").write_text("")
    cann = checkout.fake / "cann"
    cann.mkdir()
    # CANN's own file reads variables that may be unset.
    (cann / "set_env.sh").write_text("export CANN_SOURCED=x$CANN_SOURCED ASCEND_OPP_PATH=/opp LD=$NEVER_SET\n")
    done = checkout.env(ASCEND_HOME_PATH=cann)
    assert (done.returncode, done.out.split("|")[3]) == (0, "x\n")
    again = checkout.env(ASCEND_HOME_PATH=cann, ASCEND_OPP_PATH="/opp")
    assert (again.returncode, again.out.split("|")[3]) == (0, "\n")


def test_a_python_that_does_not_exist_is_an_error(checkout):
    checkout.python("3.11")
    done = checkout.env(PYTHON="pyhton3")
    assert done.returncode == 1
    assert "There is no such Python. Received: PYTHON=pyhton3." in done.err


def test_an_unknown_stack_is_an_error(checkout):
    done = checkout.env("tf116")
    assert done.returncode == 1
    assert "Unknown stack. Received: tf116. Known are tf115, tf265" in done.err


@no_cann
@pytest.mark.parametrize("stack, before, after", [("tf221-legacy", None, "1"), ("tf221", "1", ""), ("", "1", "1")])
def test_legacy_keras_is_that_of_the_stack(checkout, stack, before, after):
    checkout.python("3.11")
    done = checkout.env(stack, TF_USE_LEGACY_KERAS=before)
    assert done.out.split("|")[2] == after


def test_the_stack_may_be_a_variable_and_pythonpath_is_kept(checkout):
    checkout.python("3.11")
    done = checkout.env(ASCEND_KERAS_STACK="tf215", PYTHONPATH="/mine")
    assert done.out == "{}|{}:/mine||\n".format(checkout.venvs / "tf215" / "bin" / "python", checkout.path)
