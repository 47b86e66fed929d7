"""Finished rows of a sharded stage: chunks named by the digest of their bytes, shared by all shards and attempts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..contract.errors import StageError, Terminated
from ..contract.keys import rows_prefix
from ..store.base import Store

log = logging.getLogger(__name__)


class PublishedMeanwhile(Exception):
    """Another process has published the stage, and removes its finished rows. Nothing is left to compute."""


class StoredRows:
    """`evolution_jobs.contract.workspace.Rows` in a store. `is_published` says whether their stage is."""

    def __init__(self, store: Store, key: str, is_published: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._prefix = rows_prefix(key)
        self._is_published = is_published
        self._chunks: dict[str, list[dict[str, Any]]] = {}
        self.appended = 0
        """Rows that this process has appended."""
        self.corrupt_chunks = 0
        """Chunks without the digest in their name. Their rows are computed again."""

    def finished(self) -> Mapping[str, dict[str, Any]]:
        """Every row that any attempt has finished, by id. Reads only chunks that are new since the last call.

        Raises PublishedMeanwhile.
        """
        for location, _ in self._store.list(self._prefix):
            if location not in self._chunks:
                self._read(location)
        # Asked last: rows go only after the stage is published, so without it none were missing.
        if self._is_published():
            raise PublishedMeanwhile
        # If two attempts made the same row, every shard takes the same of the two.
        return {row["id"]: row for location in sorted(self._chunks, reverse=True) for row in self._chunks[location]}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make rows durable as one chunk, whole or not at all. Each row has an `id`."""
        chunk = [dict(row) for row in rows]
        if not chunk:
            return
        if not all(isinstance(row.get("id"), str) for row in chunk):
            raise ValueError("a finished row has no id")
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for row in chunk)
        data = "".join(f"{line}\n" for line in lines).encode()
        location = f"{self._prefix}{hashlib.sha256(data).hexdigest()}.jsonl"
        self._store.put_bytes(data, location)
        self._chunks[location] = chunk
        self.appended += len(chunk)

    def _read(self, location: str) -> None:
        stored = self._store.read(location)
        if stored is None:  # another attempt has published the stage and removed its chunks
            return
        name = location.rpartition("/")[2]
        if name != f"{hashlib.sha256(stored).hexdigest()}.jsonl":
            self.corrupt_chunks += 1
            self._chunks[location] = []
            log.warning("%s is corrupt: it is not used, and its rows are computed again", location)
            try:
                self._store.delete(location)
            except Terminated:
                raise
            except StageError as error:
                log.warning("it stays in the storage: %s: %s", error.reason, error)
            return
        self._chunks[location] = [json.loads(line) for line in stored.splitlines()]
