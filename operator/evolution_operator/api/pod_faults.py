"""Finds slips below `pod` that no type shows: a mount without a volume, a request above its limit, a path that hides files.

The API server would refuse most of them when the stage's Job is created, days after the run was, or a stage would fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from .kubernetes_objects import object_faults
from .pod import SCRATCH, SPEC_DIRECTORY, TMP
from .quantities import probable_amount
from .run_file import Fault, Written, at

OBJECTS = {"volumes": "Volume", "topologySpreadConstraints": "TopologySpreadConstraint"}
"""Lists of Kubernetes' own objects."""
STANDARD = re.compile(r"cpu|memory|ephemeral-storage|hugepages-.+")
"""Resources that Kubernetes knows itself. All others have a domain: `nvidia.com/gpu`."""
BYTES = ("memory", "ephemeral-storage")
LEAST_BYTES = 1 << 20
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
"""Keys of labels and annotations."""
KEPT = (SPEC_DIRECTORY, "/dev/termination-log")
"""Paths that a stage reads or writes, and that no volume may replace or hide."""
SYSTEM = ("/proc", "/sys")
OURS = ("evolution-scratch", "evolution-tmp")
"""Volumes of the stage that a mount may name."""


def pod_faults(document: Mapping[str, Any], written: Written) -> Iterator[Fault]:
    """Slips in `spec.pod` and in the stages' own pods of a run as parsed from YAML."""
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return
    blocks = {"spec": spec, **{f"spec.{name}": block for name, block in spec.items()}}
    pods: dict[str, dict[str, Any]] = {
        f"{path}.pod": block["pod"]
        for path, block in blocks.items()
        if isinstance(block, dict) and isinstance(block.get("pod"), dict)
    }
    for path, pod in pods.items():
        yield from _single_pod_faults(path, pod, written)
        # A stage's own field replaces that of spec.pod. Volumes of the chart's stages.pod are not known here.
        volumes = pod.get("volumes", pods.get("spec.pod", {}).get("volumes"))
        yield from _mounts_without_volume(path, pod, volumes)


def _single_pod_faults(path: str, pod: Mapping[str, Any], written: Written) -> Iterator[Fault]:
    if isinstance(resources := pod.get("resources"), dict):
        yield from _resource_faults(at(path, "resources"), resources)
    for name, kind in OBJECTS.items():
        for index, item in _items(pod, name):
            yield from object_faults(kind, item, at(at(path, name), index), written)
    if isinstance(affinity := pod.get("affinity"), dict):
        yield from object_faults("Affinity", affinity, at(path, "affinity"), written)
    for name in ("nodeSelector", "labels", "annotations"):
        keys = pod.get(name) if isinstance(pod.get(name), dict) else {}
        for key in keys or ():
            if not QUALIFIED.fullmatch(str(key)):
                yield Fault(at(at(path, name), str(key)), "the key must be a name such as gpu or example.com/gpu")
    yield from _volume_faults(at(path, "volumes"), _items(pod, "volumes"))
    yield from _mount_faults(at(path, "volumeMounts"), _items(pod, "volumeMounts"))


def _items(pod: Mapping[str, Any], name: str) -> list[tuple[int, dict[str, Any]]]:
    """The list's items that are mappings, with their places."""
    found = pod.get(name)
    return [(n, item) for n, item in enumerate(found) if isinstance(item, dict)] if isinstance(found, list) else []


def _volume_faults(path: str, volumes: list[tuple[int, dict[str, Any]]]) -> Iterator[Fault]:
    names: dict[Any, int] = {}
    for index, volume in volumes:
        name, here = volume.get("name"), at(path, index)
        sources = [source for source, value in volume.items() if source != "name" and value is not None]
        if len(sources) != 1:
            said = f"not {len(sources)} ({', '.join(map(str, sources))})" if sources else "such as emptyDir: {}"
            yield Fault(here, f"needs exactly one source, {said}")
        if not isinstance(name, str):
            continue
        if name.startswith("evolution-"):
            yield Fault(at(here, "name"), "names that start with evolution- are the operator's: choose another")
        if name in names:
            yield Fault(at(here, "name"), f"is also the name of volume {names[name]}: choose another")
        names.setdefault(name, index)


