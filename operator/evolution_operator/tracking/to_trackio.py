"""Trackio, by its library: on this machine, or where `TRACKIO_SERVER_URL` or `TRACKIO_SPACE_ID` says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import trackio

from .record import Record, TrackedStage

LOGGED = "logged"
"""Entry of the run's configuration with the stages that were logged, by id, and their keys."""


class TrackioTracker:
    """A run of Trackio."""

    def __init__(self, record: Record) -> None:
        self._project = os.environ.get("TRACKIO_PROJECT") or "evolution"
        self._name = f"{record.name}-{record.id[:8]}"
        self._known = _known(self._project, self._name)
        self._run = self._session(record, self._known)
        self._new: dict[str, str] = {}

    def logged(self) -> Mapping[str, str]:
        """Stages that the run on this machine has; none if it is elsewhere, because Trackio reads only its own files."""
        return self._known

    def log(self, stage: TrackedStage) -> None:
        """Points of one step are one row."""
        rows: dict[int, dict[str, float]] = {}
        for point in stage.points:
            rows.setdefault(point.step, {})[point.metric] = point.value
        for step, row in rows.items():
            self._run.log(row, step=step)
        self._new[stage.id] = stage.key

    def close(self, record: Record) -> None:
        """Waits until all is stored. Then a session of its own says what was logged."""
        self._run.finish()
        if self._new:
            # The library stores a configuration with the first row of a session.
            last = self._session(record, {**self._known, **self._new})
            last.log({"finished stages": len(record.stages)}, step=len(record.stages))
            last.finish()

    def _session(self, record: Record, logged: Mapping[str, str]) -> Any:
        """Continue the run, or begin it. Nothing of the machine is measured."""
        return trackio.init(
            project=self._project,
            name=self._name,
            group=record.group,
            config={**record.params, "run": dict(record.tags), LOGGED: dict(logged)},
            resume="allow",
            private=True,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


def begin(record: Record) -> TrackioTracker:
    """Continue the run of this id, or begin it."""
    return TrackioTracker(record)


def _known(project: str, name: str) -> Mapping[str, str]:
    try:
        runs = [run for run in trackio.Api().runs(project) if run.name == name]
    except ValueError:
        # The project is not on this machine.
        return {}
    logged = (runs[-1].config or {}).get(LOGGED) if runs else None
    return logged if isinstance(logged, dict) else {}
