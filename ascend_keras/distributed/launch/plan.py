"""What is launched: the result of settings, and what launchers of several machines tell each other of it."""

import json
import os
from collections import OrderedDict
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

# Job id of ModelZoo's scripts; HCCL wants one, and the same on all ranks.
JOB_ID = "10087"
# What says who a rank is, in any form. Ranks inherit none of these.
CLUSTER_VARIABLES = (
    ["RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "DEVICE_ID", "DEVICE_INDEX", "JOB_ID"]
    + ["CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE", "CM_WORKER_SIZE", "CM_WORKER_IP", "TF_CONFIG"]
    + ["ASCEND_KERAS_LOG_DIR", "ASCEND_KERAS_RANK", "ASCEND_KERAS_RESTARTS", "ASCEND_KERAS_BOUND"]
)


class Plan(NamedTuple):
    """A launch, as far as this machine knows it alone.

    Attributes:
        form: how ranks find each other: "single", "tf_config" (host), "rank_table", "cm" (NPU).
        command: what every rank runs.
        devices: ASCEND_DEVICE_ID of each rank of this machine; None on a host.
        numbers: the ranks of this machine, where a rank table says them; else they are counted over the machines.
        size: number of all ranks, where a rank table says it.
        nodes: number of machines.
        node: which of them this is.
        master: (host, port) at which the launchers meet; None for one machine, or for machines on their own.
        rank_table: path of the table.
        table_text: content of a table that the launcher has to write there.
        table_hash: of the table of several servers, which must be the same on all machines.
        log_dir: absolute path.
        log_dir_is_new: whether that is a free name of the moment, and another may do as well.
        job_id: for HCCL.
        job_id_given: whether it is that of the shell; else it is that of the first machine.
        extra: variables of --env, for all ranks.
        cores: those of each rank of this machine; None binds none.
        max_restarts: how often all ranks are started again.
        timeout: seconds for a rank to start and for launchers to meet; None for no limit on ranks.
        shows_all: whether the terminal gets the output of all ranks, or that of rank 0 alone.
        warnings: what to tell before the start.
    """

    form: str
    command: List[str]
    devices: List[Optional[int]]
    log_dir: str
    numbers: Optional[List[int]] = None
    size: Optional[int] = None
    nodes: int = 1
    node: int = 0
    master: Optional[Tuple[str, int]] = None
    rank_table: Optional[str] = None
    table_text: Optional[str] = None
    table_hash: Optional[str] = None
    log_dir_is_new: bool = False
    job_id: str = JOB_ID
    job_id_given: bool = False
    extra: Tuple[Tuple[str, str], ...] = ()
    cores: Optional[List[List[int]]] = None
    max_restarts: int = 0
    timeout: Optional[float] = None
    shows_all: bool = True
    warnings: Tuple[str, ...] = ()


class Node(NamedTuple):
    """What a launcher tells the others of its machine, anew for every start.

    Attributes:
        ranks: number of its ranks.
        address: under which the others reach it.
        ports: one free port for each of its ranks.
        chief_port: another free port.
        device: ASCEND_DEVICE_ID of its first rank; 0 on a host.
        job_id: that of its ranks, and, of the first machine, that of all.
    """

    ranks: int
    address: str
    ports: List[int]
    chief_port: int = 0
    device: int = 0
    job_id: str = ""


def rank_numbers(plan: Plan, nodes: Sequence[Node]) -> List[int]:
    """The numbers of this machine's ranks among all."""
    if plan.numbers is not None:
        return plan.numbers
    first = sum(node.ranks for node in nodes[: plan.node])
    return list(range(first, first + len(plan.devices)))


def job_size(plan: Plan, nodes: Sequence[Node]) -> int:
    """Number of all ranks."""
    return plan.size if plan.size is not None else sum(node.ranks for node in nodes)


def variables(plan: Plan, nodes: Sequence[Node], restarts: int) -> List["OrderedDict[str, str]"]:
    """What is set for each rank of this machine; all other CLUSTER_VARIABLES are removed.

    Args:
        nodes: all machines, in order.
        restarts: how often the ranks were started before.
    """
    result = []
    for local, number in enumerate(rank_numbers(plan, nodes)):
        values = OrderedDict(_FORMS[plan.form](plan, nodes, local, number))
        values["ASCEND_KERAS_LOG_DIR"] = plan.log_dir
        values["ASCEND_KERAS_RANK"] = str(number)
        values["ASCEND_KERAS_RESTARTS"] = str(restarts)
        if plan.cores:
            # Without it, ranks on one host part its cores by the number of their threads.
            values["ASCEND_KERAS_BOUND"] = "1"
        values["PYTHONUNBUFFERED"] = "1"
        values.update(plan.extra)
        result.append(values)
    return result


def _single(plan, nodes, local, number):
    device = plan.devices[local]
    return {} if device is None else OrderedDict([("ASCEND_DEVICE_ID", str(device)), ("JOB_ID", plan.job_id)])


def _tf_config(plan, nodes, local, number):
    form = "[{}]:{}" if any(":" in node.address for node in nodes) else "{}:{}"
    workers = [form.format(node.address, port) for node in nodes for port in node.ports]
    task = OrderedDict([("type", "worker"), ("index", number)])
    config: Dict[str, Any] = OrderedDict([("cluster", {"worker": workers}), ("task", task)])
    return {"TF_CONFIG": json.dumps(config)}


def _rank_table(plan, nodes, local, number):
    return OrderedDict(
        [
            ("RANK_TABLE_FILE", plan.rank_table),
            ("RANK_ID", str(number)),
            ("RANK_SIZE", str(job_size(plan, nodes))),
            ("ASCEND_DEVICE_ID", str(plan.devices[local])),
            ("JOB_ID", _job_id(plan, nodes)),
        ]
    )


def _job_id(plan, nodes):
    return (nodes[0].job_id if nodes else "") or plan.job_id


def _cm(plan, nodes, local, number):
    chief = nodes[0]
    return OrderedDict(
        [
            ("CM_CHIEF_IP", chief.address),
            ("CM_CHIEF_PORT", str(chief.chief_port)),
            ("CM_CHIEF_DEVICE", str(chief.device)),
            ("CM_WORKER_SIZE", str(job_size(plan, nodes))),
            ("CM_WORKER_IP", nodes[plan.node].address),
            ("ASCEND_DEVICE_ID", str(plan.devices[local])),
            ("JOB_ID", _job_id(plan, nodes)),
        ]
    )


_FORMS = {"single": _single, "tf_config": _tf_config, "rank_table": _rank_table, "cm": _cm}


def environment(values: Mapping[str, str], inherited: Mapping[str, str]) -> Dict[str, str]:
    """The whole environment of a rank."""
    kept = {name: value for name, value in inherited.items() if name not in CLUSTER_VARIABLES}
    return dict(kept, **values)


def removed(values: Mapping[str, str], inherited: Mapping[str, str]) -> List[str]:
    """The variables that a rank would inherit and does not get."""
    return [name for name in CLUSTER_VARIABLES if name in inherited and name not in values]


def log_file(plan: Plan, number: int) -> str:
    """Path of a rank's log."""
    return os.path.join(plan.log_dir, "rank_{}.log".format(number))
