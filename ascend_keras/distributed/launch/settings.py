"""From what the user asks for to a plan; all that is wrong with it at once, before anything starts."""

import json
import os
import re
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ascend_keras.distributed.launch import folder, machine
from ascend_keras.distributed.launch.plan import CLUSTER_VARIABLES, JOB_ID, Plan

_HCCN_CONF = "/etc/hccn.conf"


class Request(NamedTuple):
    """A launch as asked for; numbers are text, as the command line has them. None is for what was not given.

    Attributes:
        script: path and arguments of a script, or "-m", name and arguments of a module.
    """

    script: Sequence[str] = ()
    ranks: Optional[str] = None
    backend: str = "auto"
    nnodes: Optional[str] = None
    node_rank: Optional[str] = None
    master: Optional[str] = None
    rank_table: Optional[str] = None
    devices: Optional[str] = None
    bind_cores: bool = False
    log_dir: Optional[str] = None
    max_restarts: str = "0"
    timeout: Optional[str] = None
    show: str = "all"
    env: Sequence[str] = ()


class LaunchError(ValueError):
    """A launch that cannot be carried out; the message has a line for each reason."""


class _Problems:
    def __init__(self):
        self.found: List[str] = []

    def add(self, text: str, *values) -> None:
        self.found.append(text.format(*values))

    def number(self, flag: str, text: Optional[str], least: int) -> Optional[int]:
        if text is None:
            return None
        if not re.match(r"\d+$", text) or int(text) < least:
            self.add("{} must be a whole number from {} on. Received: {} {}.", flag, least, flag, text)
            return None
        return int(text)


def resolve(request: Request, environ: Optional[Mapping[str, str]] = None, present: Optional[List[int]] = None) -> Plan:
    """Makes a plan; nothing is written or started.

    Args:
        environ: None is that of this process.
        present: numbers of the NPUs of this machine; None looks for them.

    Raises:
        LaunchError: it cannot be carried out; all reasons are listed.
    """
    environ = os.environ if environ is None else environ
    present = machine.npu_devices() if present is None else present
    problems = _Problems()
    values = _general(request, environ, problems)
    values.update(_ranks(request, values, _Npus(present, environ), problems))
    if problems.found:
        raise LaunchError("\n".join(problems.found))
    physical = values.pop("physical", None)
    if request.bind_cores:
        from ascend_keras.distributed import cores

        values["cores"] = cores.shares_here(len(values["devices"]), physical)
    return Plan(**values)


# --- what concerns no rank in particular ----------------------------------------------------------------------------


def _general(request, environ, problems) -> Dict[str, Any]:
    values: Dict[str, Any] = {
        "command": _command(request, problems),
        "max_restarts": problems.number("--max-restarts", request.max_restarts, 0) or 0,
        "timeout": _timeout(request, problems),
        "extra": tuple(_extra(request, problems)),
        "shows_all": request.show == "all",
        "job_id": environ.get("JOB_ID") or JOB_ID,
        "job_id_given": bool(environ.get("JOB_ID")),
    }
    if request.show not in ("all", "main"):
        problems.add("--show must be all or main. Received: --show {}.", request.show)
    values.update(_nodes(request, problems))
    values["log_dir"] = folder.find(request.log_dir, values["node"], values["nodes"])
    values["log_dir_is_new"] = not request.log_dir
    reason, holder = folder.why_not_writable(values["log_dir"]), folder.busy(values["log_dir"], values["node"])
    if holder:
        reason = folder.why_busy(holder)
    if reason:
        problems.add("The logs cannot be written: {}. Received: --log-dir {}.", reason, values["log_dir"])
    return values


def _command(request, problems) -> List[str]:
    script = list(request.script)
    if script[:1] == ["-m"]:
        if len(script) < 2:
            problems.add("-m takes the name of a module. Received: nothing behind it.")
    elif not script:
        problems.add("No script was given. Write it behind the flags: ascend-keras launch -n 2 train.py --epochs=3")
    elif not os.path.isfile(script[0]):
        what = "is a folder" if os.path.isdir(script[0]) else "does not exist"
        problems.add("The script {}. Received: {}. Give the path of a Python file, or -m MODULE.", what, script[0])
    return [sys.executable] + script


def _timeout(request, problems) -> Optional[float]:
    if request.timeout is None:
        return None
    try:
        seconds = float(request.timeout)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        problems.add("--timeout must be a number of seconds above 0. Received: --timeout {}.", request.timeout)
    return seconds


def _extra(request, problems) -> List[Tuple[str, str]]:
    found = []
    for text in request.env:
        name, equals, value = text.partition("=")
        if not equals or not re.match(r"[A-Za-z_]\w*$", name):
            problems.add("--env takes NAME=VALUE. Received: --env {}.", text)
        elif name in CLUSTER_VARIABLES:
            problems.add("{} is set by the launcher itself. Received: --env {}. Leave it out.", name, text)
        else:
            found.append((name, value))
    return found


