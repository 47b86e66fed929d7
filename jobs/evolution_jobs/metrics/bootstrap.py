"""Estimates with 95 % intervals by dialogue, and their differences between models that answered the same rows.

Contexts of one dialogue are alike, so whole dialogues are drawn or left out, never single rows.

- A figure that is computed from sums over rows is bootstrapped (Efron 1979, percentile method).
- A figure that counts distinct things (Distinct-n, duplicates, macro-F1 over the labels) is jackknifed: each dialogue is left
  out once (Tukey 1958). A bootstrap cannot do that: a row that is drawn twice adds no new words or labels, so every resample
  is less diverse than the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..contract.figures import Interval

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
SEED = 20250516
"""Fixed, so that equal rows have equal intervals, and two models on the same rows have the same draws."""
KEPT_GROUPS = 2000
"""Most groups whose draws are kept: 16 MB."""
ROW_PART = 100
"""Resamples whose draws of single rows are in memory together: 8 MB for 10,000 rows."""
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
UNBOUNDED = (-math.inf, math.inf)
PERCENT = (0.0, 100.0)
"""Bounds of a share."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and its values over resampled dialogues: of each draw, or without each dialogue."""

    value: float
    replicates: Floats
    """(resamples,) or (dialogues,); empty if there are fewer than two dialogues."""
    kind: Literal["bootstrap", "jackknife"]
    groups: int
    """Dialogues that it is over."""
    bounds: tuple[float, float] = UNBOUNDED
    """Least and greatest value that the figure can have. A jackknife does not know them, and its interval ends there."""

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference. Both must be over the same rows in the same order, so that the resamples are the same."""
        if (self.kind, self.groups) != (other.kind, other.groups):
            raise ValueError("the estimates are not over the same rows")
        apart = (self.bounds[0] - other.bounds[1], self.bounds[1] - other.bounds[0])
        return replace(
            self, value=self.value - other.value, replicates=self.replicates - other.replicates, bounds=apart
        )

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None if there are fewer than two dialogues."""
        if not len(self.replicates):
            return None
        if self.kind == "jackknife":
            reach, (least, most) = Z * self._jackknife_error(), self.bounds
            return max(self.value - reach, least), min(self.value + reach, most)
        low, high = np.percentile(self.replicates, [2.5, 97.5])
        return float(low), float(high)

    def p_value(self) -> float | None:
        """Two-sided probability of a value as far from 0 if it were 0; None if there are fewer than two dialogues."""
        if not len(self.replicates):
            return None
        if self.kind == "jackknife":
            error = self._jackknife_error()
            return math.erfc(abs(self.value) / error / math.sqrt(2)) if error else float(self.value == 0)
        beyond = min(int((self.replicates <= 0).sum()), int((self.replicates >= 0).sum()))
        # The value itself counts as one draw, so no p-value is 0 (Davison and Hinkley 1997, section 4.2).
        return min(1.0, 2 * (beyond + 1) / (len(self.replicates) + 1))

    def _jackknife_error(self) -> float:
        count = len(self.replicates)
        return math.sqrt((count - 1) / count * float(((self.replicates - self.replicates.mean()) ** 2).sum()))


def bootstrap(
    statistics: Floats, figure: Callable[[Floats], Floats], groups: Sequence[Hashable] | None = None
) -> Estimate:
    """The estimate of `figure`, which maps sums (corpora, columns) to figures (corpora,).

    `statistics` is (rows, columns). `groups` names each row's dialogue; without it, each row is one of its own.
    """
    value = float(figure(statistics.sum(axis=0, keepdims=True))[0])
    totals = statistics if groups is None else by_group(statistics, groups)
    count = len(totals)
    if count < 2:
        return Estimate(value, np.empty(0), "bootstrap", count)
    return Estimate(value, figure(np.concatenate([draws @ totals for draws in _draws(count)])), "bootstrap", count)


