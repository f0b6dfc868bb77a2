"""The thread of the watchdog, without TensorFlow: ends what hangs, names who is to blame, leaves alone what is slow."""

import os
import re
import signal
import threading
import time

import pytest
from watched import LIMIT, ended, said, start

from ascend_keras.distributed.watch import EXIT_CODE, Position, Watch, progress, stacks, verdict
from ascend_keras.distributed.watch.progress import Record

# --- who is to blame ----------------------------------------------------------------------------------------------


def at(events, step=None, phase="train", code="", ended=False, idle=9.0, **more):
    position = Position(events, phase, 1, events if step is None else step, True)
    return Record(0, position, 5, idle, code, ended, **dict({"order": (1, 1, events)}, **more))


def blame(*records, silent=(), started=()):
    found = {rank: record._replace(rank=rank) for rank, record in enumerate(records) if record is not None}
    return verdict.judge(found, len(records), silent, started)


def test_a_rank_behind_is_named():
    found = blame(at(18), at(18), at(17), at(18))
    assert found.ranks == [2]
    assert found.text == "rank 2 made no step since step 17 of epoch 1; ranks 0, 1, 3 wait for it"
    assert blame(at(18), at(17, code="gen (a.py:3)")).text == (
        "rank 1 made no step since step 17 of epoch 1: gen (a.py:3); rank 0 waits for it"
    )


def test_silence_counts_more_than_being_behind():
    found = blame(at(17), at(18), at(18), silent=[1, 2])
    assert found.ranks == [1, 2]
    assert found.text == (
        "ranks 1, 2 made no step since about step 18 of epoch 1 and give no sign of life (stopped, swapped out, held "
        "in a native call, or gone); rank 0 waits for them"
    )


def test_of_equals_the_one_in_python_code_is_named():
    found = blame(at(17), at(17), at(17, code="batches (train.py:12)"))
    assert found.ranks == [2]
    assert found.text == (
        "rank 2 made no step since step 17 of epoch 1, nor did the others, but only there Python code runs: batches "
        "(train.py:12); ranks 0, 1 wait for it"
    )


def test_of_equals_nobody_is_named():
    assert blame(at(17), at(17)) == ([], "no rank made a step since step 17 of epoch 1, and none is behind the others")
    assert blame(at(17, code="a"), at(17, code="b")).ranks == []
    assert blame(at(17), None).text.endswith("nothing is known of rank 1, whose logs may be on another machine")


def test_who_has_left_and_who_has_not_begun():
    assert blame(at(40, ended=True), at(18)).text == "rank 0 left the run at step 40 of epoch 1; rank 1 waits for it"
    begin = at(1, step=0)
    text = "rank 1 did not begin the run; ranks 0, 2 wait for it"
    assert blame(begin, None, begin, started=[0, 1, 2]).text == text


def test_ranks_of_other_machines_are_not_named():
    begin = at(1, step=0)
    assert blame(begin, begin, None, None, started=[0, 1]) == (
        [],
        "no rank made a step since the begin of epoch 1, and none is behind the others; nothing is known of ranks 2, "
        "3, whose logs may be on another machine",
    )
    assert blame(begin, None, None, None, started=[0, 1]).text == "rank 1 did not begin the run; rank 0 waits for it"
    assert blame(at(18), at(17), None).text == "rank 1 made no step since step 17 of epoch 1; rank 0 waits for it"


def test_the_run_counts_more_than_the_hooks_in_it():
    found = blame(at(3, phase="test", order=(2, 2, 1)), at(40, order=(1, 9, 0)))
    assert found.text == "rank 1 made no step since step 40 of epoch 1; rank 0 waits for it"
    # Rank 0 had a batch more in a validation before.
    found = blame(at(42, step=17, order=(1, 6, 33)), at(41, step=18, order=(1, 6, 35)))
    assert found.text == "rank 0 made no step since step 17 of epoch 1; rank 1 waits for it"


def test_who_has_finished_is_not_waited_for_by_who_is_behind():
    hung = at(40, code="save (a.py:3)", order=(1, 9, 0))
    hung = hung._replace(position=hung.position._replace(in_step=False))
    done = at(40, ended=True, finished=True, order=(1, 10, 0))
    text = "rank 1 made no step since step 40 of epoch 1: save (a.py:3); rank 0 waits for it"
    assert blame(done, hung).text == text
    left = "rank 0 left the run at step 40 of epoch 1; rank 1 waits for it"
    assert blame(done._replace(finished=False), hung).text == left
    assert blame(done, hung._replace(order=(2, 1, 0))).text == left  # it does not come to the next run
    assert blame(done, at(41, order=(1, 6, 41))).text == left  # its training has ended too early


