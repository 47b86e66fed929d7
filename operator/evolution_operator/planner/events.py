"""Events are the difference between two statuses, so each transition gives one event however often it is observed."""

from __future__ import annotations

from typing import Literal

from ..api.status import RunStatus, StageStatus
from .actions import Event
from .progress import COMPUTED_ELSEWHERE


def events_between(previous: RunStatus | None, status: RunStatus) -> tuple[Event, ...]:
    """Events from one status to the next: those of stages first, then those of the run."""
    before = previous.stage_by_id() if previous else {}
    events = [event for stage in status.stages if (event := _stage_event(before.get(stage.id), stage)) is not None]
    ended, before_ended = _early_ending(status), _early_ending(previous) if previous else None
    if ended and not before_ended:
        events.append(Event("Normal", "StoppedEarly", ended))
    phase = previous.phase if previous else None
    if phase != status.phase and (event := _phase_event(phase, status)) is not None:
        events.append(event)
    return tuple(events)


def _early_ending(status: RunStatus) -> str | None:
    return next(
        (each.message for each in status.conditions if (each.type, each.status) == ("StoppedEarly", "True")), None
    )


def _stage_event(before: StageStatus | None, stage: StageStatus) -> Event | None:
    if before is not None and (before.state, before.attempts, before.settled, before.reason) == (
        stage.state,
        stage.attempts,
        stage.settled,
        stage.reason,
    ):
        return None
    name = _attempt(stage, stage.attempts)
    match stage.state:
        case "Succeeded" if before is None or before.state != "Succeeded":
            if stage.cached:
                return Event("Normal", "StageCached", f"{stage.id}: an earlier run had computed it")
            note = f"; {stage.message}" if stage.message else ""
            return Event("Normal", "StageSucceeded", f"{name} finished in {stage.seconds or 0:.0f} s{note}")
        case "Failed" if before is None or before.state != "Failed":
            brief = f"{_attempt(stage, stage.settled)}: {stage.reason}"
            return Event("Warning", "StageFailed", f"{brief}: {stage.message}", brief)
        case "Waiting" if stage.reason == "OutputCorrupt":
            # Reported when its result is withdrawn, not again when the stage starts.
            voided = before is not None and before.state == "Succeeded"
            return Event("Warning", "OutputCorrupt", f"{stage.id}: {stage.message}") if voided else None
        case "Backoff" | "Waiting" if stage.reason and (before is None or before.settled != stage.settled):
            # Without a pause, after a disruption for example, the stage is in Waiting already.
            return Event(
                "Warning", "StageRetrying", f"{_attempt(stage, stage.settled)}: {stage.reason}: {stage.message}"
            )
        case "Running" if before is None or before.state in ("Waiting", "Backoff", "Queued", "Suspended"):
            return Event("Normal", "StageStarted", name)
        case "Running" | "Queued" if stage.reason and before is not None and before.reason != stage.reason:
            kind: Literal["Normal", "Warning"] = "Normal" if stage.reason == COMPUTED_ELSEWHERE else "Warning"
            return Event(kind, stage.reason, f"{name}: {stage.message}")
    return None


def _attempt(stage: StageStatus, number: int) -> str:
    return f"{stage.id} (attempt {number})" if number > 1 else stage.id


def _phase_event(phase: str | None, status: RunStatus) -> Event | None:
    match status.phase:
        case "Running":
            return Event("Normal", "Resumed" if phase == "Suspended" else "Started", f"{len(status.stages)} stages")
        case "Suspended":
            return Event("Normal", "Suspended", "spec.suspend is true; checkpoints and finished rows are kept")
        case "Complete":
            return Event("Normal", "Complete", f"{status.progress} stages finished")
        case "Failed":
            failed = next(c for c in status.conditions if c.type == "Failed")
            return Event(
                "Warning", "Failed", failed.message, f"{failed.reason}; {status.progress or 'no'} stages finished"
            )
    return None
