"""As many threads as the process may use cores, where nobody has said how many."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def use_allowed_cores() -> None:
    """Set torch's threads from CPU affinity and quota, unless OMP_NUM_THREADS has.

    torch itself counts the machine's cores, and a container with 2 of 64 would run 64 threads on them.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(allowed_cores(CGROUP))


def allowed_cores(cgroup: Path) -> int:
    """Cores this process may use, at least 1: its affinity, bounded by the quota of control group version 2."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no quota: "max 100000"
        return cores
