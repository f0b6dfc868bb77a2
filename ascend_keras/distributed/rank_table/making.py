"""Making rank tables of version 1.0: from addresses, by joining tables, by converting old ones."""

import hashlib
import itertools
import json
import os
import re
from collections import OrderedDict
from typing import Dict, List, Optional, Sequence, Tuple

from ascend_keras.distributed.rank_table.faults import Fault, RankTableError
from ascend_keras.distributed.rank_table.model import Device, RankTable, Server
from ascend_keras.distributed.rank_table.reading import check

_COMMAND = re.compile(r"hccn_tool.*-i\s+(\d+)")
_PRINTED = re.compile(r"^\s*ipaddr:\s*(\S+)")
_CONFIGURED = re.compile(r"^\s*address_(\d+)\s*=\s*(\S+)")


def addresses_in(text: str, what: str = "the text") -> Dict[int, str]:
    """Finds the addresses of devices in /etc/hccn.conf, or in what `hccn_tool -i N -ip -g` prints.

    Args:
        text: lines `address_0=192.168.100.101`, or `ipaddr:192.168.100.101`. The tool does not print the device, so
            that its answers are numbered 0, 1, ... unless a line with the command stands before them.
        what: how messages call it.

    Returns:
        An OrderedDict of device id to address, in ascending order.

    Raises:
        ValueError: there is no address, or there are two for one device.
    """
    found: List[Tuple[int, str]] = []
    following = 0
    for line in text.splitlines():
        configured, printed, command = _CONFIGURED.match(line), _PRINTED.match(line), _COMMAND.search(line)
        if configured:
            found.append((int(configured.group(1)), configured.group(2)))
        elif printed:
            found.append((following, printed.group(1)))
            following += 1
        elif command:
            following = int(command.group(1))
    ids = [device_id for device_id, _ in found]
    twice = sorted({device_id for device_id in ids if ids.count(device_id) > 1})
    if not found or twice:
        raise ValueError(
            "{} has {}. Give /etc/hccn.conf (lines address_0=...), or what `hccn_tool -i N -ip -g` prints for each "
            "device (lines ipaddr:...), in the order of the devices.".format(
                what, "two addresses for device {}".format(twice[0]) if twice else "no address of a device"
            )
        )
    return OrderedDict(sorted(found))


def make(servers: Sequence[Tuple[str, Dict[int, str]]], host_ips: Sequence[str] = ()) -> RankTable:
    """Makes a table with ranks by server, as given, and in each by device id.

    Args:
        servers: (server_id, {device id: address or ""}).
        host_ips: addresses of the servers; empty, or one for each.

    Raises:
        RankTableError: the result would have faults.
    """
    numbers = itertools.count()
    made = []
    for position, (server_id, devices) in enumerate(servers):
        host_ip = host_ips[position] if host_ips else ""
        entries = tuple(Device(device_id, next(numbers), ip) for device_id, ip in sorted(devices.items()))
        made.append(Server(server_id, entries, host_ip))
    return _checked(RankTable("1.0", tuple(made)), "The rank table made from these servers")


def merge(tables: Sequence[RankTable]) -> RankTable:
    """Joins the servers of several tables, such as each server has made its own; ranks are numbered anew.

    They go by server, in the order given, and in each server by the ranks it had.

    Raises:
        ValueError: a table has what version 1.0 cannot say.
        RankTableError: the result would have faults, such as a server twice or several servers without device_ip.
    """
    numbers = itertools.count()
    servers = []
    for table in tables:
        for server in as_version_1(table).servers:
            ordered = sorted(server.devices, key=lambda device: device.rank_id)
            devices = tuple(device._replace(rank_id=next(numbers)) for device in ordered)
            servers.append(server._replace(devices=devices))
    return _checked(RankTable("1.0", tuple(servers)), "The rank table joined from these")


def as_version_1(table: RankTable) -> RankTable:
    """The same table as version 1.0; ranks stay what they are.

    Raises:
        ValueError: it has what version 1.0 cannot say: super pods, or network layers.
    """
    if table.version in ("1.2", "2.0"):
        lost = "super pods" if table.version == "1.2" else "network layers"
        raise ValueError(
            "Version 1.0 cannot say what this table says about {}. Received: version={!r}. HCCL reads that version, "
            "so use the file as it is.".format(lost, table.version)
        )
    servers = tuple(
        server._replace(devices=tuple(device._replace(pod_name="") for device in server.devices))
        for server in table.servers
    )
    return RankTable("1.0", servers)


def as_json(table: RankTable) -> str:
    """The text of a table in version 1.0.

    Raises:
        ValueError: see `as_version_1`.
    """
    return json.dumps(_content(as_version_1(table)), indent=2) + "\n"


def _content(table):
    servers = []
    for server in table.servers:
        entry = OrderedDict([("server_id", server.server_id)])
        if server.host_ip:
            entry["host_ip"] = server.host_ip
        entry["device"] = [_device(device) for device in server.devices]
        servers.append(entry)
    return OrderedDict(
        [("version", "1.0"), ("server_count", str(len(servers))), ("server_list", servers), ("status", "completed")]
    )


def _device(device):
    entry = OrderedDict([("device_id", str(device.device_id))])
    if device.device_ip:
        entry["device_ip"] = device.device_ip
    entry.update(device.extra)
    entry["rank_id"] = str(device.rank_id)
    return entry


def _checked(table, what, product=None):
    faults: List[Fault] = [fault for fault in check(_content(table), product=product) if not fault.warning]
    if faults:
        raise RankTableError(what, faults)
    return table


def write(table: RankTable, path: str, overwrite: bool = False, product: Optional[str] = None) -> None:
    """Writes a table in version 1.0, aside and renamed, so that no reader ever sees half of it.

    Args:
        table: of version 1.0 or an old form.
        path: it ends in .json.
        overwrite: whether to replace a file.
        product: as in `check`.

    Raises:
        ValueError: the path does not end in .json, or see `as_version_1`.
        RankTableError: the product cannot combine these devices.
        FileExistsError: the file is there, and `overwrite` is False.
    """
    if not path.endswith(".json"):
        raise ValueError("HCCL takes rank tables that end in .json only. Received: {!r}.".format(path))
    text = as_json(table)
    _checked(as_version_1(table), "The rank table", product)
    aside = "{}.{}.part".format(path, os.getpid())
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(aside, path)
        else:
            _publish(aside, path)
    except FileExistsError as error:
        raise FileExistsError(
            "The file is there already. Received: {!r}. Give another name, or --overwrite.".format(path)
        ) from error
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def _publish(aside, path):
    """Gives the file its name; FileExistsError if there is one, also when it appeared this moment."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from error
        os.replace(aside, path)


def content_hash(path: str) -> str:
    """16 hex digits that are equal for files with equal content, whatever their spaces and order of keys."""
    with open(path, encoding="utf-8") as file:
        content = json.dumps(json.load(file), sort_keys=True)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def summary(table: RankTable) -> str:
    """A line on the table, and one on each server."""
    counts = _count(table.size, "rank"), _count(len(table.servers), "server")
    lines = ["version {}: {} on {}".format(table.version, *counts)]
    for server in table.servers:
        pairs = ["rank {} on device {}".format(device.rank_id, device.device_id) for device in server.devices]
        lines.append("  {}: {}".format(server.server_id, ", ".join(pairs)))
    return "\n".join(lines)


def _count(number, what):
    return "{} {}{}".format(number, what, "" if number == 1 else "s")
