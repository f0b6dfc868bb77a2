"""What this machine has: devices, free ports."""

import glob
import os
import re
import socket
from typing import List, Optional, Sequence, Tuple

# Ports are looked for in this many below those that the system gives to outgoing connections.
_BELOW = 16000
_LOWEST = 2000
_TRIES = 5000


def npu_devices(dev: str = "/dev") -> List[int]:
    """Numbers of the devices that the driver of the NPUs has made, /dev/davinciN."""
    found = [re.match(r".*/davinci(\d+)$", path) for path in glob.glob(os.path.join(dev, "davinci[0-9]*"))]
    return sorted(int(match.group(1)) for match in found if match)


def visible_devices(text: str, present: Sequence[int]) -> List[int]:
    """The devices that ASCEND_RT_VISIBLE_DEVICES leaves to processes, in its order.

    Args:
        text: its value: positions among the devices of the machine or container, with commas between.
        present: numbers of these devices; where there are none, the numbers of the variable are taken as they are.

    Raises:
        ValueError: it is not of this form, names a device twice, or one that is not there.
    """
    words = [word.strip() for word in text.split(",")]
    positions = [int(word) for word in words if re.match(r"\d+$", word)]
    wrong = len(positions) < len(words) or len(set(positions)) < len(positions)
    if wrong or (present and max(positions) >= len(present)):
        there = "0 to {}".format(len(present) - 1) if present else "those that are there"
        raise ValueError(
            "ASCEND_RT_VISIBLE_DEVICES takes numbers of devices, {}, each once, with commas between. Received: "
            "ASCEND_RT_VISIBLE_DEVICES={}. Correct or unset it.".format(there, text)
        )
    return [present[position] for position in positions] if present else positions


def logical_device(physical: int, present: Sequence[int]) -> int:
    """ASCEND_DEVICE_ID of a device: its position among those of the machine or container that a process sees.

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


def address_and_port(text: str) -> Optional[Tuple[str, int]]:
    """("host", 2222) of "host:2222" or "[::1]:2222"; None if it is neither."""
    match = re.match(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})$", text)
    if not match or not 0 < int(match.group(3)) < 65536:
        return None
    return match.group(1) or match.group(2), int(match.group(3))
