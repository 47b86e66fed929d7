"""Derives the run's status from its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from ..api.status import Condition, IterationMetrics, Phase, RunStatus, StageStatus
from . import policies
from .observed import Observed, Published, Run
from .progress import COMPUTED_ELSEWHERE

ConditionType = Literal["Accepted", "Progressing", "Suspended", "Complete", "Failed"]
Verdict = tuple[ConditionType, bool, str, str]


def derive_status(
    run: Run,
    observed: Observed,
    stages: Sequence[StageStatus],
    contents: Mapping[str, str] | None,
    published: Mapping[str, Published],
    started_at: datetime,
    late: bool,
    now: datetime,
) -> RunStatus:
    """The whole status. If nothing has changed, it equals the previous one, time stamps included."""
    previous = observed.previous or RunStatus()
    phase = _phase(run, stages, late)
    metrics = _metrics(observed, published, stages)
    finished = phase in ("Complete", "Failed")
    verdicts = _verdicts(run, stages, phase, late)
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
        champion=policies.champion(metrics, run.spec.evaluation.champion_metric),
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


def _phase(run: Run, stages: Sequence[StageStatus], late: bool) -> Phase:
    states = [stage.state for stage in stages]
    if all(state == "Succeeded" for state in states):
        return "Complete"
    working = any(state in ("Queued", "Running", "Backoff") for state in states)
    failed = [stage for stage in stages if stage.state == "Failed"]
    # A failed evaluation does not stop the rounds: the run fails once nothing else is left to do.
    if late or any(stage.name != "evaluate" for stage in failed):
        return "Failed"
    if failed and all(state in ("Failed", "Succeeded") for state in states):
        return "Failed"
    if run.spec.suspend:
        return "Suspended"
    return "Running" if working or any(stage.attempts for stage in stages) else "Pending"


def _verdicts(run: Run, stages: Sequence[StageStatus], phase: Phase, late: bool) -> list[Verdict]:
    return [
        ("Accepted", True, "Valid", ""),
        _progressing(run, stages, phase),
        ("Suspended", phase == "Suspended", "SuspendRequested" if phase == "Suspended" else "NotSuspended", ""),
        ("Complete", phase == "Complete", "AllStagesSucceeded" if phase == "Complete" else "NotFinished", ""),
        _failed(run, stages, phase, late),
    ]


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


def _failed(run: Run, stages: Sequence[StageStatus], phase: Phase, late: bool) -> Verdict:
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


def _metrics(
    observed: Observed, published: Mapping[str, Published], stages: Sequence[StageStatus]
) -> list[IterationMetrics]:
    """Figures of every evaluated Mt: from its attempt, from the store, or as remembered."""
    remembered = {entry.iteration: entry for entry in observed.previous.metrics} if observed.previous else {}
    reports = {a.key: a.report.metrics for a in observed.attempts if a.state == "succeeded" and a.report}
    entries = []
    for stage in stages:
        if stage.name != "evaluate" or stage.state != "Succeeded" or stage.iteration is None or stage.key is None:
            continue
        earlier = published.get(stage.key)
        figures = dict(reports.get(stage.key) or (earlier.metrics if earlier else {}))
        if figures:
            entries.append(IterationMetrics(iteration=stage.iteration, figures=figures))
        elif stage.iteration in remembered:
            entries.append(remembered[stage.iteration])
    return entries
