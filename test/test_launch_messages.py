"""What launchers of several machines say to each other, message by message."""

import contextlib
import json
import select
import socket
import sys

import pytest
from launches import free_port, until

from ascend_keras.distributed.launch import links, rendezvous
from ascend_keras.distributed.launch.plan import Node, Plan

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The launcher is made for Linux.")


@contextlib.contextmanager
def coordinator(nodes=2, **changes):
    said = []
    plan = Plan("tf_config", [], [None], "", nodes=nodes, master=("127.0.0.1", free_port()), timeout=5.0)
    link = rendezvous.Coordinator(plan._replace(**changes), said.append)
    try:
        yield link, plan, said
    finally:
        link.close()


def hello(plan, **changes):
    message = {"kind": "hello", "magic": rendezvous.MAGIC, "nodes": plan.nodes, "node": 1, "form": plan.form}
    return json.dumps(dict(message, **changes)).encode() + b"\n"


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"magic": "ascend-keras launch, protocol 0"}, "Use the same version on all machines"),
        ({"nodes": 3}, "it has 3 machines, this one 2"),
        ({"node": 0}, "its node rank is 0, and must be from 1 to 1"),
        ({"node": "1"}, "its node rank is '1'"),
    ],
)
def test_hello_that_does_not_fit(changes, reason):
    with coordinator() as (link, plan, said):
        with contextlib.closing(socket.create_connection(plan.master)) as stranger:
            stranger.sendall(hello(plan, **changes))
            assert until(lambda: link._accept() or said)
            assert reason in said[0]
            answer = json.loads(stranger.recv(4096).split(b"\n")[0].decode())
            assert answer["kind"] == "refused"
            assert reason in answer["text"]


TABLE = {"form": "rank_table", "size": 4, "table_hash": "ab", "job_id": "5"}
SAME = {"form": "rank_table", "size": 4, "table": "ab", "job_id": "5"}


@pytest.mark.parametrize(
    "own, changes, reason",
    [
        (TABLE, dict(SAME, size=6), "its rank table, of 6 ranks, is not that of this one, of 4 ranks (--rank-table)."),
        (TABLE, dict(SAME, table="cd"), "its rank table, of 4 ranks, is not that of this one, of 4 ranks"),
        (TABLE, dict(SAME, job_id="6"), "its JOB_ID is 6, that of this one 5. Set the same on all machines"),
        (TABLE, SAME, ""),
        (TABLE, dict(SAME, job_id=None), ""),
        ({"form": "cm", "job_id": "5"}, {"form": "cm", "job_id": "6"}, "its JOB_ID is 6, that of this one 5."),
        ({"form": "tf_config", "job_id": "5"}, {"job_id": "6"}, ""),
    ],
)
def test_hello_of_the_same_job_or_another(own, changes, reason):
    with coordinator(**own) as (link, plan, _):
        message = json.loads(hello(plan, **changes).decode())
        assert link._why_not(message)[: len(reason) or None] == reason


def test_what_a_member_says_of_itself():
    base = Plan("rank_table", [], [0], "", nodes=2, node=1, size=4, table_hash="ab", job_id="10087")
    said = rendezvous._hello(base)
    assert [said[name] for name in ("nodes", "node", "form", "size", "table")] == [2, 1, "rank_table", 4, "ab"]
    assert said["job_id"] is None
    assert rendezvous._hello(base._replace(job_id="5", job_id_given=True))["job_id"] == "5"


def test_one_that_comes_too_late_is_told_so():
    with coordinator() as (link, plan, said):
        with contextlib.closing(socket.create_connection(plan.master)) as member:
            member.sendall(hello(plan))
            member.sendall(json.dumps({"kind": "ready", "start": 0, "node": [1, "a", [5], 6, 0]}).encode() + b"\n")
            assert len(link.meet(Node(1, "b", [7], 8, 0), lambda: None)) == 2
            with contextlib.closing(socket.create_connection(plan.master)) as late:
                late.sendall(hello(plan))
                # What the launcher waits for while ranks run.
                assert select.select(link.sockets(), [], [], 10)[0] == [link._server]
                assert until(lambda: link.poll() or said[1:])
                answer = json.loads(late.recv(4096).split(b"\n")[0].decode())
            assert (answer["kind"], answer["text"]) == ("refused", "another launcher is node 1 already (--node-rank).")
            assert link.poll() is None


def test_who_has_come_is_told_of_a_signal_to_the_first_machine_while_others_are_missing():
    with coordinator(nodes=3) as (link, plan, _):
        with contextlib.closing(socket.create_connection(plan.master)) as member:
            member.sendall(hello(plan))
            assert until(lambda: link._accept() or 1 in link._channels)

            def interrupt():
                raise links.Interrupted

            with pytest.raises(links.Interrupted):
                link.meet(Node(1, "b", [7], 8, 0), interrupt)
            link.failed(links.Failure("the launch was ended by SIGINT", 130, restartable=False))
            text = b""
            while text.count(b"\n") < 2:
                text += member.recv(4096)
            told = json.loads(text.split(b"\n")[1].decode())
            assert (told["kind"], told["failure"][:2]) == ("verdict", ["the launch was ended by SIGINT", 130])
            assert told["restart"] is False


