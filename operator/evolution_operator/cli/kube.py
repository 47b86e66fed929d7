"""Calls to the API server of the current kubeconfig context: JSON in, JSON out, and one message if it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.libraries import install

Object = dict[str, Any]

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
TIMEOUT = 15.0
"""Seconds that a call may take."""


class ApiError(Exception):
    """The API server refuses a call. `str(error)` has its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _connect(namespace: str | None) -> tuple[Any, str]:
    """A client for the current context, and the namespace: the given one, or else the context's.

    Nothing is sent yet. Raises PermanentError `NoCluster`, `DependencyMissing`.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise PermanentError(
            "DependencyMissing", f"a cluster needs the kubernetes package: {install('operator')}"
        ) from error
    configuration = client.Configuration()
    # Without retries the user gets one message, not the client's warning before each retry.
    configuration.retries = 0
    try:
        config.load_kube_config(client_configuration=configuration)
        _, active = config.list_kube_config_contexts()
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise PermanentError(
            "NoCluster",
            f"no cluster is configured: {' '.join(str(error).split()).rstrip('.')}; set KUBECONFIG to the file that names it "
            "(default: ~/.kube/config), and see `kubectl config get-contexts`",
        ) from error
    return client.ApiClient(configuration), namespace or active["context"].get("namespace", "default")


class Cluster:
    """The API server of the current context. Thread-safe.

    Every call raises ApiError, and PermanentError `ClusterUnreachable`.
    """

    def __init__(self, namespace: str | None) -> None:
        """Raises PermanentError `NoCluster`, `DependencyMissing`."""
        self._api, self.namespace = _connect(namespace)
        self.server: str = self._api.configuration.host
        """Its URL."""
        self.date: str | None = None
        """The header Date of its latest answer."""

    def get(self, path: str, query: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> Object:
        """The answer to GET."""
        return self._json(self._call("GET", path, query, None, timeout))

    def post(self, path: str, body: Object) -> Object:
        """The answer to POST."""
        return self._json(self._call("POST", path, None, body, TIMEOUT))

    def patch(self, path: str, patch: Object) -> Object:
        """The answer to a merge patch (RFC 7386)."""
        return self._json(self._call("PATCH", path, None, patch, TIMEOUT))

    def delete(self, path: str) -> None:
        """DELETE an object in the background."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._json(self._call("DELETE", path, None, body, TIMEOUT))

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """The answer's bytes as they come, without a time limit between them."""
        from urllib3.exceptions import HTTPError

        response = self._call("GET", path, query, None, (TIMEOUT, None)).response
        try:
            yield from response.stream()
        except HTTPError as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            response.close()

    def _call(self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None, timeout: Any) -> Any:
        request = self._api.param_serialize(
            method=method,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON, "Content-Type": MERGE_PATCH if method == "PATCH" else JSON},
            body=body,
            auth_settings=["BearerToken"],
        )
        with self._reached():
            response = self._api.call_api(*request, _request_timeout=timeout)
            self.date = response.headers.get("Date")
            if not 200 <= response.status < 300:
                raise ApiError(response.status, _words(response.status, response.read().decode("utf-8", "replace")))
            return response

    def _json(self, response: Any) -> Object:
        with self._reached():
            data = response.read()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise PermanentError(
                "ClusterUnreachable", f"{self.server} does not answer as an API server: is the context the right one?"
            )
        return answer

    @contextmanager
    def _reached(self) -> Iterator[None]:
        from urllib3.exceptions import HTTPError, MaxRetryError

        try:
            yield
        except (HTTPError, OSError) as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            raise PermanentError(
                "ClusterUnreachable",
                f"{self.server} does not answer ({cause}); check its address and that the server is up",
            ) from error


def _words(status: int, text: str) -> str:
    try:
        message = json.loads(text).get("message")
    except (ValueError, AttributeError):
        message = None
    return str(message or " ".join(text.split())[:200] or f"HTTP {status}")


@contextmanager
def explained(denied: str, missing: str) -> Iterator[None]:
    """Turn a refused call into PermanentError `ClusterRefused`: `denied` is the message for 403, `missing` that for 404."""
    try:
        yield
    except ApiError as error:
        known = {401: "the cluster does not accept these credentials", 403: denied, 404: missing}
        message = known.get(error.status, f"the API server answered {error.status}: {error}")
        raise PermanentError("ClusterRefused", message) from error
