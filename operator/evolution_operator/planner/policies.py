"""Small policies: retry, advice on memory and local storage, deadlines, the champion."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from datetime import datetime, timedelta

from evolution_jobs.contract.errors import MEMORY_LEVERS
from evolution_jobs.contract.figures import KINDS
from evolution_jobs.contract.stage import BLOCKS

from ..api.spec import EvaluationStage, EvolutionRunSpec, Retry
from ..api.status import IterationMetrics
from .observed import Failure

_CHOICES = {
    "earliest": "the first model whose 95 % interval reaches the best {}",
    "best": "the best {}",
}
"""What `evaluation.championRule` chooses."""


def counts_against_budget(failure: Failure) -> bool:
    """Whether a failure counts. Disruptions (eviction, preemption, drain, a rebooted node) do not."""
    return failure.kind != "disruption"


def exhausted(failure: Failure, failures: int, retry: Retry) -> bool:
    """Whether the stage fails for good after this failure, the `failures`-th that counts."""
    return failure.kind == "permanent" or failures >= retry.max_attempts


def backoff(failures: int, retry: Retry) -> timedelta:
    """Pause before the next attempt: doubles with each counted failure up to the cap; none after a disruption."""
    if failures == 0:
        return timedelta(0)
    # The exponent is bounded because 2**100 seconds overflows a timedelta long before the cap is applied.
    return timedelta(seconds=min(retry.backoff_seconds * 2 ** min(failures - 1, 20), retry.max_backoff_seconds))


def memory_limit(kind: str, given: bool = True) -> str:
    """Which field of the run gives this kind of stage, or another Job of the run, more memory on a cluster.

    `given`: whether the run sets the field already.
    """
    return f"{'raise' if given else 'set'} {_pod_block(kind)}.resources.limits.memory"


def storage_limit(kind: str, words: str, given: bool = True) -> str:
    """Which field of the run gives this kind of stage more local storage. `words` are the kubelet's, which name a volume."""
    block = _pod_block(kind)
    if (volume := re.search(r'EmptyDir volume "([^"]+)"', words)) is not None:
        return f"raise emptyDir.sizeLimit of volume {volume[1]} in {block}.volumes or spec.pod.volumes"
    field = f'{block}.resources.limits["ephemeral-storage"]'
    return f"{'raise' if given else 'set'} {field}, or mount a larger volume at /scratch"


def _pod_block(kind: str) -> str:
    return f"spec.{BLOCKS[kind]}.pod" if kind in BLOCKS else "spec.pod"


def advice(kind: str, failure: Failure) -> str:
    """The failure's message for a user, with what to change if the process could not say that itself."""
    if failure.more_memory is None:
        return failure.message
    remedy = ", or ".join([failure.more_memory, *([MEMORY_LEVERS[kind]] if kind in MEMORY_LEVERS else [])])
    if failure.kind == "out-of-memory":
        return f"{failure.message}: {remedy}"
    return f"{failure.message}; if memory was short, {remedy}"


def deadline(spec: EvolutionRunSpec, started_at: datetime | None) -> datetime | None:
    """When the run must be finished."""
    if spec.active_deadline_seconds is None or started_at is None:
        return None
    return started_at + timedelta(seconds=spec.active_deadline_seconds)


def expiry(spec: EvolutionRunSpec, finished_at: datetime | None) -> datetime | None:
    """When a finished run's resource is deleted."""
    if spec.ttl_seconds_after_finished is None or finished_at is None:
        return None
    return finished_at + timedelta(seconds=spec.ttl_seconds_after_finished)


def champion(
    metrics: Iterable[IterationMetrics], evaluation: EvaluationStage, excluded: Container[int] = ()
) -> int | None:
    """The iteration that the rule chooses by the metric, the earlier one in a tie; None if none has that figure.

    With the rule `earliest`, a model is as good as the best one if its own interval reaches the best one's figure. Of those
    that are `excluded`, none is chosen, and none sets a mark for the others.
    """
    name = evaluation.champion_metric
    scored = [entry for entry in metrics if name in entry.figures and entry.iteration not in excluded]
    if not scored:
        return None
    best = max(scored, key=lambda entry: (goodness(name, entry.figures[name]), -entry.iteration))
    if evaluation.champion_rule == "best":
        return best.iteration
    value = goodness(name, best.figures[name])
    return min(entry.iteration for entry in scored if entry is best or likely_best(entry, name) >= value)


def champion_rule(rule: str, metric: str) -> str:
    """What `evaluation.championRule` chooses by this metric, in words."""
    return _CHOICES[rule].format(KINDS[metric].label.removesuffix(", %"))


def likely_best(entry: IterationMetrics, name: str) -> float:
    """The better end of a figure's interval, larger if it is better; the figure itself if it has no interval."""
    return max(goodness(name, end) for end in entry.intervals.get(name, (entry.figures[name],) * 2))


def goodness(name: str, value: float) -> float:
    """A figure's value, or its negative if a low one is good."""
    assert KINDS[name].better != "neither", f"{name} is neither good nor bad"
    return value if KINDS[name].better == "higher" else -value
