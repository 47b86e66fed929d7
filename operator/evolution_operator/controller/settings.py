"""The operator's settings, read once from the environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ..api.pod import PodSettings
from ..live.pages import Access

PREFIX = "EVOLUTION_"
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Seconds = Annotated[float, Field(ge=0)]


class SettingsError(Exception):
    """An environment variable cannot be used; the message names it."""


def _own_namespace() -> str:
    return IN_CLUSTER_NAMESPACE.read_text().strip() if IN_CLUSTER_NAMESPACE.exists() else "default"


class Settings(BaseSettings):
    """Each field is the environment variable of its name in upper case after `EVOLUTION_`.

    kopf has settings of its own. Which namespaces are served: `kopf run --all-namespaces` or `--namespace NAME`, or in
    the environment `KOPF_RUN_CLUSTERWIDE=true` or `KOPF_RUN_NAMESPACES="NAME NAME"`. The format of the log:
    `--log-format json` or `KOPF_RUN_LOG_FORMAT=json`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    stage_image: str = "evolution-operator/train:latest"
    """Image of a stage if its run sets none."""
    vllm_image: str = ""
    """Image of generate, reflect and evaluate if their run sets none and may use vLLM; empty takes `stage_image`."""
    stage_pod: Annotated[PodSettings, NoDecode] = PodSettings()
    """Pod settings (JSON) for every stage; `spec.pod` and a stage's own override them field by field."""
    openshift: bool = False
    """True: Pods ask for no user and no group, and OpenShift chooses them from the namespace's range."""
    critical_priority_class: str = ""
    """Priority class of the other stages that set none."""
    evaluation_priority_class: str = ""
    """Priority class of evaluations that set none, so that they never keep the next iteration from a GPU."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Runs that are reconciled at one time (docs/performance.md)."""
    pass_interval_seconds: Seconds = 0.5
    """Least time between two passes over one run: a burst of events costs one pass. A Job's end does not wait for it."""
    progress_interval_seconds: Seconds = 15.0
    """Least time between two log reads for one run, and from a stage's start to the first."""
    resync_interval_seconds: Seconds = 300.0
    """How often an unfinished run, its Jobs and Pods are read, against events that a broken watch has lost."""
    watch_silence_seconds: Annotated[float, Field(gt=0)] = 70.0
    """A watch is opened again if it delivers nothing for this long: the API server sends a bookmark every minute."""
    held_retry_seconds: Seconds = 20.0
    """Pause before a Job that the API server refused (quota, say) is created again."""
    request_timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Time an API call may take."""
    lease_namespace: str = Field(default_factory=_own_namespace)
    """Namespace of the Lease that elects the leader."""
    lease_name: str = "evolution-operator"
    """Name of that Lease."""
    lease_seconds: Annotated[float, Field(gt=0)] = 10.0
    """If the leader has not renewed the Lease for this long, another replica takes over."""
    identity: str = Field(default_factory=socket.gethostname)
    """Name of this replica: the Pod's. A random suffix is added, because a process may be restarted in its Pod."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /healthz, /metrics and the live page; 0 serves none."""
    live: Access = "portForward"
    """Who gets the live page: `portForward`, whoever may forward a port of this Pod; `network`, everyone who reaches its port; `off`."""
    stuck_seconds: Seconds = 120.0
    """/healthz fails once a pass, or the event loop, has made no progress for this long."""

    @field_validator("stage_pod", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        # pydantic-settings decodes JSON itself, but its error does not name the variable.
        return from_json(value) if isinstance(value, str) else value


def read_settings() -> Settings:
    """The settings that the environment gives, defaults elsewhere.

    Raises SettingsError, which names every variable that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [f"{PREFIX}{_path(each['loc'])}: {each['msg']}" for each in error.errors(include_url=False)]
        raise SettingsError("; ".join(faults)) from error


def _path(location: tuple[int | str, ...]) -> str:
    name, *inner = map(str, location)
    return ".".join([name.upper(), *inner])
