"""How many threads this process may keep busy."""

import math
import os


def cpu_count(root="/"):
    """CPUs of this process: those it is bound to, and no more than the quota of its control group (v1 or v2).

    Args:
        root: where the file system begins; for tests.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(root) or _quota_v1(root)
    return max(1, min(bound, math.ceil(quota))) if quota else bound


def _quota_v2(root):
    words = _words(os.path.join(root, "sys/fs/cgroup/cpu.max"))
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(root):
    folder = os.path.join(root, "sys/fs/cgroup/cpu")
    quota = _words(os.path.join(folder, "cpu.cfs_quota_us"))
    period = _words(os.path.join(folder, "cpu.cfs_period_us"))
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _words(path):
    try:
        with open(path) as stream:
            return stream.read().split()
    except OSError:
        return []
