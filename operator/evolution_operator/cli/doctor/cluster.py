"""What a cluster's answers mean: the API server, the resource's definition, the operator and the user's rights. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ...api.crd import build_crd
from ...api.spec import VERSION
from ..kube import ApiError
from .check import Check, failed, ok, skipped, warning

Object = Mapping[str, Any]
Answer = Object | ApiError
"""What the API server answered: a document, or a refusal."""

LEAST_VERSION = (1, 30)
"""Kubernetes (docs/install.md)."""
LEASE_SECONDS = 60.0
"""Seconds without renewal after which it is certain that no replica leads."""
SHOWN = 5
APPLY = "an administrator applies it: kubectl apply --server-side --force-conflicts -f crds/"
INSTALL = "install the chart (docs/install.md), or name the context and namespace in which it is"


@dataclass(frozen=True)
class ClusterSeen:
    """What was asked of the API server, and its answers."""

    server: str
    namespace: str
    version: Answer
    definition: Answer
    """The CustomResourceDefinition, which only some users may read."""
    served: Answer
    """The list of resources of our group, which every user may read."""
    found_namespace: Answer
    operators: Answer
    """Deployments of the operator, in all namespaces or in those that the user may read."""
    leases: Mapping[str, Answer] = field(default_factory=dict)
    """By `namespace/name` of the Deployment: its Lease."""
    rights: Mapping[str, Answer] = field(default_factory=dict)
    """By what is to be done: the answer to a SelfSubjectAccessReview."""
    now: datetime | None = None
    """The API server's time."""


def check_cluster(seen: ClusterSeen, own_version: str) -> list[Check]:
    """The checks that need no run."""
    return [
        check_server(seen),
        check_definition(seen),
        *check_operators(seen, own_version),
        check_namespace(seen),
        *check_rights(seen),
    ]


def check_server(seen: ClusterSeen) -> Check:
    """The API server answers, and is new enough."""
    if isinstance(seen.version, ApiError):
        return failed("cluster", f"{seen.server} refuses to answer: {seen.version}", "log in to the cluster again")
    known = str(seen.version.get("gitVersion") or "")
    numbers = tuple(int(re.sub(r"\D", "", str(seen.version.get(part) or "0")) or 0) for part in ("major", "minor"))
    if numbers < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        return failed("cluster", f"Kubernetes {known} at {seen.server}; {least} is needed", "upgrade the cluster")
    return ok("cluster", f"Kubernetes {known} at {seen.server}")


def check_definition(seen: ClusterSeen) -> Check:
    """EvolutionRuns are known, with the fields that this command knows."""
    name = "EvolutionRun (CRD)"
    if isinstance(seen.definition, ApiError):
        if isinstance(seen.served, ApiError):
            return failed(name, "the cluster does not know EvolutionRuns", APPLY)
        return skipped(name, "installed; this user may not read it, so its version is not known")
    missing, other = differences(seen.definition)
    if missing:
        return failed(name, f"older than this command: it lacks {_some(missing)}", APPLY)
    if other:
        return warning(name, f"newer than this command, which lacks {_some(other)}", "upgrade this command")
    return ok(name, "installed, with the fields of this command")


def differences(definition: Object) -> tuple[list[str], list[str]]:
    """Paths of the fields that the installed definition lacks, and of those that only it has."""
    ours, theirs = set(_fields(_schema(build_crd()))), set(_fields(_schema(definition)))
    return sorted(_outermost(ours - theirs)), sorted(_outermost(theirs - ours))


def _schema(definition: Object) -> Object:
    versions: Sequence[Object] = definition["spec"]["versions"]
    served = next((each for each in versions if each["name"] == VERSION), versions[0])
    schema: Object = (served.get("schema") or {}).get("openAPIV3Schema") or {}
    return schema


