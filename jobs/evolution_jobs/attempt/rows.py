"""Finished rows of a sharded stage: chunks named by the digest of their bytes, shared by all shards and attempts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ..contract.keys import rows_prefix
from ..store.base import Store

log = logging.getLogger(__name__)


class StoredRows:
    """`evolution_jobs.contract.workspace.Rows` in a store."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._prefix = rows_prefix(key)
        self._chunks: dict[str, list[dict[str, Any]]] = {}
        self.appended = 0
        """Rows that this process has added."""
        self.corrupt_chunks = 0
        """Chunks that did not have the digest in their name; their rows are made again."""

    def finished(self) -> Mapping[str, dict[str, Any]]:
        """Every row any attempt has finished, by id. Only chunks that are new since the last call are read."""
        for location, _ in self._store.list(self._prefix):
            if location not in self._chunks:
                self._read(location)
        # Of a row that two attempts made, every shard takes the same one.
        return {row["id"]: row for location in sorted(self._chunks, reverse=True) for row in self._chunks[location]}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make rows durable as one chunk. Each row has an `id`; a chunk is all there or not at all."""
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
        if stored is None:  # the stage was published meanwhile, and its chunks removed
            return
        name = location.rpartition("/")[2]
        if name != f"{hashlib.sha256(stored).hexdigest()}.jsonl":
            self.corrupt_chunks += 1
            log.warning("%s is corrupt: removed, its rows are made again", location)
            self._store.delete(location)
            return
        self._chunks[location] = [json.loads(line) for line in stored.splitlines()]
