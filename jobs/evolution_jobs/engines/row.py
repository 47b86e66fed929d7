"""A request while it is sampled, and in what order and batches requests are taken up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Request
from .prefill import shared_prefix

if TYPE_CHECKING:
    from .grammar import Following


@dataclass
class Row:
    """A request while it is sampled."""

    request: Request
    prompt: list[int]
    truncated_turns: int
    sampled: list[int] = field(default_factory=list)
    following: Following | None = None
    ended: bool = False

    @property
    def tokens(self) -> list[int]:
        """The prompt and the answer so far."""
        return self.prompt + self.sampled

    @property
    def room(self) -> int:
        """Most tokens that prompt and answer can have."""
        return len(self.prompt) + self.request.max_new_tokens

    def accept(self, token: int) -> None:
        """Take the next token of the answer."""
        self.sampled.append(token)
        if self.following:
            self.following.accept(token)


def kindred(rows: Iterable[Row]) -> list[Row]:
    """The rows, longest first, those whose prompts share most of their tokens side by side.

    Contexts of one dialogue share its history. If they are computed together, the history is computed once.
    """
    families: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.prompt):
        before = families[-1][-1].prompt if families else []
        common = shared_prefix(before, row.prompt)
        if before and 2 * common >= min(len(before), len(row.prompt)):
            families[-1].append(row)
        else:
            families.append([row])
    for family in families:
        family.sort(key=lambda row: -row.room)
    return [row for family in sorted(families, key=lambda family: -family[0].room) for row in family]


def batched(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """The rows in batches whose rows x longest room is at most `budget`; a row over the budget goes alone."""
    start = 0
    while start < len(rows):
        end = start + admitted([], islice(rows, start, None), budget)
        yield list(rows[start:end])
        start = end


def admitted(rows: Sequence[Row], waiting: Iterable[Row], budget: int) -> int:
    """How many of the waiting rows, from the first on, fit beside `rows`; at least one if there are no rows."""
    longest, count, found = max((row.room for row in rows), default=0), len(rows), 0
    for row in waiting:
        longest, count = max(longest, row.room), count + 1
        if longest * count > budget and count > 1:
            break
        found += 1
    return found


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Tokens of the rows, padded on the left, and their mask, (rows, tokens)."""
    whole = [row.tokens for row in rows]
    width = max(map(len, whole))
    # Padded with a token that the row already has, so that padding does not change the repetition penalty.
    tokens = torch.tensor([[each[0]] * (width - len(each)) + each for each in whole])
    return tokens, torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in whole])
