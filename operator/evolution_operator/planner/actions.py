"""What the planner wants done. A hand carries each action out; carrying one out twice is harmless."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.stage import StageSpec

from ..api.status import RunStatus


@dataclass(frozen=True)
class Start:
    """Create this attempt, unless it is there."""

    spec: StageSpec
    number: int
    shards: int
    critical: bool
    """False where the attempt must give way to every critical one (evaluation)."""


@dataclass(frozen=True)
class Stop:
    """End this attempt and forget it: it must not publish any more."""

    stage: str
    number: int


@dataclass(frozen=True)
class Suspend:
    """Stop this attempt's processes so that it can go on later."""

    stage: str
    number: int


@dataclass(frozen=True)
class Resume:
    """Let a suspended attempt go on."""

    stage: str
    number: int


Action = Start | Stop | Suspend | Resume


@dataclass(frozen=True)
class Event:
    """Something a user wants to hear of, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    brief: str | None = None
    """The same in a few words, for a reader who is told the whole elsewhere."""


@dataclass(frozen=True)
class Plan:
    """The planner's whole answer."""

    actions: tuple[Action, ...]
    status: RunStatus
    events: tuple[Event, ...]
    wake_at: datetime | None
    """When to plan again even if nothing happens: the end of a backoff, a deadline, the end of the resource's life."""
    expired: bool = False
    """True once `ttlSecondsAfterFinished` has passed: the resource is to be deleted."""
