"""Folds memory, published results and live attempts into one StageStatus per stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import OBSERVING, Node

from ..api.status import StageStatus
from . import policies
from .observed import Attempt, Failure, Observed, Published, Run

REPORT_LOST = Failure(
    "transient", "ReportLost", "it succeeded, but its report is lost; the next attempt finds its result and reports it"
)


@dataclass(frozen=True)
class Ledger:
    """The state of every stage, its live attempt, and attempts that must end."""

    stages: dict[str, StageStatus]
    live: dict[str, Attempt]
    """Attempts that are not over and whose result the run wants, by stage id."""
    stale: tuple[Attempt, ...]
    """Attempts that must be ended: of an old key, given up, with outdated Pod settings, or over but lingering."""

    def only(self, graph: Iterable[Node]) -> Ledger:
        """Without the stages that the run no longer has. Their live attempts must end."""
        kept = {node.id for node in graph}
        return Ledger(
            stages={stage: status for stage, status in self.stages.items() if stage in kept},
            live={stage: attempt for stage, attempt in self.live.items() if stage in kept},
            stale=(*self.stale, *(attempt for stage, attempt in self.live.items() if stage not in kept)),
        )


def prepare_report(observed: Observed, key: str, settled: int) -> Report | None:
    """The report of prepare's successful attempt under this key, if that attempt still exists and its report is whole."""
    return next(
        (
            attempt.report
            for attempt in observed.attempts
            if attempt.stage == "prepare"
            and attempt.key == key
            and attempt.number > settled
            and attempt.state == "succeeded"
            and attempt.report is not None
            and attempt.report.contents
        ),
        None,
    )


def fold(
    run: Run,
    observed: Observed,
    graph: Iterable[Node],
    keys: Mapping[str, str],
    published: Mapping[str, Published],
    now: datetime,
) -> Ledger:
    """Bring every stage's status up to date with what was observed.

    Attempts of a stage are numbered from 1. `settled` is the newest one that has ended without a result to keep; only
    higher numbers still count. That makes the fold idempotent: a failure is counted once however often it is observed, a
    vanished attempt is created again under its old number and name, and if a status write was lost the fold catches up.
    """
    memory = observed.previous.stage_by_id() if observed.previous else {}
    retrying = run.retry is not None and run.retry != (observed.previous.retried if observed.previous else None)
    corrupt = _corrupt(observed, memory)
    stages: dict[str, StageStatus] = {}
    live: dict[str, Attempt] = {}
    for node in graph:
        key = keys.get(node.id)
        stage = _remembered(node, key, memory.get(node.id), retrying)
        stage = _past_other_keys(stage, observed.attempts)
        # A stage that runs was voided before: the attempt that reports it now had read the same files.
        voided = node.id in corrupt and stage.state == "Succeeded"
        if voided:
            stage = _void(stage)
        if key is not None and stage.state != "Succeeded":
            stage, attempt = _with_attempts(run, stage, observed.attempts, now)
            if key in published and not voided and stage.state not in ("Succeeded", "Running"):
                stage = _with_published(stage, published[key])
            if stage.state in ("Waiting", "Backoff") and stage.next_attempt_at and stage.next_attempt_at <= now:
                stage = stage.model_copy(update={"state": "Waiting", "next_attempt_at": None})
            if attempt is not None and stage.state in ("Queued", "Running", "Suspended"):
                if attempt.outdated:
                    stage = stopped(stage, attempt)
                else:
                    live[node.id] = attempt
        if key is not None:
            stage = stage.model_copy(update={"artifact": f"{run.spec.storage.uri.rstrip('/')}/{manifest_path(key)}"})
        stages[node.id] = stage
    stale = tuple(a for a in observed.attempts if _active(a) and live.get(a.stage) is not a)
    return Ledger(stages, live, stale)


def stopped(stage: StageStatus, attempt: Attempt) -> StageStatus:
    """The stage after its live attempt was asked to end. Its number is not used again, because ending may take a while."""
    return stage.model_copy(
        update={
            **_IDLE,
            "settled": attempt.number,
            "gpu_seconds": _added(stage.gpu_seconds, attempt.gpu_seconds),
        }
    )


_IDLE: dict[str, Any] = {"state": "Waiting", "progress": None, "shards": None, "reason": None, "message": None}
"""Fields of a stage's status once the attempt that they described is gone."""


def _active(attempt: Attempt) -> bool:
    return attempt.lingering or attempt.state in ("queued", "running", "suspended")


def _corrupt(observed: Observed, memory: Mapping[str, StageStatus]) -> frozenset[str]:
    """Stages whose output a newly failed attempt has reported as corrupt."""
    return frozenset(
        attempt.failure.corrupt
        for attempt in observed.attempts
        if attempt.failure is not None
        and attempt.failure.corrupt is not None
        and attempt.number > (memory[attempt.stage].settled if attempt.stage in memory else 0)
    )


def _remembered(node: Node, key: str | None, stage: StageStatus | None, retrying: bool) -> StageStatus:
    """The stage as last written. It starts over under a new key, or if it has failed and a retry was requested."""
    if stage is None:
        return StageStatus(id=node.id, name=node.kind, iteration=node.iteration, key=key)
    fresh = StageStatus(
        id=node.id,
        name=node.kind,
        iteration=node.iteration,
        key=key,
        attempts=stage.attempts,
        # Numbers are never used twice.
        settled=stage.attempts if stage.key != key else stage.settled,
        gpu_seconds=stage.gpu_seconds,
    )
    if stage.key != key or (retrying and stage.state in ("Failed", "Backoff")):
        return fresh
    return stage


