"""Prometheus metrics of the operator."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..api.status import RunStatus
from .seen.cache import Cache

PASS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STAGE_BUCKETS = (10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400)
PHASES = ("Pending", "Running", "Suspended", "Complete", "Failed")


class _Runs(Collector):
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Runs by phase, as of now."""
        tally = Tally((run.get("status") or {}).get("phase", "Pending") for run in self._cache.runs().values())
        family = GaugeMetricFamily("evolution_runs", "EvolutionRuns by phase", labels=["phase"])
        for phase in PHASES:
            family.add_metric([phase], tally[phase])
        yield family


class _Silence(Collector):
    def __init__(self, silence: Callable[[], Mapping[str, float]]) -> None:
        self._silence = silence

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Silence of each watch, as of now."""
        text = "Time since a watch last delivered an event"
        family = GaugeMetricFamily("evolution_watch_silent_seconds", text, labels=["kind"])
        for kind, seconds in self._silence().items():
            family.add_metric([kind], seconds)
        yield family


class Metrics:
    """Counters and gauges. The number of series is bounded: no label holds a run's name."""

    def __init__(
        self,
        cache: Cache,
        depth: Callable[[], int],
        leads: Callable[[], bool],
        ahead: Callable[[], float],
        silence: Callable[[], Mapping[str, float]],
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Runs(cache))
        self.registry.register(_Silence(silence))
        self.passes = Histogram(
            "evolution_reconcile_seconds", "Time a pass over a run takes", buckets=PASS_BUCKETS, registry=self.registry
        )
        self._errors = Counter(
            "evolution_reconcile_errors", "Passes that failed and were repeated", ["error"], registry=self.registry
        )
        self._events_lost = Counter(
            "evolution_events_lost", "Events about runs that were not sent", ["reason"], registry=self.registry
        )
        self.watch_missed = Counter(
            "evolution_watch_missed",
            "Changes and deletions of runs that no watch had delivered when the run was read again",
            registry=self.registry,
        )
        queue = Gauge("evolution_queue_depth", "Runs that wait for a pass", registry=self.registry)
        queue.set_function(depth)
        leader = Gauge("evolution_leader", "1 where this replica leads", registry=self.registry)
        leader.set_function(lambda: float(leads()))
        skew = Gauge(
            "evolution_clock_ahead_seconds", "This replica's clock less the API server's", registry=self.registry
        )
        skew.set_function(ahead)
        self._stage_seconds = Histogram(
            "evolution_stage_seconds",
            "Compute time of finished stages",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._cached = Counter(
            "evolution_stages_cached",
            "Stages whose result an earlier run had computed",
            ["stage"],
            registry=self.registry,
        )
        self._failures = Counter(
            "evolution_attempt_failures",
            "Attempts that ended without a result, disruptions included",
            ["stage", "reason"],
            registry=self.registry,
        )
        self._retries = Counter(
            "evolution_retries", "Attempts made after a failed one", ["stage"], registry=self.registry
        )
        self._gpu_seconds = Counter(
            "evolution_gpu_seconds", "GPUs held times seconds, of ended attempts", ["stage"], registry=self.registry
        )

    def error(self, error: Exception) -> None:
        """Count a pass that failed."""
        self._errors.labels(type(error).__name__).inc()

    def event_lost(self, reason: str) -> None:
        """Count an event that was not sent."""
        self._events_lost.labels(reason).inc()

    def record(self, previous: RunStatus | None, status: RunStatus) -> None:
        """Count the changes from one written status to the next."""
        before = previous.stage_by_id() if previous else {}
        for stage in status.stages:
            earlier = before.get(stage.id)
            if stage.state == "Succeeded" and (earlier is None or earlier.state != "Succeeded"):
                if stage.cached:
                    self._cached.labels(stage.name).inc()
                elif stage.seconds is not None:
                    self._stage_seconds.labels(stage.name).observe(stage.seconds)
            if stage.state in ("Backoff", "Failed") and stage.settled > (earlier.settled if earlier else 0):
                self._failures.labels(stage.name, stage.reason or "").inc()
            if stage.attempts > max(1, earlier.attempts if earlier else 0):
                self._retries.labels(stage.name).inc()
            spent = (stage.gpu_seconds or 0) - ((earlier.gpu_seconds or 0) if earlier else 0)
            if spent > 0:
                self._gpu_seconds.labels(stage.name).inc(spent)
