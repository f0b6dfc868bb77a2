"""test/run_tests.sh and .ci/run: what runs where, and what the exit status says."""

import pytest
from script_checkout import Checkout, no_cann

STACKS = ["tf115", "tf265", "tf215", "tf221", "tf221-legacy"]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def run_tests(checkout, *arguments, **changes):
    script = changes.pop("script", "test/run_tests.sh")
    return checkout.run(checkout.path / script, *arguments, **changes)


def table(done):
    """Part -> result, from the last lines of a run."""
    lines = done.out.splitlines()
    rows = lines[lines.index("part            seconds  result") + 1 :]
    return {row.split()[0]: row.split(None, 2)[2] for row in rows if len(row.split()) > 2 and row.split()[1].isdigit()}


def test_help_of_the_tests(checkout):
    done = run_tests(checkout, "--help")
    assert (done.returncode, done.err) == (0, "")
    for flag in ("--stack=NAME", "--all-stacks", "--jobs=N", "--adapter=real", "--no-lint"):
        assert flag in done.out


@pytest.mark.parametrize(
    "arguments",
    [["--stack=tf3"], ["--stack"], ["--adapter=none"], ["--jobs=0"], ["--jobs=x"], ["--stack=tf115", "--all-stacks"]],
)
def test_wrong_arguments_of_the_tests_are_status_2(checkout, arguments):
    done = run_tests(checkout, *arguments)
    assert done.returncode == 2
    assert done.err.startswith("run_tests.sh: ")


@pytest.mark.parametrize("jobs", ["1", "2", "7"])
def test_all_stacks(checkout, jobs):
    checkout.python("3.11", "3.9", "3.7")
    done = run_tests(checkout, "--all-stacks", "--no-lint", "--jobs=" + jobs, "--adapter=fake", "-k", "a or b")
    assert done.returncode == 0, done.err
    assert table(done) == dict.fromkeys(STACKS, "passed: 3 passed in 0.10s")
    assert done.out.count("== 3 passed in 0.10s ==") == 5
    assert done.out.count("legacy=1 ") == 1
    assert done.out.count("--adapter=fake -k a or b") == 5


def test_a_failing_stack_fails_the_whole(checkout):
    checkout.python("3.11", "3.9", "3.7")
    (checkout.fake / "failing_stack").write_text("tf265")
    done = run_tests(checkout, "--all-stacks", "--no-lint")
    assert done.returncode == 1
    results = table(done)
    assert results["tf265"] == "FAILED: 1 failed, 2 passed in 0.10s"
    assert results["tf115"] == "passed: 3 passed in 0.10s"


def test_a_stack_without_its_python_is_named_and_does_not_fail(checkout):
    checkout.python("3.11", "3.9")
    done = run_tests(checkout, "--all-stacks", "--no-lint")
    assert done.returncode == 0
    assert table(done)["tf115"].startswith("not run: No Python for the stack tf115")


def test_an_environment_that_cannot_be_made_fails(checkout):
    checkout.python("3.11")
    (checkout.fake / "pip_fails").write_text("")
    done = run_tests(checkout, "--stack=tf221", "--no-lint")
    assert done.returncode == 1
    assert table(done)["tf221"] == "FAILED"


def test_no_test_at_all_fails(checkout):
    checkout.python("3.11")
    done = run_tests(checkout, "--stack=tf115", "--no-lint")
    assert done.returncode == 1
    assert done.out.endswith("No test was run.\n")


@no_cann
def test_without_a_stack_the_python_at_hand_is_tested_with_pytest_needed(checkout):
    checkout.python("3.9")
    done = run_tests(checkout, "--no-lint")
    assert done.returncode == 0
    assert table(done) == {"at-hand": "passed: 3 passed in 0.10s"}
    assert checkout.calls("- absl sklearn pytest skimage hypothesis")


@no_cann
def test_paths_are_meant_from_where_the_caller_is(checkout):
    checkout.python("3.9")
    (checkout.fake / "test_x.py").write_text("")
    done = run_tests(checkout, "--no-lint", "test_x.py::test_y", "absent.py")
    assert " {}::test_y absent.py".format(checkout.fake / "test_x.py") in done.out


@pytest.mark.parametrize("failing", [None, "ruff", "mypy"])
def test_lint(checkout, failing):
    checkout.python("3.11", "3.7")
    if failing:
        (checkout.fake / (failing + "_fails")).write_text("")
    done = run_tests(checkout, "--stack=tf221")
    assert done.returncode == (1 if failing else 0)
    expected = {None: "passed", "ruff": "FAILED: ruff check, ruff format", "mypy": "FAILED: mypy"}
    assert table(done)["lint"] == expected[failing]
    [compiled] = checkout.calls("-W error -c")
    assert compiled.startswith("3.7 ")


def test_without_python_37_the_compilation_is_said_to_be_left_out(checkout):
    checkout.python("3.11")
    done = run_tests(checkout, "--stack=tf221")
    assert done.returncode == 0
    assert "compile with Python 3.7: not run" in done.out


def test_ci_runs_all_stacks(checkout):
    checkout.python("3.11", "3.9", "3.7")
    done = run_tests(checkout, script=".ci/run")
    assert done.returncode == 0
    assert list(table(done)) == ["lint"] + STACKS