def test_strangers_do_no_harm():
    with coordinator() as (link, plan, _):
        talk = [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\xfe\n", b"{}\n", b"x" * (1 << 20) + b"y", b""]
        for text in talk:
            with contextlib.closing(socket.create_connection(plan.master)) as stranger:
                stranger.sendall(text)
                for _ in range(20):
                    link._accept()
        with contextlib.closing(socket.create_connection(plan.master)) as member:
            member.sendall(hello(plan))
            assert until(lambda: link._accept() or 1 in link._channels)
            member.sendall(json.dumps({"kind": "ready", "start": 0, "node": [1, "a", [5], 6, 0]}).encode() + b"\n")
            nodes = link.meet(Node(1, "b", [7], 8, 0), lambda: None)
            # The first machine's own address is the one at which the others have found it.
            assert nodes == [Node(1, "127.0.0.1", [7], 8, 0), Node(1, "a", [5], 6, 0)]


def test_what_is_said_too_late_about_a_start_does_not_count_for_the_next():
    with coordinator(max_restarts=1) as (link, plan, _):
        with contextlib.closing(socket.create_connection(plan.master)) as member:
            ready = {"kind": "ready", "node": [1, "a", [5], 6, 0]}
            failed = {"kind": "failed", "failure": links.Failure("rank 1 failed", 3)}
            for message in ({}, dict(ready, start=0), dict(failed, start=0), dict(failed, start=0)):
                text = json.dumps(message).encode() + b"\n" if message else hello(plan)
                member.sendall(text)
                if message == dict(ready, start=0):
                    assert len(link.meet(Node(1, "b", [7], 8, 0), lambda: None)) == 2
            member.sendall(json.dumps({"kind": "done", "start": 0}).encode() + b"\n")
            # Ready for the next start, before the first machine has ended its ranks.
            member.sendall(json.dumps(dict(ready, start=1, node=[1, "a", [50], 6, 0])).encode() + b"\n")
            assert until(lambda: link.poll() and 1 in link._ready)
            assert link.poll().restart
            nodes = link.meet(Node(1, "b", [70], 8, 0), lambda: None)
            assert [node.ports for node in nodes] == [[70], [50]]
            link.done()
            assert link.poll() is None
            member.sendall(json.dumps({"kind": "done", "start": 1}).encode() + b"\n")
            assert until(link.poll)
            assert link.poll() == links.Verdict()


def test_a_machine_has_to_be_ready_again_for_the_next_start():
    with coordinator(max_restarts=1) as (link, plan, _):
        with contextlib.closing(socket.create_connection(plan.master)) as member:
            member.sendall(hello(plan))
            member.sendall(json.dumps({"kind": "ready", "start": 0, "node": [1, "a", [5], 6, 0]}).encode() + b"\n")
            link.meet(Node(1, "b", [7], 8, 0), lambda: None)
            link.failed(links.Failure("it failed", 1))
            link._plan = plan._replace(timeout=0.3)
            with pytest.raises(rendezvous.RendezvousError, match="No launcher came from node 1 within 0.3 s"):
                link.meet(Node(1, "b", [7], 8, 0), lambda: None)


def test_a_member_keeps_what_is_about_the_next_start():
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        plan = Plan("tf_config", [], [None], "", nodes=2, node=1, master=server.getsockname(), timeout=5.0)
        member = rendezvous.Member(plan, [].append)
        member._connect()
        first = server.accept()[0]
        failure = links.Failure("it failed", 3)
        messages = [
            {"kind": "welcome", "address": "a"},
            {"kind": "start", "nodes": [Node(1, "b", [7], 8, 0), Node(1, "a", [5], 6, 0)]},
            {"kind": "verdict", "failure": failure, "restart": True},
            {"kind": "verdict", "failure": failure._replace(code=4), "restart": False},
        ]
        first.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        assert len(member.meet(Node(1, "", [5], 6, 0), lambda: None)) == 2
        assert until(member.poll)
        assert member.poll() == links.Verdict(links.Failure("it failed", 3, tail=[]), True)
        assert member.meet(Node(1, "", [5], 6, 0), lambda: None) == []
        assert member.poll().failure.code == 4
        first.close()
        member.close()


def test_a_policy_counts_restarts():
    policy = links.Policy(2)
    failure = links.Failure("it failed", 1)
    assert policy.verdict(failure) == links.Verdict(failure, True)
    assert policy.verdict(failure._replace(restartable=False)).restart is False
    assert policy.verdict(failure).restart is True
    assert policy.verdict(failure).restart is False
