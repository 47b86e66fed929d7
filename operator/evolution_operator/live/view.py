"""What the live page shows of a run, as JSON-ready values. Pure.

Every field is written here by name, so nothing reaches a page because a status happens to have it. Figures are the
headline ones of the status; no dialogue, answer or profile is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evolution_jobs.contract.figures import KINDS, kind_of

from ..api.spec import EvolutionRunSpec
from ..api.status import Condition, IterationMetrics, RunStatus, StageStatus
from .words import condition_shown, event_shown, reason_shown, stage_shown, unit_shown

EVENTS_SHOWN = 50
BUSY = ("Running", "Queued", "Backoff", "Suspended", "Failed")
"""States of a stage that a list of runs names, the most telling one first."""


@dataclass(frozen=True)
class Subject:
    """The run that a page is about."""

    namespace: str
    name: str
    iterations: int | None = None
    base_model: str | None = None
    champion_metric: str | None = None

    @classmethod
    def of(cls, namespace: str, name: str, spec: EvolutionRunSpec) -> Subject:
        """From a spec that could be read."""
        return cls(namespace, name, spec.iterations, spec.base_model.uri, spec.evaluation.champion_metric)

    @classmethod
    def of_document(cls, namespace: str, name: str, spec: Mapping[str, Any]) -> Subject:
        """From a spec as it is stored, which may be one of another version."""
        model, evaluation = spec.get("baseModel") or {}, spec.get("evaluation") or {}
        return cls(namespace, name, spec.get("iterations"), model.get("uri"), evaluation.get("championMetric"))


@dataclass(frozen=True)
class EventShown:
    """An event about a run."""

    at: datetime
    type: str
    reason: str
    message: str


def run_document(
    subject: Subject,
    status: RunStatus,
    events: Iterable[EventShown] | None,
    *,
    stage_words: bool,
    report: str | None = None,
    ended: bool = False,
) -> dict[str, Any]:
    """Everything that the page of one run shows.

    Args:
        subject: the run.
        status: its newest status.
        events: newest first; None if they could not be read yet.
        stage_words: whether messages that stages wrote may be shown (see `words`).
        report: where the run's report is, if there is one.
        ended: whether the page will get no newer status.
    """
    shown = None if events is None else [_event(each, stage_words) for each in list(events)[:EVENTS_SHOWN]]
    return {
        "run": {"namespace": subject.namespace, "name": subject.name},
        "baseModel": subject.base_model,
        "iterations": subject.iterations,
        "phase": status.phase,
        "reason": status.reason if stage_words else reason_shown(status.reason),
        "done": sum(stage.state == "Succeeded" for stage in status.stages),
        "startedAt": _time(status.started_at),
        "finishedAt": _time(status.finished_at),
        "gpuSeconds": status.gpu_seconds,
        "stageWords": stage_words,
        "conditions": [_condition(each, status, stage_words) for each in status.conditions],
        "stages": [_stage(each, stage_words) for each in status.stages],
        "models": [entry.iteration for entry in status.metrics],
        "champion": status.champion,
        "championMetric": _label(subject.champion_metric),
        "ineligible": list(status.ineligible),
        "figures": _figures(status.metrics),
        "events": shown,
        "report": report,
        "ended": ended,
    }


def run_summary(namespace: str, name: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """One run in a list of runs, from its status as it is stored."""
    stages = status.get("stages") or []
    busy = min(
        (stage for stage in stages if stage.get("state") in BUSY),
        key=lambda stage: BUSY.index(stage["state"]),
        default=None,
    )
    progress = (busy or {}).get("progress") or {}
    return {
        "namespace": namespace,
        "name": name,
        "phase": status.get("phase") or "Pending",
        "reason": reason_shown(status.get("reason")),
        "done": sum(stage.get("state") == "Succeeded" for stage in stages),
        "stages": len(stages),
        "stage": busy and {"id": busy["id"], "done": progress.get("done"), "total": progress.get("total")},
        "champion": status.get("champion"),
        "startedAt": status.get("startedAt"),
        "finishedAt": status.get("finishedAt"),
    }


def newest_first(summaries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Unfinished runs first, and of each kind those that started last first."""
    named = sorted(summaries, key=lambda run: (run["namespace"], run["name"]))
    recent = sorted(named, key=lambda run: run["startedAt"] or "9999", reverse=True)
    return sorted(recent, key=lambda run: run["finishedAt"] is not None)


def _stage(stage: StageStatus, stage_words: bool) -> dict[str, Any]:
    progress = stage.progress
    return {
        "id": stage.id,
        "kind": stage.name,
        "iteration": stage.iteration,
        "state": stage.state,
        "cached": stage.cached,
        "attempts": stage.attempts,
        "shards": stage.shards,
        "progress": progress
        and {
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit if stage_words else unit_shown(progress),
            "etaSeconds": progress.eta_seconds,
        },
        "startedAt": _time(stage.started_at),
        "finishedAt": _time(stage.finished_at),
        "nextAttemptAt": _time(stage.next_attempt_at),
        "seconds": stage.seconds,
        "gpuSeconds": stage.gpu_seconds,
        "tokens": stage.tokens,
        "reason": stage.reason if stage_words else reason_shown(stage.reason),
        "message": stage.message if stage_words else stage_shown(stage),
        "withheld": bool(stage.message) and not stage_words and stage_shown(stage) is None,
    }


def _condition(condition: Condition, status: RunStatus, stage_words: bool) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason if stage_words else reason_shown(condition.reason),
        "message": (condition.message or None) if stage_words else condition_shown(condition, status),
        "since": _time(condition.last_transition_time),
    }


def _event(event: EventShown, stage_words: bool) -> dict[str, Any]:
    return {
        "at": _time(event.at),
        "warning": event.type == "Warning",
        "reason": event.reason if stage_words else reason_shown(event.reason),
        "message": event.message if stage_words else event_shown(event.reason, event.message),
    }


def _figures(metrics: Sequence[IterationMetrics]) -> list[dict[str, Any]]:
    """A row for each figure, in the order of all tables, with a value for each model or none."""
    measured = {name for entry in metrics for name in entry.figures}
    known = [name for name in KINDS if name in measured]
    others = sorted(name for name in measured - set(known) if kind_of(name) is not None)
    return [_figure(name, metrics) for name in (*known, *others)]


def _figure(name: str, metrics: Sequence[IterationMetrics]) -> dict[str, Any]:
    kind = kind_of(name)
    assert kind is not None, "only known figures are shown"
    return {
        "name": name,
        "label": kind.label,
        "better": kind.better,
        "values": [entry.figures.get(name) for entry in metrics],
        "intervals": [entry.intervals.get(name) for entry in metrics],
    }


def _label(figure: str | None) -> str | None:
    kind = kind_of(figure) if figure else None
    return kind.label if kind else None


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None
