"""What a rank table says, whatever its form: servers, their devices, and the rank of each."""

import ipaddress
import socket
from typing import FrozenSet, List, NamedTuple, Optional, Tuple, Union


class Device(NamedTuple):
    """One device of a server.

    Attributes:
        device_id: its physical id on the server.
        rank_id: the rank that runs on it.
        device_ip: address of its network card, several separated by commas, "" where none is given.
        extra: (field, text) of what else version 1.0 may say: ports and backup address.
        super_device_id: version 1.2: its number in the super pod.
        pod_name: old form "cloud": the pod whose process it belongs to.
    """

    device_id: int
    rank_id: int
    device_ip: str = ""
    extra: Tuple[Tuple[str, str], ...] = ()
    super_device_id: str = ""
    pod_name: str = ""


class Server(NamedTuple):
    """One machine.

    Attributes:
        server_id: its name in the table, often an address.
        devices: in the order of the file.
        host_ip: its address, "" where none is given.
    """

    server_id: str
    devices: Tuple[Device, ...]
    host_ip: str = ""


class RankTable(NamedTuple):
    """A rank table without faults.

    Attributes:
        version: "1.0", "1.2", "2.0", or for the old forms "lab" and "cloud".
        servers: in the order of the file. Version 2.0 names none: there they are the instances of the lowest network
            layer, which is our reading of it.
        super_pods: version 1.2: (super_pod_id, server ids).
    """

    version: str
    servers: Tuple[Server, ...]
    super_pods: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()

    @property
    def size(self) -> int:
        """Number of ranks."""
        return sum(len(server.devices) for server in self.servers)

    def server(self, which: Union[int, str]) -> Server:
        """The server with this position, id or host_ip.

        Raises:
            ValueError: there is none.
        """
        if isinstance(which, int) and 0 <= which < len(self.servers):
            return self.servers[which]
        for server in self.servers:
            if which in (server.server_id, server.host_ip):
                return server
        raise ValueError(
            "The rank table has no such server. Received: {!r}. It has {}; give one of these, or a position from 0 "
            "on.".format(which, ", ".join(server.server_id for server in self.servers))
        )

    def ranks_of(self, which: Union[int, str]) -> List[int]:
        """The ranks of a server, by its position, id or host_ip, in ascending order."""
        return sorted(device.rank_id for device in self.server(which).devices)

    def local(self, which: Union[int, str, None] = None, names: Optional[FrozenSet[str]] = None):
        """The ranks of this machine.

        Args:
            which: position, id or host_ip of the server; None finds it: the only one there is, or the one that is
                called by a name or an address of this machine.
            names: names and addresses of this machine; None asks the system.

        Returns:
            A list of (rank_id, device_id), by rank.

        Raises:
            ValueError: no server, or more than one, is this machine.
        """
        server = self._this_server(names) if which is None else self.server(which)
        return sorted((device.rank_id, device.device_id) for device in server.devices)

    def _this_server(self, names) -> Server:
        if len(self.servers) == 1:
            return self.servers[0]
        names = host_names() if names is None else frozenset(names)
        fitting = [server for server in self.servers if is_host(server, names)]
        if len(fitting) == 1:
            return fitting[0]
        raise ValueError(
            "{} of the rank table is this machine. Received: servers {}; this machine has {}. Say which one it is by "
            "its position (--node-rank).".format(
                "More than one server" if fitting else "No server",
                ", ".join(server.server_id for server in self.servers),
                ", ".join(sorted(names)),
            )
        )


def is_host(server, names) -> bool:
    """Whether a server is called by one of these names or addresses."""
    return bool({server.server_id, server.host_ip} & set(names))


def host_names() -> FrozenSet[str]:
    """Name and addresses of this machine, without asking any name server; loopback addresses are left out."""
    name = socket.gethostname()
    return frozenset({name, name.partition(".")[0]} | set(_ipv4_addresses()) | set(_ipv6_addresses())) - {""}


def _lines(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []  # no Linux, or an address family that is switched off


def _ipv4_addresses():
    former = ""
    for line in _lines("/proc/net/fib_trie"):
        if "/32 host LOCAL" in line:
            address = former.split()[-1]
            if not address.startswith("127."):
                yield address
        former = line


def _ipv6_addresses():
    for line in _lines("/proc/net/if_inet6"):
        address = ipaddress.IPv6Address(int(line.split()[0], 16))
        if not (address.is_loopback or address.is_link_local):
            yield str(address)
