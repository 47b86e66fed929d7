"""Bootstrap confidence intervals for figures that are computed from sums over rows (Efron 1979, percentile method)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
SEED = 20250516
"""Fixed, so that equal rows have equal intervals."""


def interval(
    statistics: Floats, figure: Callable[[Floats], Floats], groups: Sequence[Hashable] | None = None
) -> tuple[float, float] | None:
    """The 95 % interval of `figure`, which maps sums (corpora, columns) to figures (corpora,).

    `statistics` is (rows, columns). `groups` names each row's dialogue: contexts of one dialogue are alike, so whole
    dialogues are drawn instead of rows; without `groups`, rows are drawn. Returns None if there are fewer than two groups.

    Distinct-n and duplicate rates have no interval here: a row that is drawn twice adds no new words, so every resample
    would be less diverse than the rows.
    """
    totals = statistics if groups is None else _by_group(statistics, groups)
    count = len(totals)
    if count < 2:
        return None
    generator = np.random.default_rng(SEED)
    draws = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(RESAMPLES))
    low, high = np.percentile(figure(np.stack([draw @ totals for draw in draws])), [2.5, 97.5])
    return float(low), float(high)


def ratio(sums: Floats) -> Floats:
    """First column / second: a mean over rows if the second column counts them. 0 if a resample has no rows."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _by_group(statistics: Floats, groups: Sequence[Hashable]) -> Floats:
    positions: dict[Hashable, int] = {}
    index = [positions.setdefault(group, len(positions)) for group in groups]
    totals = np.zeros((len(positions), statistics.shape[1]))
    np.add.at(totals, index, statistics)
    return totals
