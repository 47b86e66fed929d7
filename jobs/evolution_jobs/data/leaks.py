"""Conversations that occur twice, exactly or nearly: in one data set, or in both training and test data.

Two conversations are near-duplicates if they share a large part of their word 4-grams (shingles). The share is measured
against the shorter one, so that a part of a conversation is found too: the containment of Broder, "On the resemblance
and containment of documents" (1997). Different conversations of ESConv share at most 0.15; changing one word in ten
leaves 0.6. A paraphrase is not found. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract.rows import Dialogue
from ..unspaced import WORD

SHINGLE = 4
"""Words a shingle."""
CONTAINMENT = 0.4
"""Two conversations that share at least this part of the shorter one's shingles are near-duplicates."""
LEAST_SHARED = 8
"""Least number of shared shingles: fewer are stock phrases. Conversations with fewer shingles must be equal."""

Hashes = NDArray[np.uint64]

# Odd, with well-mixed bits: 2^64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Match(NamedTuple):
    """Two conversations that are near-duplicates."""

    left: Dialogue
    right: Dialogue
    shared: float
    """Share of the shorter one's shingles that occurs in both."""


def leaks(test: Sequence[Dialogue], training: Sequence[Dialogue]) -> list[Match]:
    """Each conversation of `test` (left) with each near-duplicate of it in `training` (right)."""
    pairs = _near_duplicates([*test, *training], boundary=len(test))
    return [Match(test[one], training[other - len(test)], shared) for one, other, shared in sorted(pairs)]


def groups(dialogues: Sequence[Dialogue]) -> dict[str, str]:
    """A group name for each dialogue id. Near-duplicates have the same name, also if only other dialogues connect them."""
    parent = {each.id: each.id for each in dialogues}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for left, right, _ in _near_duplicates(dialogues):
        one, other = sorted((root(dialogues[left].id), root(dialogues[right].id)))
        parent[other] = one
    return {each.id: root(each.id) for each in dialogues}


def _near_duplicates(dialogues: Sequence[Dialogue], boundary: int | None = None) -> Iterator[tuple[int, int, float]]:
    """Positions of two near-duplicates, the lower first, and the share; with `boundary`, one on each side of it.

    The shorter conversation of a pair looks for the longer one. The two share at least `least` shingles. So they still
    share half of `least` if its most common shingles, half of `least`, are set aside, and hardly any different
    conversation shares those. Exact. Linear in the number of words, except for collections of stock phrases.
    """
    index = _Index(dialogues)
    for position, size in enumerate(index.sizes):
        least = max(math.ceil(CONTAINMENT * size), min(LEAST_SHARED, size))
        for other in index.sharing(position, least):
            if (index.sizes[other], other) <= (size, position):
                continue
            first, second = sorted((position, other))
            if boundary is not None and not first < boundary <= second:
                continue
            if size < LEAST_SHARED and index.sizes[other] > size:
                continue
            shared = len(np.intersect1d(index.of(position), index.of(other), assume_unique=True))
            if shared >= least:
                yield first, second, shared / size


class _Index:
    """The shingles of each conversation, as numbers, and the conversations that contain each shingle."""

    def __init__(self, dialogues: Sequence[Dialogue]) -> None:
        vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
        hashes = [_shingles(each, vocabulary) for each in dialogues]
        self.sizes = [len(each) for each in hashes]
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        every = np.concatenate([np.empty(0, np.uint64), *hashes])
        order = np.argsort(every, kind="stable")
        ordered = every[order]
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))[: len(every)]
        self._counts = np.diff(np.append(self._starts, len(every)))
        self._holders = np.repeat(np.arange(len(hashes)), self.sizes)[order]
        self._numbers = np.empty(len(every), np.int64)
        self._numbers[order] = np.repeat(np.arange(len(self._starts)), self._counts)

    def of(self, position: int) -> NDArray[np.int64]:
        """The numbers of a conversation's shingles."""
        end = self._ends[position]
        return self._numbers[end - self.sizes[position] : end]

    def sharing(self, position: int, least: int) -> list[int]:
        """Conversations that may share `least` of this one's shingles. Every conversation that does is among them."""
        if not least:
            return []
        numbers = self.of(position)
        aside = least // 2
        rare = numbers[np.argsort(self._counts[numbers], kind="stable")][: len(numbers) - aside]
        lengths = self._counts[rare]
        # The conversations with a shingle form a run in `_holders`. These are the indices of all runs, concatenated.
        runs = np.repeat(self._starts[rare] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        shared = np.bincount(self._holders[runs], minlength=len(self.sizes))
        found: list[int] = np.flatnonzero(shared >= least - aside).tolist()
        return found


def _shingles(dialogue: Dialogue, vocabulary: Mapping[str, int]) -> Hashes:
    """Distinct hashes of the conversation's shingles; a conversation shorter than a shingle has one hash, of all its words."""
    text = " ".join(turn.text for turn in dialogue.turns).casefold()
    numbers = np.array([vocabulary[word] for word in WORD.findall(text)], dtype=np.uint64)
    if not len(numbers):
        return numbers
    width = min(SHINGLE, len(numbers))
    hashes = np.zeros(len(numbers) - width + 1, dtype=np.uint64)
    for offset in range(width):
        # Without the added one, word number 0 would leave no trace at the start of a shingle. The sum wraps at 2^64.
        hashes = (hashes + numbers[offset : offset + len(hashes)] + np.uint64(1)) * _MULTIPLIER
    return np.unique(hashes)
