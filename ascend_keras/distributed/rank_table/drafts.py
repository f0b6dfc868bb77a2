"""A table while it is read: as the model, but with None where a field is faulty, and with places for messages."""

from typing import List, Optional, Tuple

from ascend_keras.distributed.rank_table.faults import Place
from ascend_keras.distributed.rank_table.model import Device, RankTable, Server


class ServerDraft:
    """A server and its devices, each with its place; ids may be None."""

    def __init__(self, place: Place, server_id: Optional[str], host_ip: str = ""):
        self.place = place
        self.server_id = server_id
        self.host_ip = host_ip
        self.entries: List[Tuple[Place, Device]] = []


class Draft:
    """A table that may have faults.

    Args:
        version: as in `RankTable`.
        devices_field: how this form calls the list of devices.
    """

    def __init__(self, version: str, devices_field: str = "device"):
        self.version = version
        self.devices_field = devices_field
        self.servers: List[ServerDraft] = []
        self.super_pods: list = []

    @property
    def entries(self):
        """(place, device) of all servers."""
        return [entry for server in self.servers for entry in server.entries]

    def table(self) -> RankTable:
        """The table; call it only where no fault was found."""
        servers = tuple(
            Server(str(server.server_id), tuple(device for _, device in server.entries), server.host_ip)
            for server in self.servers
        )
        return RankTable(self.version, servers, tuple(self.super_pods))


def label(value, otherwise):
    """How messages call a server or device: by its id, or by `otherwise` where it has none to show."""
    shown = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return shown if shown.strip() else otherwise