def _mount_faults(path: str, mounts: list[tuple[int, dict[str, Any]]]) -> Iterator[Fault]:
    paths: dict[str, int] = {}
    for index, mount in mounts:
        if not isinstance(given := mount.get("mountPath"), str) or not given.startswith("/"):
            continue
        place, here = given.rstrip("/") or "/", at(at(path, index), "mountPath")
        if place in paths:
            yield Fault(here, f"is also that of mount {paths[place]}: a path takes one volume")
        paths.setdefault(place, index)
        if (hidden := _hidden_by(place)) is not None:
            yield Fault(here, f"would hide {hidden}, which the stage needs: mount the volume elsewhere")
        elif place in (SCRATCH, TMP) and mount.get("readOnly") is True:
            yield Fault(at(at(path, index), "readOnly"), f"the stage must be able to write at {place}: remove it")


def _hidden_by(place: str) -> str | None:
    """What a volume at this path would hide or replace; None if it does no harm."""
    if place == "/":
        return "the image"
    for kept in KEPT:
        if f"{kept}/".startswith(f"{place}/") or (kept == SPEC_DIRECTORY and place.startswith(f"{kept}/")):
            return kept
    return next((root for root in SYSTEM if place == root or place.startswith(f"{root}/")), None)


def _mounts_without_volume(path: str, pod: Mapping[str, Any], volumes: Any) -> Iterator[Fault]:
    if not isinstance(volumes, list):
        return
    names = [item["name"] for item in volumes if isinstance(item, dict) and isinstance(item.get("name"), str)]
    for index, mount in _items(pod, "volumeMounts"):
        name = mount.get("name")
        if isinstance(name, str) and name not in (*names, *OURS):
            known = ", ".join(dict.fromkeys(names)) or "there is none"
            yield Fault(
                at(at(at(path, "volumeMounts"), index), "name"), f"no volume has the name {name} (known: {known})"
            )


def _resource_faults(path: str, resources: Mapping[str, Any]) -> Iterator[Fault]:
    given = {
        kind: {str(name): probable_amount(value) for name, value in found.items() if isinstance(value, str | int)}
        for kind in ("requests", "limits")
        if isinstance(found := resources.get(kind), dict)
    }
    requests, limits = given.get("requests", {}), given.get("limits", {})
    for kind, amounts in given.items():
        for name, number in amounts.items():
            if (fault := _amount_fault(name, number, resources[kind][name])) is not None:
                yield Fault(at(at(path, kind), name), fault)
    for name, request in requests.items():
        here, limit = at(at(path, "requests"), name), limits.get(name)
        if not STANDARD.fullmatch(name) and "/" in name:
            if name not in limits or (None not in (request, limit) and request != limit):
                yield Fault(here, f"needs an equal limit: set limits[{name!r}] to the same number")
        elif request is not None and limit is not None and request > limit:
            texts = resources["requests"][name], resources["limits"][name]
            message = f"the request of {texts[0]} is above the limit of {texts[1]}: lower it, or raise the limit"
            yield Fault(at(at(path, "limits"), name), message)


def _amount_fault(name: str, number: Decimal | None, text: str | int) -> str | None:
    if name == "gpu":
        return "is no resource of Kubernetes: write nvidia.com/gpu"
    if "/" not in name and not STANDARD.fullmatch(name):
        return "is no resource of Kubernetes (cpu, memory, ephemeral-storage): others have a domain, as nvidia.com/gpu"
    if number is None:
        return None
    if "/" in name and number != number.to_integral_value():
        return f"must be a whole number, not {text!r}"
    if name in BYTES and 0 < number < LEAST_BYTES:
        digits = re.match(r"\+?([0-9.]+)", str(text))
        return f"is {number.normalize():f} bytes: write {digits[1] if digits else text}Mi or Gi"
    return None
