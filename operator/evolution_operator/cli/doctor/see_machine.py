"""Looks at this machine. torch is imported in a process of its own, and only where there is a GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import disk_usage

from evolution_jobs.cgroup import memory_limit

from ...local.machine import Machine
from .machine import MachineSeen, TorchSeen, minimums

DISTRIBUTION = "evolution-operator"
EXTRA = "train"
TORCH_SECONDS = 180
ASK_TORCH = """
import json, torch
found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
print(json.dumps({
    "devices": [[each.name, each.total_memory, [each.major, each.minor]] for each in found],
    "cuda": torch.version.cuda or "",
}))
"""


def see_machine(state: Path) -> MachineSeen:
    """What this machine is. `state` is the directory for logs."""
    here = Machine.here()
    least = minimums(importlib.metadata.requires(DISTRIBUTION) or [], EXTRA)
    return MachineSeen(
        python=platform.python_version(),
        packages={name: _installed(name) for name in least},
        minimum=least,
        cores=here.cpus,
        memory=_memory(),
        free=_free(state),
        gpus=len(here.gpus),
        torch=_ask_torch() if here.gpus else None,
    )


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    limit = memory_limit()
    return min(whole, limit) if limit is not None else whole


def _free(state: Path) -> dict[str, int]:
    """Free bytes of each file system that a run writes to, by one of its directories."""
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    found: dict[int, tuple[str, int]] = {}
    for place in (Path(tempfile.gettempdir()), cache, state):
        existing = next((path for path in (place, *place.parents) if path.exists()), None)
        if existing is not None:
            found.setdefault(existing.stat().st_dev, (str(place), disk_usage(existing).free))
    return dict(found.values())


def _ask_torch() -> TorchSeen:
    command = [sys.executable, "-P", "-c", ASK_TORCH]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True)
        found = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return TorchSeen(fault=f"it does not answer within {TORCH_SECONDS} s: check the driver with nvidia-smi")
    except subprocess.CalledProcessError as error:
        return TorchSeen(fault=(error.stderr.strip().splitlines() or ["it ended without a word"])[-1][:300])
    except (OSError, ValueError, IndexError) as error:
        return TorchSeen(fault=str(error)[:300])
    return TorchSeen(
        devices=tuple((name, memory, (major, minor)) for name, memory, (major, minor) in found["devices"]),
        cuda=found["cuda"],
    )
