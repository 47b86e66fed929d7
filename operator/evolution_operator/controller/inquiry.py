"""What watches do not tell: how far a running stage is (its log), and why a Job has no Pods (events about it).

Asked for one Job a run at a time and at a bounded rate, whatever the number of its Pods.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..api.status import StageProgress
from ..planner.progress import Pace, Reading, attempt_progress, read_progress
from .apiserver import ClusterError
from .cache import RunKey
from .cluster import Cluster
from .observe import Note, pods_by_job
from .pods import CONTAINER
from .views import JobView, PodView

log = logging.getLogger(__name__)

LINES = 20
"""Log lines read from the end: the newest progress line is among them, unless a library is chatty."""
PODLESS_SECONDS = 3.0
"""A Job that has had no Pod for this long is asked about."""


@dataclass
class _Known:
    """What was found out about one Job."""

    first_seen: float
    paces: dict[str, Pace] = field(default_factory=dict)
    """What was seen of each Pod's rows, by its name."""
    asked: dict[str, float] = field(default_factory=dict)
    """When each Pod's log was last asked for."""
    note: Note | None = None


class Inquiry:
    """Asks, and remembers. One thread at a time uses it for one run.

    Args:
        cluster: the calls.
        interval: least seconds between two calls for one run.
        clock: monotonic seconds.
    """

    def __init__(self, cluster: Cluster, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._interval = interval
        self._clock = clock
        self._known: dict[RunKey, dict[str, _Known]] = {}
        self._last_call: dict[RunKey, float] = {}

    def ask(self, key: RunKey, jobs: Sequence[JobView], pods: Sequence[PodView]) -> float | None:
        """Make at most one call for the run; seconds until another one may be worth it, None where nothing runs."""
        now = self._clock()
        active = [job for job in jobs if not (job.suspended or job.meta.deleting or job.ended)]
        before = self._known.get(key, {})
        known = {job.meta.uid: before.get(job.meta.uid) or _Known(first_seen=now) for job in active}
        if not active:
            self.forget(key)
            return None
        self._known[key] = known
        wait = self._last_call.get(key, float("-inf")) + self._interval - now
        if wait > 0:
            return wait
        by_job = pods_by_job(pods)
        for job in active:
            known[job.meta.uid].paces = _of(known[job.meta.uid].paces, by_job.get(job.meta.uid, []))
        podless = [job for job in active if not any(pod.alive for pod in by_job.get(job.meta.uid, []))]
        for job in active:
            if job not in podless:
                known[job.meta.uid].note = None
        overdue = [job for job in podless if now - known[job.meta.uid].first_seen >= PODLESS_SECONDS]
        if overdue:
            self._last_call[key] = now
            known[overdue[0].meta.uid].note = self._why_no_pods(key, overdue[0])
        elif (
            pod := self._next_log(known, [pod for job in active for pod in by_job.get(job.meta.uid, [])])
        ) is not None:
            self._last_call[key] = now
            self._read(key, known[pod.meta.owner or ""], pod, now)
        return PODLESS_SECONDS if podless and not overdue else self._interval

    def progress(self, key: RunKey, jobs: Sequence[JobView]) -> Mapping[str, StageProgress]:
        """Progress of running Jobs by uid, as last read."""
        known = self._known.get(key, {})
        now = self._clock()
        found = {
            job.meta.uid: attempt_progress(known[job.meta.uid].paces.values(), job.shards, job.shards_done, now)
            for job in jobs
            if job.meta.uid in known
        }
        return {uid: progress for uid, progress in found.items() if progress is not None}

    def notes(self, key: RunKey) -> Mapping[str, Note]:
        """What keeps Jobs without Pods, by uid."""
        return {uid: entry.note for uid, entry in self._known.get(key, {}).items() if entry.note is not None}

    def forget(self, key: RunKey) -> None:
        """Forget a run of which nothing is at work."""
        self._known.pop(key, None)
        self._last_call.pop(key, None)

    def _next_log(self, known: Mapping[str, _Known], pods: Sequence[PodView]) -> PodView | None:
        """The running Pod whose log was asked for the longest time ago."""
        running = [pod for pod in pods if pod.alive and pod.node and pod.started_at and not pod.meta.deleting]
        if not running:
            return None
        return min(running, key=lambda pod: known[pod.meta.owner or ""].asked.get(pod.meta.name, float("-inf")))

    def _read(self, key: RunKey, known: _Known, pod: PodView, now: float) -> None:
        known.asked[pod.meta.name] = now
        try:
            text = self._cluster.read_log(key, pod.meta.name, CONTAINER, LINES)
        except ClusterError as error:
            log.debug("no log of %s: %s", pod.meta.name, error, extra={"run": f"{key.namespace}/{key.name}"})
            return
        reading = last_progress(text, now)
        if reading is not None:
            before = known.paces.get(pod.meta.name)
            known.paces[pod.meta.name] = before.after(reading) if before else Pace.since(reading)

    def _why_no_pods(self, key: RunKey, job: JobView) -> Note | None:
        refusals = [
            event for event in self._cluster.list_warnings(key, job.meta.uid) if event.get("reason") == "FailedCreate"
        ]
        if not refusals:
            return None
        newest = max(refusals, key=lambda event: int(event["metadata"]["resourceVersion"]))
        # The Pod's name in front is another one each time.
        message = str(newest.get("message", "")).rpartition(" is forbidden: ")[2]
        if "exceeded quota" in message:
            return "QuotaExceeded", f"{message}: raise the quota or lower the stage's pod.resources"
        return "PodsRefused", message


def last_progress(text: str, now: float) -> Reading | None:
    """The last progress line of a log: `{"progress": {"done": 40, "total": 96, "unit": "rows", ...}}`."""
    for line in reversed(text.splitlines()):
        if not line.startswith('{"progress"'):
            continue
        try:
            told = json.loads(line)["progress"]
        except ValueError:
            continue
        if (reading := read_progress(told, now) if isinstance(told, dict) else None) is not None:
            return reading
    return None


def _of(paces: Mapping[str, Pace], pods: Sequence[PodView]) -> dict[str, Pace]:
    """The paces of Pods that are there; one that has ended well has done all its rows."""
    return {
        pod.meta.name: paces[pod.meta.name].ended() if pod.phase == "Succeeded" else paces[pod.meta.name]
        for pod in pods
        if pod.meta.name in paces
    }