def _nodes(request, problems) -> Dict[str, Any]:
    nodes = problems.number("--nnodes", request.nnodes, 1)
    node = problems.number("--node-rank", request.node_rank, 0)
    several = (nodes or 1) > 1
    master = machine.address_and_port(request.master) if request.master else None
    if request.master and not master:
        problems.add("--master takes HOST:PORT. Received: --master {}.", request.master)
    if several and not request.master and not request.rank_table:
        problems.add("--nnodes {} needs --master HOST:PORT, an address of the first machine, on all of them.", nodes)
    if several and node is None and not request.rank_table:
        problems.add("--nnodes {} needs --node-rank: 0 on the first machine, 1 on the second, and so on.", nodes)
    if request.master and not request.nnodes and not request.rank_table:
        problems.add("--master is for several machines. Received no --nnodes. Give their number, or leave it out.")
    if node is not None and not request.nnodes and not request.rank_table:
        problems.add("--node-rank is for several machines. Received no --nnodes. Give their number, or leave it out.")
    if node is not None and nodes is not None and node >= nodes:
        problems.add("--node-rank must be below --nnodes. Received: {} and {}. It counts from 0.", node, nodes)
    return {"nodes": nodes or 1, "node": node or 0, "master": master if several or request.rank_table else None}


# --- the ranks of this machine --------------------------------------------------------------------------------------


class _Npus:
    """The devices of this machine, and what ASCEND_RT_VISIBLE_DEVICES leaves of them."""

    def __init__(self, present: Sequence[int], environ: Mapping[str, str]):
        self.present = list(present)
        self.limit = environ.get("ASCEND_RT_VISIBLE_DEVICES", "").strip()

    def visible(self, problems: _Problems) -> List[int]:
        """Numbers of the devices that ranks see, in the order in which these count them."""
        try:
            return machine.visible_devices(self.limit, self.present) if self.limit else self.present
        except ValueError as error:
            problems.add("{}", error)
            return self.present


def _ranks(request, values, npus, problems) -> Dict[str, Any]:
    backend = _backend(request, npus.present, problems)
    count = problems.number("-n", request.ranks, 1)
    # Ranks on a host open none, whatever the shell has left over.
    present = npus.present if backend == "host" else npus.visible(problems)
    devices = _devices(request, present, npus.limit, problems)
    if backend == "host":
        return _host(request, values, count, problems)
    if request.rank_table:
        result = _by_table(request, values, count, devices, present, problems)
        if npus.limit:
            _check_visible(result.get("physical", ()), present, npus.limit, problems)
        return result
    if count is None and not devices and request.ranks is None:
        devices = list(present)
        if not devices:
            problems.add("-n is missing: how many ranks? This machine has no NPU (/dev/davinci*) to count.")
    if devices and count not in (None, len(devices)):
        problems.add("-n must be the number of --devices. Received: -n {}, --devices {}.", count, request.devices)
    if present and count and not devices and count > len(present):
        problems.add("-n {} asks for more than the {} NPUs of this machine (/dev/davinci*).", count, len(present))
    chosen = devices or (list(present) or list(range(count or 1)))[: count or 1]
    return _without_table(values, chosen, present, problems)


def _backend(request, present, problems) -> str:
    if request.backend not in ("auto", "npu", "host"):
        problems.add("--backend must be auto, npu or host. Received: --backend {}.", request.backend)
    if request.backend == "host":
        for flag, value in (("--rank-table", request.rank_table), ("--devices", request.devices)):
            if value:
                problems.add("{} is for NPUs. Received: --backend host, {} {}. Leave one out.", flag, flag, value)
        return "host"
    if request.backend == "auto":
        return "npu" if present or request.rank_table or request.devices else "host"
    return "npu"


def _devices(request, present, limit, problems) -> List[int]:
    if request.devices is None:
        return []
    texts = request.devices.split(",")
    if not all(re.match(r"\d+$", text) for text in texts):
        problems.add("--devices takes numbers with commas between. Received: --devices {}.", request.devices)
        return []
    devices = [int(text) for text in texts]
    if len(set(devices)) < len(devices):
        problems.add(
            "--devices names a device twice, but one drives one rank. Received: --devices {}.", request.devices
        )
    absent = sorted(set(devices) - set(present)) if present else []
    if absent:
        text = "This machine has no device {}. Received: --devices {}. It has {}{}."
        shown = " (ASCEND_RT_VISIBLE_DEVICES={})".format(limit) if limit else ""
        problems.add(text, ", ".join(map(str, absent)), request.devices, ", ".join(map(str, present)), shown)
    return devices


def _host(request, values, count, problems) -> Dict[str, Any]:
    if request.ranks is None:
        problems.add("-n is missing: how many ranks? There is no NPU or rank table here to tell.")
    form = "tf_config" if values["nodes"] > 1 or (count or 1) > 1 else "single"
    return {"form": form, "devices": [None] * (count or 1)}


