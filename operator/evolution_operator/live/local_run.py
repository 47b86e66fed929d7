"""The source of a live page for a run that this process drives."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from typing import Any

from ..api.status import RunStatus
from ..planner.actions import Plan
from ..planner.observed import Run
from .view import EVENTS_SHOWN, EventShown, Subject, run_document, run_summary


class LocalRun:
    """One run, as its driver has last seen it. `watch` is cheap: documents are built when a page asks. Thread-safe."""

    single = True

    def __init__(self, run: Run) -> None:
        self._subject = Subject.of(run.ref.namespace, run.ref.name, run.spec)
        self._lock = threading.Lock()
        self._status = RunStatus()
        self._events: deque[EventShown] = deque(maxlen=EVENTS_SHOWN)
        self._report: str | None = None
        self._ended = False

    def watch(self, plan: Plan) -> None:
        """Take the newest status and events."""
        now = datetime.now(UTC).replace(microsecond=0)
        told = [EventShown(now, event.type, event.reason, event.message) for event in plan.events]
        with self._lock:
            self._status = plan.status
            self._events.extendleft(told)

    def reported(self, place: str | None) -> None:
        """Say where the run's report is."""
        with self._lock:
            self._report = place

    def end(self) -> None:
        """Say that no newer status comes."""
        with self._lock:
            self._ended = True

    def runs(self) -> list[dict[str, Any]]:
        """The list with this run alone."""
        with self._lock:
            status = self._status
        return [run_summary(self._subject.namespace, self._subject.name, status.wire())]

    def run(self, namespace: str, name: str) -> dict[str, Any] | None:
        """This run. Its messages are shown in full: the terminal shows them, too."""
        if (namespace, name) != (self._subject.namespace, self._subject.name):
            return None
        with self._lock:
            status, events, report, ended = self._status, list(self._events), self._report, self._ended
        return run_document(self._subject, status, events, stage_words=True, report=report, ended=ended)
