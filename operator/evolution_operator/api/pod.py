"""Placement and resources of a stage's Pod on a cluster. Nothing here changes a stage's result."""

from __future__ import annotations

from typing import Annotated, Any

from evolution_jobs.contract.document import Document
from pydantic import BeforeValidator, Field, WithJsonSchema

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]


def _secret_name(value: Any) -> Any:
    """The name in `{name: NAME}`, which is how a Pod names a pull Secret."""
    return value["name"] if isinstance(value, dict) and value.keys() == {"name"} else value


PullSecret = Annotated[
    Name, BeforeValidator(_secret_name), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]
Labels = Annotated[dict[str, str], Field(max_length=64)]
Objects = Annotated[list[dict[str, Any]], Field(max_length=64)]


class Resources(Document):
    """Requests and limits as Kubernetes quantities."""

    requests: Annotated[dict[str, str | int], Field(max_length=16)] = {}
    """For example `{cpu: 4, memory: 32Gi}`."""
    limits: Annotated[dict[str, str | int], Field(max_length=16)] = {}
    """For example `{nvidia.com/gpu: 1, memory: 48Gi}`."""


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
    tolerations: Objects | None = None
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
    env: Objects | None = None
    """Environment variables, as in a container."""
    volumes: Objects | None = None
    """Volumes, as in a Pod: a model cache claim, shared memory."""
    volume_mounts: Objects | None = None
    """Where the volumes are mounted, as in a container."""
    annotations: Labels | None = None
    """Annotations of the Pod."""
    labels: Labels | None = None
    """Labels of the Pod, beside the operator's own."""
    termination_grace_period_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds a stage has to save its checkpoint after SIGTERM; unset is 120."""
