"""Draws that depend on the seed and the row alone: a row's luck does not change when other rows come or go."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def rank(seed: int, name: str) -> bytes:
    """A row's place in the order that `seed` gives; uniform over names."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def draw(items: Iterable[Item], count: int | None, seed: int, name: Callable[[Item], str]) -> list[Item]:
    """`count` of the items, or all (None), in the order they came. Names are unique.

    Holds no more than `count` items at a time.
    """
    if count is None:
        return list(items)
    ranked = ((rank(seed, name(item)), position, item) for position, item in enumerate(items))
    drawn = heapq.nsmallest(count, ranked, key=lambda entry: entry[0])
    return [item for _, _, item in sorted(drawn, key=lambda entry: entry[1])]
