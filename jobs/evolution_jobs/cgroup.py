"""What control groups say about this process: the cores it may use, and how often memory ran out."""

from __future__ import annotations

import math
import os
from pathlib import Path


def allowed_cores(root: Path = Path("/")) -> int:
    """Cores this process may use, at least 1: its affinity, bounded by the CPU quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(root / "sys/fs/cgroup")
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(group: Path) -> float | None:
    """The CPU quota in cores (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`); None if there is none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu/cpu.cfs_quota_us").read_text()
            period = (group / "cpu/cpu.cfs_period_us").read_text()
        # Without a limit v2 says "max", which is no number, and v1 says -1.
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def oom_kills(root: Path = Path("/")) -> int | None:
    """How often the kernel killed a process of this control group because memory ran out; None if it cannot be read.

    cgroup v2 `memory.events`, v1 `memory.oom_control`; without a control group, the whole machine's count.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    files = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append(root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            # In a container the group may be mounted as the root of the visible tree.
            mount = root / "sys/fs/cgroup/memory"
            files += [mount / path.lstrip("/") / "memory.oom_control", mount / "memory.oom_control"]
    for file in (*files, root / "sys/fs/cgroup/memory.events", root / "proc/vmstat"):
        try:
            words = [line.split() for line in file.read_text().splitlines()]
            return next(int(value) for name, value in words if name == "oom_kill")
        except (OSError, ValueError, StopIteration):
            continue
    return None


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process's control group may use, as a container sees it; None if there is no limit.

    cgroup v2 `memory.max`, v1 `memory.limit_in_bytes`, which is larger than any machine if there is none.
    """
    group = root / "sys/fs/cgroup"
    for file in (group / "memory.max", group / "memory/memory.limit_in_bytes"):
        try:
            return int(file.read_text())
        except (OSError, ValueError):
            # Without a limit v2 says "max", which is no number.
            continue
    return None
