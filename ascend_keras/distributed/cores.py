"""Which cores each rank gets: whole NUMA nodes first, siblings of a core together. Standard library only.

Reads /sys and /proc of Linux; every function takes the root folder, so that other machines can be thought up.
"""

import glob
import os
import re
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

Cores = List[int]


def shares_here(ranks: int, devices: Optional[Sequence[int]] = None, root: str = "/") -> List[Cores]:
    """The cores of each of `ranks` processes on this machine, out of those that this process may use.

    Args:
        ranks: number of processes.
        devices: numbers of their NPUs, whose NUMA nodes are preferred if the system tells them.
        root: where /sys and /proc are.
    """
    nodes = device_nodes(devices, root) if devices else None
    return shares(os.sched_getaffinity(0), ranks, numa_nodes(root), siblings(root), most=quota(root), preferred=nodes)


def shares(
    allowed: Iterable[int],
    ranks: int,
    nodes: Sequence[Sequence[int]] = (),
    groups: Sequence[Sequence[int]] = (),
    most: Optional[float] = None,
    preferred: Optional[Sequence[int]] = None,
) -> List[Cores]:
    """Splits cores over ranks.

    A rank stays inside a NUMA node where there are at least as many ranks as nodes, and gets whole nodes where there
    are fewer. Threads of one core stay together as long as there are cores enough. With fewer cores than ranks, ranks
    share them.

    Args:
        allowed: the cores that may be used.
        ranks: number of processes.
        nodes: cores of each NUMA node; those in none are one node more.
        groups: cores that are threads of one physical core.
        most: how many cores all ranks together may keep busy (a cgroup's quota); each keeps to its part, at least one.
        preferred: for each rank the position of a node; ignored where one of these has no core.

    Returns:
        Sorted cores of each rank.
    """
    parts = _inside(set(allowed), nodes)
    units = [_units(part, groups) for part in parts]
    result = _by_preference(set(allowed), ranks, nodes, groups, preferred) or _by_nodes(units, ranks)
    if not all(result):
        result = _cut([unit for part in units for unit in part], ranks)
    if most is not None:
        result = [share[: max(1, int(most / ranks))] for share in result]
    return [sorted(share) for share in result]


def as_text(cores: Iterable[int]) -> str:
    """Cores as taskset takes them: `0-3,8`."""
    parts: List[List[int]] = []
    for core in sorted(cores):
        if parts and parts[-1][1] == core - 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(first) if first == last else "{}-{}".format(first, last) for first, last in parts)


# --- splitting ------------------------------------------------------------------------------------------------------


def _inside(allowed: Set[int], nodes: Sequence[Sequence[int]]) -> List[Cores]:
    parts = [sorted(allowed & set(node)) for node in nodes]
    rest = sorted(allowed - {core for part in parts for core in part})
    return [part for part in parts + [rest] if part]


def _units(part: Cores, groups: Sequence[Sequence[int]]) -> List[Cores]:
    """The physical cores of a part, each with those of its threads that are in it, in order of their lowest numbers."""
    unit_of: Dict[int, Tuple[int, ...]] = {}
    for group in groups:
        mine = tuple(sorted(set(group) & set(part)))
        unit_of.update((core, mine) for core in mine)
    return [list(unit) for unit in sorted({unit_of.get(core, (core,)) for core in part})]


def _by_preference(allowed, ranks, nodes, groups, preferred) -> Optional[List[Cores]]:
    if preferred is None or len(preferred) != ranks:
        return None
    result: List[Cores] = [[] for _ in range(ranks)]
    for position in set(preferred):
        if not 0 <= position < len(nodes) or not allowed & set(nodes[position]):
            return None
        mine = [rank for rank in range(ranks) if preferred[rank] == position]
        cut = _cut(_units(sorted(allowed & set(nodes[position])), groups), len(mine))
        for rank, share in zip(mine, cut):
            result[rank] = share
    return result


