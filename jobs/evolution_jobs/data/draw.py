"""Random draws that depend only on the seed and the row: adding or removing other rows does not change them."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def rank(seed: int, name: str) -> bytes:
    """A row's sort key in the random order of `seed`; uniform over names."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def draw(items: Iterable[Item], count: int | None, seed: int, name: Callable[[Item], str]) -> list[Item]:
    """`count` of the items, or all (None), in their original order. Names are unique.

    Keeps at most `count` items in memory.
    """
    if count is None:
        return list(items)
    ranked = ((rank(seed, name(item)), position, item) for position, item in enumerate(items))
    drawn = heapq.nsmallest(count, ranked, key=lambda entry: entry[0])
    return [item for _, _, item in sorted(drawn, key=lambda entry: entry[1])]
