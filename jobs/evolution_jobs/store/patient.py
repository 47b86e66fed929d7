"""A store that retries, so that an outage of a few minutes does not fail the attempt."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ..contract.errors import PermanentError, TransientError
from ..contract.variables import STORAGE_PATIENCE_VARIABLE
from .base import DOCUMENT_LIMIT, Store, Watch, unwatched

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LONGEST_PAUSE = 15.0
"""Most seconds between two tries. Each try already includes several requests."""


def patient(store: Store, proven: bool, pause: Callable[[float], None]) -> Store:
    """The store; an S3 store is made to retry (see `PatientStore`). A directory needs no retry."""
    if not store.uri.startswith("s3://"):
        return store
    return PatientStore(store, storage_patience(), proven, pause)


def storage_patience() -> float:
    """Seconds to wait for a storage. Raises PermanentError `SpecInvalid` if the environment gives no number."""
    text = os.environ.get(STORAGE_PATIENCE_VARIABLE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not seconds >= 0:
        message = f"{STORAGE_PATIENCE_VARIABLE}: {text!r} is not a number of seconds; write, for example, 300"
        raise PermanentError("SpecInvalid", message)
    return seconds


class PatientStore(Store):
    """Repeats operations that fail with `StorageUnreachable`, up to a time limit.

    Every operation of a store is safe to repeat: files are replaced, and a conditional put recognises its own data.

    Args:
        store: the store.
        patience: time limit for one operation, in seconds.
        proven: whether the store has answered before. If not, the first failure is raised at once: the address may be
            wrong.
        pause: waits for a number of seconds, or raises to end the waiting.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        store: Store,
        patience: float,
        proven: bool,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri = store.uri
        self._store = store
        self._patience = patience
        self._proven = proven
        self._pause = pause
        self._clock = clock

    def put_file(self, local: Path, location: str) -> None:
        self._patiently(lambda: self._store.put_file(local, location))

    def put_bytes(self, data: bytes, location: str) -> None:
        self._patiently(lambda: self._store.put_bytes(data, location))

    def put_if_absent(self, data: bytes, location: str) -> bool:
        return self._patiently(lambda: self._store.put_if_absent(data, location))

    def read(self, location: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        return self._patiently(lambda: self._store.read(location, limit))

    def get_file(self, location: str, local: Path, sha256: str | None = None, watch: Watch = unwatched) -> None:
        self._patiently(lambda: self._store.get_file(location, local, sha256, watch))

    def sha256(self, location: str, watch: Watch = unwatched) -> str | None:
        return self._patiently(lambda: self._store.sha256(location, watch))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        # As a whole, so that a repetition does not yield an object twice.
        yield from self._patiently(lambda: [*self._store.list(prefix)])

    def delete(self, location: str) -> None:
        self._patiently(lambda: self._store.delete(location))

    def local(self, location: str) -> Path | None:
        return self._store.local(location)

    def _patiently(self, act: Callable[[], Answer]) -> Answer:
        since: float | None = None
        pause = 1.0
        while True:
            try:
                answer = act()
            except TransientError as error:
                now = self._clock()
                since = now if since is None else since
                if error.reason != "StorageUnreachable" or not self._proven or now - since + pause > self._patience:
                    raise
                log.warning(
                    "no answer from the storage for %.0f s (limit %.0f s): %s", now - since, self._patience, error
                )
                self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._proven = True
                if since is not None:
                    log.info("the storage answers again, after %.0f s", self._clock() - since)
                return answer
