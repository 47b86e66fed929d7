"""The interface of every store, and its errors. Locations are relative to the storage URI, with `/`."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..contract.errors import PermanentError, StageError, TransientError
from ..contract.manifest import File

Watch = Callable[[int], object]
"""Called with the number of bytes each time some more are read."""
CHUNK = 1 << 20
"""Bytes that are read at once where a file is a stream."""
DOCUMENT_LIMIT = 64 << 20
"""Largest document in bytes that is read as a whole: manifests, indexes and chunks of rows are far smaller."""


def unwatched(_: int) -> None:
    """A `Watch` for reads of which nobody shows the progress."""


class MissingObjectError(TransientError):
    """There is no object at the location."""

    def __init__(self, uri: str, location: str) -> None:
        super().__init__("ObjectMissing", f"{uri}/{location} does not exist")


class CorruptObjectError(TransientError):
    """The object at the location does not have the expected digest."""

    def __init__(self, uri: str, location: str, expected: str, found: str) -> None:
        super().__init__("ObjectCorrupt", f"{uri}/{location}: expected sha256 {expected}, found {found}")
        self.expected = expected
        self.found = found


class Store(Protocol):
    """Durable storage. A write is atomic, and every reader sees it immediately.

    Every method raises StageError with one line for the user if the storage refuses or fails: TransientError
    `StorageUnreachable`, `StorageFull`, `DiskFull`, `ClockWrong`; PermanentError `StorageDenied`, `BucketMissing`,
    `CredentialsMissing`, `LocationInvalid`. No method holds a whole file in memory. `read`, `put_bytes` and
    `put_if_absent` are for small documents.
    """

    uri: str
    """For messages: `s3://bucket/prefix` or `file:///directory`, no trailing slash, no credentials."""

    def put_file(self, local: Path, location: str) -> None:
        """Store a local file; an existing object is replaced."""
        ...

    def put_bytes(self, data: bytes, location: str) -> None:
        """Store a small document; an existing object is replaced."""
        ...

    def put_if_absent(self, data: bytes, location: str) -> bool:
        """Store a small document if the location is free. True if `data` is stored there afterwards."""
        ...

    def read(self, location: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        """A small document, or None. Raises PermanentError `DocumentTooLarge` if it has more than `limit` bytes."""
        ...

    def get_file(self, location: str, local: Path, sha256: str | None = None, watch: Watch = unwatched) -> None:
        """Copy to a local file, which appears only once it is complete. Raises MissingObjectError, CorruptObjectError, `DiskFull`."""
        ...

    def sha256(self, location: str, watch: Watch = unwatched) -> str | None:
        """Digest of the stored bytes, read as a stream, or None if there is no object."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Location and size of everything below a prefix that ends with `/` (or is empty), in no order."""
        ...

    def delete(self, location: str) -> None:
        """Remove one object, or all below a location that ends with `/`. A missing object is not an error."""
        ...

    def local(self, location: str) -> Path | None:
        """The path of the stored file if it is on this machine, to read it in place; else None."""
        ...


def check_location(location: str) -> str:
    """The location, unchanged, if it is inside the store.

    Raises PermanentError `LocationInvalid` for absolute paths, `..` and other ways out of the store: locations are also
    read from manifests, which may be hostile.
    """
    parts = location.split("/")
    if any(part in ("", ".", "..") or part.startswith(".evolution-") for part in parts) or {"\\", "\0"} & set(location):
        raise PermanentError("LocationInvalid", f"{location!r} is not a path inside the storage")
    return location


def check_prefix(prefix: str) -> str:
    """The prefix, unchanged, if it is empty or a valid location with a trailing slash."""
    if prefix:
        if not prefix.endswith("/"):
            raise PermanentError("LocationInvalid", f"{prefix!r} does not end with a slash")
        check_location(prefix[:-1])
    return prefix


def inside(directory: Path, path: str) -> Path:
    """`path` below `directory`. Raises `LocationInvalid` if it leads out of the directory."""
    return directory / PurePosixPath(check_location(path))


def verified_local(store: Store, file: File) -> Path | None:
    """Where a stored file lies on this machine, with its digest checked; None if the storage is elsewhere.

    Raises MissingObjectError, CorruptObjectError.
    """
    stored = store.local(file.location)
    if stored is None:
        return None
    found = store.sha256(file.location)
    if found is None:
        raise MissingObjectError(store.uri, file.location)
    if found != file.sha256:
        raise CorruptObjectError(store.uri, file.location, file.sha256, found)
    return stored


def file_sha256(path: Path, watch: Watch = unwatched) -> str:
    """Digest of a local file, read as a stream."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            watch(len(chunk))
    return digest.hexdigest()


def disk_error(error: OSError, path: Path | str) -> StageError:
    """The StageError for an error of the local file system."""
    where = error.filename or path
    words = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError("DiskFull", f"no space left for {where}: free some, or point storage or TMPDIR elsewhere")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermanentError("StorageDenied", f"{where}: {words}; this user must be able to read and write it")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return PermanentError("StorageInvalid", f"{where}: {words}")
    return TransientError("StorageUnreachable", f"{where}: {words}")
