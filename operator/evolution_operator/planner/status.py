"""Derives the run's status from its stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.figures import BY_STAGE, figures_of

from ..api.status import Condition, IterationMetrics, Phase, RunStatus, StageStatus
from .observed import Observed, Published, Run
from .progress import COMPUTED_ELSEWHERE
from .stopping import Ending

ConditionType = Literal["Accepted", "Progressing", "Suspended", "Complete", "Failed", "StoppedEarly"]
Verdict = tuple[ConditionType, bool, str, str]


@dataclass(frozen=True)
class Outlook:
    """What the planner has found out about the run as a whole."""

    late: bool
    """It is unfinished and past its deadline."""
    stuck: bool
    """A failed stage leaves nothing to do."""
    ending: Ending | None
    """The rule that ends it before its last round."""
    champion: int | None
    ineligible: tuple[str, ...]
    """Why models are less safe than M0, which no champion may be."""


def derive_status(
    run: Run,
    observed: Observed,
    stages: Sequence[StageStatus],
    contents: Mapping[str, str] | None,
    metrics: list[IterationMetrics],
    started_at: datetime,
    outlook: Outlook,
    now: datetime,
) -> RunStatus:
    """The whole status. If nothing has changed, it equals the previous one, time stamps included."""
    previous = observed.previous or RunStatus()
    phase = _phase(run, stages, outlook)
    finished = phase in ("Complete", "Failed")
    verdicts = _verdicts(run, stages, phase, outlook)
    gpu_seconds = sum(stage.gpu_seconds or 0 for stage in stages)
    return RunStatus(
        observed_generation=run.generation,
        phase=phase,
        reason=_reason(verdicts, stages, phase),
        conditions=_conditions(run, previous, verdicts, now),
        progress=f"{sum(stage.state == 'Succeeded' for stage in stages)}/{len(stages)}",
        stage=_current(stages),
        stages=list(stages),
        metrics=metrics,
        champion=outlook.champion,
        ineligible=list(outlook.ineligible),
        contents=dict(contents) if contents else None,
        retried=run.retry or previous.retried,
        started_at=started_at,
        finished_at=(previous.finished_at or now) if finished else None,
        gpu_seconds=round(gpu_seconds, 1) if gpu_seconds else None,
    )


def rejected_status(run: Run, observed: Observed, now: datetime) -> RunStatus:
    """The status of a run with an unreadable spec. Everything else stays as it was."""
    previous = observed.previous or RunStatus()
    message = observed.invalid or ""
    verdicts: list[Verdict] = [
        ("Accepted", False, "InvalidSpec", message),
        ("Progressing", False, "InvalidSpec", ""),
        ("Suspended", False, "NotSuspended", ""),
        ("Complete", False, "NotFinished", ""),
        ("Failed", True, "InvalidSpec", message),
    ]
    return previous.model_copy(
        update={
            "observed_generation": run.generation,
            "phase": "Failed",
            "reason": "InvalidSpec",
            "conditions": _conditions(run, previous, verdicts, now),
            "finished_at": previous.finished_at or now,
        }
    )


def _phase(run: Run, stages: Sequence[StageStatus], outlook: Outlook) -> Phase:
    states = [stage.state for stage in stages]
    if all(state == "Succeeded" for state in states):
        return "Complete"
    if outlook.late or outlook.stuck:
        return "Failed"
    if run.spec.suspend:
        return "Suspended"
    working = any(state in ("Queued", "Running", "Backoff") for state in states)
    return "Running" if working or any(stage.attempts for stage in stages) else "Pending"


def _verdicts(run: Run, stages: Sequence[StageStatus], phase: Phase, outlook: Outlook) -> list[Verdict]:
    return [
        ("Accepted", True, "Valid", ""),
        _progressing(run, stages, phase),
        ("Suspended", phase == "Suspended", "SuspendRequested" if phase == "Suspended" else "NotSuspended", ""),
        ("Complete", phase == "Complete", "AllStagesSucceeded" if phase == "Complete" else "NotFinished", ""),
        _failed(run, stages, phase),
        *_stopped_early(run, outlook.ending),
    ]


def _stopped_early(run: Run, ending: Ending | None) -> Iterator[Verdict]:
    if run.spec.stopping is None:
        return
    if ending is None:
        yield ("StoppedEarly", False, "NoRuleBroken", "")
    else:
        last = f"no round follows round {ending.iteration} of {run.spec.iterations}"
        yield ("StoppedEarly", True, ending.reason, f"{last}: {ending.message}")


def _reason(verdicts: Sequence[Verdict], stages: Sequence[StageStatus], phase: Phase) -> str | None:
    """The reason beside the phase: that of the failed stage, or of what delays a running stage."""
    reasons = {type_: (holds, reason) for type_, holds, reason, _ in verdicts}
    if phase == "Failed":
        return next((s.reason for s in stages if s.state == "Failed"), None) or reasons["Failed"][1]
    progressing, reason = reasons["Progressing"]
    return reason if phase == "Running" and not progressing else None


def _progressing(run: Run, stages: Sequence[StageStatus], phase: Phase) -> Verdict:
    if phase != "Running":
        return ("Progressing", False, phase, "")
    delayed = next((s for s in stages if s.state in ("Queued", "Running") and s.reason), None)
    at_work = any(s.state == "Running" and not s.reason for s in stages)
    # An unscheduled shard delays its stage. Waiting for another run's evaluation delays nothing.
    if delayed is not None and not (at_work and delayed.reason == COMPUTED_ELSEWHERE):
        return ("Progressing", False, delayed.reason or "Held", f"stage {delayed.id}: {delayed.message}")
    waiting = next((s for s in stages if s.state == "Backoff"), None)
    if waiting is not None and not any(s.state == "Running" for s in stages):
        return ("Progressing", False, "Backoff", f"stage {waiting.id} will be tried again: {waiting.message}")
    return ("Progressing", True, "StageRunning", "")


def _failed(run: Run, stages: Sequence[StageStatus], phase: Phase) -> Verdict:
    if phase != "Failed":
        return ("Failed", False, "NotFailed", "")
    failed = next((s for s in stages if s.state == "Failed"), None)
    if failed is None:
        seconds = run.spec.active_deadline_seconds
        return (
            "Failed",
            True,
            "DeadlineExceeded",
            f"not finished {seconds} s after it started: raise spec.activeDeadlineSeconds",
        )
    reason = "RetriesExhausted" if failed.failures >= run.spec.retry.max_attempts else "StageFailed"
    return ("Failed", True, reason, f"stage {failed.id}: {failed.reason}: {failed.message}")


def _conditions(run: Run, previous: RunStatus, verdicts: list[Verdict], now: datetime) -> list[Condition]:
    """Conditions. The transition time moves only if the status flips (KEP-1623)."""
    before = {condition.type: condition for condition in previous.conditions}
    conditions = []
    for type_, holds, reason, message in verdicts:
        status: Literal["True", "False"] = "True" if holds else "False"
        old = before.get(type_)
        conditions.append(
            Condition(
                type=type_,
                status=status,
                reason=reason,
                message=message,
                observed_generation=run.generation,
                last_transition_time=old.last_transition_time if old and old.status == status else now,
            )
        )
    return conditions


def _current(stages: Sequence[StageStatus]) -> str | None:
    """The stage that runs, with shards and progress if known: `generate-1 3/4 shards 40/96 rows`."""
    order = {"Running": 0, "Queued": 1, "Backoff": 2, "Suspended": 3, "Failed": 4}
    busy = sorted((s for s in stages if s.state in order), key=lambda s: order[s.state])
    if not busy:
        return None
    stage = busy[0]
    parts = [stage.id]
    if stage.shards:
        parts.append(f"{stage.shards} shards")
    if stage.progress:
        parts.append(f"{stage.progress.done}/{stage.progress.total} {stage.progress.unit}")
    return " ".join(parts)


def figures_by_model(
    observed: Observed, published: Mapping[str, Published], stages: Iterable[StageStatus]
) -> list[IterationMetrics]:
    """Figures of every Mt: of each stage that measures it, from its attempt, from the store, or as remembered."""
    previous = observed.previous or RunStatus()
    remembered = {entry.iteration: entry for entry in previous.metrics}
    keys = {stage.id: stage.key for stage in previous.stages}
    reports = {a.key: a.report for a in observed.attempts if a.state == "succeeded" and a.report}
    found: dict[int, IterationMetrics] = {}
    for stage in stages:
        if stage.name not in BY_STAGE or stage.state != "Succeeded" or stage.iteration is None or stage.key is None:
            continue
        source = reports.get(stage.key) or published.get(stage.key)
        if source is not None and source.metrics:
            figures, intervals = dict(source.metrics), dict(source.intervals)
        elif stage.iteration in remembered and keys.get(stage.id) == stage.key:
            figures, intervals = remembered[stage.iteration].figures, remembered[stage.iteration].intervals
        else:
            continue
        figures, intervals = figures_of(stage.name, figures), figures_of(stage.name, intervals)
        if figures:
            entry = found.get(stage.iteration, IterationMetrics(iteration=stage.iteration, figures={}))
            found[stage.iteration] = IterationMetrics(
                iteration=stage.iteration,
                figures=entry.figures | figures,
                intervals=entry.intervals | intervals,
            )
    return [found[iteration] for iteration in sorted(found)]
