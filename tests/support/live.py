"""Statuses of a run as it goes on, for tests of the live page: two rounds, with figures that look like real ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import Condition, IterationMetrics, RunStatus, StageProgress, StageStatus
from evolution_operator.planner.actions import Event, Plan
from evolution_operator.planner.events import events_between
from evolution_operator.planner.observed import Run

from tests.support.run_document import minimal_spec

STARTED = datetime(2026, 5, 4, 9, 0, tzinfo=UTC)
STAGES = ["prepare", "sft", "evaluate-0"]
STAGES += [f"{kind}-{number}" for number in (1, 2) for kind in ("generate", "reflect", "dpo", "evaluate")]
FIGURES: dict[str, list[float]] = {
    "distinct1": [8.214, 8.9, 9.41],
    "distinct2": [31.47, 34.02, 36.18],
    "bleu2_ref": [5.61, 5.83, 5.7],
    "length_words": [21.3, 24.9, 27.2],
    "stock_phrase_rate": [12.5, 8.3, 9.1],
    "perplexity": [14.21, 13.6, 13.9],
}


def played_run(name: str = "first", namespace: str = "team-a") -> Run:
    """The run that the statuses are of."""
    spec = EvolutionRunSpec.model_validate(minimal_spec(model_uri="hf://HuggingFaceTB/SmolLM2-135M-Instruct"))
    return Run(RunRef(namespace=namespace, name=name, uid="uid"), spec, attempt_prefix="test")


def played_status(finished: int, done: int | None = None, **current: Any) -> RunStatus:
    """The status with so many stages finished; the next one runs, with `done` of 96 rows and the fields in `current`."""
    stages = [_finished(name, place) if place < finished else _stage(name) for place, name in enumerate(STAGES)]
    if finished < len(stages):
        progress = StageProgress(done=done, total=96, unit="rows", eta_seconds=75) if done is not None else None
        running = {"state": "Running", "attempts": 1, "started_at": _moment(finished), "progress": progress}
        stages[finished] = stages[finished].model_copy(update={**running, **current})
    return status_of(stages)


def status_of(stages: list[StageStatus]) -> RunStatus:
    """The status that these stages give."""
    failed = next((stage for stage in stages if stage.state == "Failed"), None)
    complete = all(stage.state == "Succeeded" for stage in stages)
    finished = sum(stage.state == "Succeeded" for stage in stages)
    models = sum(stage.name == "evaluate" and stage.state == "Succeeded" for stage in stages)
    message = f"stage {failed.id}: {failed.reason}: {failed.message}" if failed else ""
    return RunStatus(
        phase="Failed" if failed else "Complete" if complete else "Running",
        reason=failed.reason if failed else None,
        conditions=[
            _condition("Accepted", True, "Valid"),
            _condition("Progressing", not failed and not complete, "StageRunning"),
            _condition("Complete", complete, "AllStagesSucceeded" if complete else "NotFinished"),
            _condition("Failed", failed is not None, "StageFailed" if failed else "NotFailed", message),
        ],
        progress=f"{finished}/{len(stages)}",
        stages=stages,
        metrics=[_metrics(model) for model in range(models)],
        champion=models - 1 if models else None,
        started_at=STARTED,
        finished_at=_moment(len(stages)) if failed or complete else None,
        gpu_seconds=260.0 * finished or None,
    )


def played_plan(status: RunStatus, before: RunStatus | None = None, *more: Event) -> Plan:
    """What the planner answers when the run has come from one status to the next."""
    return Plan((), status, (*events_between(before, status), *more), None)


def _moment(place: int) -> datetime:
    return STARTED + timedelta(minutes=5 * place)


def _stage(name: str) -> StageStatus:
    kind, _, number = name.partition("-")
    iteration = int(number) if number else 0 if kind == "sft" else None
    return StageStatus.model_validate({"id": name, "name": kind, "iteration": iteration})


def _finished(name: str, place: int) -> StageStatus:
    update = {
        "state": "Succeeded",
        "attempts": 1,
        "started_at": _moment(place),
        "finished_at": _moment(place + 1),
        "seconds": 287.4,
        "reason": "Completed",
    }
    return _stage(name).model_copy(update=update)


def _metrics(model: int) -> IterationMetrics:
    figures = {name: values[model] for name, values in FIGURES.items()}
    return IterationMetrics(
        iteration=model,
        figures=figures,
        intervals={name: [round(value * 0.93, 3), round(value * 1.08, 3)] for name, value in figures.items()},
    )


def _condition(type_: Any, holds: bool, reason: str, message: str = "") -> Condition:
    return Condition(
        type=type_, status="True" if holds else "False", reason=reason, message=message, last_transition_time=STARTED
    )
