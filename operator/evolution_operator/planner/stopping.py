"""Whether a run ends before its last round: a pure decision from the figures of its models and what its stages took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evolution_jobs.contract.figures import KINDS

from ..api.spec import EvolutionRunSpec, Stopping
from ..api.status import IterationMetrics, StageStatus
from .policies import goodness, likely_best

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Ending:
    """The round after which the run ends, and why."""

    iteration: int
    reason: str
    message: str


@dataclass(frozen=True)
class _Rounds:
    """What the rules look at: the figures of M0 to Mt, and the stages of the run."""

    models: Sequence[IterationMetrics]
    """Of each model, M0 first; one without any figure has empty ones."""
    stages: Sequence[StageStatus]

    @property
    def last(self) -> IterationMetrics:
        return self.models[-1]

    @property
    def made(self) -> list[StageStatus]:
        """The stages up to Mt; empty if the next round has begun, which a budget no longer holds back."""
        after = self.last.iteration + 1
        if any(each.iteration == after and (each.attempts or each.state == "Succeeded") for each in self.stages):
            return []
        return [each for each in self.stages if (each.iteration or 0) < after]


def early_ending(
    spec: EvolutionRunSpec, metrics: Sequence[IterationMetrics], stages: Mapping[str, StageStatus]
) -> Ending | None:
    """The first round that a rule ends, or None. A round is looked at once its model is evaluated, the last one never.

    Rules on figures depend on the figures alone, so a finished run that gets more rounds ends where it would have ended.
    Budgets hold back a round that has not begun; they never end one that has.
    """
    if spec.stopping is None:
        return None
    known = {entry.iteration: entry for entry in metrics}
    models = [known.get(t, IterationMetrics(iteration=t, figures={})) for t in range(spec.iterations)]
    for iteration in range(1, spec.iterations):
        evaluation = stages.get(f"evaluate-{iteration}")
        if evaluation is None or evaluation.state != "Succeeded":
            return None
        for reason, message in _broken(spec.stopping, _Rounds(models[: iteration + 1], list(stages.values()))):
            return Ending(iteration, reason, message)
    return None


def _broken(rules: Stopping, rounds: _Rounds) -> Iterator[tuple[str, str]]:
    for reason, rule in _RULES.items():
        if (message := rule(rules, rounds)) is not None:
            yield reason, message


def _margin(rules: Stopping, rounds: _Rounds) -> str | None:
    if rules.margin_below is None or len(rounds.models) < 3:
        return None
    before, now = (entry.figures.get("heldout_margin") for entry in rounds.models[-2:])
    # A margin that is not above zero cannot shrink.
    if before is None or now is None or before <= 0 or now >= rules.margin_below * before:
        return None
    return (
        f"the reward margin on held-out pairs is {now:.3g}, before it was {before:.3g}; stopping.marginBelow asks for "
        f"{rules.margin_below:g} of that"
    )


def _worse(rules: Stopping, rounds: _Rounds) -> str | None:
    for name in rules.worse or []:
        earlier = [entry for entry in rounds.models[:-1] if name in entry.figures]
        if not earlier or name not in rounds.last.figures or name not in rounds.last.intervals:
            continue
        best = max(earlier, key=lambda entry: (goodness(name, entry.figures[name]), -entry.iteration))
        if likely_best(rounds.last, name) < goodness(name, best.figures[name]):
            low, high = rounds.last.intervals[name]
            return (
                f"{KINDS[name].label}: {rounds.last.figures[name]:.4g} ({low:.4g} to {high:.4g}) is worse than the "
                f"{best.figures[name]:.4g} of M{best.iteration} (stopping.worse)"
            )
    return None


def _length(rules: Stopping, rounds: _Rounds) -> str | None:
    first, last = (entry.figures.get("length_words") for entry in (rounds.models[0], rounds.last))
    if rules.length_ratio is None or not first or last is None or last <= rules.length_ratio * first:
        return None
    return (
        f"the answers have {last:.1f} words, those of M0 {first:.1f}; stopping.lengthRatio allows {rules.length_ratio:g} "
        "times as many"
    )


def _divergence(rules: Stopping, rounds: _Rounds) -> str | None:
    found = rounds.last.figures.get("kl_m0")
    if rules.divergence is None or found is None or found <= rules.divergence:
        return None
    return f"the divergence from M0 is {found:.3g} nats a token; stopping.divergence allows {rules.divergence:g}"


def _tokens(rules: Stopping, rounds: _Rounds) -> str | None:
    spent = sum(stage.tokens or 0 for stage in rounds.made)
    if rules.tokens is None or spent < rules.tokens:
        return None
    return f"the run has generated and trained on {spent} tokens; stopping.tokens allows {rules.tokens}"


def _gpu_hours(rules: Stopping, rounds: _Rounds) -> str | None:
    spent = sum(stage.gpu_seconds or 0 for stage in rounds.made) / SECONDS_PER_HOUR
    if rules.gpu_hours is None or spent < rules.gpu_hours:
        return None
    return f"the run has held GPUs for {spent:.2f} hours; stopping.gpuHours allows {rules.gpu_hours:g}"


_RULES: Mapping[str, Callable[[Stopping, _Rounds], str | None]] = {
    "MarginShrank": _margin,
    "FigureWorse": _worse,
    "AnswersTooLong": _length,
    "DivergenceTooLarge": _divergence,
    "TokensSpent": _tokens,
    "GpuHoursSpent": _gpu_hours,
}
"""The condition's reason to the rule. The first that is broken is told."""
