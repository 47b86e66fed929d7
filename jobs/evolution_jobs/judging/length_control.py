"""The win rate that a model would have if its answers were as long as those that they are compared with.

As length-controlled AlpacaEval (Dubois et al., arXiv 2404.04475): a logistic regression of the outcome on the difference in
length, read where the difference is 0. Judges prefer longer answers, and preference training makes answers longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.bootstrap import Estimate, Floats, row_draws

RIDGE = np.array([0.5, 0.0001])
"""Penalty on the squares of intercept and slope, in log-likelihood: without it, outcomes that length or the model decides
alone have no finite fit. That of the slope is smaller, so that an outcome which length explains is put down to length. Of
200 rows that all win, whatever their length, the rate is 98.8 %."""
STEPS = 100
"""Most Newton steps. A fit takes 5 to 30."""
LONGEST_STEP = 2.0
"""Of a parameter in one step, so that a steep slope is approached without overshooting."""
ENOUGH = 1e-6
"""A fit has converged once no step is longer."""


@dataclass(frozen=True)
class LengthControlled:
    """The fit: P(win) = sigmoid(intercept + slope * tanh(difference / its standard deviation))."""

    rate: Estimate
    """Win rate at equal length, in percent."""
    slope: Estimate
    """Above 0 if longer answers win more often."""


def length_controlled(values: Sequence[float], differences: Sequence[float], groups: Sequence[str]) -> LengthControlled:
    """The fit over comparisons. `values` are 1 for a win, 0.5 for a tie, 0 for a loss; `differences` are in words.

    The intervals draw whole groups and fit each resample again, with the same scale of lengths.
    """
    outcome, lengths = np.asarray(values, float), np.asarray(differences, float)
    scale = lengths.std()
    # Where all differences are equal, their scale says nothing: only their direction is left.
    explained = np.tanh(lengths / scale) if scale > 1e-9 else np.sign(lengths)
    whole = fit(outcome, explained, np.ones((1, len(outcome))), np.zeros((1, 2)))
    drawn = [fit(outcome, explained, weights, whole) for weights in row_draws(groups)]
    replicates = np.concatenate(drawn) if drawn else np.empty((0, 2))
    count = len(set(groups))
    return LengthControlled(
        Estimate(float(_percent(whole)[0]), _percent(replicates), "bootstrap", count),
        Estimate(float(whole[0, 1]), replicates[:, 1], "bootstrap", count),
    )


def fit(outcome: Floats, explained: Floats, weights: Floats, start: Floats) -> Floats:
    """Intercept and slope for each row of weights (fits, rows), by Newton's method for all at once: (fits, 2).

    `start` is where they all begin: (1, 2). The outcomes may be fractions: a tie counts as half a win and half a loss.
    """
    found = np.repeat(start, len(weights), axis=0)
    for _ in range(STEPS):
        likely = _sigmoid(found[:, :1] + found[:, 1:] * explained)
        rest = weights * (outcome - likely)
        gradient = np.column_stack([rest.sum(axis=1), rest @ explained]) - RIDGE * found
        curve = weights * likely * (1 - likely)
        level, mixed, steep = curve.sum(axis=1) + RIDGE[0], curve @ explained, curve @ explained**2 + RIDGE[1]
        determinant = level * steep - mixed**2
        step = np.column_stack(
            [steep * gradient[:, 0] - mixed * gradient[:, 1], level * gradient[:, 1] - mixed * gradient[:, 0]]
        )
        step = np.clip(step / determinant[:, None], -LONGEST_STEP, LONGEST_STEP)
        found = found + step
        if np.abs(step).max() < ENOUGH:
            break
    return found


def _sigmoid(values: Floats) -> Floats:
    # tanh does not overflow.
    return 0.5 * (1 + np.tanh(values / 2))


def _percent(found: Floats) -> Floats:
    return 100 * _sigmoid(found[:, 0])
