"""From a storage URI to a store."""

from __future__ import annotations

from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.locations import Storage
from .base import Store
from .data_sources import local_path


def open_store(storage: Storage) -> Store:
    """The store at a `file:///directory` or `s3://bucket/prefix` URI. Does not connect or create anything yet.

    Raises PermanentError `StorageInvalid` if the URI is neither.
    """
    scheme, _, place = storage.uri.partition("://")
    if scheme == "file":
        from .file import FileStore

        return FileStore(directory_of(storage))
    bucket, _, prefix = place.partition("/")
    if scheme == "s3" and bucket:
        # botocore takes 0.3 s to import, which a run on files does not need.
        from .s3 import S3Store
        from .s3_bucket import Bucket

        if prefix.startswith("/") or {".", ".."} & set(prefix.split("/")):
            raise PermanentError(
                "StorageInvalid", f"storage.uri {storage.uri}: the prefix must not begin with / or contain . or .."
            )
        return S3Store(
            Bucket(bucket, storage.endpoint, storage.region, encryption=encryption(storage)), prefix.rstrip("/")
        )
    raise PermanentError("StorageInvalid", f"storage.uri {storage.uri}: use file:///directory or s3://bucket/prefix")


def directory_of(storage: Storage) -> Path:
    """The directory of a `file://` storage. Raises PermanentError `StorageInvalid`."""
    try:
        return local_path(storage.uri, "storage")
    except PermanentError as error:
        raise PermanentError("StorageInvalid", str(error)) from error


def encryption(storage: Storage) -> dict[str, str]:
    """The encryption of every write, as boto3's parameters."""
    wanted = {"ServerSideEncryption": storage.encryption, "SSEKMSKeyId": storage.kms_key_id}
    return {name: value for name, value in wanted.items() if value is not None}