def _fields(schema: Object, path: str = "") -> Iterator[str]:
    for name, inner in (schema.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        # What the API server adds itself.
        if here not in ("apiVersion", "kind", "metadata"):
            yield here
            yield from _fields(inner, here)
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _fields(items, f"{path}[]")


def _outermost(paths: set[str]) -> list[str]:
    return [path for path in paths if not any(path.startswith((f"{other}.", f"{other}[")) for other in paths)]


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more fields" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def check_operators(seen: ClusterSeen, own_version: str) -> list[Check]:
    """An operator runs, leads, and serves the namespace."""
    if isinstance(seen.operators, ApiError):
        words = "this user may not list Deployments, so whether an operator runs is not known"
        return [skipped("operator", words, "ask an administrator, or create a run and see whether it gets a status")]
    found: Sequence[Object] = seen.operators.get("items") or []
    if not found:
        return [failed("operator", "no Deployment of it is found", INSTALL)]
    serving = [each for each in found if serves(each, seen.namespace)]
    if not serving:
        names = ", ".join(_name(each) for each in found)
        words = f"{names} does not serve namespace {seen.namespace}"
        return [failed("operator", words, "add it to the chart's watchNamespaces, or use a namespace that is served")]
    if len(serving) > 1:
        names = ", ".join(_name(each) for each in serving)
        words = f"{names} serve namespace {seen.namespace}: all would act on every run"
        return [failed("operator", words, "keep one release (docs/install.md)")]
    return [_ready(serving[0], own_version), _led(serving[0], seen)]


def _ready(operator: Object, own_version: str) -> Check:
    status = operator.get("status") or {}
    wanted = (operator.get("spec") or {}).get("replicas", 1)
    ready = status.get("readyReplicas") or 0
    place = _name(operator)
    if not ready:
        conditions = [each for each in status.get("conditions") or [] if each.get("status") == "False"]
        why = "; ".join(str(each.get("message")) for each in conditions) or "none of its Pods is ready"
        return failed(
            "operator",
            f"{place}: {why}",
            f"kubectl -n {_namespace(operator)} describe pods -l app.kubernetes.io/component=operator",
        )
    labelled = ((operator.get("metadata") or {}).get("labels") or {}).get("app.kubernetes.io/version")
    if labelled and labelled != own_version:
        words = f"{place} has version {labelled}, this command {own_version}"
        return warning("operator", words, "use the command of that version, or upgrade the chart and the CRD")
    return ok("operator", f"{place} {labelled or ''}: {ready} of {wanted} replicas are ready".replace(" :", ":"))


def _led(operator: Object, seen: ClusterSeen) -> Check:
    lease = seen.leases.get(_name(operator))
    logs = f"kubectl -n {_namespace(operator)} logs deployment/{_own_name(operator)}"
    if lease is None or isinstance(lease, ApiError):
        if isinstance(lease, ApiError) and lease.status == 404:
            return failed("operator: leader", "it has never led", logs)
        return skipped("operator: leader", "this user may not read its Lease")
    spec = lease.get("spec") or {}
    renewed = spec.get("renewTime")
    age = (seen.now - datetime.fromisoformat(renewed)).total_seconds() if renewed and seen.now else 0.0
    if not spec.get("holderIdentity"):
        return failed("operator: leader", "no replica leads, so nothing happens to runs", logs)
    if age > LEASE_SECONDS:
        # Its time is that of the operator's node.
        words = f"its Lease was renewed {age:.0f} s ago, or the clock of its node is that much behind"
        return warning("operator: leader", words, logs)
    return ok("operator: leader", f"{spec['holderIdentity']} leads")


def serves(operator: Object, namespace: str) -> bool:
    """Whether an operator's Deployment serves a namespace."""
    names = environment(operator).get("KOPF_RUN_NAMESPACES")
    return names is None or namespace in names.split()


def environment(operator: Object) -> dict[str, str]:
    """Variables with plain values of the operator's container."""
    pod = ((operator.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = (
        [each for each in pod.get("containers") or [] if each.get("name") == "operator"] or pod.get("containers") or []
    )
    return {
        each["name"]: str(each.get("value") or "")
        for each in (containers[0].get("env") or [] if containers else [])
        if "valueFrom" not in each
    }


def _namespace(operator: Object) -> str:
    return str((operator.get("metadata") or {}).get("namespace") or "default")


def _own_name(operator: Object) -> str:
    return str((operator.get("metadata") or {}).get("name") or "")


def _name(operator: Object) -> str:
    return f"{_namespace(operator)}/{_own_name(operator)}"


def check_namespace(seen: ClusterSeen) -> Check:
    """The namespace exists, and is not being deleted."""
    name = f"namespace {seen.namespace}"
    if isinstance(seen.found_namespace, ApiError):
        if seen.found_namespace.status == 404:
            return failed(name, "it does not exist", f"kubectl create namespace {seen.namespace}")
        return skipped(name, "this user may not read namespaces")
    if ((seen.found_namespace.get("status") or {}).get("phase") or "Active") != "Active":
        return failed(name, "it is being deleted", "wait, or name another")
    return ok(name, "it exists")


def check_rights(seen: ClusterSeen) -> list[Check]:
    """What this user may do in the namespace."""
    refused, unknown = [], []
    for action, answer in seen.rights.items():
        if isinstance(answer, ApiError):
            unknown.append(action)
        elif not (answer.get("status") or {}).get("allowed"):
            refused.append(action)
    place = f"in namespace {seen.namespace}"
    if unknown:
        return [skipped("rights", f"the API server does not say whether this user may {', '.join(unknown)}")]
    if refused:
        state = failed if "create evolutionruns" in refused else warning
        words = f"this user may not {', '.join(refused)} {place}"
        return [state("rights", words, "ask for the role edit there (docs/install.md)")]
    return [ok("rights", f"this user may {', '.join(seen.rights)} {place}")] if seen.rights else []
