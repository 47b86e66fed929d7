"""The planner's input: the run, and what an executor has observed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.errors import FailureKind
from evolution_jobs.contract.figures import Interval
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus, StageProgress

UNSCHEDULABLE = "Unschedulable"
"""Reason of a note: part or all of the attempt finds no node."""

AttemptState = Literal["queued", "running", "suspended", "succeeded", "failed"]


@dataclass(frozen=True)
class Run:
    """A run as its owner wants it: the desired state."""

    ref: RunRef
    spec: EvolutionRunSpec
    generation: int | None = None
    attempt_prefix: str = "local"
    """Differs for each memory of attempt numbers: the resource's uid, or one per local driver process."""
    pins: Mapping[str, str] = field(default_factory=dict)
    retry: str | None = None
    """The newest retry request: a token that differs from `status.retried` retries failed stages."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    kind: FailureKind
    reason: str
    message: str
    corrupt: str | None = None
    """Id of the stage whose output is corrupt or missing and whose manifest was retracted."""
    more_memory: str | None = None
    """How to give the stage more memory, if it lacked memory or may have."""


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
    lingering: bool = False
    """True if it has ended but what ran it goes on by itself: a Job whose Pod another container keeps."""
    outdated: bool = False
    """True if nothing of it runs and its Pod settings have changed since: another image, other resources."""
    note: tuple[str, str] | None = None
    """Reason and message of what delays it: ImagePullBackOff, Unschedulable, QuotaExceeded."""


@dataclass(frozen=True)
class Published:
    """A finished stage in the store that no attempt of this run computed."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    digest: str | None = None
    tokens: int = 0
    """What this run's own earlier attempt took, if an executor without a memory finds that in the store."""
    gpu_seconds: float = 0
    """As `tokens`."""


@dataclass(frozen=True)
class Observed:
    """Everything an executor has observed in one pass."""

    attempts: tuple[Attempt, ...] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    """Finished stages found in the store, by key."""
    contents: Mapping[str, str] | None = None
    """Prepare's content digests, if the executor reads them from the store itself."""
    previous: RunStatus | None = None
    """The status as last written. It is the memory of attempts that are gone."""
    invalid: str | None = None
    """Why the spec cannot be read; None if it can. Nothing is started from an unreadable spec."""
