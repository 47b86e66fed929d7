"""What the Pods of a run need on a cluster, read off the templates that the operator would use. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolution_jobs.contract.credentials import S3_CREDENTIALS
from evolution_jobs.contract.stage import BLOCKS

from ...api.spec import EvolutionRunSpec
from ...controller.jobs.pods import pod_template
from ...controller.settings import Settings

Object = Mapping[str, Any]


@dataclass(frozen=True)
class PodNeed:
    """What the Pods of some kinds of stages ask for."""

    kinds: tuple[str, ...]
    template: Object
    """The Pod's spec."""

    @property
    def image(self) -> str:
        """The stage's image."""
        return str(self.template["containers"][0]["image"])

    @property
    def requests(self) -> dict[str, Any]:
        """Resources by name; a limit without a request is a request."""
        resources = self.template["containers"][0].get("resources") or {}
        return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


@dataclass
class Needs:
    """Everything that must exist in the run's namespace."""

    pods: list[PodNeed] = field(default_factory=list)
    secrets: dict[str, set[str]] = field(default_factory=dict)
    """Keys by Secret."""
    config_maps: dict[str, set[str]] = field(default_factory=dict)
    service_accounts: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=set)
    priority_classes: set[str] = field(default_factory=set)
    runtime_classes: set[str] = field(default_factory=set)


def needs_of(spec: EvolutionRunSpec, settings: Settings) -> Needs:
    """What a run needs. Kinds of stages with equal Pods are one need."""
    needs = Needs()
    for kind in BLOCKS:
        if spec.block(kind) is None:
            continue
        template = pod_template(spec, kind, settings)["spec"]
        _add(needs, template)
        same = next((each for each in needs.pods if _placement(each.template) == _placement(template)), None)
        if same is None:
            needs.pods.append(PodNeed((kind,), template))
        else:
            needs.pods[needs.pods.index(same)] = PodNeed((*same.kinds, kind), same.template)
    for source in spec.data.data_sets:
        if source.credentials_secret and source.uri.startswith("s3://"):
            needs.secrets.setdefault(source.credentials_secret, set()).update(S3_CREDENTIALS[:2])
    return needs


def _placement(template: Object) -> Object:
    """The part of a Pod's spec that decides where it can run."""
    container = template["containers"][0]
    names = ("nodeSelector", "tolerations", "affinity", "runtimeClassName")
    return {
        "image": container["image"],
        "resources": container.get("resources"),
        **{name: template.get(name) for name in names},
    }


def _add(needs: Needs, template: Object) -> None:
    for secret, key in _references(template, "secretKeyRef"):
        needs.secrets.setdefault(secret, set()).update({key} if key else ())
    for name, key in _references(template, "configMapKeyRef"):
        needs.config_maps.setdefault(name, set()).update({key} if key else ())
    for container in template["containers"]:
        for each in container.get("envFrom") or []:
            if not (each.get("secretRef") or {}).get("optional") and "secretRef" in each:
                needs.secrets.setdefault(each["secretRef"]["name"], set())
    for each in template.get("imagePullSecrets") or []:
        needs.secrets.setdefault(each["name"], set())
    for volume in template.get("volumes") or []:
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            needs.claims.add(claim)
        mounted = volume.get("secret") or {}
        if mounted.get("secretName") and not mounted.get("optional"):
            needs.secrets.setdefault(mounted["secretName"], set())
    for name, found in (
        ("serviceAccountName", needs.service_accounts),
        ("priorityClassName", needs.priority_classes),
        ("runtimeClassName", needs.runtime_classes),
    ):
        if template.get(name):
            found.add(template[name])


def _references(value: Any, kind: str) -> Iterator[tuple[str, str]]:
    """Name and key of every reference of a kind that must exist."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == kind and isinstance(inner, Mapping):
                if not inner.get("optional"):
                    yield str(inner["name"]), str(inner.get("key") or "")
            else:
                yield from _references(inner, kind)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner, kind)
