"""Launchers of several machines: they meet at an address of the first, and stay connected as long as ranks run.

Messages are lines of JSON, which is data and nothing that could be executed. A launcher says

    {"kind": "hello", "magic": ..., "nodes": 2, "node": 1, "form": ..., "size": ..., "table": ..., "job_id": ...}
                                                                           once, and then
    {"kind": "ready", "node": [ranks, address, ports, chief_port, device, job_id]} before each start
    {"kind": "failed", "failure": [...]}, {"kind": "done"}                 after it

each of these with the number of the start, so that what is said too late about one does not count for the next; and the
first of them

    {"kind": "refused", "text": ...}                                       to one that does not belong
    {"kind": "start", "nodes": [...]}, {"kind": "verdict", ...}            to all
"""

import json
import select
import socket
import time
from typing import Any, Callable, Dict, Iterable, List, Optional

from ascend_keras.distributed.launch.links import Failure, Policy, Verdict
from ascend_keras.distributed.launch.plan import Node, Plan

# To be raised with every change of the messages.
MAGIC = "ascend-keras launch, protocol 2"
# How long launchers wait for each other unless told otherwise: machines do not get their jobs in the same minute.
MEETING_SECONDS = 600.0
_RETRY_SECONDS = 0.2
_LONGEST = 1 << 20


class RendezvousError(RuntimeError):
    """The launchers did not come together."""


class Channel:
    """Messages to and from one other launcher.

    Args:
        connection: a connected socket.
        address: that of the other machine.
    """

    def __init__(self, connection: socket.socket, address: str):
        self.socket = connection
        self.address = address
        self.is_open = True
        self._received = b""
        connection.setblocking(True)
        connection.settimeout(10.0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A machine without power says nothing; it is missed after 10 + 3 * 5 s.
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, **message: Any) -> None:
        """Sends; a launcher that is gone is noticed when it is read from."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_open = False

    def receive(self) -> List[Dict[str, Any]]:
        """What has arrived, without waiting; `is_open` is False after the last."""
        while self.is_open and select.select([self.socket], [], [], 0)[0]:
            try:
                data = self.socket.recv(1 << 16)
            except OSError:
                data = b""
            self._received += data
            self.is_open = bool(data) and len(self._received) < _LONGEST
        *lines, self._received = self._received.split(b"\n")
        return [message for message in map(_parsed, lines) if message]

    def finish(self) -> None:
        """Says that nothing follows."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_open = False


def close(channels: Iterable[Channel], seconds: float = 1.0) -> None:
    """Closes connections once the others have closed theirs, or after some time.

    Closed with unread data, TCP would throw away what is still on its way to the other.
    """
    channels, deadline = list(channels), time.monotonic() + seconds
    for channel in channels:
        channel.finish()
    for channel in channels:
        while channel.is_open and time.monotonic() < deadline:
            select.select([channel.socket], [], [], max(0.0, deadline - time.monotonic()))
            channel.receive()
        channel.is_open = False
        channel.socket.close()


def _parsed(line: bytes) -> Dict[str, Any]:
    """A message; {} for what is none."""
    try:
        message = json.loads(line.decode())
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def link(plan: Plan, say: Callable[[str], None]):
    """The link of a machine that is one of several."""
    return Coordinator(plan, say) if plan.node == 0 else Member(plan, say)


def _lost(node: int) -> Failure:
    text = "the launcher of node {} is gone: it was killed, or the network or the machine failed".format(node)
    return Failure(text, 1, node, restartable=False)


class _Waiting:
    """The time launchers wait for each other."""

    def __init__(self, plan: Plan, tick: Callable[[], None]):
        self.seconds = plan.timeout or MEETING_SECONDS
        self._deadline = time.monotonic() + self.seconds
        self._tick = tick

    def go_on(self, readers, what: str) -> None:
        """Waits a moment.

        Raises:
            RendezvousError: time is up.
        """
        self._tick()
        if time.monotonic() > self._deadline:
            raise RendezvousError(
                "{} within {:g} s. Start `ascend-keras launch` on every machine with the same --nnodes and --master, "
                "or give more time (--timeout).".format(what, self.seconds)
            )
        select.select(readers, [], [], _RETRY_SECONDS)


