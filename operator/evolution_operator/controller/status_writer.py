"""Writes a run's status if it has changed. Only after that are its events recorded and counted, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..api.status import RunStatus
from ..planner.actions import Event, Plan
from .events import RecordEvents
from .kube.apiserver import UnreachableError
from .kube.client import KubeClient, RunKey
from .metrics import Metrics
from .seen.cache import Cache

Object = Mapping[str, Any]


@dataclass(frozen=True)
class _Change:
    """From one status to the next."""

    previous: RunStatus | None
    status: RunStatus
    events: tuple[Event, ...]


class StatusWriter:
    """The only writer of statuses."""

    def __init__(self, client: KubeClient, cache: Cache, metrics: Metrics, record: RecordEvents) -> None:
        self._client = client
        self._cache = cache
        self._metrics = metrics
        self._record_events = record
        self._unanswered: dict[RunKey, _Change] = {}
        """Changes whose write got no answer and may have taken effect."""

    def write(self, key: RunKey, body: Object, previous: RunStatus | None, decided: Plan, now: datetime) -> None:
        """Write the decided status if it differs from that of this version of the run. Raises ClusterError."""
        patch = merge_patch(body.get("status") or {}, decided.status.wire())
        if not patch:
            return
        change = _Change(previous, decided.status, decided.events)
        try:
            body = self._client.patch_status(key, body["metadata"]["resourceVersion"], patch)
        except UnreachableError:
            self._unanswered[key] = change
            raise
        self._unanswered.pop(key, None)
        self._cache.put_run(body)
        self._record(body, change, now)

    def catch_up(self, key: RunKey, body: Object, status: RunStatus | None, now: datetime) -> None:
        """Record a change that was written although no answer came; `status` is what the run has now."""
        change = self._unanswered.get(key)
        if change is not None and change.status == status:
            del self._unanswered[key]
            self._record(body, change, now)

    def forget(self, key: RunKey) -> None:
        """Forget a deleted run."""
        self._unanswered.pop(key, None)

    def _record(self, body: Object, change: _Change, now: datetime) -> None:
        self._metrics.record(change.previous, change.status)
        self._record_events(body, change.events, now)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) from one document to another; empty where they are equal."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch
