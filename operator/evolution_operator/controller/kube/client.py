"""The API calls for one run, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...api.spec import API_VERSION, PLURAL
from .. import labels
from .apiserver import ApiServer, Object

LOG_BYTES = 16 * 1024
PAGE = 500


class RunKey(NamedTuple):
    """Namespace and name of a run."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Listing:
    """The answer to a list call."""

    items: tuple[Mapping[str, Any], ...]
    version: int
    """resourceVersion at which it was complete."""


class KubeClient:
    """The API calls for one run. Thread-safe."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def read_run(self, key: RunKey) -> Object:
        """The run's resource. Raises NotFoundError."""
        return self._server.call("GET", _run_path(key))

    def patch_run(self, key: RunKey, patch: Mapping[str, Any]) -> Object:
        """Merge a patch (RFC 7386) into the run's metadata or spec."""
        return self._server.call("PATCH", _run_path(key), patch)

    def patch_status(self, key: RunKey, version: str, status: Mapping[str, Any]) -> Object:
        """Merge a patch into the status of this version of the run. Raises ConflictError if the run has changed."""
        return self._server.call(
            "PATCH", f"{_run_path(key)}/status", {"metadata": {"resourceVersion": version}, "status": status}
        )

    def delete_run(self, key: RunKey, uid: str) -> None:
        """Delete the run and everything it owns."""
        self._server.call("DELETE", _run_path(key), _delete_options(uid, "Background"))

    def list_jobs(self, key: RunKey) -> Listing:
        """All Jobs of a run."""
        return self._list(f"/apis/batch/v1/namespaces/{key.namespace}/jobs", {"labelSelector": _selector(key)})

    def list_pods(self, key: RunKey) -> Listing:
        """All Pods of a run."""
        return self._list(f"/api/v1/namespaces/{key.namespace}/pods", {"labelSelector": _selector(key)})

    def list_warnings(self, key: RunKey, uid: str, reason: str) -> tuple[Mapping[str, Any], ...]:
        """Warning events of one reason about an object."""
        return self._events(key, f"involvedObject.uid={uid},type=Warning,reason={reason}")

    def list_events(self, key: RunKey, uid: str) -> tuple[Mapping[str, Any], ...]:
        """All events about a run that the API server still has."""
        return self._events(key, f"involvedObject.uid={uid}")

    def _events(self, key: RunKey, selector: str) -> tuple[Mapping[str, Any], ...]:
        return self._list(f"/api/v1/namespaces/{key.namespace}/events", {"fieldSelector": selector}).items

    def create_job(self, job: Object) -> Object:
        """Create a Job. A field that the API server does not know is an error, and not dropped.

        Raises AlreadyExistsError, RefusedError, InvalidError.
        """
        path = f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs"
        return self._server.call("POST", path, job, {"fieldValidation": "Strict"})

    def create_service(self, service: Object) -> None:
        """Create a Service. Raises AlreadyExistsError, RefusedError, InvalidError."""
        path = f"/api/v1/namespaces/{service['metadata']['namespace']}/services"
        self._server.call("POST", path, service, {"fieldValidation": "Strict"})

    def read_job(self, key: RunKey, name: str) -> Object:
        """A Job. Raises NotFoundError."""
        return self._server.call("GET", _job_path(key, name))

    def patch_job(self, key: RunKey, name: str, patch: Mapping[str, Any]) -> Object:
        """Merge a patch into a Job."""
        return self._server.call("PATCH", _job_path(key, name), patch)

    def delete_job(self, key: RunKey, name: str, uid: str) -> Object | None:
        """Delete a Job in the foreground: its name stays taken until its Pods are gone. None if it is gone at once."""
        answer = self._server.call("DELETE", _job_path(key, name), _delete_options(uid, "Foreground"))
        return answer if answer.get("kind") == "Job" else None

    def read_log(self, key: RunKey, pod: str, container: str, lines: int) -> str:
        """The last lines of a Pod's log."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(LOG_BYTES)}
        return self._server.text("GET", f"/api/v1/namespaces/{key.namespace}/pods/{pod}/log", query=query)

    def create_event(self, event: Object) -> None:
        """Create an event."""
        self._server.call("POST", f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)

    def _list(self, path: str, query: Mapping[str, str]) -> Listing:
        items: list[Mapping[str, Any]] = []
        page: Mapping[str, str] = {"limit": str(PAGE)}
        while True:
            answer = self._server.call("GET", path, query={**query, **page})
            items += answer["items"]
            more = answer["metadata"].get("continue")
            if not more:
                return Listing(tuple(items), int(answer["metadata"]["resourceVersion"]))
            page = {"limit": str(PAGE), "continue": more}


def _run_path(key: RunKey) -> str:
    return f"/apis/{API_VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}"


def _job_path(key: RunKey, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{key.namespace}/jobs/{name}"


def _selector(key: RunKey) -> str:
    return f"{labels.RUN}={key.name}"


def _delete_options(uid: str, propagation: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": propagation,
        "preconditions": {"uid": uid},
    }
