"""Requests to the API server: JSON in, JSON out, a timeout for each, and a few kinds of error."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from kubernetes import client, config

from .clock import ServerClock

Object = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class ClusterError(Exception):
    """A call failed; the message is the API server's."""


class UnreachableError(ClusterError):
    """The API server does not answer, or answers 429 or 5xx: the call may be repeated."""


class NotLeadingError(ClusterError):
    """This replica does not lead and must not write."""


class NotFoundError(ClusterError):
    """The object or its namespace does not exist."""


class ConflictError(ClusterError):
    """The object has changed since it was read, or another object has its name."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""


class RefusedError(ClusterError):
    """The API server forbids the call (403)."""

    def __init__(self, message: str, terminating: bool = False) -> None:
        super().__init__(message)
        self.terminating = terminating
        """True where the namespace is being deleted."""


class InvalidError(ClusterError):
    """The object is invalid (400, 422)."""


class ApiServer:
    """Calls one API server. Thread-safe.

    Args:
        configuration: where it is and who we are (`load_configuration`).
        timeout: seconds that a call may take.
        may_write: asked before each write; if it returns False, the call raises NotLeadingError.
        clock: set by the Date of each answer.
    """

    def __init__(
        self, configuration: client.Configuration, timeout: float, may_write: Callable[[], bool], clock: ServerClock
    ) -> None:
        self._api = client.ApiClient(configuration)
        self._timeout = timeout
        self._may_write = may_write
        self._clock = clock

    def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Object:
        """The answer's JSON. A PATCH is a merge patch (RFC 7386). Raises ClusterError."""
        answer: Object = json.loads(self.text(method, path, body, query))
        return answer

    def text(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> str:
        """The answer's text. Raises ClusterError."""
        if method != "GET" and not self._may_write():
            raise NotLeadingError("this replica does not lead")
        request = self._api.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON, "Content-Type": MERGE_PATCH if method == "PATCH" else JSON},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=self._timeout)
            self._clock.set_from(response.headers.get("Date"))
            text = response.read().decode("utf-8", "replace")
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise UnreachableError(f"{method} {path}: {type(error).__name__}: {error}") from error
        if not 200 <= response.status < 300:
            raise _error(response.status, text, f"{method} {path}")
        return str(text)


def load_configuration(connections: int) -> client.Configuration:
    """How to reach the cluster that KUBECONFIG names, else the one this Pod runs in."""
    configuration = client.Configuration()
    config.load_config(client_configuration=configuration)
    # A later pass repeats a failed call, with what it observes then.
    configuration.retries = False
    configuration.connection_pool_maxsize = connections
    return configuration


def _error(status: int, text: str, call: str) -> ClusterError:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    message = answer.get("message") or text[:300] or f"{call}: HTTP {status}"
    reason = answer.get("reason")
    if status == 404:
        return NotFoundError(message)
    if status == 409:
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if status == 403:
        causes = (answer.get("details") or {}).get("causes") or []
        return RefusedError(message, any(cause.get("reason") == "NamespaceTerminating" for cause in causes))
    if status in (400, 422):
        return InvalidError(message)
    return UnreachableError(f"{call}: HTTP {status}: {message}")
