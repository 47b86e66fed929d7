"""Events about a run, for `kubectl describe`. An event is news, not state: one that cannot be sent is logged and counted.

They are sent on a thread of their own, because a run's next stage must not wait until the last one's end was told.
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

Tell = Callable[[Mapping[str, Any], Iterable[Event], datetime], None]
"""Tells events about this version of a run, at this time."""

MESSAGE_LIMIT = 1024
"""Characters that the API server takes."""
WAITING_LIMIT = 4096
"""Events that may wait to be sent: minutes of them, should the API server be slow."""
HOSTS = frozenset({"StageSucceeded", "StageCached", "Started", "Resumed"})
"""Events with which the stages that start at the same time are told."""


class EventSender:
    """Sends events one after the other, in the order in which they were told. Thread-safe.

    Args:
        client: the API calls.
        lost: told why an event was not sent, in one word.
        limit: events that may wait; one more is dropped.
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
        """Send what waits, at most for `timeout` seconds."""
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

    def tell(self, run: Mapping[str, Any], events: Iterable[Event], now: datetime) -> None:
        """Take events about this version of the run; those that were told before are not told again."""
        for order, event in enumerate(joined(events)):
            try:
                self._waiting.put_nowait(build_event(run, event, order, now))
            except queue.Full:
                self._lost("QueueFull")
                name = f"{run['metadata']['namespace']}/{run['metadata']['name']}"
                log.warning("event %s was not sent: too many wait", event.reason, extra={"run": name})

    def send_waiting(self) -> None:
        """Send what waits now, on the calling thread."""
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
    """The events, with the stages that start told in the event of what let them start: one call fewer a stage."""
    told = list(events)
    host = next((place for place, event in reversed(list(enumerate(told))) if event.reason in HOSTS), None)
    started = [event.message for event in told if event.reason == "StageStarted"]
    if host is None or not started:
        return tuple(told)
    told[host] = replace(told[host], message=f"{told[host].message}; started: {', '.join(started)}")
    return tuple(event for event in told if event.reason != "StageStarted")


def build_event(run: Mapping[str, Any], event: Event, order: int, now: datetime) -> dict[str, Any]:
    """A core/v1 Event. Its name follows from the run's version and the event, so that sending it twice is harmless."""
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
