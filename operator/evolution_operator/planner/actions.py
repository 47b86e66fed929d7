"""The planner's output: actions, status, events. Executing an action twice is harmless."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.stage import StageSpec

from ..api.status import RunStatus


@dataclass(frozen=True)
class Start:
    """Create this attempt, unless it exists."""

    spec: StageSpec
    number: int
    shards: int
    critical: bool
    """False if the attempt must give way to every critical one (evaluation, judge)."""


@dataclass(frozen=True)
class Stop:
    """End this attempt for good: its result is no longer wanted."""

    stage: str
    number: int


@dataclass(frozen=True)
class Suspend:
    """Stop this attempt's processes so that it can resume later."""

    stage: str
    number: int


@dataclass(frozen=True)
class Resume:
    """Resume a suspended attempt."""

    stage: str
    number: int


Action = Start | Stop | Suspend | Resume


@dataclass(frozen=True)
class Event:
    """Something that a user is notified of, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    brief: str | None = None
    """The same in a few words, for a page that shows the full message elsewhere."""


@dataclass(frozen=True)
class Plan:
    """The planner's complete answer."""

    actions: tuple[Action, ...]
    status: RunStatus
    events: tuple[Event, ...]
    wake_at: datetime | None
    """When to plan again even if nothing happens: the end of a backoff, a deadline, or the resource's time to live."""
    expired: bool = False
    """True once `ttlSecondsAfterFinished` has passed: the resource must be deleted."""
