"""The operator's settings, read once from the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError

from ..api.pod import PodSettings

PREFIX = "EVOLUTION_"
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class SettingsError(Exception):
    """An environment variable cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """Each field is the environment variable of its name in upper case after `EVOLUTION_`.

    Which namespaces are served is kopf's own setting: `kopf run --all-namespaces` or `--namespace NAME`, or in the
    environment `KOPF_RUN_CLUSTERWIDE=true` or `KOPF_RUN_NAMESPACES="NAME NAME"`.
    """

    stage_image: str = "evolution-operator/train:latest"
    """Image of a stage whose manifest names none."""
    stage_pod: PodSettings = field(default_factory=PodSettings)
    """Pod settings (JSON) for every stage; `spec.pod` and a stage's own override them field by field."""
    critical_priority_class: str = ""
    """Priority class of the other stages that set none."""
    evaluation_priority_class: str = ""
    """Priority class of evaluations that set none, so that they never keep the next iteration from a GPU."""
    workers: int = 4
    """Runs that are reconciled at one time (docs/performance.md)."""
    pass_interval_seconds: float = 0.5
    """Least time between two passes over one run: a burst of events costs one pass. A Job's end does not wait for it."""
    progress_interval_seconds: float = 15.0
    """Least time between two log reads for one run, and from a stage's start to the first."""
    resync_interval_seconds: float = 300.0
    """How often an unfinished run's Jobs and Pods are listed, against events that a broken watch has lost."""
    held_retry_seconds: float = 20.0
    """Pause before a Job that the API server refused (quota, say) is created again."""
    request_timeout_seconds: float = 5.0
    """Time an API call may take."""
    lease_namespace: str = field(default_factory=lambda: _own_namespace())
    """Namespace of the Lease by which one replica leads."""
    lease_name: str = "evolution-operator"
    """Name of that Lease."""
    lease_seconds: float = 10.0
    """A leader that has not renewed for this long is followed by another replica."""
    identity: str = field(default_factory=socket.gethostname)
    """Name of this replica: the Pod's. A random suffix is added, because a process may be started anew in its Pod."""
    http_port: int = 8080
    """Port of /healthz, /readyz and /metrics; 0 serves none."""
    stuck_seconds: float = 120.0
    """/healthz fails once a pass, or the event loop, has not come on for this long."""
    log_format: str = "json"
    """`json` or `text`."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings that the environment gives, defaults elsewhere. Raises SettingsError."""
        types = get_type_hints(cls)
        given: dict[str, Any] = {}
        for setting in fields(cls):
            name = PREFIX + setting.name.upper()
            if name not in environment:
                continue
            type_ = types[setting.name]
            try:
                parse = type_.model_validate_json if issubclass(type_, PodSettings) else type_
                given[setting.name] = parse(environment[name])
            except ValidationError as error:
                raise SettingsError(f"{name}: is not a Pod's settings: {error}") from error
            except ValueError as error:
                raise SettingsError(f"{name}: {environment[name]!r} is not a number") from error
        return cls(**given)


def _own_namespace() -> str:
    if IN_CLUSTER_NAMESPACE.exists():
        return IN_CLUSTER_NAMESPACE.read_text().strip()
    return "default"
