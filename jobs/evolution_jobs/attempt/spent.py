"""What an attempt spends on its stage: seconds, and the energy of its GPUs by the counters of NVIDIA's driver (NVML)."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


def visible_gpus() -> int:
    """GPUs that this process has; 0 if the stage has not loaded torch."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None else 0


def held(seen: Collection[str]) -> set[str]:
    """UUIDs of the GPUs that this process holds, of those that the driver shows; empty if they are not known.

    In a container the driver shows no others. Beside others (CUDA_VISIBLE_DEVICES), torch tells which they are once it
    has used them.
    """
    gpus = visible_gpus()
    if gpus == len(seen):
        return set(seen)
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return set()
    return {f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in range(gpus)}


def counters() -> dict[str, int | None]:
    """By UUID of each GPU that the driver shows: millijoules since the driver was loaded, or None if it does not count.

    Empty without NVIDIA's driver. Source: NVML's reference, nvmlDeviceGetTotalEnergyConsumption.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        return {}
    try:
        # The library stays loaded until the process ends, so the second call costs nothing.
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return {pynvml.nvmlDeviceGetUUID(handle): _millijoules(pynvml, handle) for handle in handles}
    except pynvml.NVMLError:
        return {}


@dataclass(frozen=True)
class Spent:
    """Counts from the moment it is made."""

    _since: float = field(default_factory=time.monotonic)
    _before: Mapping[str, int | None] = field(default_factory=counters)

    def seconds(self) -> float:
        """Wall time since then."""
        return time.monotonic() - self._since

    def joules(self) -> float | None:
        """Energy since then of the GPUs that this process holds; None if it has none, or if it is not known.

        It is not known for AMD's GPUs, for GPUs older than Volta, and for slices of a GPU (MIG). A GPU's counter is that
        of the whole board, so it also has what another process uses on the same GPU.
        """
        after = counters()
        total = 0
        for uuid in held(after):
            before, now = self._before.get(uuid), after.get(uuid)
            if before is None or now is None:
                return None
            total += now - before
        return total / 1000 if total else None


def _millijoules(nvml: Any, handle: Any) -> int | None:
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        mode = nvml.NVML_DEVICE_MIG_DISABLE
    try:
        return None if mode == nvml.NVML_DEVICE_MIG_ENABLE else int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except nvml.NVMLError:
        return None
