"""Tries what stages need of a storage, with objects of its own, which it deletes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from shutil import disk_usage
from typing import Any

from ..contract.document import Document
from ..contract.errors import PermanentError, StageError
from .base import Store
from .file import PRIVATE

PREFIX = "doctor/"
"""Where the objects of a trial lie. No stage reads there."""
WITHOUT_USE = frozenset(
    {
        *("StorageUnreachable", "StorageInvalid", "BucketMissing", "CredentialsMissing", "CredentialsInvalid"),
        *("ProxyDenied", "ClockWrong"),
    }
)
"""Reasons after which nothing else can work."""


class StoreTrial(Document):
    """What a storage did. A step that is in neither `worked` nor `faults` was not tried."""

    uri: str
    worked: list[str] = []
    """Steps that did what they should: list, write, read, create, delete."""
    faults: dict[str, str] = {}
    """By step: `Reason: message`."""
    left: list[str] = []
    """Objects of the trial that could not be deleted."""
    ahead: float | None = None
    """Seconds by which this machine's clock is ahead of the storage's, negative if behind; None if it is not known."""
    free: int | None = None
    """Bytes that are free, for a directory."""


def try_store(store: Store, clock: Callable[[], float] = time.time) -> StoreTrial:
    """Write, read, create on condition, list and delete. Raises nothing: what fails is in the answer."""
    times: list[float] = []
    _note_time_of_s3(store, times, clock)
    directory = _directory(store)
    existed = directory is None or directory.exists()
    place = f"{PREFIX}{secrets.token_hex(8)}/"
    worked: list[str] = []
    faults: dict[str, str] = {}

    def step(name: str, act: Callable[[], object]) -> None:
        if any(fault.partition(":")[0] in WITHOUT_USE for fault in faults.values()):
            return
        try:
            act()
            worked.append(name)
        except StageError as error:
            faults[name] = f"{error.reason}: {error}"

    step("list", lambda: list(store.list(place)))
    step("write", lambda: store.put_bytes(b"1", f"{place}written"))
    if "write" in worked:
        if directory is not None:
            with suppress(OSError):
                times.append(clock() - (directory / place / "written").stat().st_mtime)
        step("read", lambda: _read(store, f"{place}written"))
        step("create", lambda: _create(store, f"{place}created"))
        step("delete", lambda: _delete(store, place))
    left = [] if "delete" in worked or "write" not in worked else [f"{store.uri}/{place}"]
    free = _free(directory) if directory is not None else None
    if directory is not None:
        _remove_empty(directory, existed)
    return StoreTrial(
        uri=store.uri, worked=worked, faults=faults, left=left, ahead=round(times[-1], 1) if times else None, free=free
    )


def _read(store: Store, location: str) -> None:
    if store.read(location) != b"1":
        raise PermanentError("StorageInconsistent", f"{store.uri}: what was just written is not read back")


def _create(store: Store, location: str) -> None:
    """A second writer must be refused, so that two attempts cannot publish the same result."""
    if not store.put_if_absent(b"first", location):
        words = "an object that does not exist cannot be created on condition that it does not (If-None-Match: *)"
        raise PermanentError("ConditionalWritesMissing", f"{store.uri}: {words}")
    if store.put_if_absent(b"second", location) or store.read(location) != b"first":
        raise PermanentError(
            "ConditionalWritesMissing",
            f"{store.uri}: a second write replaces the first, although it was to be refused (If-None-Match: *). Two "
            "attempts could publish the same result: use AWS S3, a current MinIO, or another store with conditional writes",
        )


def _delete(store: Store, place: str) -> None:
    names = {location for location, _ in store.list(place)}
    store.delete(place)
    if f"{place}written" not in names or list(store.list(place)):
        raise PermanentError(
            "StorageInconsistent", f"{store.uri}: a list does not show what was just written or deleted"
        )


def _directory(store: Store) -> Path | None:
    place = store.local("x")
    return place.parent if place else None


def _free(directory: Path) -> int | None:
    existing = next((path for path in (directory, *directory.parents) if path.exists()), None)
    return disk_usage(existing).free if existing else None


def _remove_empty(directory: Path, existed: bool) -> None:
    for path in (directory / PREFIX, directory / PRIVATE, *(() if existed else (directory,))):
        with suppress(OSError):
            path.rmdir()


def _note_time_of_s3(store: Store, times: list[float], clock: Callable[[], float]) -> None:
    """Note, for every answer of S3, how far this machine's clock is ahead of its Date."""
    bucket = getattr(store, "bucket", None)
    if bucket is None:
        return

    def note(http_response: Any = None, **_: Any) -> None:
        with suppress(AttributeError, LookupError, TypeError, ValueError):
            times.append(clock() - parsedate_to_datetime(http_response.headers["Date"]).timestamp())

    bucket.client.meta.events.register("after-call.s3", note)