class Coordinator:
    """The link of the first machine."""

    def __init__(self, plan: Plan, say: Callable[[str], None]):
        self._plan = plan
        self._say = say
        self._master: Any = plan.master
        self._policy = Policy(plan.max_restarts)
        self._channels: Dict[int, Channel] = {}
        self._strangers: List[Channel] = []
        self._ready: Dict[int, Node] = {}
        self._done: set = set()
        self._verdict: Optional[Verdict] = None
        self._server = _listen(plan.master)

    def sockets(self) -> List[Any]:
        return [self._server] + [channel.socket for channel in self._channels.values() if channel.is_open]

    def meet(self, node: Node, tick) -> List[Node]:
        self._ready[0], self._verdict = node, None
        waiting = _Waiting(self._plan, tick)
        if not self._channels:
            text = "node 0 waits for the other launchers at {}:{}, {:g} s at most"
            self._say(text.format(*self._master, waiting.seconds))
        while len(self._ready) < self._plan.nodes:
            absent = [number for number in range(self._plan.nodes) if number not in self._ready]
            waiting.go_on(
                self.sockets() + [stranger.socket for stranger in self._strangers],
                "No launcher came from node {}".format(", ".join(map(str, absent))),
            )
            self._accept()
            self._read()
            if self._verdict:
                return []
        nodes = [self._ready[number] for number in range(self._plan.nodes)]
        nodes[0] = nodes[0]._replace(address=self._own_address())
        self._broadcast(kind="start", nodes=nodes)
        return nodes

    def failed(self, failure: Failure) -> None:
        if not self._verdict:
            self._verdict = self._policy.verdict(failure)
            self._ready, self._done = {}, set()
            self._broadcast(kind="verdict", failure=failure, restart=self._verdict.restart)

    def done(self) -> None:
        self._done.add(0)

    def poll(self) -> Optional[Verdict]:
        # One that comes while ranks run cannot belong to them, and is told so.
        self._accept()
        self._read()
        if not self._verdict and len(self._done) == self._plan.nodes:
            self._verdict = Verdict()
            self._broadcast(kind="verdict", failure=None, restart=False)
        return self._verdict

    def close(self) -> None:
        close(list(self._channels.values()) + self._strangers)
        self._server.close()

    def _own_address(self) -> str:
        """The address of this machine at which others have reached it; its own name may mean 127.0.1.1 here."""
        found = sorted(channel.socket.getsockname()[0] for channel in self._channels.values())
        return next((address for address in found if not _is_loopback(address)), found[0])

    def _broadcast(self, **message: Any) -> None:
        for channel in self._channels.values():
            channel.send(**message)

    def _accept(self) -> None:
        while select.select([self._server], [], [], 0)[0]:
            connection, address = self._server.accept()
            self._strangers.append(Channel(connection, address[0]))
        for stranger in list(self._strangers):
            messages = stranger.receive()
            if messages or not stranger.is_open:
                self._strangers.remove(stranger)
            if messages and self._welcome(stranger, messages[0]):
                for message in messages[1:]:
                    self._take(messages[0]["node"], message)

    def _welcome(self, channel: Channel, hello: Dict[str, Any]) -> bool:
        reason = self._why_not(hello)
        if reason:
            self._say("Refused a launcher from {}: {}".format(channel.address, reason))
            channel.send(kind="refused", text=reason)
            close([channel], 0.2)
            return False
        channel.send(kind="welcome", address=channel.address)
        self._channels[hello["node"]] = channel
        return True

    def _why_not(self, hello: Dict[str, Any]) -> str:
        plan, node = self._plan, hello.get("node")
        if hello.get("magic") != MAGIC:
            return "it speaks as {!r}, this one as {!r}. Use the same version on all machines.".format(
                hello.get("magic"), MAGIC
            )
        if hello.get("nodes") != plan.nodes:
            return "it has {} machines, this one {} (--nnodes).".format(hello.get("nodes"), plan.nodes)
        if hello.get("form") != plan.form:
            return "it launches with {}, this one with {} (--backend, --rank-table).".format(
                hello.get("form"), plan.form
            )
        if not isinstance(node, int) or not 0 < node < plan.nodes:
            return "its node rank is {!r}, and must be from 1 to {} (--node-rank).".format(node, plan.nodes - 1)
        if node in self._channels:
            return "another launcher is node {} already (--node-rank).".format(node)
        return _why_not_the_same_job(plan, hello)

    def _read(self) -> None:
        for number, channel in self._channels.items():
            for message in channel.receive() if channel.is_open else ():
                self._take(number, message)
            if not channel.is_open and number not in self._done:
                self.failed(_lost(number))

    def _take(self, number: int, message: Dict[str, Any]) -> None:
        if message.get("start") != self._policy.restarts:
            return
        if message.get("kind") == "ready":
            self._ready[number] = Node(*message["node"])
        elif message.get("kind") == "done":
            self._done.add(number)
        elif message.get("kind") == "failed":
            self.failed(Failure(*message["failure"]))


