"""What is seen of this machine, and what it means for a run here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evolution_jobs.libraries import install

from .check import Check, failed, ok, size, skipped, warning

LEAST_MEMORY = 4 << 30
"""Bytes with which the quickstart runs."""
LEAST_DISK = 1 << 30
"""Bytes below which a stage cannot even save a checkpoint of a small model."""
SPARE_DISK = 5 << 30
"""Bytes beside the model: checkpoints, caches of data sets."""
LEAST_CAPABILITY = (7, 5)
"""Compute capability for which torch's CUDA build has kernels (docs/install.md)."""
OPTIONAL = ("bitsandbytes", "gguf", "openai")
"""Packages of the extra `train` that only some runs need."""


@dataclass(frozen=True)
class TorchSeen:
    """What torch says, in a process of its own."""

    devices: tuple[tuple[str, int, tuple[int, int]], ...] = ()
    """Name, bytes of memory and compute capability of each GPU."""
    cuda: str = ""
    """Version of CUDA that torch is built for; empty for a CPU build."""
    fault: str = ""
    """Why torch cannot be asked."""


@dataclass(frozen=True)
class MachineSeen:
    """What is seen of this machine."""

    python: str
    packages: Mapping[str, str | None]
    """Installed version of each package that stages need."""
    minimum: Mapping[str, str]
    """Least version of each."""
    cores: int
    memory: int | None
    """Bytes that this process may use; None if not known."""
    free: Mapping[str, int] = field(default_factory=dict)
    """Free bytes by directory."""
    gpus: int = 0
    """GPUs that the driver offers."""
    torch: TorchSeen | None = None
    """None if it was not asked, because there is no GPU."""


def check_machine(seen: MachineSeen, weights: int | None) -> list[Check]:
    """The checks of a machine on which a model with so many bytes of weights is to run; None if not known."""
    return [
        check_packages(seen),
        check_memory(seen, weights),
        *(check_disk(place, free, weights) for place, free in sorted(seen.free.items())),
        check_gpus(seen, weights),
    ]


def check_packages(seen: MachineSeen) -> Check:
    """Python, and the packages that stages import."""
    missing = [name for name, version in seen.packages.items() if version is None and name not in OPTIONAL]
    old = [
        f"{name} {version} (needs {seen.minimum[name]})"
        for name, version in seen.packages.items()
        if version is not None and older(version, seen.minimum.get(name, "0"))
    ]
    remedy = f"{install('train')}, or `make setup` there"
    if missing:
        return failed("packages", f"not installed: {', '.join(missing)}", remedy)
    if old:
        return failed("packages", f"too old: {', '.join(old)}", remedy)
    shown = ", ".join(f"{name} {seen.packages[name]}" for name in ("torch", "transformers") if seen.packages.get(name))
    absent = [name for name, version in seen.packages.items() if version is None]
    rest = f"; without {', '.join(absent)}, which only some runs need" if absent else ""
    return ok("packages", f"Python {seen.python}, {shown}{rest}")


def older(version: str, minimum: str) -> bool:
    """Whether a version is below another, by its leading numbers."""
    have, need = ([int(part) for part in re.findall(r"\d+", text.partition("+")[0])] for text in (version, minimum))
    length = len(need)
    return (have + [0] * length)[:length] < need


def check_memory(seen: MachineSeen, weights: int | None) -> Check:
    """Memory for the model on the CPU, where weights are float32. On a GPU, they pass through memory once."""
    if seen.memory is None:
        return skipped("memory", "not known on this system")
    found = f"{size(seen.memory)}, {seen.cores} cores"
    if weights and not seen.gpus and 2 * weights > seen.memory:
        words = f"{found}; the weights take about {size(2 * weights)} as float32, as on every CPU"
        return failed("memory", words, "take a smaller model, or a machine with more memory or a GPU")
    if seen.memory < LEAST_MEMORY:
        return warning("memory", f"{found}; even the quickstart needs {size(LEAST_MEMORY)}", "close other programs")
    return ok("memory", found)


def check_disk(place: str, free: int, weights: int | None) -> Check:
    """Room for checkpoints, caches and scratch files."""
    found = f"{size(free)} free in {place}"
    remedy = "free some, or set TMPDIR, HF_HOME or XDG_STATE_HOME to another file system"
    if free < LEAST_DISK:
        return failed("disk", found, remedy)
    if free < SPARE_DISK + (weights or 0):
        return warning("disk", f"{found}; the model and its checkpoints may need more", remedy)
    return ok("disk", found)


def check_gpus(seen: MachineSeen, weights: int | None) -> Check:
    """GPUs: those that the driver offers must be those that torch can use."""
    if not seen.gpus:
        return ok("GPU", f"none: stages compute on {seen.cores} cores, which is enough for small models")
    torch = seen.torch or TorchSeen(fault="torch was not asked")
    if torch.fault:
        return failed(
            "GPU", f"{seen.gpus} seen by the driver, but torch cannot be asked: {torch.fault}", "see packages"
        )
    if len(torch.devices) < seen.gpus:
        why = f"torch is built for CUDA {torch.cuda}" if torch.cuda else "this torch is a build for CPUs"
        words = f"{seen.gpus} seen by the driver, {len(torch.devices)} by torch; {why}"
        return failed("GPU", words, "update the driver (docs/install.md), or install torch's CUDA build")
    names = ", ".join(f"{name} ({size(memory)})" for name, memory, _ in torch.devices)
    old = [name for name, _, capability in torch.devices if capability < LEAST_CAPABILITY]
    if old:
        least = ".".join(map(str, LEAST_CAPABILITY))
        words = f"{', '.join(old)}: compute capability below {least}, for which torch has no kernels"
        return failed("GPU", words, "hide it with CUDA_VISIBLE_DEVICES, or use another GPU")
    smallest = min(memory for _, memory, _ in torch.devices)
    if weights and weights > smallest:
        words = f"{names}; the weights alone take {size(weights)}"
        return failed(
            "GPU", words, "take a smaller model, baseModel.quantization: nf4, or sft.sharding: full with several GPUs"
        )
    return ok("GPU", names)


def minimums(requirements: Iterable[str], extra: str) -> dict[str, str]:
    """Least version by package, from a distribution's requirements of an extra: `torch>=2.8; extra == "train"`."""
    found = {}
    for line in requirements:
        named, _, marker = line.partition(";")
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\w.]+))?", named.strip())
        if match and re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
            found[match[1]] = match[2] or "0"
    return found
