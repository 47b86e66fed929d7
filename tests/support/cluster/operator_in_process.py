"""The operator without its process: the real reconciler and cache, told what its watches would tell."""

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

from tests.support.cluster.fake_api_server import ApiServer, News
from tests.support.cluster.objects import SETTINGS

KEY = RunKey("team", "support")
RUNS = "evolutionruns"
KINDS = (RUNS, "jobs", "pods")
"""What it watches."""


class Killed(BaseException):
    """The operator's process is gone."""


@dataclasses.dataclass(frozen=True)
class Then:
    """What follows on something that has happened."""

    seen: tuple[str, ...] = KINDS
    """Kinds whose watches do not lag."""
    passes: bool = True
    trouble: tuple[int, str, str] | None = None
    works: bool = True
    """Whether controllers do their part, and whether Pods start then."""
    starts: bool = True


class Operator:
    """One life of the operator: it begins with a list of everything."""

    def __init__(self, server: ApiServer, clock: Callable[[], datetime]) -> None:
        self._server = server
        self.cache = Cache()
        cluster = KubeClient(server)  # type: ignore[arg-type]
        metrics = Metrics(self.cache, lambda: 0, lambda: True, lambda: 0.0)
        self._events = EventRecorder(cluster, metrics.event_lost)
        self.reconciler = Reconciler(
            cluster,
            self.cache,
            SETTINGS.model_copy(update={"progress_interval_seconds": 0.0}),
            metrics,
            self.tell,
            clock,
        )
        for kind in KINDS:
            self.list(kind)

    def tell(self, run: Mapping[str, Any], events: Iterable[Event], now: datetime) -> None:
        """Events are sent at once, so that what is told when does not depend on a thread."""
        self._events.record(run, events, now)
        self._events.send_waiting()

    def list(self, kind: str) -> None:
        """What a watch begins with: it tells of what is there, and not of what is gone."""
        for body in self._server.all(kind):
            self.take_in(News(kind, "ADDED", body))

    def take_in(self, news: News) -> None:
        """As the handlers do."""
        gone = news.type == "DELETED"
        match news.kind:
            case "jobs":
                (self.cache.drop_job if gone else self.cache.put_job)(news.body)
            case "pods":
                (self.cache.drop_pod if gone else self.cache.put_pod)(news.body)
            case _ if gone:
                self.cache.drop_run(KEY, news.body["metadata"]["uid"])
            case _:
                self.cache.put_run(news.body)