def test_a_rank_that_gets_on_is_waited_for():
    records = {0: at(18), 1: at(17, idle=1.0)._replace(rank=1), 2: at(18, idle=8.0)._replace(rank=2)}
    assert set(verdict.alive(records, records[0], 10.0)) == {1}
    assert set(verdict.alive(records, records[1], 10.0)) == set()  # those further on wait themselves


@pytest.mark.parametrize("idle, limit, gets_on", [(59.9, 60.0, True), (60.0, 60.0, False), (5.0, 10.0, False)])
def test_a_rank_within_a_longer_limit_of_its_own_is_waited_for(idle, limit, gets_on):
    records = {0: at(17, idle=idle, limit=limit), 1: at(18)._replace(rank=1)}
    assert bool(verdict.alive(records, records[1], 10.0)) == gets_on


@pytest.fixture
def order(monkeypatch):
    monkeypatch.setattr(progress, "_order", [0, 0, 0])
    monkeypatch.setattr(progress, "_watches", set())
    return progress.order


def test_order_of_runs_phases_and_steps(order):
    found = []
    for what in [1, True, True, False, True, 2, -2, -2, -1, 1]:
        if what is True or what is False:
            progress.advance(what)
        elif what > 0:
            progress.begin_run(what)
        else:
            progress.end_run(-what)
        found.append(order())
    run = [(1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2, 0), (1, 2, 1), (1, 3, 0), (1, 4, 0), (1, 4, 0), (1, 5, 0)]
    assert found == run + [(2, 1, 0)]  # watch 2 was inside of the run of watch 1


def test_order_is_told_by_the_hooks(order):
    watch = Watch(60.0, 60.0)
    watch.start()
    found = []
    for position in (Position(1, "train"), Position(2, "train", 1, 0, True), Position(3, "train", 1, 1, False)):
        watch.at(position, True)
        found.append(order())
    watch.at(Position(4, "train", 1, 1, False), True)
    watch.stop()
    assert found + [order()] == [(1, 2, 0), (1, 2, 1), (1, 2, 2), (1, 4, 0)]


def test_limits_grow_with_the_longest_step_of_the_phase(order):
    watch = Watch(10.0, 100.0)
    train, validation = Position(1, "train", 1, 0), Position(5, "validation", 1, 0)
    limits = []
    for position, seconds, compiled in [(train, 90.0, False), (train, 20.0, True), (validation, 2.0, False)]:
        watch.at(position._replace(in_step=True), compiled)
        limits.append(watch._limit())
        watch._passed += seconds
        watch.at(position._replace(step=1), True)
        limits.append(watch._limit())
    assert limits == [100.0, 270.0, 270.0, 270.0, 100.0, 10.0]
    assert watch._record().limit == 10.0
    watch.at(train, True)
    assert watch._limit() == 270.0


def test_ranks_that_a_launcher_has_started_here(tmp_path):
    for name in ("rank_1.log", "rank_3.started", "rank_12.log", "rank_2.progress", "rank_0.log.1"):
        (tmp_path / name).write_text("")
    assert progress.started_into(str(tmp_path), 5) == {1, 3}


def test_the_first_verdict_is_that_of_all(tmp_path):
    folder = str(tmp_path)
    verdict.forget(folder)
    assert verdict.known(folder) is None
    assert verdict.settle(folder, "rank 2") == "rank 2"
    assert verdict.settle(folder, "rank 1") == "rank 2" == verdict.known(folder)
    verdict.forget(folder)
    assert verdict.known(folder) is None


@pytest.mark.parametrize(
    "position, text, activity",
    [
        (Position(), "the start of the run", "in preparation"),
        (Position(1, "train"), "the begin of the training", "between two steps (callbacks, saving)"),
        (Position(3, "train", 2, 0, True), "the begin of epoch 2", "in training"),
        (Position(3, "train", 2, 5, False), "step 5 of epoch 2", "between two steps (callbacks, saving)"),
        (Position(3, "validation", 2, 5, True), "step 5 of the validation of epoch 2", "in validation"),
        (Position(3, "test", 0, 5, True), "step 5 of the evaluation", "in evaluation"),
        (Position(3, "predict", 0, 0, True), "the begin of the prediction", "in prediction"),
    ],
)
def test_places_in_words(position, text, activity):
    assert (str(position), position.activity) == (text, activity)


def test_files_of_progress(tmp_path):
    folder = str(tmp_path)
    record = Record(1, Position(9, "train", 2, 4, True), 3, 1.5, "gen (ä.py:1)", False, "1", 60.0, (1, 2, 3), True)
    progress.write(folder, record)
    assert os.listdir(folder) == ["rank_1.progress"]
    assert progress.read_all(folder, 3, "1") == {1: record}
    assert progress.read_all(folder, 3, "2") == {}  # of the ranks before the restart
    for damaged in ("", "{", "[1]", '{"rank": 1, "position": [1], "colour": 2}'):
        (tmp_path / "rank_0.progress").write_text(damaged)
        assert progress.read(folder, 0) is None


