"""Cores and GPUs of this machine that this process may use."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Cores and GPU indices."""

    cpus: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """This machine, as far as affinity, control groups and CUDA_VISIBLE_DEVICES let this process see it."""
        cpus = min(len(os.sched_getaffinity(0)), _quota(Path("/sys/fs/cgroup")))
        return cls(cpus=max(1, cpus), gpus=_gpus())


def _quota(root: Path) -> int:
    """Whole cores of the CPU quota (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`); a large number where there is none."""
    unlimited = 1 << 20
    try:
        v2 = root / "cpu.max"
        if v2.exists():
            quota, period = v2.read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return unlimited
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return unlimited


def oom_kills(root: Path = Path("/")) -> int | None:
    """How often the kernel has ended a process of this control group because memory ran out; None where it is not told.

    cgroup v2 `memory.events`, v1 `memory.oom_control`; where there is no group, the whole machine's count.
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
            # In a container the group may be mounted as the root of what can be seen.
            mount = root / "sys/fs/cgroup/memory"
            files += [mount / path.lstrip("/") / "memory.oom_control", mount / "memory.oom_control"]
    for file in (*files, root / "sys/fs/cgroup/memory.events", root / "proc/vmstat"):
        try:
            words = [line.split() for line in file.read_text().splitlines()]
            return next(int(value) for name, value in words if name == "oom_kill")
        except (OSError, ValueError, StopIteration):
            continue
    return None


def _gpus() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(index for index in visible.split(",") if index.strip() not in ("", "-1"))
    return tuple(sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")))
