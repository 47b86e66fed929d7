"""What this machine has: cores this process may use, and GPUs."""

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


def _gpus() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(index for index in visible.split(",") if index.strip() not in ("", "-1"))
    return tuple(sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")))