def _why_not_the_same_job(plan: Plan, hello: Dict[str, Any]) -> str:
    if hello.get("size") != plan.size or hello.get("table") != plan.table_hash:
        return "its rank table, of {} ranks, is not that of this one, of {} ranks (--rank-table).".format(
            hello.get("size"), plan.size
        )
    # Hosts make no use of it, and one that was not given is that of the first machine.
    if plan.form != "tf_config" and hello.get("job_id") not in (None, plan.job_id):
        return "its JOB_ID is {}, that of this one {}. Set the same on all machines, or on the first alone.".format(
            hello.get("job_id"), plan.job_id
        )
    return ""


def _hello(plan: Plan) -> Dict[str, Any]:
    names = {"nodes": plan.nodes, "node": plan.node, "form": plan.form, "size": plan.size, "table": plan.table_hash}
    return dict(names, kind="hello", magic=MAGIC, job_id=plan.job_id if plan.job_id_given else None)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _listen(master) -> socket.socket:
    """Listens at an address, or, for a name, at all that this machine has."""
    host, port = master
    literal = ":" in host or host.replace(".", "").isdigit() or host == "localhost"
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host if literal else "", port))
        server.listen(64)
    except OSError as error:
        server.close()
        raise RendezvousError(
            "The first machine cannot listen at --master: {}. Received: --master {}:{}. Give a name or an address of "
            "this machine, and a free port.".format(error, host, port)
        ) from error
    return server


class Member:
    """The link of another machine than the first."""

    def __init__(self, plan: Plan, say: Callable[[str], None]):
        self._plan = plan
        self._say = say
        self._master: Any = plan.master
        self._start = 0
        self._unread: List[Dict[str, Any]] = []
        self._verdict: Optional[Verdict] = None
        self._nodes: Optional[List[Node]] = None
        self._channel: Optional[Channel] = None
        self._address = ""

    def sockets(self) -> List[Any]:
        return [self._channel.socket] if self._channel and self._channel.is_open else []

    def meet(self, node: Node, tick) -> List[Node]:
        self._verdict, self._nodes = None, None
        waiting = _Waiting(self._plan, tick)
        if not self._channel:
            text = "node {} asks for the launcher of node 0 at {}:{}, {:g} s at most"
            self._say(text.format(self._plan.node, *self._master, waiting.seconds))
        while not self._channel:
            self._connect()
            if not self._channel:
                waiting.go_on([], "No launcher answered at {}:{} (--master)".format(*self._master))
        while not self._address and not self._verdict:
            waiting.go_on(self.sockets(), "The launcher at {}:{} said nothing".format(*self._master))
            self._read()
        self._send(kind="ready", node=node._replace(address=self._address))
        while self._nodes is None and not self._verdict:
            waiting.go_on(self.sockets(), "Not all launchers came")
            self._read()
        return self._nodes or []

    def _connect(self) -> None:
        try:
            connection = socket.create_connection(self._master, timeout=5.0)
        except OSError:
            # The first machine may come later.
            return
        self._channel = Channel(connection, self._master[0])
        self._channel.send(**_hello(self._plan))

    def failed(self, failure: Failure) -> None:
        self._send(kind="failed", failure=failure)

    def done(self) -> None:
        self._send(kind="done")

    def poll(self) -> Optional[Verdict]:
        self._read()
        return self._verdict

    def close(self) -> None:
        close([self._channel] if self._channel else [])

    def _send(self, **message: Any) -> None:
        if self._channel:
            self._channel.send(start=self._start, **message)

    def _read(self) -> None:
        if not self._channel:
            return
        self._unread += self._channel.receive()
        # What follows a verdict is about the next start.
        while self._unread and not self._verdict:
            message = self._unread.pop(0)
            kind = message.get("kind")
            if kind == "refused":
                raise RendezvousError("The first machine refused this one: {}".format(message.get("text")))
            if kind == "welcome":
                self._address = message["address"]
            elif kind == "start":
                self._nodes = [Node(*node) for node in message["nodes"]]
            elif kind == "verdict":
                failure = message["failure"] and Failure(*message["failure"])
                self._verdict = Verdict(failure, message["restart"])
                self._start += message["restart"]
        if not self._channel.is_open and not self._verdict:
            self._verdict = Verdict(_lost(0))