def _by_nodes(units: List[List[Cores]], ranks: int) -> List[Cores]:
    """Ranks in order over nodes in order, each where its middle lies when all cores are laid in a row."""
    sizes = [sum(map(len, part)) for part in units]
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    result: List[Cores] = [[] for _ in range(ranks)]
    if ranks < len(units):
        for part, start, size in zip(units, starts, sizes):
            result[int((start + size / 2) * ranks / sum(sizes))] += [core for unit in part for core in unit]
        return result
    middles = [(rank + 0.5) * sum(sizes) / ranks for rank in range(ranks)]
    for part, start, size in zip(units, starts, sizes):
        mine = [rank for rank in range(ranks) if start <= middles[rank] < start + size]
        for rank, share in zip(mine, _cut(part, len(mine))):
            result[rank] = share
    return result


def _cut(units: List[Cores], count: int) -> List[Cores]:
    """Cuts physical cores into `count` equal rows; threads, where cores are too few; shares them, where these are."""
    if len(units) < count:
        units = [[core] for unit in units for core in unit]
    result = []
    for index in range(count):
        first, end = index * len(units) // count, (index + 1) * len(units) // count
        result.append([core for unit in units[first : max(end, first + 1)] for core in unit])
    return result


# --- the machine ----------------------------------------------------------------------------------------------------


def numa_nodes(root: str = "/") -> List[Cores]:
    """The cores of each NUMA node, by the number of the node; [] where the system names none."""
    found = {}
    for path in glob.glob(os.path.join(root, "sys/devices/system/node/node[0-9]*/cpulist")):
        number = re.search(r"node(\d+)$", os.path.dirname(path))
        if number:
            found[int(number.group(1))] = _parse(_read(path))
    return [found.get(number, []) for number in range(max(found) + 1)] if found else []


def siblings(root: str = "/") -> List[Cores]:
    """The groups of cores that are threads of one physical core."""
    pattern = os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    return [list(group) for group in sorted({tuple(_parse(_read(path))) for path in glob.glob(pattern)})]


def device_nodes(devices: Sequence[int], root: str = "/") -> Optional[List[int]]:
    """The NUMA node of each NPU; None unless the system tells it of all."""
    result = []
    for device in devices:
        pattern = os.path.join(root, "sys/class/*/davinci{}/device/numa_node".format(device))
        text = "".join(_read(path) for path in sorted(glob.glob(pattern))[:1]).strip()
        if not text.isdigit():
            return None
        result.append(int(text))
    return result


def quota(root: str = "/") -> Optional[float]:
    """How many cores the cgroup of this process, and those above it, may keep busy; None without a limit."""
    found = []
    for folder in _cgroup_folders(root):
        two = _read(os.path.join(folder, "cpu.max")).split()
        one = [_read(os.path.join(folder, "cpu.cfs_{}_us".format(name))).strip() for name in ("quota", "period")]
        for limit, period in (two if len(two) == 2 else one,):
            if limit.isdigit() and period.isdigit() and int(limit) and int(period):
                found.append(int(limit) / int(period))
    return min(found) if found else None


def _cgroup_folders(root: str) -> List[str]:
    """Folders of the cgroups that may limit CPU time; in a container, its own is the root of what is mounted."""
    folders = []
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in ("sys/fs/cgroup",) if not controllers else ("sys/fs/cgroup/" + controllers, "sys/fs/cgroup/cpu"):
            inner = path.strip("/").split("/") if path.strip("/") else []
            folders += [os.path.join(root, mount, *inner[:depth]) for depth in range(len(inner) + 1)]
    return folders


def _read(path: str) -> str:
    """The text of a file of the system; "" for one that it does not have, or does not show."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _parse(text: str) -> Cores:
    """Numbers of a list such as `0-3,8`."""
    cores = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cores += range(int(first), int(last or first) + 1)
    return cores
