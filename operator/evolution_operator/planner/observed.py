"""What a hand saw: the planner's input, beside the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.errors import FailureKind
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus, StageProgress

UNSCHEDULABLE = "Unschedulable"
"""Reason of a note: part of the attempt, or all of it, finds no room."""

AttemptState = Literal["queued", "running", "suspended", "succeeded", "failed"]


@dataclass(frozen=True)
class Run:
    """A run as its owner wants it."""

    ref: RunRef
    spec: EvolutionRunSpec
    generation: int | None = None
    attempt_prefix: str = "local"
    """Unique to the hand's memory of attempt numbers: the resource's uid, or one driver process."""
    pins: Mapping[str, str] = field(default_factory=dict)
    retry: str | None = None
    """The newest retry request: any token that differs from `status.retried` forgives past failures."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    kind: FailureKind
    reason: str
    message: str
    corrupt: str | None = None
    """Id of the stage whose output was found corrupt or missing, and whose manifest was retracted."""
    more_memory: str | None = None
    """How to give the stage more memory, where that was, or may have been, what it lacked."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage: a Job, or processes on this machine."""

    stage: str
    number: int
    key: str
    state: AttemptState
    """`queued`: created, no room for it yet. `suspended`: stopped on request, may go on."""
    name: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    failure: Failure | None = None
    report: Report | None = None
    progress: StageProgress | None = None
    shards_done: int = 0
    shards: int = 1
    gpu_seconds: float = 0
    outdated: bool = False
    """Nothing of it runs, and the run's owner wants its processes otherwise by now: another image, other resources."""
    note: tuple[str, str] | None = None
    """Reason and message of what holds it up: ImagePullBackOff, Unschedulable, QuotaExceeded."""


@dataclass(frozen=True)
class Published:
    """A finished stage in the store that no attempt of this run made."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    digest: str | None = None


@dataclass(frozen=True)
class Observed:
    """Everything the hand saw in one pass."""

    attempts: tuple[Attempt, ...] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    """Finished stages found in the store, by key."""
    contents: Mapping[str, str] | None = None
    """Prepare's content digests, where the hand read them from the store itself."""
    previous: RunStatus | None = None
    """The status as last written: the memory of what attempts that are gone have left."""
    invalid: str | None = None
    """Why the spec cannot be read, if so; nothing is started then."""