def jackknife_sums(
    statistics: Floats,
    figure: Callable[[Floats], Floats],
    groups: Sequence[Hashable],
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """What `bootstrap` estimates, for a figure over as many things as the rows happen to have, such as labels."""
    totals = by_group(statistics, groups)
    total = totals.sum(axis=0, keepdims=True)
    left = figure(total - totals) if len(totals) > 1 else np.empty(0)
    return Estimate(float(figure(total)[0]), left, "jackknife", len(totals), bounds)


def jackknife(
    items: Sequence[Sequence[Hashable]],
    figure: Callable[[Floats, Floats], Floats],
    groups: Sequence[Hashable] | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """The estimate of `figure`, which maps numbers of distinct and of all items (corpora,) to figures (corpora,).

    `items` are each row's.
    """
    owners: dict[Hashable, int] = {}
    index = range(len(items)) if groups is None else [owners.setdefault(group, len(owners)) for group in groups]
    count = len(items) if groups is None else len(owners)
    held = np.zeros(count)
    owner: dict[Hashable, int] = {}
    for group, row in zip(index, items, strict=True):
        held[group] += len(row)
        for item in row:
            if owner.setdefault(item, group) != group:
                owner[item] = -1
    alone = np.bincount([group for group in owner.values() if group >= 0], minlength=count)
    distinct, total = float(len(owner)), float(held.sum())
    value = float(figure(np.array([distinct]), np.array([total]))[0])
    if count < 2:
        return Estimate(value, np.empty(0), "jackknife", count)
    return Estimate(value, figure(np.asarray(distinct - alone, np.float64), total - held), "jackknife", count, bounds)


def row_draws(groups: Sequence[Hashable]) -> Iterator[Floats]:
    """How often each resample of `bootstrap` draws each row, in parts (resamples, rows): for figures that no sums give.

    Empty if there are fewer than two groups.
    """
    positions: dict[Hashable, int] = {}
    index = [positions.setdefault(group, len(positions)) for group in groups]
    if len(positions) < 2:
        return
    for draws in _draws(len(positions)):
        for start in range(0, len(draws), ROW_PART):
            yield draws[start : start + ROW_PART, index]


def _draws(count: int) -> Iterator[Floats]:
    """How often each resample draws each of `count` groups, in parts (resamples, count). Of one count always the same."""
    if count <= KEPT_GROUPS:
        yield _kept_draws(count)
        return
    generator = np.random.default_rng(SEED)
    for _ in range(RESAMPLES):
        yield _draw(generator, count)


@lru_cache(maxsize=4)
def _kept_draws(count: int) -> Floats:
    """All draws at once: a report asks for the same ones some thirty times."""
    generator = np.random.default_rng(SEED)
    return np.concatenate([_draw(generator, count) for _ in range(RESAMPLES)])


def _draw(generator: np.random.Generator, count: int) -> Floats:
    return np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)[None]


def wilson(hits: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, from 0 to 1, of which `hits` of `total` trials are known (Wilson 1927, JASA 22)."""
    share, weight = hits / total, Z * Z / total
    centre = share + weight / 2
    spread = Z * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    # Rounding must not put the share of no or all hits outside.
    low, high = (centre - spread) / (1 + weight), (centre + spread) / (1 + weight)
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def share_interval(estimate: Estimate) -> tuple[float, float] | None:
    """The 95 % interval of a share in percent; None if there are fewer than two dialogues.

    If all dialogues have the same share, as where all comparisons are won, a bootstrap has no width, however few they are.
    Then it is Wilson's, with each dialogue as one trial.
    """
    bounds = estimate.interval()
    if bounds is None or bounds[0] < bounds[1]:
        return bounds
    low, high = wilson(estimate.groups * estimate.value / 100, estimate.groups)
    return 100 * low, 100 * high


def figures(estimates: Mapping[str, Estimate], digits: int = 4) -> tuple[dict[str, float], dict[str, Interval]]:
    """Values and 95 % intervals by name, rounded for a stage's report; without intervals that are not known."""
    values = {name: round(estimate.value, digits) for name, estimate in estimates.items()}
    found = {name: interval for name, each in estimates.items() if (interval := each.interval())}
    return values, {name: [round(low, digits), round(high, digits)] for name, (low, high) in found.items()}


def ratio(sums: Floats) -> Floats:
    """First column / second: a mean over rows if the second column counts them. 0 if a resample has no rows."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def per_row(values: Sequence[float]) -> Floats:
    """Statistics of a mean over rows, for `ratio`: (rows, 2)."""
    return np.column_stack([np.asarray(values, float), np.ones(len(values))])


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the same order: the chance of any false finding stays below each."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def by_group(statistics: Floats, groups: Sequence[Hashable]) -> Floats:
    """Sums of each group, in the order in which they first occur: (rows, columns) to (groups, columns)."""
    positions: dict[Hashable, int] = {}
    index = [positions.setdefault(group, len(positions)) for group in groups]
    totals = np.zeros((len(positions), statistics.shape[1]))
    np.add.at(totals, index, statistics)
    return totals
