"""Which words of a status the operator's page may show. Pure.

A stage reads dialogues, and a message that it writes may quote one: an error of a library, a judge's answer, the name of
a speaker. Such messages stay in the status. The page of the operator shows only what the operator and Kubernetes say
themselves, and of a stage's own words only the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..api.status import Condition, RunStatus, StageProgress, StageStatus
from ..planner.progress import COMPUTED_ELSEWHERE

OWN_ENDINGS = frozenset({"Killed", "OOMKilled", "OutputCorrupt", "PodLost", "ReportLost"})
"""Reasons of ended attempts whose messages contain nothing that the stage has said."""
OWN_CONDITIONS = frozenset({"InvalidSpec", "DeadlineExceeded"})
"""Reasons of conditions that are about the spec or the time, not about a stage."""
DELAYED = frozenset({"Queued", "Running", "Suspended"})
"""States in which a stage's message says what holds it up. The operator and Kubernetes write it."""
UNITS = frozenset({"rows", "steps", "parts"})
DELAYS = frozenset(
    {
        "AwaitingAdmission",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ImagePullBackOff",
        "JobEdited",
        "JobRefused",
        "JobSuspended",
        "NamespaceTerminating",
        "PodsRefused",
        "QuotaExceeded",
        "RunContainerError",
        "StoppedEarly",
        "Terminating",
        "Unschedulable",
    }
)
"""Reasons of events whose message is the operator's or Kubernetes' own from beginning to end."""

_WORD = re.compile(r"[A-Z][A-Za-z]{0,62}(-[a-z]{1,20})?")
_ID = r"[a-z]{1,20}(?:-\d{1,4})?"
_ATTEMPT = rf"{_ID}(?: \(attempt \d{{1,6}}\))?"
_STARTED = rf"(?:; started: {_ATTEMPT}(?:, {_ATTEMPT})*)?"
_ELSEWHERE = re.compile(
    rf"(?:{_ATTEMPT}: )?run [a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]* computes this stage; "
    "this run takes its result, or takes over if it dies"
)
_EVENTS: Mapping[str, re.Pattern[str]] = {
    "Started": re.compile(rf"\d+ stages{_STARTED}"),
    "Resumed": re.compile(rf"\d+ stages{_STARTED}"),
    "Suspended": re.compile("spec.suspend is true; checkpoints and finished rows are kept"),
    "Complete": re.compile(r"\d+/\d+ stages finished"),
    "StageStarted": re.compile(_ATTEMPT),
    "StageCached": re.compile(rf"{_ID}: an earlier run had computed it{_STARTED}"),
    COMPUTED_ELSEWHERE: _ELSEWHERE,
}
"""By reason: the whole message of an event."""
_BEGINNINGS: Mapping[str, re.Pattern[str]] = {
    "StageSucceeded": re.compile(rf"{_ATTEMPT} finished in \d+ s"),
    "StageRetrying": re.compile(rf"{_ATTEMPT}: [A-Z][A-Za-z]{{0,62}}(?=: )"),
    "StageFailed": re.compile(rf"{_ATTEMPT}: [A-Z][A-Za-z]{{0,62}}(?=: )"),
    "OutputCorrupt": re.compile(rf"{_ID}(?=: )"),
    "Failed": re.compile(rf"stage {_ID}: [A-Z][A-Za-z]{{0,62}}(?=: )|not finished \d+ s after it started"),
}
"""By reason: how an event's message begins, before the words of the stage."""
_FOLLOWERS = re.compile(rf"; started: {_ATTEMPT}(?:, {_ATTEMPT})*$")


def reason_shown(reason: str | None) -> str | None:
    """A reason, which is one CamelCase word; None for anything else."""
    return reason if reason is not None and _WORD.fullmatch(reason) else None


def stage_shown(stage: StageStatus) -> str | None:
    """What the operator itself says of a stage's state."""
    if not stage.message:
        return None
    if stage.reason == COMPUTED_ELSEWHERE:
        return stage.message if _ELSEWHERE.fullmatch(stage.message) else None
    delayed = stage.state in DELAYED and stage.reason is not None
    return stage.message if delayed or stage.reason in OWN_ENDINGS else None


def condition_shown(condition: Condition, status: RunStatus) -> str | None:
    """What the operator itself says of a condition: its message, without what it quotes of a stage."""
    if condition.type in ("Accepted", "StoppedEarly") or condition.reason in OWN_CONDITIONS:
        return condition.message or None
    if condition.type == "Failed" and condition.status == "True":
        return _of_stage(status, lambda stage: stage.state == "Failed", "{id}: {reason}")
    if condition.type == "Progressing" and condition.reason == "Backoff":
        return _of_stage(status, lambda stage: stage.state == "Backoff", "{id} will be tried again: {reason}")
    if condition.type == "Progressing" and condition.message:
        return _of_stage(status, lambda stage: stage.reason == condition.reason, "{id}: {message}")
    return None


def event_shown(reason: str, message: str) -> str | None:
    """An event's message as far as the operator itself has written it."""
    if reason in DELAYS:
        return message
    if (whole := _EVENTS.get(reason)) is not None:
        return message if whole.fullmatch(message) else None
    begins = _BEGINNINGS[reason].match(message) if reason in _BEGINNINGS else None
    if begins is None:
        return None
    followers = _FOLLOWERS.search(message, begins.end()) if reason == "StageSucceeded" else None
    return begins[0] + (followers[0] if followers else "")


def unit_shown(progress: StageProgress) -> str:
    """The unit of a stage's progress. The stage writes it, so only known ones pass."""
    return progress.unit if progress.unit in UNITS else ""


def _of_stage(status: RunStatus, chosen: Callable[[StageStatus], bool], words: str) -> str | None:
    stage = next((each for each in status.stages if chosen(each)), None)
    if stage is None:
        return None
    shown = {"reason": reason_shown(stage.reason), "message": stage_shown(stage) or reason_shown(stage.reason)}
    return "stage " + words.format(id=stage.id, **shown)