def _without_table(values, chosen, present, problems) -> Dict[str, Any]:
    rank_table = _rank_tables()
    logical: List[Optional[int]] = [machine.logical_device(device, present) for device in chosen]
    result: Dict[str, Any] = {"devices": logical, "physical": chosen}
    if values["nodes"] > 1:
        return dict(result, form="cm")
    if len(chosen) == 1:
        return dict(result, form="single")
    ordered = sorted(chosen)
    try:
        table = rank_table.make([("127.0.0.1", _addresses(ordered))])
    except ValueError as error:
        problems.add("{}", error)
        return dict(result, form="rank_table")
    text = rank_table.as_json(table)
    return dict(
        form="rank_table",
        devices=[machine.logical_device(device, present) for device in ordered],
        physical=ordered,
        rank_table=os.path.join(values["log_dir"], "rank_table.json"),
        table_text=text,
        warnings=_warnings(json.loads(text)),
    )


def _addresses(devices: List[int], path: str = _HCCN_CONF) -> Dict[int, str]:
    """Addresses of devices, which one server needs only with HCCL_INTRA_ROCE_ENABLE=1; else any fault means none.

    Raises:
        ValueError: they are needed, and the file does not say them.
    """
    rank_table = _rank_tables()
    found: Mapping[int, str] = {}
    if os.access(path, os.R_OK):
        with open(path, errors="replace") as file:
            text = file.read()
        try:
            found = rank_table.addresses_in(text, path)
        except ValueError:
            if os.environ.get("HCCL_INTRA_ROCE_ENABLE") == "1":
                raise
    complete = all(device in found for device in devices)
    return {device: found[device] if complete else "" for device in devices}


def _rank_tables():
    """The room of rank tables, which a launch on a host does without: it takes longer to import than all else."""
    from ascend_keras.distributed import rank_table

    return rank_table


def _warnings(source) -> Tuple[str, ...]:
    rank_table = _rank_tables()
    return tuple(str(fault) for fault in rank_table.check(source) if fault.warning)


def _by_table(request, values, count, devices, present, problems) -> Dict[str, Any]:
    rank_table = _rank_tables()
    path = os.path.abspath(request.rank_table)
    result: Dict[str, Any] = {"form": "rank_table", "devices": [0], "rank_table": path}
    if devices:
        problems.add("--devices and --rank-table both say which devices. Received: both. Leave --devices out.")
    try:
        table = rank_table.read(path)
        nodes = len(table.servers)
        if request.nnodes and values["nodes"] != nodes:
            text = "The rank table has {} servers. Received: --nnodes {}. Leave --nnodes out, or use another table."
            problems.add(text, nodes, values["nodes"])
            return result
        node = _node_of_table(request, values, table)
    except ValueError as error:
        problems.add("{}", error)
        return result
    local = table.local(node)
    _check_counts(request, count, nodes, len(local), problems)
    return dict(
        result,
        **_as_hccl_reads_it(table, path, values["log_dir"], problems),
        devices=[machine.logical_device(device, present) for _, device in local],
        physical=[device for _, device in local],
        numbers=[number for number, _ in local],
        size=table.size,
        nodes=nodes,
        node=node,
    )


def _as_hccl_reads_it(table, path, log_dir, problems) -> Dict[str, Any]:
    """The table of the ranks: the given one, or what version 1.0 makes of an old form, where ranks need a POD_NAME."""
    rank_table = _rank_tables()
    same = rank_table.content_hash(path) if len(table.servers) > 1 else None
    if table.version not in ("lab", "cloud"):
        return {"table_hash": same, "warnings": _warnings(path)}
    own = os.path.join(log_dir, "rank_table.json")
    if os.path.realpath(own) == os.path.realpath(path):
        text = "The table is of an old form, and ranks get it as version 1.0, which would replace it. "
        problems.add(text + "Received: --rank-table {}. Give another --log-dir.", path)
    text = rank_table.as_json(rank_table.as_version_1(table))
    told = "the rank table {} is of an old form; ranks get it as version 1.0".format(path)
    return {"rank_table": own, "table_text": text, "table_hash": same, "warnings": _warnings(path) + (told,)}


def _check_visible(devices, present, limit, problems) -> None:
    hidden = sorted(set(devices) - set(present))
    if hidden:
        text = (
            "The rank table names devices that ranks do not see: {}. Received: ASCEND_RT_VISIBLE_DEVICES={}. Unset it."
        )
        problems.add(text, ", ".join(map(str, hidden)), limit)


def _check_counts(request, count, nodes, here, problems) -> None:
    if nodes > 1 and not request.master and request.max_restarts != "0":
        problems.add("--max-restarts on several machines needs --master: all launchers have to start again together.")
    if count is not None and count != here:
        problems.add(
            "The rank table has {} ranks{}. Received: -n {}. Leave -n out, or make a table for {} "
            "(ascend-keras rank-table make).",
            here,
            " on this machine" if nodes > 1 else "",
            count,
            count,
        )


def _node_of_table(request, values, table) -> int:
    """The position of this machine in the table."""
    if request.node_rank is not None:
        table.server(values["node"])
        return values["node"]
    here = table.local()
    return next(position for position in range(len(table.servers)) if table.local(position) == here)
