"""The running operator: the parts, put together once, and started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from ...api.spec import PLURAL
from ...live.pages import Pages
from ..events import EventRecorder
from ..kube.apiserver import ApiServer, load_configuration
from ..kube.client import KubeClient, RunKey
from ..kube.clock import ServerClock
from ..kube.lease import Election
from ..metrics import Metrics
from ..reconcile import Reconciler
from ..seen.cache import Cache
from ..seen.silence import Silence
from ..seen.told import EventReader
from ..settings import Settings
from .cluster_runs import ClusterRuns
from .health import HealthServer
from .workqueue import WorkQueue

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
EVENTS_SECONDS = 5.0
"""How long waiting events may take at the end. The Lease is released after them, within the Pod's grace period."""
BEAT_SECONDS = 1.0
QUIET_SECONDS = 2.0
"""A list after a broken watch arrives object by object; it is over if nothing has arrived for this long."""


class Service:
    """Feeds watch events to the cache and the queue, and reconciles runs while this replica leads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.cache = Cache()
        self.silence = Silence((PLURAL, "jobs", "pods"))
        configuration = load_configuration(settings.workers + 4)
        call_timeout = min(settings.request_timeout_seconds, settings.lease_seconds / 2)
        clock = ServerClock()
        self._election = Election(
            ApiServer(configuration, call_timeout, lambda: True, clock),
            settings.lease_namespace,
            settings.lease_name,
            settings.identity,
            settings.lease_seconds,
            call_timeout,
            self._on_election,
        )
        leads = self._election.leads
        self.metrics = Metrics(
            self.cache, lambda: self._queue.depth(), leads, lambda: clock.ahead, self.silence.seconds
        )
        client = KubeClient(ApiServer(configuration, call_timeout, leads, clock))
        self._events = EventRecorder(client, self.metrics.event_lost)
        self._reconciler = Reconciler(client, self.cache, settings, self.metrics, self._events.record, clock.now)
        self._queue = WorkQueue(
            self._reconciler.reconcile, settings.workers, settings.pass_interval_seconds, self.metrics.error
        )
        page = Pages(ClusterRuns(self.cache, EventReader(client)), settings.live).answer
        self._health = (
            HealthServer(
                settings.http_port, self._stuck, self.metrics.registry, page if settings.live != "off" else None
            )
            if settings.http_port
            else None
        )
        self._beat = time.monotonic()
        self._listed = False
        self._listed_again: float | None = None
        """When a list after the first last delivered an object."""
        self._heart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all parts. Reconciling starts when the first lists are in and this replica leads."""
        self._heart = asyncio.create_task(self._tick())
        if self._health:
            self._health.start()
        self._events.start()
        self._queue.start()
        self._election.start()

    async def stop(self) -> None:
        """Finish running passes, send their events, release the Lease, stop."""
        if self._heart:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart
        await asyncio.to_thread(self._queue.stop, STOP_SECONDS)
        await asyncio.to_thread(self._events.stop, EVENTS_SECONDS)
        await asyncio.to_thread(self._election.stop)
        if self._health:
            await asyncio.to_thread(self._health.stop)

    def nudge(self, key: RunKey, listed_again: bool, decisive: bool = False) -> None:
        """Reconcile a run, because something about it has changed. The first call comes when all lists are in.

        `listed_again`: the change was delivered by a list after the first, which lacks objects deleted meanwhile.
        `decisive`: do not wait for the interval between passes (see WorkQueue).
        """
        if listed_again:
            self._listed_again = time.monotonic()
        if not self._listed:
            self._listed = True
            self._on_election(self._election.leads())
        self._queue.nudge(key, decisive=decisive)

    def _on_election(self, leads: bool) -> None:
        if leads and self._listed:
            self._queue.resume(self.cache.runs())
        else:
            self._queue.pause()

    async def _tick(self) -> None:
        while True:
            self._beat = time.monotonic()
            if self._listed_again is not None and self._beat - self._listed_again >= QUIET_SECONDS:
                self._listed_again = None
                log.info("a watch was broken: listing unfinished runs again")
                self._reconciler.relist_all()
                for key in self.cache.runs():
                    self._queue.nudge(key)
            await asyncio.sleep(BEAT_SECONDS)

    def _stuck(self) -> str | None:
        """What is stuck and may be cured by a restart; None where all is well."""
        limit = self._settings.stuck_seconds
        if time.monotonic() - self._beat > limit:
            return f"the event loop has not moved for {limit:.0f} s"
        if self._queue.longest_pass() > limit:
            return f"a pass over a run has taken more than {limit:.0f} s"
        if not self._election.alive():
            return "the leader election thread has ended"
        return None