def _past_other_keys(stage: StageStatus, attempts: Iterable[Attempt]) -> StageStatus:
    """The stage, with numbers of attempts at other keys skipped: an action names an attempt by stage and number."""
    taken = max((a.number for a in attempts if a.stage == stage.id and a.key != stage.key), default=0)
    if taken <= stage.settled:
        return stage
    return stage.model_copy(update={"settled": taken, "attempts": max(taken, stage.attempts)})


def _with_attempts(
    run: Run, stage: StageStatus, attempts: Iterable[Attempt], now: datetime
) -> tuple[StageStatus, Attempt | None]:
    """The stage after all attempts that still count, and the one that decided its state."""
    counting = [a for a in attempts if a.stage == stage.id and a.key == stage.key and a.number > stage.settled]
    if not counting and stage.state in ("Queued", "Running", "Suspended"):
        return stage.model_copy(update=_IDLE), None
    latest = None
    for latest in sorted(counting, key=lambda attempt: attempt.number):
        stage = _with_attempt(run, stage.model_copy(update={"settled": latest.number - 1}), latest, now)
        if stage.state == "Succeeded":
            break
    return stage, latest


def _void(stage: StageStatus) -> StageStatus:
    """The stage after its output was found corrupt: a new attempt computes it again."""
    return StageStatus(
        id=stage.id,
        name=stage.name,
        iteration=stage.iteration,
        key=stage.key,
        attempts=stage.attempts,
        settled=stage.attempts,
        gpu_seconds=stage.gpu_seconds,
        reason="OutputCorrupt",
        message="a file of this stage no longer matches its digest; the stage runs again",
    )


def _with_published(stage: StageStatus, published: Published) -> StageStatus:
    return stage.model_copy(
        update={
            "state": "Succeeded",
            "cached": True,
            "seconds": None,
            "tokens": published.tokens or stage.tokens,
            "gpu_seconds": stage.gpu_seconds or published.gpu_seconds or None,
            "digest": published.digest,
            "progress": None,
            "next_attempt_at": None,
            "reason": "Cached",
            "message": None,
        }
    )


def _with_attempt(run: Run, stage: StageStatus, attempt: Attempt, now: datetime) -> StageStatus:
    common = {
        "attempts": max(stage.attempts, attempt.number),
        "job": attempt.name,
        "started_at": attempt.started_at or stage.started_at,
        "shards": f"{attempt.shards_done}/{attempt.shards}" if attempt.shards > 1 else None,
        "next_attempt_at": None,
    }
    if attempt.state == "succeeded" and _report_lost(run, stage, attempt.report):
        attempt = replace(attempt, state="failed", failure=REPORT_LOST)
    if attempt.state == "succeeded":
        report = attempt.report
        return stage.model_copy(
            update={
                **common,
                "state": "Succeeded",
                "cached": report is not None and report.reason == "Cached",
                "finished_at": attempt.finished_at or now,
                "seconds": report.seconds or None if report else None,
                "digest": report.digest if report else None,
                "gpu_seconds": _added(stage.gpu_seconds, attempt.gpu_seconds),
                "tokens": report.tokens or None if report else None,
                "shards": f"{attempt.shards}/{attempt.shards}" if attempt.shards > 1 else None,
                "progress": None,
                "reason": "Completed",
                "message": _notes(attempt),
            }
        )
    if attempt.state == "failed":
        return _after_failure(run, stage.model_copy(update=common), attempt, now)
    states = {"queued": "Queued", "running": "Running", "suspended": "Suspended"}
    reason, message = attempt.note or (None, None)
    return stage.model_copy(
        update={
            **common,
            "state": states[attempt.state],
            "progress": attempt.progress or stage.progress,
            "reason": reason,
            "message": message,
        }
    )


def _notes(attempt: Attempt) -> str | None:
    """What a user should know of an attempt that succeeded."""
    seen = [attempt.note[1]] if attempt.note else []
    return "; ".join([*seen, *(attempt.report.notes if attempt.report else [])]) or None


def _report_lost(run: Run, stage: StageStatus, report: Report | None) -> bool:
    """Whether a report lacks what the run needs: prepare's digests, from which all keys follow, or a model's figures."""
    if stage.name == "prepare":
        return report is None or not report.contents
    measures = stage.name in OBSERVING or (stage.name == "dpo" and run.spec.dpo.held_out is not None)
    return measures and (report is None or not report.metrics)


def _after_failure(run: Run, stage: StageStatus, attempt: Attempt, now: datetime) -> StageStatus:
    failure = attempt.failure
    assert failure is not None, "a failed attempt says why"
    counted = policies.counts_against_budget(failure)
    failures = stage.failures + counted
    given_up = counted and policies.exhausted(failure, failures, run.spec.retry)
    pause = policies.backoff(failures if counted else 0, run.spec.retry)
    return stage.model_copy(
        update={
            "state": "Failed" if given_up else "Backoff",
            "failures": failures,
            "settled": attempt.number,
            "finished_at": attempt.finished_at or now,
            "next_attempt_at": None if given_up else now + pause,
            "gpu_seconds": _added(stage.gpu_seconds, attempt.gpu_seconds),
            "progress": None,
            "reason": failure.reason,
            "message": policies.advice(stage.name, failure),
        }
    )


def _added(total: float | None, more: float) -> float | None:
    return round((total or 0) + more, 1) if total or more else None
