"""The chart as Helm renders it. Helm comes from PATH or from the cache of `hack.cluster`. It is never built here."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.binaries import PROGRAMS

CHART = Path(__file__).parents[3] / "charts/evolution-operator"
RELEASE = "evo"
Object = dict[str, Any]


def helm_program() -> str:
    """The path of Helm. The test is skipped if there is none."""
    built = PROGRAMS["helm"].directory / "helm"
    found = str(built) if built.exists() else shutil.which("helm")
    if found is None:
        pytest.skip("no helm: put it on PATH, or build it by `python -m hack.cluster build helm`")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    return subprocess.run([helm_program(), *arguments], capture_output=True, text=True, check=False)


def value_flags(values: Object) -> list[str]:
    """Values as flags, by their dotted path."""
    return [f"--set-json={path}={json.dumps(value)}" for path, value in values.items()]


def render(values: Object | None = None, namespace: str = "evolution") -> list[Object]:
    """All objects of a release, including those of hooks."""
    result = helm("template", RELEASE, str(CHART), f"--namespace={namespace}", *value_flags(values or {}))
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def one(objects: Iterable[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind with a name that ends in `name`."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found


def pod_templates(objects: Iterable[Object]) -> dict[str, Object]:
    """The Pod templates of the objects, by kind and name."""
    found = {}
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            found[name] = {"metadata": each["metadata"], "spec": each["spec"]}
        elif "template" in each.get("spec", {}):
            found[name] = each["spec"]["template"]
    return found


FULL: Object = {
    "replicas": 3,
    "minio.enabled": True,
    "priorityClasses.create": True,
    "metrics.serviceMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "networkPolicies.operator.metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "observability"}}}],
    "networkPolicies.jobs.egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}], "ports": [{"port": 443}]}],
    "stages.pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}, "imagePullSecrets": ["registry"]},
    "settings": {"workers": 8, "logFormat": "text"},
    "imagePullSecrets": ["registry"],
    "commonLabels": {"team": "dialogue"},
    "priorityClassName": "system-cluster-critical",
    "image.digest": f"sha256:{'a' * 64}",
}
"""Values that enable every part of the chart."""
NAMESPACED: Object = {"rbac.scope": "namespace", "watchNamespaces": ["team-a", "team-b"], "minio.enabled": True}
VALUE_SETS: dict[str, Object] = {
    "default": {},
    "full": FULL,
    "namespaced": NAMESPACED,
    "own namespace": {"rbac.scope": "namespace", "networkPolicies.enabled": False},
    "minio without a claim": {
        "minio.enabled": True,
        "minio.persistence.enabled": False,
        "minio.existingSecret": "mine",
    },
    "own account": {"serviceAccount.create": False, "serviceAccount.name": "robot", "rbac.create": False},
}
