"""Sources of data sets and base models, apart from the storage: files, S3 objects and their credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..contract.credentials import credential, credential_prefix
from ..contract.errors import PermanentError, StageError, TransientError
from ..contract.locations import Storage
from .base import MissingObjectError

if TYPE_CHECKING:
    from .s3_bucket import Bucket


def local_path(uri: str, field: str) -> Path:
    """The path of a `file:///path` URI, with %-escapes decoded unless only a file of the undecoded name exists.

    Raises PermanentError `DataInvalid` if it is not an absolute path, or if both of these files exist.
    """
    # Not with urlsplit: users write # and ? in file names without escapes.
    host, slash, rest = uri.removeprefix("file://").partition("/")
    if host not in ("", "localhost") or not slash:
        raise PermanentError("DataInvalid", f"{field}.uri: {uri} is not absolute: write file:///absolute/path")
    path, literal = Path(unquote(f"/{rest}")), Path(f"/{rest}")
    if "\0" in str(path):
        raise PermanentError("DataInvalid", f"{field}.uri: {uri} is no path: remove the %00")
    if path == literal or not literal.exists():
        return path
    if path.exists():
        raise PermanentError(
            "DataInvalid",
            f"{field}.uri: {uri} may mean {path} or {literal}, and both exist: rename one, or write % as %25",
        )
    return literal


def secret_credential(secret: str | None, name: str) -> str | None:
    """A value of the Secret; None if no Secret is named, or this process does not have it (outside a cluster).

    Raises PermanentError `CredentialsInvalid`.
    """
    return credential(credential_prefix(secret) + name) if secret else None


def open_bucket(uri: str, storage: Storage, endpoint: str | None, secret: str | None) -> tuple[Bucket, str]:
    """The bucket of `s3://bucket/key`, and the key, which is taken literally.

    Without `endpoint`, the storage's endpoint is used. Credentials come from the Secret, else from boto3's own chain.
    Raises StageError; PermanentError `DataInvalid` if the key has a segment `.` or `..`, which HTTP clients and proxies
    resolve to another key.
    """
    from .s3_bucket import Bucket

    name, _, key = uri.removeprefix("s3://").partition("/")
    if {".", ".."} & set(key.split("/")):
        raise PermanentError(
            "DataInvalid", f"{uri}: a key with /./ or /../ cannot be read: copy the object to another key"
        )
    own = secret_credential(secret, "AWS_ACCESS_KEY_ID") is not None
    variables = credential_prefix(secret) if secret and own else ""
    return Bucket(name, endpoint or storage.endpoint, storage.region, variables), key


@contextmanager
def blamed_on(field: str, own_fields: bool = True) -> Iterator[None]:
    """Makes errors of S3 name this field of the spec; if it has `own_fields`, also in place of the storage's fields."""
    try:
        yield
    except MissingObjectError as error:
        raise PermanentError("DataMissing", f"{field}.uri: {error}") from error
    except StageError as error:
        kind = TransientError if isinstance(error, TransientError) else PermanentError
        words = str(error).replace("storage.", f"{field}.") if own_fields else str(error)
        raise kind(error.reason, f"{field}: {words}") from error
