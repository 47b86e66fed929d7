"""Which nodes can run the Pods of a run, and which have its images. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...api.quantities import amount
from ...controller.jobs.pods import GPU
from .check import Check, failed, ok, skipped, warning
from .needs import PodNeed

Object = Mapping[str, Any]

BLOCKING = ("NoSchedule", "NoExecute")


def check_gpu_nodes(nodes: Sequence[Object]) -> Check:
    """What GPUs the cluster offers, where no run says what it needs."""
    offered: Counter[str] = Counter()
    for node in nodes:
        for name, quantity in _allocatable(node).items():
            if GPU.search(name):
                offered[name] += int(amount(quantity) or 0)
    found = ", ".join(f"{count} {name}" for name, count in sorted(offered.items()) if count)
    if found:
        return ok("GPUs", f"{found} on {len(nodes)} nodes")
    words = f"none of {len(nodes)} nodes offers one; runs on the CPU work"
    return warning("GPUs", words, "for GPUs, install the vendor's device plugin or GPU operator")


def check_placement(need: PodNeed, nodes: Sequence[Object]) -> Check:
    """Whether a node could run these Pods if nothing else ran there."""
    name = f"nodes for {', '.join(need.kinds)}"
    asked = ", ".join(f"{resource} {quantity}" for resource, quantity in need.requests.items()) or "no resources"
    fits = [node for node in nodes if not obstacle(need, node)]
    affinity = "; affinity is not looked at" if need.template.get("affinity") else ""
    if fits:
        return ok(name, f"{len(fits)} of {len(nodes)} nodes can take a Pod that asks for {asked}{affinity}")
    why = Counter(obstacle(need, node) for node in nodes)
    reasons = "; ".join(f"{count} {'node' if count == 1 else 'nodes'}: {words}" for words, count in why.most_common(4))
    remedy = (
        "lower or correct pod.resources, pod.nodeSelector or pod.tolerations, or add nodes (an autoscaler may do so)"
    )
    return failed(name, f"no node can take a Pod that asks for {asked}: {reasons or 'there are no nodes'}", remedy)


def obstacle(need: PodNeed, node: Object) -> str:
    """Why a node cannot take a Pod; empty if it can."""
    spec, labels = node.get("spec") or {}, (node.get("metadata") or {}).get("labels") or {}
    conditions = {each["type"]: each["status"] for each in (node.get("status") or {}).get("conditions") or []}
    if conditions.get("Ready", "True") != "True":
        return "not ready"
    if spec.get("unschedulable"):
        return "cordoned"
    for name, value in (need.template.get("nodeSelector") or {}).items():
        if labels.get(name) != value:
            return f"without label {name}={value}"
    for taint in spec.get("taints") or []:
        if taint.get("effect") in BLOCKING and not _tolerated(taint, need.template.get("tolerations") or []):
            return f"taint {taint['key']}={taint.get('value', '')}:{taint['effect']} is not tolerated"
    offered = _allocatable(node)
    for name, quantity in need.requests.items():
        has, wants = amount(offered.get(name, 0)), amount(quantity)
        if wants is not None and (has or 0) < wants:
            return f"offers {name} {offered[name]}" if name in offered else f"offers no {name}"
    return ""


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    return any(
        each.get("effect") in (None, "", taint["effect"])
        and (
            (each.get("operator") == "Exists" and each.get("key") in (None, "", taint["key"]))
            or (each.get("key") == taint["key"] and each.get("value", "") == (taint.get("value") or ""))
        )
        for each in tolerations
    )


def _allocatable(node: Object) -> dict[str, Any]:
    return dict((node.get("status") or {}).get("allocatable") or {})


def check_image(image: str, nodes: Sequence[Object]) -> Check:
    """Whether nodes have an image. A node lists only some of its images, so that it lists none says little."""
    name = f"image {image}"
    wanted = full_name(image)
    listed = [
        [
            full_name(each)
            for found in (node.get("status") or {}).get("images") or []
            for each in found.get("names") or []
        ]
        for node in nodes
    ]
    have = sum(wanted in names for names in listed)
    if have:
        return ok(name, f"{have} of {len(nodes)} nodes have it")
    words = "no node lists it, and a node lists only its largest images; whether it can be pulled is known once a Pod needs it"
    return skipped(name, words, "--pods tries it with a Pod")


def full_name(image: str) -> str:
    """An image's name with registry and tag, as nodes list it."""
    first, slash, _ = image.partition("/")
    if not slash or not ({".", ":"} & set(first) or first == "localhost"):
        image = f"docker.io/{image}" if slash else f"docker.io/library/{image}"
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"
