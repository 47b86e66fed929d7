"""Events about a run, for `kubectl describe`. An event that cannot be sent is logged and counted: events hold no state.

A thread of its own sends them, so that a run's next stage does not wait for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ..api.spec import API_VERSION, KIND
from ..planner.actions import Event
from . import labels
from .kube.apiserver import AlreadyExistsError, ClusterError
from .kube.client import KubeClient

log = logging.getLogger(__name__)

RecordEvents = Callable[[Mapping[str, Any], Iterable[Event], datetime], None]
"""Records events about this version of a run, at this time."""

MESSAGE_LIMIT = 1024
"""Characters that the API server takes."""
WAITING_LIMIT = 4096
"""Events that may wait to be sent: enough for minutes of a slow API server."""
CAUSES = frozenset({"StageSucceeded", "StageCached", "Started", "Resumed"})
"""Events that let stages start: they name those stages, too."""


class EventRecorder:
    """Sends events one after the other, in the order in which they were recorded. Thread-safe.

    Args:
        client: the API calls.
        lost: called with the reason, one word, for each event that was not sent.
        limit: events that may wait; further ones are dropped.
    """

    def __init__(self, client: KubeClient, lost: Callable[[str], None], limit: int = WAITING_LIMIT) -> None:
        self._client = client
        self._lost = lost
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(limit)
        self._thread = threading.Thread(target=self._serve, name="events", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send waiting events for at most `timeout` seconds."""
        end = time.monotonic() + timeout
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=timeout)
            self._thread.join(max(0.0, end - time.monotonic()))
        left = 0
        with contextlib.suppress(queue.Empty):
            while True:
                left += self._waiting.get_nowait() is not None
        self._waiting.put(None)
        for _ in range(left):
            self._lost("Stopped")
        if left:
            log.warning("%d events were not sent before the end", left)

    def record(self, run: Mapping[str, Any], events: Iterable[Event], now: datetime) -> None:
        """Queue events about this version of the run. Recording the same ones again has no effect."""
        for order, event in enumerate(joined(events)):
            try:
                self._waiting.put_nowait(build_event(run, event, order, now))
            except queue.Full:
                self._lost("QueueFull")
                name = f"{run['metadata']['namespace']}/{run['metadata']['name']}"
                log.warning("event %s was not sent: too many wait", event.reason, extra={"run": name})

    def send_waiting(self) -> None:
        """Send the waiting events on the calling thread."""
        while True:
            try:
                body = self._waiting.get_nowait()
            except queue.Empty:
                return
            if body is not None:
                self._send(body)

    def _serve(self) -> None:
        while (body := self._waiting.get()) is not None:
            try:
                self._send(body)
            except Exception as error:
                self._lost(type(error).__name__)
                log.error("event %s was not sent", body["reason"], exc_info=error)

    def _send(self, body: Mapping[str, Any]) -> None:
        about = body["involvedObject"]
        extra = {"run": f"{about['namespace']}/{about['name']}"}
        try:
            self._client.create_event(dict(body))
        except AlreadyExistsError:
            return
        except ClusterError as error:
            self._lost(type(error).__name__)
            log.warning("event %s was not sent: %s", body["reason"], error, extra=extra)
        log.info("%s: %s", body["reason"], body["message"], extra=extra)


def joined(events: Iterable[Event]) -> tuple[Event, ...]:
    """Merges each StageStarted event into the event that caused it: one API call fewer per stage."""
    merged = list(events)
    cause = next((place for place, event in reversed(list(enumerate(merged))) if event.reason in CAUSES), None)
    started = [event.message for event in merged if event.reason == "StageStarted"]
    if cause is None or not started:
        return tuple(merged)
    merged[cause] = replace(merged[cause], message=f"{merged[cause].message}; started: {', '.join(started)}")
    return tuple(event for event in merged if event.reason != "StageStarted")


def build_event(run: Mapping[str, Any], event: Event, order: int, now: datetime) -> dict[str, Any]:
    """A core/v1 Event. Its name is a digest of the run's version and the event, so sending it twice is harmless."""
    metadata = run["metadata"]
    text = "/".join((metadata["uid"], metadata["resourceVersion"], str(order), event.reason, event.message))
    moment = now.isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message if len(event.message) <= MESSAGE_LIMIT else f"{event.message[: MESSAGE_LIMIT - 1]}…",
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": labels.OPERATOR},
        "reportingComponent": labels.OPERATOR,
        "reportingInstance": "",
    }
