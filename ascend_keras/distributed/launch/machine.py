"""What this machine has: devices, free ports, a folder for logs."""

import glob
import os
import re
import socket
import time
from typing import List, Optional, Sequence, Tuple

# Ports are looked for in this many below those that the system gives to outgoing connections.
_BELOW = 16000
_LOWEST = 2000
_TRIES = 5000


def npu_devices(dev: str = "/dev") -> List[int]:
    """Numbers of the devices that the driver of the NPUs has made, /dev/davinciN."""
    found = [re.match(r".*/davinci(\d+)$", path) for path in glob.glob(os.path.join(dev, "davinci[0-9]*"))]
    return sorted(int(match.group(1)) for match in found if match)


def logical_device(physical: int, present: Sequence[int]) -> int:
    """ASCEND_DEVICE_ID of a device: its position among those of the machine, or container.

    Without any device in sight, the number itself: that is what it is where all are there.
    """
    return list(present).index(physical) if physical in present else physical


class Ports:
    """Free TCP ports, held until `release`.

    TensorFlow's server allows nobody else on its port, so it has to be let go before the rank starts, which binds it
    seconds later. In between nobody gets it by chance: the ports lie outside the range from which the system takes
    those of outgoing connections and of servers that ask for any.
    """

    def __init__(self, count: int, address: str = ""):
        self._sockets: List[socket.socket] = []
        self.numbers: List[int] = []
        for port in _candidates():
            if len(self.numbers) == count:
                return
            self._try(address, port)
        self.release()
        raise OSError("No {} free TCP ports were found.".format(count))

    def _try(self, address: str, port: int) -> None:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            holder.bind((address, port))
        except OSError:
            holder.close()
            return
        self._sockets.append(holder)
        self.numbers.append(holder.getsockname()[1])

    def release(self) -> None:
        """Lets the ports go, for those who are to listen there."""
        for holder in self._sockets:
            holder.close()
        self._sockets = []


def _candidates(path: str = "/proc/sys/net/ipv4/ip_local_port_range"):
    try:
        with open(path) as file:
            lowest = int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32768
    first = max(_LOWEST, lowest - _BELOW)
    # Where the system's range leaves no room below it, ports of its own choice.
    for _ in range(_TRIES if first < lowest else 0):
        yield first + int.from_bytes(os.urandom(4), "big") % (lowest - first)
    for _ in range(_TRIES):
        yield 0


def find_log_dir(given: Optional[str], node: int, nodes: int, now: Optional[float] = None) -> str:
    """Absolute path of the folder for the logs: as given, or a new name below ./ascend_keras_logs."""
    if given:
        return os.path.abspath(given)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name = stamp if nodes == 1 else "{}-node{}".format(stamp, node)
    path = os.path.abspath(os.path.join("ascend_keras_logs", name))
    taken, count = path, 0
    while os.path.exists(taken):
        count += 1
        taken = "{}-{}".format(path, count)
    return taken


def why_not_writable(folder: str) -> Optional[str]:
    """Why no file can be made in a folder, or in one of that name that is still to be made; None if it can."""
    existing = folder
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return "{} is no folder".format(existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        return "no permission to write into {}".format(existing)
    return None


def address_and_port(text: str) -> Optional[Tuple[str, int]]:
    """("host", 2222) of "host:2222" or "[::1]:2222"; None if it is neither."""
    match = re.match(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})$", text)
    if not match or not 0 < int(match.group(3)) < 65536:
        return None
    return match.group(1) or match.group(2), int(match.group(3))
