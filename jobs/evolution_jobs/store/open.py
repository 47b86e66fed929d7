"""From a storage URI to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..contract.errors import PermanentError
from ..contract.settings import Storage
from .base import Store


def open_store(storage: Storage) -> Store:
    """The store at a `file:///directory` or `s3://bucket/prefix` URI. Nothing is connected to or made yet.

    Raises PermanentError `StorageInvalid` where the URI is neither.
    """
    uri = urlsplit(storage.uri)
    if uri.scheme == "file":
        if uri.netloc not in ("", "localhost"):
            raise PermanentError(
                "StorageInvalid", f"storage.uri {storage.uri}: a directory is written as file:///absolute/path"
            )
        from .file import FileStore

        return FileStore(Path(unquote(uri.path)))
    if uri.scheme == "s3" and uri.netloc:
        # botocore takes 0.3 s to import; a run on files does not pay for it.
        from .s3 import S3Store

        return S3Store(uri.netloc, uri.path.strip("/"), storage.endpoint, storage.region)
    raise PermanentError("StorageInvalid", f"storage.uri {storage.uri}: use file:///directory or s3://bucket/prefix")
