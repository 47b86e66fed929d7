"""Rows in chunks, each of which a stage makes durable at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..contract.errors import PermanentError, Terminated

T = TypeVar("T")


def chunk_size(part: int) -> int:
    """Rows of a chunk where an engine answers `part` rows as one part: about what it samples at a time."""
    return max(1, part // 4)


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """The rows in lists of `size`, each as soon as it is full; the last one, and one before an error, may be shorter."""
    chunk: list[T] = []
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except (Terminated, PermanentError):  # an engine may stop, or find a fault, between rows
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
