"""The interface of a tracker, which library is behind each, and how a record is sent: only what the tracker lacks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, get_args

from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.libraries import install
from evolution_jobs.printable import printable
from evolution_jobs.redaction import redacted

from ..api.spec import TrackerName
from .record import Record, TrackedStage

TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
LIMIT = 400
"""Characters of a library's message that are repeated."""


class Tracker(Protocol):
    """One run at a tracker. Any call may raise what its library raises."""

    def logged(self) -> Mapping[str, str]:
        """Stages that the tracker has, by id, with their keys."""
        ...

    def log(self, stage: TrackedStage) -> None:
        """Log the points of a stage, and then that the tracker has it."""
        ...

    def close(self, record: Record) -> None:
        """Log tags and phase, and wait until everything is sent."""
        ...


class Module(Protocol):
    """A module of this package for one library."""

    @staticmethod
    def begin(record: Record) -> Tracker:
        """Continue the run of this id at the tracker, or make it."""
        ...


def require(name: TrackerName) -> None:
    """Raise PermanentError `DependencyMissing` if the tracker's library is not installed. It is not imported."""
    if find_spec(name) is None:
        raise PermanentError(
            "DependencyMissing",
            f"tracking with {name} needs its package: {install(name)}, or choose another tracker",
        )


def send(name: TrackerName, record: Record, sent: Mapping[str, str] | None = None) -> int:
    """Send what the tracker lacks of the run. Returns the number of stages that were sent.

    `sent` names stages that this process has sent before, with their keys, for trackers that cannot be read.

    Raises PermanentError (`DependencyMissing`, `TrackerFailed` with the library's words).
    """
    require(name)
    module: Module = import_module(f".to_{name}", __package__)  # type: ignore[assignment]
    try:
        tracker = module.begin(record)
        known = {**(sent or {}), **tracker.logged()}
        lacking = [stage for stage in record.stages if known.get(stage.id) != stage.key]
        for stage in lacking:
            tracker.log(stage)
        tracker.close(record)
    except StageError:
        raise
    except Exception as error:
        words = printable(redacted(" ".join(str(error).split())))[:LIMIT]
        raise PermanentError("TrackerFailed", f"{name}: {type(error).__name__}: {words}") from error
    return len(lacking)
