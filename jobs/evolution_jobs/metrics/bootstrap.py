"""Bootstrap confidence intervals for figures that follow from sums over rows (Efron 1979, percentile method)."""

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

    `statistics` is (rows, columns). `groups` names what each row belongs to: contexts of one dialogue are alike, so
    whole dialogues are drawn, not rows; None draws rows. None where there are fewer than two groups to draw from.

    Distinct-n and duplicate rates have no interval here: a row drawn twice adds words but no new ones, so every
    resample would be less diverse than the rows are.
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
    """First column / second: a mean over rows, where the second counts them. 0 where a resample holds none."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _by_group(statistics: Floats, groups: Sequence[Hashable]) -> Floats:
    positions: dict[Hashable, int] = {}
    index = [positions.setdefault(group, len(positions)) for group in groups]
    totals = np.zeros((len(positions), statistics.shape[1]))
    np.add.at(totals, index, statistics)
    return totals
