"""Sources of data sets and base models, apart from the storage: files, S3 objects and their credentials."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..contract.credentials import credential_prefix
from ..contract.errors import PermanentError, StageError, TransientError
from ..contract.locations import Storage
from .base import MissingObjectError

if TYPE_CHECKING:
    from .s3 import S3Store


def local_path(uri: str, field: str) -> Path:
    """The path of a `file:///path` URI. Raises PermanentError `DataInvalid` if it is not an absolute path."""
    # Not with urlsplit: users write # and ? in file names without escapes.
    host, slash, rest = uri.removeprefix("file://").partition("/")
    if host not in ("", "localhost") or not slash:
        raise PermanentError("DataInvalid", f"{field}.uri: {uri} is not absolute: write file:///absolute/path")
    path = unquote(f"/{rest}")
    if "\0" in path:
        raise PermanentError("DataInvalid", f"{field}.uri: {uri} is no path: remove the %00")
    return Path(path)


def credential(secret: str | None, name: str) -> str | None:
    """A value of the Secret; None if no Secret is named, or this process does not have it (outside a cluster)."""
    return os.environ.get(credential_prefix(secret) + name) if secret else None


def open_bucket(uri: str, storage: Storage, endpoint: str | None, secret: str | None) -> tuple[S3Store, str]:
    """The bucket of `s3://bucket/key` as a store, and the key.

    Without `endpoint`, the storage's endpoint is used. Credentials come from the Secret, else from boto3's own chain.
    """
    import boto3

    from .s3 import S3Store, client_config

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    store = S3Store(bucket, "", endpoint or storage.endpoint, storage.region)
    if access_key := credential(secret, "AWS_ACCESS_KEY_ID"):
        session = boto3.Session(
            aws_access_key_id=access_key,
            aws_secret_access_key=credential(secret, "AWS_SECRET_ACCESS_KEY"),
            aws_session_token=credential(secret, "AWS_SESSION_TOKEN"),
            region_name=store.client.meta.region_name,
        )
        store.client = session.client("s3", endpoint_url=store.endpoint, config=client_config(store.endpoint))
    return store, key.strip("/")


@contextmanager
def blamed_on(field: str) -> Iterator[None]:
    """Makes errors of S3 name this field of the spec instead of the storage's fields."""
    try:
        yield
    except MissingObjectError as error:
        raise PermanentError("DataMissing", f"{field}.uri: {error}") from error
    except StageError as error:
        kind = TransientError if isinstance(error, TransientError) else PermanentError
        raise kind(error.reason, f"{field}: {str(error).replace('storage.', f'{field}.')}") from error
