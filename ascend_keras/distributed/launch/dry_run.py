"""What a launch would do, as shell commands that do it by hand."""

import shlex
from typing import List, Mapping

from ascend_keras.distributed import cores
from ascend_keras.distributed.launch import job, machine
from ascend_keras.distributed.launch.plan import Node, Plan, environment, rank_numbers, removed, variables


def text(plan: Plan, inherited: Mapping[str, str]) -> str:
    """A comment and a command for each rank of this machine.

    Ports are free ones of this moment. Addresses, ports and devices of other machines are not known before the
    launchers meet, so they are shown as <node 1>, <port> and <device>.
    """
    nodes = _nodes(plan)
    lines = ["# warning: " + warning for warning in plan.warnings]
    if plan.table_text:
        lines += ["# {} will be:".format(plan.rank_table)]
        lines += ["#   " + line for line in plan.table_text.splitlines()]
    for local, (number, values) in enumerate(zip(rank_numbers(plan, nodes), variables(plan, nodes, 0))):
        lines.append("# rank {}, output to {}".format(number, job.log_file(plan, number)))
        lines.append(" ".join(map(shlex.quote, _command(plan, local, values, inherited))))
    return "\n".join(lines)


def _command(plan: Plan, local: int, values: Mapping[str, str], inherited: Mapping[str, str]) -> List[str]:
    words = ["env"]
    for name in removed(values, inherited):
        words += ["-u", name]
    changed = environment(values, inherited)
    words += ["{}={}".format(name, changed[name]) for name in values]
    if plan.cores:
        words += ["taskset", "-c", cores.as_text(plan.cores[local])]
    return words + plan.command


def _nodes(plan: Plan) -> List[Node]:
    count = len(plan.devices)
    ports = machine.Ports(count + 1)
    ports.release()
    mine = Node(count, job.address(plan), ports.numbers[:count], ports.numbers[-1], plan.devices[0] or 0)
    unknown = ["<port>"] * count
    others = [
        Node(count, "<node {}>".format(number), unknown, "<port>", "<device>")  # type: ignore
        for number in range(plan.nodes)
    ]
    if plan.node and not plan.numbers:
        mine = mine._replace(address="<node {}>".format(plan.node))
    return others[: plan.node] + [mine] + others[plan.node + 1 :]
