"""Which rows are trained on in which order, when the validation loss is measured, and what follows from it. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

GROUPED = 16
"""Batches' worth of rows that are sorted by length together: little padding, and still a shuffled order."""


def training_order(lengths: Sequence[int], epochs: float, batch: int, seed: int) -> list[int]:
    """Positions of the rows in the order they are trained on, all epochs in one list.

    `lengths` is in tokens. Each epoch visits every row once, in an order of its own; a fraction of an epoch visits that
    share of the rows, at least one. Rows of like length stand together in batches of `batch`. One list for all epochs
    means that a resumed run only skips its beginning, and that only the very last batch can be smaller than the others.
    """
    total = max(1, round(epochs * len(lengths))) if lengths else 0
    order: list[int] = []
    while len(order) < total:
        order += _one_epoch(lengths, batch, len(order), random.Random(f"{seed}/{len(order)}"))  # noqa: S311 -- no secret
    return order[:total]


def optimiser_steps(rows: int, batch: int, accumulation: int) -> int:
    """Optimiser steps over `rows` rows; the last may hold fewer rows."""
    return math.ceil(math.ceil(rows / batch) / accumulation)


def rows_a_pass(packed: Sequence[int], padded: Sequence[int], batch: int, accumulation: int) -> int:
    """Rows of a step that can be computed together in a packed layout: several times `batch` where that is free.

    `packed` and `padded` are the tokens that each row takes, in the order of training, in one row with others and beside
    them. No pass is larger than the largest of `batch` padded rows, which the settings allow for. A step's loss does not
    depend on how it is cut into passes.
    """
    room = max(max(group) * len(group) for group in _groups(padded, batch))
    sizes = (batch * times for times in range(accumulation, 1, -1) if accumulation % times == 0)
    return next((size for size in sizes if max(map(sum, _groups(packed, size))) <= room), batch)


def _groups(values: Sequence[int], size: int) -> list[Sequence[int]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def warmup_steps(ratio: float, steps: int) -> int:
    """Steps over which the learning rate rises from 0.

    The first of them has the rate 0. A run of one step has no warm-up, because it would not learn.
    """
    return int(ratio * steps) if steps > 1 else 0


def evaluation_interval(steps: int, epochs: float, per_epoch: int) -> int:
    """Optimiser steps between two measurements of the validation loss, at least 1."""
    return max(1, round(steps / (epochs * per_epoch)))


@dataclass(frozen=True)
class Validations:
    """The validation losses so far: which adapter is best, and whether training should stop (early stopping)."""

    losses: Sequence[tuple[int, float]]
    """(optimiser step, nats a token), in order."""
    patience: int
    """Validations without a lower loss before training stops; 0 never stops it."""

    @property
    def lowest(self) -> float | None:
        """The lowest loss so far."""
        return min((loss for _, loss in self.losses), default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the lowest loss, the first of equals."""
        return min(self.losses, key=lambda measured: measured[1])[0] if self.losses else None

    @property
    def exhausted(self) -> bool:
        """Whether as many validations as the patience have passed since the lowest loss."""
        since = sum(step > self.best_step for step, _ in self.losses) if self.best_step is not None else 0
        return 0 < self.patience <= since

    def measured(self, step: int) -> bool:
        """Whether the loss at this step is known."""
        return any(done == step for done, _ in self.losses)


def _one_epoch(lengths: Sequence[int], batch: int, begun: int, random_: random.Random) -> list[int]:
    """One epoch's order; its first rows complete the batch of which the epoch before has left `begun` rows."""
    rows = list(range(len(lengths)))
    random_.shuffle(rows)
    first = -begun % batch
    order, rest = rows[:first], rows[first:]
    batches: list[list[int]] = []
    for start in range(0, len(rest), batch * GROUPED):
        together = sorted(rest[start : start + batch * GROUPED], key=lambda row: lengths[row])
        batches += [together[place : place + batch] for place in range(0, len(together), batch)]
    # A short batch stays last: before others, it would shift them across the boundaries of length.
    last = [batches.pop()] if batches and len(batches[-1]) < batch else []
    random_.shuffle(batches)
    return order + [row for rows in batches + last for row in rows]
