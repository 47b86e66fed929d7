"""A directory as a store: on one machine, or on a volume that several Pods mount."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..contract.errors import PermanentError
from .base import (
    CHUNK,
    DOCUMENT_LIMIT,
    CorruptObjectError,
    MissingObjectError,
    Store,
    Watch,
    check_location,
    check_prefix,
    disk_error,
    file_sha256,
    unwatched,
)

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors of file systems without hard links: FUSE, SMB, FAT."""
ABANDONED_SECONDS = 24 * 3600
"""A partial file older than this was left by a process that was killed."""
PRIVATE = ".evolution-partial"
"""Directory of partial files and locks: on the same file system, so that a rename is atomic, and never listed."""


class FileStore(Store):
    """Atomic through rename(2), conditional through link(2), durable through fsync(2)."""

    def __init__(self, root: Path) -> None:
        if not root.is_absolute():
            raise PermanentError("StorageInvalid", f"storage directory {root}: the path must be absolute")
        self.root = root
        self.uri = f"file://{root}"
        self._swept = False

    def put_file(self, local: Path, location: str) -> None:
        def copy(file: BinaryIO) -> None:
            with local.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK)

        with self._written(location, copy) as (partial, target):
            partial.rename(target)

    def put_bytes(self, data: bytes, location: str) -> None:
        with self._written(location, lambda file: file.write(data)) as (partial, target):
            partial.rename(target)

    def put_if_absent(self, data: bytes, location: str) -> bool:
        with self._written(location, lambda file: file.write(data)) as (partial, target):
            try:
                os.link(partial, target)
            except FileExistsError:
                return target.read_bytes() == data
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                with self._lock(location):
                    if target.exists():
                        return target.read_bytes() == data
                    partial.rename(target)
            return True

    def read(self, location: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        path = self.root / check_location(location)
        try:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, path) from error
        if len(data) > limit:
            raise PermanentError("DocumentTooLarge", f"{path} is larger than {limit} bytes")
        return data

    def get_file(self, location: str, local: Path, sha256: str | None = None, watch: Watch = unwatched) -> None:
        path = self.root / check_location(location)
        partial, digest = local.with_name(f".{local.name}.{secrets.token_hex(4)}"), hashlib.sha256()
        try:
            with path.open("rb") as source, partial.open("xb") as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
                    digest.update(chunk)
                    watch(len(chunk))
            if sha256 is not None and (found := digest.hexdigest()) != sha256:
                raise CorruptObjectError(self.uri, location, sha256, found)
            partial.rename(local)
        except FileNotFoundError as error:
            if error.filename == str(path):
                raise MissingObjectError(self.uri, location) from error
            raise disk_error(error, local) from error
        except OSError as error:
            raise disk_error(error, local) from error
        finally:
            partial.unlink(missing_ok=True)

    def sha256(self, location: str, watch: Watch = unwatched) -> str | None:
        path = self.root / check_location(location)
        try:
            return file_sha256(path, watch)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, path) from error

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        top = self.root / check_prefix(prefix)

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise disk_error(error, top) from error

        for directory, names, files in os.walk(top, onerror=refuse):
            if PRIVATE in names:
                names.remove(PRIVATE)
            for name in files:
                path = Path(directory, name)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue
                yield path.relative_to(self.root).as_posix(), size

    def delete(self, location: str) -> None:
        below = location.endswith("/")
        path = self.root / (check_prefix(location) if below else check_location(location))
        try:
            if below:
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_error(error, path) from error

    def local(self, location: str) -> Path | None:
        return self.root / check_location(location)

    @contextmanager
    def _written(self, location: str, write: Callable[[BinaryIO], object]) -> Iterator[tuple[Path, Path]]:
        """A durable file under a private name, and its target path; the private name is removed at the end."""
        target = self.root / check_location(location)
        partial = self.root / PRIVATE / secrets.token_hex(16)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            yield partial, target
            _sync_directory(target.parent)
        except OSError as error:
            raise disk_error(error, target) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove partial files of killed processes, once per object."""
        if self._swept:
            return
        self._swept = True
        for path in (self.root / PRIVATE).iterdir():
            try:
                if path.suffix != ".lock" and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue

    @contextmanager
    def _lock(self, location: str) -> Iterator[None]:
        name = hashlib.sha256(location.encode()).hexdigest()
        path = self.root / PRIVATE / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                # The kernel releases the lock if the process dies.
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise disk_error(error, path) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