# --- debuggers and code -------------------------------------------------------------------------------------------


def test_debuggers_are_seen(tmp_path, monkeypatch):
    me = threading.get_ident()
    assert stacks.debugger(me) is None
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nTracerPid:\t42\nUid:\t0\n")
    monkeypatch.setattr(stacks, "_STATUS", str(status))
    assert stacks.debugger(me) == "process 42"
    status.write_text("TracerPid:\t0\n")
    assert stacks.debugger(me) is None
    assert eval("ask(me)", {"ask": stacks.debugger, "me": me, "__name__": "pdb"}) == "pdb"


@pytest.mark.parametrize("module, expected", [("tensorflow.python.ops", "work (test_watch.py:"), ("mine", "")])
def test_code_that_the_machinery_calls_from_a_thread(module, expected):
    go_on, begun = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(LIMIT)

    thread = threading.Thread(target=eval, args=("work()", {"work": work, "__name__": module}))
    thread.start()
    begun.wait(LIMIT)
    found = stacks._code_of(thread.ident, always=False)
    go_on.set()
    thread.join()
    assert found.startswith(expected) and bool(found) == bool(expected)


# --- plain processes, without TensorFlow ----------------------------------------------------------------------------

RANK = """
import ctypes, sys, time
from ascend_keras.distributed import watch
kind, rank, ranks, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
timeout = float(sys.argv[5]) if len(sys.argv) > 5 else 1.0
compile_timeout = float(sys.argv[6]) if len(sys.argv) > 6 else 3.0
guard = watch.Watch(timeout, compile_timeout, rank, ranks, folder or None, kind in ("native",), report=0.5)
guard.start()
events = 0

def tell(step, in_step, compiled=True):
    global events
    events += 1
    guard.at(watch.Position(events, "train", 1, step, in_step), compiled)

def steps(count, seconds):
    for step in range(1, count + 1):
        tell(step - 1, True)
        time.sleep(seconds)
        tell(step, False)

print("on", flush=True)
if kind == "native":
    tell(3, True)
    ctypes.PyDLL(None).sleep(60)
elif kind == "compile":
    tell(0, True, False)
    time.sleep(2.2)
    steps(3, 0.1)
elif kind == "slow":
    steps(8, 0.4)
elif kind == "beats":
    tell(3, True)
    for _ in range(10):
        watch.beat("statistics")
        time.sleep(0.3)
elif kind == "moves":
    tell(3, False)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        sum(range(100))
elif kind == "loop":  # seen inside the sleep each time
    tell(3, False)
    for _ in range(100):
        time.sleep(0.02)
elif kind == "stuck":
    steps(3, 0.05)
    watch.beat("statistics")
    time.sleep(60)
elif kind == "steps":
    steps(400, 0.05)
elif kind == "executions":
    tell(0, True, False)
    time.sleep(1.5)
    tell(10, False)
    tell(10, True)
    time.sleep(2.5)
    tell(20, False)
elif kind == "compiles":  # a step of a validation, after which the other waits
    steps(3, 0.05)
    tell(3, False)
    tell(3, True, False)
    time.sleep(4)
    tell(4, False)
    open(folder + "/reduction", "w").close()
elif kind == "reduces":
    steps(3, 0.05)
    tell(3, False)
    tell(3, True, False)
    tell(4, False)
    open(folder + "/reduction").close()
elif kind == "hangs in the end":
    steps(3, 0.05)
    tell(3, False)
    time.sleep(60)
elif kind in ("goes on", "finishes"):
    steps(3, 0.05)
    tell(3, False)
    guard.stop(finished=True)
    if kind == "goes on":
        guard.start()
        events = 0
        tell(0, True)
        time.sleep(60)
elif kind == "first":
    tell(0, True)
    time.sleep(60)
elif kind == "wait":
    steps(3, 0.05)
    tell(3, True)
    time.sleep(60)
elif kind == "behind":
    steps(2, 0.05)
    tell(2, True)
    time.sleep(60)
guard.stop()
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def plain():
    """Processes that need no folder, side by side."""
    kinds = ["native", "compile", "slow", "beats", "moves", "loop", "stuck", "executions"]
    started = {kind: start(RANK, kind, "0", "1", "") for kind in kinds}
    return {kind: ended(process) for kind, process in started.items()}


def test_a_hang_between_steps(plain):
    code, out, err = plain["stuck"]
    assert (code, out) == (EXIT_CODE, "on\n")
    own, last = said(err)
    pattern = r"rank 0 did not get on for \d+ s: last step 3 of epoch 1, between two steps \(callbacks, saving\)"
    assert re.match(pattern + r": statistics, at <module> \(<string>:\d+\)$", own)
    assert last == "the stacks of its threads stand above; exit code 75"
    assert err.count("most recent call first") >= 2


def test_a_native_call_that_keeps_the_lock(plain):
    code, out, err = plain["native"]
    assert (code, out) == (1, "on\n")
    assert "Timeout (0:00:0" in err and 'File "<string>", line' in err


@pytest.mark.parametrize("kind", ["slow", "beats", "moves", "loop"])
def test_what_gets_on_is_left_alone(plain, kind):
    assert plain[kind] == (0, "on\ndone\n", "")


def test_compiling_takes_its_time_and_is_shown(plain):
    code, out, err = plain["compile"]
    assert (code, out) == (0, "on\ndone\n")
    text = r"\[ascend_keras\] compiling, [0-3] s so far \(first step in training: first data, graph and kernels\)\n"
    assert re.match("({}){{1,3}}$".format(text), err)


def test_long_executions_are_left_alone_after_a_long_one(plain):
    code, out, _ = plain["executions"]
    assert (code, out) == (0, "on\ndone\n")


def ranks_of(folder, *kinds, more=(), ranks=None):
    ranks = str(ranks or len(kinds))
    return [start(RANK, kind, str(rank), ranks, str(folder), *more) for rank, kind in enumerate(kinds)]


def wait_for(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_several_ranks_name_the_one_behind(tmp_path):
    results = [ended(process) for process in ranks_of(tmp_path, "wait", "wait", "behind")]
    assert [code for code, _, _ in results] == [EXIT_CODE] * 3
    lines = [said(err) for _, _, err in results]
    assert {each[0] for each in lines} == {
        "rank 2 made no step since step 2 of epoch 1: <module> (<string>:{}); ranks 0, 1 wait for it".format(
            re.search(r"<string>:(\d+)", lines[0][0]).group(1)
        )
    }
    for rank, each in enumerate(lines):
        step = 2 if rank == 2 else 3
        assert re.match(r"rank {} made no step for \d+ s: last step {} of epoch 1, in".format(rank, step), each[1])


def test_a_stopped_rank_is_named_by_the_others_and_goes_on_unharmed(tmp_path):
    processes = ranks_of(tmp_path, "wait", "steps", "wait")
    try:
        wait_for(lambda: progress.read(str(tmp_path), 1) and progress.read(str(tmp_path), 1).position.step > 3)
        os.kill(processes[1].pid, signal.SIGSTOP)
        results = [ended(processes[rank]) for rank in (0, 2)]
        step = progress.read(str(tmp_path), 1).position.step
        os.kill(processes[1].pid, signal.SIGCONT)
        wait_for(lambda: progress.read(str(tmp_path), 1).position.step > step + 10)
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [code for code, _, _ in results] == [EXIT_CODE] * 2
    first = {said(err)[0] for _, _, err in results}
    assert len(first) == 1
    assert re.match(r"rank 1 made no step since about step \d+ of epoch 1 and gives no sign of life", first.pop())


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Jobs of several processes, side by side."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("compiling", "next", "last", "machines")}
    os.mkfifo(str(folders["compiling"] / "reduction"))
    for name in ("rank_0.log", "rank_1.started"):
        (folders["machines"] / name).write_text("")
    started = {
        "compiling": ranks_of(folders["compiling"], "compiles", "reduces", more=("1", "60")),
        "next": ranks_of(folders["next"], "goes on", "hangs in the end"),
        "last": ranks_of(folders["last"], "finishes", "hangs in the end"),
        "machines": ranks_of(folders["machines"], "first", ranks=4),
    }
    return {name: [ended(process) for process in job] for name, job in started.items()}


def test_a_rank_that_compiles_is_waited_for(jobs):
    assert [(code, out) for code, out, _ in jobs["compiling"]] == [(0, "on\ndone\n")] * 2


def test_who_hangs_at_the_end_of_a_run_is_named_by_who_is_in_the_next(jobs):
    assert [code for code, _, _ in jobs["next"]] == [EXIT_CODE] * 2
    pattern = r"rank 1 made no step since step 3 of epoch 1: <module> \(<string>:\d+\); rank 0 waits for it$"
    assert all(re.match(pattern, said(err)[0]) for _, _, err in jobs["next"])


def test_who_hangs_at_the_end_of_a_run_is_named_when_the_others_have_finished(jobs):
    assert [code for code, _, _ in jobs["last"]] == [0, EXIT_CODE]
    pattern = r"rank 1 made no step since step 3 of epoch 1: <module> \(<string>:\d+\); rank 0 waits for it$"
    assert re.match(pattern, said(jobs["last"][1][2])[0])


def test_of_those_that_did_not_begin_only_ranks_of_this_machine_are_named(jobs):
    ((code, _, err),) = jobs["machines"]
    assert (code, said(err)[0]) == (EXIT_CODE, "rank 1 did not begin the run; rank 0 waits for it")
