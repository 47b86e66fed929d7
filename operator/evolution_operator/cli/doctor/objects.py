"""Whether what a run names exists in its namespace: Secrets with their keys, service accounts, claims, classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..kube import ApiError
from .check import Check, failed, ok, skipped, warning
from .cluster import Answer
from .needs import Needs

Found = Mapping[tuple[str, str], Answer]
"""Answers by kind and name."""

KINDS = {
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "PriorityClass": "priorityclasses",
    "RuntimeClass": "runtimeclasses",
}
"""Kinds that are checked, with the names of their resources."""


def named(needs: Needs) -> dict[tuple[str, str], set[str]]:
    """What must exist, by kind and name, with the keys that it must have."""
    plain = {
        "ServiceAccount": needs.service_accounts,
        "PersistentVolumeClaim": needs.claims,
        "PriorityClass": needs.priority_classes,
        "RuntimeClass": needs.runtime_classes,
    }
    found = {("Secret", name): keys for name, keys in sorted(needs.secrets.items())}
    found |= {("ConfigMap", name): keys for name, keys in sorted(needs.config_maps.items())}
    return found | {(kind, name): set() for kind, names in plain.items() for name in sorted(names)}


def check_objects(needs: Needs, found: Found, namespace: str) -> Iterator[Check]:
    """One check for each thing that a run names."""
    for (kind, name), keys in named(needs).items():
        answer = found.get((kind, name))
        title = f"{kind} {name}"
        if answer is None or (isinstance(answer, ApiError) and answer.status != 404):
            yield skipped(title, f"this user may not read {KINDS[kind]} in namespace {namespace}")
        elif isinstance(answer, ApiError):
            yield failed(title, f"it does not exist in namespace {namespace}", _remedy(kind, name, keys, namespace))
        elif lost := keys - {*(answer.get("data") or {}), *(answer.get("binaryData") or {})}:
            words = f"it has no key {', '.join(sorted(lost))}"
            yield failed(title, words, _remedy(kind, name, keys, namespace))
        elif kind == "PersistentVolumeClaim" and (phase := (answer.get("status") or {}).get("phase")) != "Bound":
            words = f"it is {phase or 'not bound'}; with WaitForFirstConsumer it is bound once a Pod uses it"
            yield warning(title, words, f"kubectl -n {namespace} describe pvc {name}")
        else:
            yield ok(title, f"it exists{' with ' + ', '.join(sorted(keys)) if keys else ''}")


def _remedy(kind: str, name: str, keys: set[str], namespace: str) -> str:
    if kind == "Secret" and keys:
        literals = " ".join(f"--from-literal={key}=..." for key in sorted(keys))
        return f"kubectl -n {namespace} create secret generic {name} {literals}"
    return f"create it in namespace {namespace}, or correct the name in the run file"
