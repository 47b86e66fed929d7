"""Placement and resources of a stage's Pod on a cluster. Nothing here changes a stage's result."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from evolution_jobs.contract import volumes
from evolution_jobs.contract.document import Document, Rule
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from .quantities import QUANTITY

SPEC_DIRECTORY = str(volumes.SPEC_DIRECTORY)
SCRATCH = "/scratch"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a volume of its own
TMP = "/tmp"  # noqa: S108 -- a path in the container, on a volume of its own

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Text = Annotated[str, Field(max_length=4096)]
LabelValue = Annotated[str, Field(pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$", max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[str, str], Field(max_length=64)]
Objects = Annotated[list[dict[str, Any]], Field(max_length=64)]
Quantity = Annotated[str, Field(pattern=QUANTITY, max_length=64)] | Annotated[int, Field(ge=0)]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]


def _secret_name(value: Any) -> Any:
    """The name in `{name: NAME}`, which is how a Pod names a pull Secret."""
    if isinstance(value, dict):
        if value.keys() == {"name"}:
            return value["name"]
        raise PydanticCustomError("pull_secret", "must be a name or {name: NAME}")
    return value


PullSecret = Annotated[
    Name, BeforeValidator(_secret_name), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]


class Resources(Document):
    """Requests and limits as Kubernetes quantities."""

    requests: Quantities = {}
    """For example `{cpu: 4, memory: 32Gi}`."""
    limits: Quantities = {}
    """For example `{nvidia.com/gpu: 1, memory: 48Gi}`."""


class KeyReference(Document):
    """A key of a Secret or ConfigMap."""

    name: Name
    """Name of the Secret or ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Its key."""
    optional: bool | None = None
    """True if it may be missing."""


class FieldReference(Document):
    """A field of the Pod."""

    api_version: Text | None = None
    """Version of the field's schema; unset is v1."""
    field_path: Annotated[str, Field(min_length=1, max_length=1024)]
    """For example `spec.nodeName`."""


class ResourceReference(Document):
    """A request or limit of the container."""

    container_name: Name | None = None
    """The container; unset is the stage's."""
    resource: Annotated[str, Field(min_length=1, max_length=253)]
    """For example `limits.memory`."""
    divisor: Quantity | None = None
    """Unit of the value; unset is 1."""


class FileReference(Document):
    """A variable in a file of a volume (Kubernetes 1.34 and newer)."""

    volume_name: Name
    """The volume."""
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    """Path in the volume."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """The variable's name in the file."""
    optional: bool | None = None
    """True if it may be missing."""


SOURCES = ("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef")


class ValueSource(Document):
    """Where a variable's value comes from."""

    secret_key_ref: KeyReference | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyReference | None = None
    """A key of a ConfigMap."""
    field_ref: FieldReference | None = None
    """A field of the Pod."""
    resource_field_ref: ResourceReference | None = None
    """A request or limit of the container."""
    file_key_ref: FileReference | None = None
    """A variable in a file."""


class Variable(Document):
    """An environment variable."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "valueFrom",
            "excludes value: remove one of them",
            "!has(self.value) || !has(self.valueFrom)",
            lambda variable: variable.value is None or variable.value_from is None,
        ),
        Rule(
            "valueFrom",
            f"needs exactly one of {', '.join(SOURCES)}",
            f"!has(self.valueFrom) || [{', '.join(f'has(self.valueFrom.{name})' for name in SOURCES)}]"
            ".exists_one(given, given)",
            lambda variable: variable.value_from is None or len(variable.value_from.wire()) == 1,
        ),
    )

    name: Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=253)]
    """Name of the variable."""
    value: str | None = None
    """Its value."""
    value_from: ValueSource | None = None
    """Where its value comes from."""


class Toleration(Document):
    """A taint that the Pod tolerates."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "value",
            "applies to operator Equal only; remove it",
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator == 'Equal'",
            lambda toleration: not toleration.value or toleration.operator != "Exists",
        ),
        Rule(
            "key",
            "is required, except with operator: Exists, which then tolerates every taint",
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            "tolerationSeconds",
            "applies to effect NoExecute only; remove it",
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )

    key: Annotated[str, Field(min_length=1, max_length=317)] | None = None
    """The taint's key."""
    operator: Literal["Exists", "Equal"] | None = None
    """`Exists` tolerates each value of the key; unset is `Equal`."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; unset is each."""
    toleration_seconds: int | None = None
    """How long the Pod stays on a node with this taint; unset is for ever."""


class VolumeMount(Document):
    """Where a volume is mounted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "subPathExpr",
            "excludes subPath: remove one of them",
            "!has(self.subPath) || !has(self.subPathExpr)",
            lambda mount: mount.sub_path is None or mount.sub_path_expr is None,
        ),
    )

    name: Name
    """Name of the volume."""
    mount_path: Annotated[str, Field(pattern=r"^/[^:]*$", max_length=4096)]
    """Absolute path in the container. A volume at `/scratch` or `/tmp` replaces the stage's own."""
    sub_path: Text | None = None
    """Path in the volume; unset is its root."""
    sub_path_expr: Text | None = None
    """The same, with variables as `$(NAME)`."""
    read_only: bool | None = None
    """True if the stage may not write."""
    recursive_read_only: Literal["Disabled", "IfPossible", "Enabled"] | None = None
    """Whether mounts below it are read-only, too."""
    mount_propagation: Literal["None", "HostToContainer", "Bidirectional"] | None = None
    """How later mounts of the node are seen."""


class PodSettings(Document):
    """Settings of a stage's Pod; a stage's own override those under `spec.pod`."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the stage; unset takes the operator's default."""
    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] | None = None
    """When the kubelet pulls the image."""
    image_pull_secrets: Annotated[list[PullSecret], Field(max_length=16)] | None = None
    """Secrets for a private registry: names, or `{name: NAME}` as in a Pod."""
    resources: Resources | None = None
    """Requests and limits: GPUs and memory."""
    node_selector: Labels | None = None
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=64)] | None = None
    """Taints the Pod tolerates, as in a Pod."""
    affinity: dict[str, Any] | None = None
    """Node and Pod affinity, as in a Pod."""
    topology_spread_constraints: Objects | None = None
    """How shards spread over nodes, as in a Pod."""
    priority_class_name: Name | None = None
    """Priority class; give evaluation a lower one, so that it never takes a GPU from the next iteration."""
    runtime_class_name: Name | None = None
    """Runtime class, for example `nvidia`."""
    scheduler_name: Name | None = None
    """Scheduler; unset is the cluster's default."""
    service_account_name: Name | None = None
    """Service account, for cloud identity (IRSA, workload identity). Its API token is not mounted."""
    env: Annotated[list[Variable], Field(max_length=64)] | None = None
    """Environment variables, as in a container."""
    volumes: Objects | None = None
    """Volumes, as in a Pod: a model cache claim, shared memory."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64)] | None = None
    """Where the volumes are mounted, as in a container."""
    annotations: Annotations | None = None
    """Annotations of the Pod."""
    labels: Labels | None = None
    """Labels of the Pod, beside the operator's own."""
    termination_grace_period_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds a stage has to save its checkpoint after SIGTERM; unset is 120."""
