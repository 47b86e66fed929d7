"""Reads the events about a run for someone who looks at its page. Nobody looks at most runs, so nothing is kept for them.

The API server goes through all events of a namespace for such a list. So a run's events are read again only while new
ones may come, at most every `SECONDS`, and for all runs together at most once every `SPACING`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ...live.view import EVENTS_SHOWN, EventShown
from ..kube.apiserver import ClusterError
from ..kube.client import RunKey
from .budget import Budget

log = logging.getLogger(__name__)

SECONDS = 10.0
"""Age of a list at which it is read again. Events are sent a moment after the status that they are about."""
SPACING = 2.0
RUNS_KEPT = 32
"""Runs whose events are remembered."""


class ListsEvents(Protocol):
    """The call that is needed (KubeClient)."""

    def list_events(self, key: RunKey, uid: str) -> tuple[Mapping[str, Any], ...]:
        """All events about a run."""
        ...


@dataclass
class _Known:
    version: str = ""
    """The run's resourceVersion when it was last looked at, and since when it has been that one."""
    since: float = float("-inf")
    tried: float = float("-inf")
    events: list[EventShown] | None = None


class EventReader:
    """The newest events of runs, on demand. Thread-safe; one list is read at a time, and others get what is known."""

    def __init__(self, client: ListsEvents, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._budget = Budget(SPACING, clock)
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def events(self, key: RunKey, uid: str, version: str) -> list[EventShown] | None:
        """Events about this version of a run, newest first; None if none could be read yet."""
        known = self._look_up(uid, version)
        if self._reading.acquire(blocking=False):
            try:
                self._read_if_due(known, key, uid)
            finally:
                self._reading.release()
        return known.events

    def _look_up(self, uid: str, version: str) -> _Known:
        with self._lock:
            known = self._known.setdefault(uid, _Known())
            self._known.move_to_end(uid)
            if len(self._known) > RUNS_KEPT:
                self._known.popitem(last=False)
            if known.version != version:
                known.version, known.since = version, self._clock()
        return known

    def _read_if_due(self, known: _Known, key: RunKey, uid: str) -> None:
        now = self._clock()
        complete = known.events is not None and known.tried >= known.since + SECONDS
        if complete or now - known.tried < SECONDS or self._budget.take(uid) > 0:
            return
        known.tried = now
        try:
            found = self._client.list_events(key, uid)
        except ClusterError as error:
            log.debug("no events for the live page: %s", error, extra={"run": f"{key.namespace}/{key.name}"})
            return
        # Of one second, the newest first as well.
        newest = sorted(found, key=lambda event: int(event["metadata"]["resourceVersion"]), reverse=True)
        shown = [event for each in newest if (event := _event(each)) is not None]
        known.events = sorted(shown, key=lambda event: event.at, reverse=True)[:EVENTS_SHOWN]


def _event(body: Mapping[str, Any]) -> EventShown | None:
    """An event of core/v1; None if it has no time."""
    moment = body.get("lastTimestamp") or body.get("eventTime") or (body.get("metadata") or {}).get("creationTimestamp")
    try:
        at = datetime.fromisoformat(str(moment))
    except ValueError:
        return None
    return EventShown(at, body.get("type") or "Normal", body.get("reason") or "", body.get("message") or "")
