"""The machine that the local driver runs on: cores that this process may use, and GPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evolution_jobs.cgroup import allowed_cores


@dataclass(frozen=True)
class Machine:
    """Cores and GPU indices."""

    cpus: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """This machine, as far as affinity, control groups and CUDA_VISIBLE_DEVICES let this process see it."""
        return cls(cpus=allowed_cores(), gpus=_gpus())


def _gpus() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(index for index in visible.split(",") if index.strip() not in ("", "-1"))
    return tuple(sorted(p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")))
