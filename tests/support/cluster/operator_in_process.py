"""The operator without its process: the real reconciler and cache. A test delivers the watch events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from evolution_operator.controller.events import EventRecorder
from evolution_operator.controller.kube.client import KubeClient, RunKey
from evolution_operator.controller.metrics import Metrics
from evolution_operator.controller.reconcile import Reconciler
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.planner.actions import Event

from tests.support.cluster.fake_api_server import ApiServer, WatchEvent
from tests.support.cluster.objects import SETTINGS

KEY = RunKey("team", "support")
RUNS = "evolutionruns"
KINDS = (RUNS, "jobs", "pods")
"""What it watches."""


class Killed(BaseException):
    """The operator's process is gone."""


@dataclasses.dataclass(frozen=True)
class Reaction:
    """What the operator and the cluster do after one step of a history."""

    seen: tuple[str, ...] = KINDS
    """Kinds whose watches do not lag."""
    passes: bool = True
    trouble: tuple[int, str, str] | None = None
    works: bool = True
    """Whether controllers do their part. `starts`: whether Pods start then."""
    starts: bool = True


class Operator:
    """One process of the operator. It begins with a list of every kind."""

    def __init__(self, server: ApiServer, clock: Callable[[], datetime]) -> None:
        self._server = server
        self.cache = Cache()
        cluster = KubeClient(server)  # type: ignore[arg-type]
        metrics = Metrics(self.cache, lambda: 0, lambda: True, lambda: 0.0, dict)
        self._events = EventRecorder(cluster, metrics.event_lost)
        self.reconciler = Reconciler(
            cluster,
            self.cache,
            SETTINGS.model_copy(update={"progress_interval_seconds": 0.0}),
            metrics,
            self.record,
            clock,
        )
        for kind in KINDS:
            self.list(kind)

    def record(self, run: Mapping[str, Any], events: Iterable[Event], now: datetime) -> None:
        """Send events at once, so that their order does not depend on a thread."""
        self._events.record(run, events, now)
        self._events.send_waiting()

    def list(self, kind: str) -> None:
        """The list that a watch begins with. Deleted objects are not in it."""
        for body in self._server.all(kind):
            self.apply(WatchEvent(kind, "ADDED", body))

    def apply(self, event: WatchEvent) -> None:
        """Update the cache as the handlers do."""
        gone = event.type == "DELETED"
        match event.kind:
            case "jobs":
                (self.cache.drop_job if gone else self.cache.put_job)(event.body)
            case "pods":
                (self.cache.drop_pod if gone else self.cache.put_pod)(event.body)
            case _ if gone:
                self.cache.drop_run(KEY, event.body["metadata"]["uid"])
            case _:
                self.cache.put_run(event.body)
