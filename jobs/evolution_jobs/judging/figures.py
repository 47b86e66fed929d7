"""Figures of a judge's verdicts: win rates with intervals by dialogue, and figures that show the judge's own biases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..contract.figures import KINDS, Figure
from ..contract.manifest import canonical_digest
from ..contract.rows import CRITERIA, Opponent, Outcome, Verdict
from ..metrics.bootstrap import Estimate, bootstrap, per_row, ratio, share_interval
from ..metrics.figure import figure_of
from .length_control import RIDGE, LengthControlled, length_controlled
from .rubric import OVERALL, RUBRIC
from .verdicts import flipped

OPPONENTS: tuple[Opponent, ...] = ("human", "previous")
VALUES: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
"""What an outcome counts for the judged model."""

BOTH_ORDERS = "each pair in both orders, a disagreement is a tie, a tie counts one half"
LENGTH_CONTROL = (
    "at difference 0 of a logistic regression on tanh(difference in words / its standard deviation), as arXiv 2404.04475; "
    f"penalty {RIDGE[0]:g} on the intercept's square, {RIDGE[1]:g} on the slope's; no interval if all outcomes are equal"
)


@dataclass(frozen=True)
class Judged:
    """Verdicts with an outcome, and what is estimated from them. Each estimate is computed once."""

    verdicts: Sequence[Verdict]
    judge: str
    """The judge, as the spec names it."""

    @cached_property
    def asked(self) -> list[Verdict]:
        """Those for which the judge was asked: both answers differ."""
        return [verdict for verdict in self.verdicts if not verdict.equal]

    def against(self, opponent: Opponent) -> list[Verdict]:
        """Those against one opponent."""
        return [verdict for verdict in self.verdicts if verdict.opponent == opponent]

    @cached_property
    def lengths(self) -> dict[Opponent, LengthControlled]:
        """The fit on length for each opponent."""
        return {name: _length_controlled(found) for name in OPPONENTS if (found := self.against(name))}

    @cached_property
    def flips(self) -> Estimate:
        """Percent of the pairs whose orders name different winners."""
        return _percent(self.asked, lambda verdict: [flipped(verdict)])

    @cached_property
    def first(self) -> Estimate:
        """Percent of the verdicts that prefer an answer which prefer the one that was read first."""
        return _percent(self.asked, _first)

    @cached_property
    def longer(self) -> Estimate:
        """Percent of the decided pairs of different length that the longer answer has won."""
        return _percent(self.asked, longer_won)

    @cached_property
    def ties(self) -> Estimate:
        """Percent of the pairs that are a tie, disagreements included."""
        return _percent(self.asked, lambda verdict: [verdict.overall == "tie"])

    def figures(self) -> list[Figure]:
        """All figures, in the order of `KINDS`. What has no rows is left out."""
        by = f"judge {self.judge}, rubric {RUBRIC}"
        found: dict[str, tuple[Estimate, str, Sequence[Verdict]]] = {}
        for opponent, fitted in self.lengths.items():
            rows = self.against(opponent)
            found[f"judge_vs_{opponent}"] = (win_rate(rows), f"{by}; {BOTH_ORDERS}", rows)
            found[f"judge_vs_{opponent}_lc"] = (fitted.rate, f"{by}; {BOTH_ORDERS}; {LENGTH_CONTROL}", rows)
            for criterion in CRITERIA:
                answered = [verdict for verdict in rows if verdict.equal or criterion in verdict.criteria]
                if answered:
                    estimate = win_rate(answered, criterion)
                    found[f"judge_vs_{opponent}_{criterion}"] = (estimate, f"{by}; {BOTH_ORDERS}", answered)
        if self.asked:
            found["judge_flip_rate"] = (self.flips, f"{by}; pairs whose two orders name different winners", self.asked)
            found["judge_tie_rate"] = (self.ties, f"{by}; {BOTH_ORDERS}", self.asked)
            if any(map(_first, self.asked)):
                found["judge_first_share"] = (self.first, f"{by}; of verdicts that prefer an answer", self.asked)
            if any(map(longer_won, self.asked)):
                found["judge_longer_share"] = (self.longer, f"{by}; of decided pairs of different length", self.asked)
        return [_figure(name, *found[name]) for name in KINDS if name in found]


def one_outcome(verdicts: Sequence[Verdict]) -> bool:
    """Whether all outcomes are equal: a fit on length then says nothing of length, and its resamples nothing of chance."""
    return len({verdict.overall for verdict in verdicts}) == 1


def win_rate(verdicts: Sequence[Verdict], criterion: str = OVERALL) -> Estimate:
    """Percent of the comparisons that the judged model wins. A tie counts one half."""
    return _mean([100 * _value(verdict, criterion) for verdict in verdicts], verdicts)


def _value(verdict: Verdict, criterion: str) -> float:
    if verdict.equal:
        return VALUES["tie"]
    outcome = verdict.overall if criterion == OVERALL else verdict.criteria[criterion]
    assert outcome is not None, "a verdict without an outcome has no value"
    return VALUES[outcome]


def _length_controlled(verdicts: Sequence[Verdict]) -> LengthControlled:
    return length_controlled(
        [_value(verdict, OVERALL) for verdict in verdicts],
        [verdict.words - verdict.other_words for verdict in verdicts],
        [verdict.dialogue for verdict in verdicts],
    )


def _first(verdict: Verdict) -> list[bool]:
    """For each order that prefers an answer, whether it is the one that was read first."""
    sides = (verdict.as_a[OVERALL], verdict.as_b[OVERALL])
    return [side == "A" for side in sides if side != "tie"]


def longer_won(verdict: Verdict) -> list[bool]:
    """Whether the longer answer has won; empty for a tie or two answers of one length."""
    if verdict.overall == "tie" or verdict.words == verdict.other_words:
        return []
    return [(verdict.overall == "win") == (verdict.words > verdict.other_words)]


def _percent(verdicts: Sequence[Verdict], found: Callable[[Verdict], Sequence[bool]]) -> Estimate:
    values = [(100 * each, verdict) for verdict in verdicts for each in found(verdict)]
    return _mean([value for value, _ in values], [verdict for _, verdict in values])


def _mean(values: Sequence[float], verdicts: Sequence[Verdict]) -> Estimate:
    return bootstrap(per_row(values), ratio, [verdict.dialogue for verdict in verdicts])


def _figure(name: str, estimate: Estimate, method: str, rows: Sequence[Verdict]) -> Figure:
    row_set = canonical_digest(sorted((verdict.id, verdict.other) for verdict in rows))
    figure = figure_of(name, estimate, rows=len(rows), row_set=row_set, method=method)
    bounds = _interval(name, estimate, rows)
    return figure.model_copy(update={"interval": list(bounds) if bounds else None})


def _interval(name: str, estimate: Estimate, rows: Sequence[Verdict]) -> tuple[float, float] | None:
    if not name.endswith("_lc"):
        return share_interval(estimate)
    return None if one_outcome(rows) else estimate.interval()
