"""`status` of an EvolutionRun: the planner's memory, and what the user reads. Each reconcile writes at most one patch."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.figures import Interval
from evolution_jobs.contract.stage import StageKind
from pydantic import ConfigDict

Phase = Literal["Pending", "Running", "Suspended", "Complete", "Failed"]
StageState = Literal["Waiting", "Queued", "Running", "Suspended", "Backoff", "Succeeded", "Failed"]


class StatusDocument(Document):
    """A part of the status. Reading ignores fields that a newer version has added."""

    model_config = ConfigDict(extra="ignore")


class StageProgress(StatusDocument):
    """How far a running stage is."""

    done: int
    """Rows, steps or parts finished, over all shards."""
    total: int
    """Rows, steps or parts there are, over all shards."""
    unit: str
    """`rows`, `steps`, or `parts` of prepare: each source, the model, the files."""
    eta_seconds: int | None = None
    """Estimated seconds left; unset until some rows have finished, and after the estimated time has passed."""


class StageStatus(StatusDocument):
    """One stage of the run."""

    id: str
    """`prepare`, `sft`, or kind and iteration: `dpo-2`."""
    name: StageKind
    """Kind of the stage."""
    iteration: int | None = None
    """0 for M0."""
    state: StageState = "Waiting"
    """Waiting (for its inputs), Queued (for room), Running, Suspended, Backoff (before the next attempt), Succeeded or Failed."""
    key: str | None = None
    """Digest of everything that decides the result; unset until prepare has pinned the data."""
    cached: bool = False
    """True if an earlier run had published the result, so this run did not compute it."""
    attempts: int = 0
    """Number of the newest attempt."""
    failures: int = 0
    """Failed attempts that count against the retry budget."""
    settled: int = 0
    """Number of the newest attempt that has ended without a result to keep; the next one is settled + 1."""
    job: str | None = None
    """Name of the newest attempt's Job."""
    shards: str | None = None
    """Finished shards of all, `3/4`."""
    progress: StageProgress | None = None
    """How far it is, while it runs."""
    started_at: datetime | None = None
    """When the newest attempt started."""
    finished_at: datetime | None = None
    """When the newest attempt ended."""
    next_attempt_at: datetime | None = None
    """When the next attempt starts, while in Backoff."""
    seconds: float | None = None
    """Wall time that this run has spent on the result; unset if the result existed already."""
    gpu_seconds: float | None = None
    """GPUs held times seconds, over all attempts and shards."""
    tokens: int | None = None
    """Tokens that this run has generated or trained on for the result; unset if the result existed already."""
    artifact: str | None = None
    """URI of the stage's manifest."""
    digest: str | None = None
    """Digest of the main output."""
    reason: str | None = None
    """Reason of the state, one CamelCase word."""
    message: str | None = None
    """Message of the state, for people."""


class Condition(StatusDocument):
    """A standard Kubernetes condition (KEP-1623)."""

    type: Literal["Accepted", "Progressing", "Suspended", "Complete", "Failed", "StoppedEarly"]
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Reason, one CamelCase word."""
    message: str = ""
    """Why, and what to do about it."""
    observed_generation: int | None = None
    """Generation of the spec the condition is about."""
    last_transition_time: datetime
    """When `status` last changed."""


class IterationMetrics(StatusDocument):
    """Figures of one Mt."""

    iteration: int
    """0 for M0."""
    figures: dict[str, float]
    """Figure's name to its value."""
    intervals: dict[str, Interval] = {}
    """Figure's name to its 95 % interval, low and high."""


class RunStatus(StatusDocument):
    """The whole status."""

    observed_generation: int | None = None
    """Generation of the spec this status is about."""
    phase: Phase = "Pending"
    """Pending, Running, Suspended, Complete or Failed: a summary of the conditions."""
    reason: str | None = None
    """Reason why a running run makes no progress, or why a run has failed, one CamelCase word; otherwise unset."""
    conditions: list[Condition] = []
    """Accepted, Progressing, Suspended, Complete and Failed; with `spec.stopping`, StoppedEarly."""
    progress: str | None = None
    """Finished stages of all, `7/11`."""
    stage: str | None = None
    """Stage that runs now, with its progress."""
    stages: list[StageStatus] = []
    """Every stage of the run, in the order of the graph."""
    metrics: list[IterationMetrics] = []
    """Figures of every Mt."""
    champion: int | None = None
    """Iteration of the model that `evaluation.championRule` chooses so far."""
    ineligible: list[str] = []
    """Why a model cannot be the champion: it is less safe than M0. One sentence each."""
    contents: dict[str, str] | None = None
    """Digests that prepare pinned; every stage's key follows from them."""
    retried: str | None = None
    """The newest retry request that was carried out."""
    started_at: datetime | None = None
    """When the run was first seen."""
    finished_at: datetime | None = None
    """When it became Complete or Failed."""
    gpu_seconds: float | None = None
    """GPU-seconds of all stages."""

    def wire(self) -> dict[str, Any]:
        """The status as JSON-ready values, without empty and default values except phase and state."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        if self.stages:
            written["stages"] = [
                {**values, "state": stage.state} for stage, values in zip(self.stages, written["stages"], strict=True)
            ]
        return {**written, "phase": self.phase}

    def condition(self, type_: str) -> str | None:
        """The message of a condition that holds."""
        return next((each.message for each in self.conditions if each.type == type_ and each.status == "True"), None)

    def stage_by_id(self) -> dict[str, StageStatus]:
        """The stages by id."""
        return {stage.id: stage for stage in self.stages}
