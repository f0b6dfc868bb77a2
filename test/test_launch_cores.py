"""Cores of ranks, on machines that are thought up."""

import os

import pytest

from ascend_keras.distributed import cores


def row(first, last):
    return list(range(first, last + 1))


def make(root, nodes=(), groups=(), files=()):
    """A tree with /sys and /proc as such a machine has it."""
    for number, text in nodes:
        folder = root / "sys/devices/system/node/node{}".format(number)
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text + "\n")
    for text in groups:
        for core in cores._parse(text):
            folder = root / "sys/devices/system/cpu/cpu{}/topology".format(core)
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(text + "\n")
    for name, text in dict(files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_eight_ranks_on_four_nodes_of_a_server(tmp_path):
    root = make(tmp_path, [(0, "0-23"), (1, "24-47"), (2, "48-71"), (3, "72-95")])
    found = cores.shares(range(96), 8, cores.numa_nodes(root), cores.siblings(root))
    assert found == [row(12 * rank, 12 * rank + 11) for rank in range(8)]


FOUR = [row(0, 23), row(24, 47), row(48, 71), row(72, 95)]


@pytest.mark.parametrize(
    "allowed, ranks, nodes, expected",
    [
        # As many ranks as cores, fewer, more.
        (row(0, 1), 2, [], [[0], [1]]),
        (row(0, 1), 4, [row(0, 1)], [[0], [0], [1], [1]]),
        ([3], 2, [row(0, 7)], [[3], [3]]),
        (row(0, 1), 1, [], [[0, 1]]),
        # One node, with a remainder; holes in what is allowed.
        (row(0, 6), 3, [row(0, 7)], [[0, 1], [2, 3], [4, 5, 6]]),
        ([1, 2, 8, 9, 30, 31], 3, [row(0, 31)], [[1, 2], [8, 9], [30, 31]]),
        # Fewer ranks than nodes: whole nodes.
        (row(0, 95), 2, FOUR, [row(0, 47), row(48, 95)]),
        (row(0, 95), 1, FOUR, [row(0, 95)]),
        (row(0, 95), 4, FOUR, FOUR),
        # Six ranks on four nodes: none on two nodes.
        (row(0, 95), 6, FOUR, [FOUR[0], row(24, 35), row(36, 47), FOUR[2], row(72, 83), row(84, 95)]),
        # A cpuset with half of two nodes, one node without a core of ours, cores of no node.
        (row(12, 35), 2, FOUR, [row(12, 23), row(24, 35)]),
        (row(0, 3) + row(100, 103), 2, FOUR, [row(0, 3), row(100, 103)]),
        # Numbers that alternate over nodes.
        (row(0, 7), 4, [[0, 2, 4, 6], [1, 3, 5, 7]], [[0, 2], [4, 6], [1, 3], [5, 7]]),
        # Nodes so uneven that a rank would get none: plainly in a row.
        (row(0, 63), 3, [[0], [1], [2], row(3, 63)], [row(0, 20), row(21, 41), row(42, 63)]),
    ],
)
def test_shares(allowed, ranks, nodes, expected):
    assert cores.shares(allowed, ranks, nodes) == expected


@pytest.mark.parametrize(
    "ranks, expected",
    [
        (2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (8, [[0], [4], [1], [5], [2], [6], [3], [7]]),
        (3, [[0, 4], [1, 5], [2, 3, 6, 7]]),
    ],
)
def test_threads_of_a_core_stay_together(ranks, expected):
    assert cores.shares(row(0, 7), ranks, [row(0, 7)], [[0, 4], [1, 5], [2, 6], [3, 7]]) == expected


@pytest.mark.parametrize("most, expected", [(24.0, 3), (100.0, 12), (12.5, 1), (2.0, 1), (None, 12)])
def test_a_quota_is_parted_over_ranks(most, expected):
    found = cores.shares(row(0, 95), 8, FOUR, most=most)
    assert [len(share) for share in found] == [expected] * 8
    assert [share[0] for share in found] == [12 * rank for rank in range(8)]


def test_the_node_of_the_device_is_preferred():
    found = cores.shares(row(0, 95), 4, FOUR, preferred=[3, 3, 1, 0])
    assert found == [row(72, 83), row(84, 95), row(24, 47), row(0, 23)]
    # A node without a core that is allowed: as if nothing were known.
    assert cores.shares(row(0, 47), 2, FOUR, preferred=[3, 0]) == [row(0, 23), row(24, 47)]
    assert cores.shares(row(0, 47), 2, FOUR, preferred=[9, 0]) == [row(0, 23), row(24, 47)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 16, 48])
def test_every_core_is_used_once_where_there_are_enough(count):
    found = cores.shares(row(0, 95), count, [row(0, 95)], [[core, core + 48] for core in range(48)])
    assert sorted(core for share in found for core in share) == row(0, 95)


@pytest.mark.parametrize(
    "listed, text", [([], ""), ([5], "5"), ([3, 1, 2], "1-3"), ([0, 1, 3, 5, 6], "0-1,3,5-6"), (range(12), "0-11")]
)
def test_cores_as_text(listed, text):
    assert cores.as_text(listed) == text
    assert cores._parse(text) == sorted(listed)


def test_what_the_system_tells(tmp_path):
    root = make(tmp_path, [(0, "0-1,4-5"), (2, "2-3,6-7"), (1, "")], ["0,4", "1,5", "2,6", "3,7"])
    assert cores.numa_nodes(root) == [[0, 1, 4, 5], [], [2, 3, 6, 7]]
    assert cores.siblings(root) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert cores.shares(row(0, 7), 2, cores.numa_nodes(root), cores.siblings(root)) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_system_that_tells_nothing(tmp_path):
    root = str(tmp_path)
    assert cores.numa_nodes(root) == []
    assert cores.siblings(root) == []
    assert cores.quota(root) is None
    assert cores.device_nodes([0], root) is None


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"sys/fs/cgroup/a/b/cpu.max": "200000 100000", "proc/self/cgroup": "0::/a/b"}, 2.0),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000", "proc/self/cgroup": "0::/a/b"}, None),
        # That of a group above.
        (
            {
                "sys/fs/cgroup/a/b/cpu.max": "900000 100000",
                "sys/fs/cgroup/a/cpu.max": "150000 100000",
                "proc/self/cgroup": "0::/a/b",
            },
            1.5,
        ),
        # In a container whose path is that of the host.
        ({"sys/fs/cgroup/cpu.max": "400000 100000", "proc/self/cgroup": "0::/docker/123"}, 4.0),
        # Version 1.
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "3:memory:/m\n4:cpu,cpuacct:/x\n0::/",
            },
            3.0,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "4:cpu:/",
            },
            None,
        ),
    ],
)
def test_quota(tmp_path, files, expected):
    assert cores.quota(make(tmp_path, files=files)) == expected


def test_nodes_of_devices(tmp_path):
    files = {"sys/class/devdrv/davinci{}/device/numa_node".format(i): text for i, text in enumerate("201")}
    root = make(tmp_path, files=files)
    assert cores.device_nodes([0, 1, 2], root) == [2, 0, 1]
    assert cores.device_nodes([2, 3], root) is None
    (tmp_path / "sys/class/devdrv/davinci1/device/numa_node").write_text("-1")
    assert cores.device_nodes([0, 1], root) is None


def test_shares_of_this_machine(tmp_path):
    allowed = os.sched_getaffinity(0)
    found = cores.shares_here(3)
    assert len(found) == 3
    assert all(share and set(share) <= allowed for share in found)
    files = {"sys/class/x/davinci5/device/numa_node": "0"}
    root = make(tmp_path, [(0, cores.as_text(allowed))], files=files)
    assert cores.shares_here(1, [5], root) == [sorted(allowed)]
