"""A cluster's storage, used from a machine outside of that cluster: by another endpoint, and with advice if that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.locations import Storage
from pydantic import ValidationError

from ..api.messages import explain
from ..api.run_file import Fault
from ..api.validation import RunFileError


def storage_through(storage: Storage, endpoint: str | None) -> Storage:
    """The storage, reached by another endpoint if one is given. Raises RunFileError."""
    if endpoint is None:
        return storage
    try:
        return Storage.stored(storage.wire() | {"endpoint": endpoint})
    except ValidationError as error:
        raise RunFileError("--endpoint", [Fault("--endpoint", explain(error.errors(include_url=False)[:1]))]) from None


@contextmanager
def reached_from_here(storage: Storage, namespace: str) -> Iterator[None]:
    """Within, an error of a cluster's storage also says what to do on a machine outside of that cluster."""
    try:
        yield
    except StageError as error:
        if advice := advice_from_outside(error.reason, storage, namespace):
            raise type(error)(error.reason, f"{error}. {advice}") from error
        raise


def advice_from_outside(reason: str, storage: Storage, namespace: str) -> str | None:
    """What to do if a cluster's storage cannot be used from this machine; None if nothing is known. Pure."""
    forward, credentials = _forward(storage, namespace), _credentials(storage, namespace)
    wanted = {
        "StorageUnreachable": [forward],
        # Without credentials nothing was asked yet, so it is not known whether the service can be reached.
        "CredentialsMissing": [credentials, forward],
        "StorageDenied": [credentials],
    }
    return " ".join(advice for advice in wanted.get(reason, []) if advice) or None


def _forward(storage: Storage, namespace: str) -> str | None:
    if (service := in_cluster(storage.endpoint or "")) is None:
        return None
    return (
        f"If {service.host} is a Service of the cluster, forward it: kubectl port-forward -n "
        f"{service.namespace or namespace} service/{service.name} {service.port}:{service.port}; then add --endpoint "
        f"{service.scheme}://localhost:{service.port} to this command."
    )


def _credentials(storage: Storage, namespace: str) -> str | None:
    if (secret := storage.credentials_secret) is None:
        return None
    read = f"kubectl get secret {secret} -n {namespace} -o jsonpath="
    exports = " ".join(
        f"{name}=$({read}'{{.data.{name}}}' | base64 -d)" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    return f"The run has its credentials in Secret {secret}. If you may read it: export {exports}."


class Service(NamedTuple):
    """A Service of a cluster, by its URL."""

    scheme: str
    host: str
    name: str
    namespace: str | None
    port: int


def in_cluster(endpoint: str) -> Service | None:
    """The Service that an endpoint names, if only a cluster's own DNS knows its host: `minio`, `minio.storage.svc`. Pure."""
    parts = urlsplit(endpoint)
    labels = (parts.hostname or "").split(".")
    inside = len(labels) <= 2 or labels[2] == "svc"
    if not labels[0] or labels == ["localhost"] or not inside or all(label.isdecimal() for label in labels):
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Service(parts.scheme, parts.hostname or "", labels[0], labels[1] if len(labels) > 1 else None, port)
