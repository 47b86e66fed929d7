"""Reads what no watch delivers: how far a running stage is (its log), and why a Job has no Pods (events about it).

Both are expensive for the API server, so both are rare. For each run one log is read per interval, and none for a stage
that ends within its first interval. Events are listed with pauses that double, and for all runs together at most once
every `EVENTS_SPACING`, because the API server goes through all events of the namespace for such a list. A watch would
deliver every event of the cluster, all the time, for the few that say why a Job has no Pods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...api.status import StageProgress
from ...planner.progress import Pace, Reading, attempt_progress, last_line
from ..kube.apiserver import ClusterError
from ..kube.client import KubeClient, RunKey
from ..labels import CONTAINER
from .attempts import Note
from .budget import Budget
from .refusals import refused_pods
from .views import JobView, PodView

log = logging.getLogger(__name__)

LINES = 20
"""Log lines read from the end. They include the newest progress line, unless a library prints many lines."""
PODLESS_SECONDS = 5.0
"""Events are listed for a Job that has had no Pod for this long, then after twice the time, and so on."""
LONGEST_PAUSE = 300.0
EVENTS_SPACING = 2.0
"""Seconds between two lists of events, for all runs together."""


@dataclass
class _Known:
    """What is known about one Job. Times are seconds of the probe's clock."""

    podless_since: float | None = None
    pause: float = PODLESS_SECONDS
    ask_at: float = 0.0
    """When to list its events next."""
    note: Note | None = None
    running_since: float | None = None
    paces: dict[str, Pace] = field(default_factory=dict)
    """Pace of each Pod that is not gone, by name."""
    unread: int = 0
    """Shards that have succeeded without a progress line having been read."""
    waits: dict[str, Note | None] = field(default_factory=dict)
    """For Pods that have waited for another run: what they wait for now, by name."""
    asked: dict[str, float] = field(default_factory=dict)
    """When each Pod's log was last read."""

    def see(self, job: JobView, now: float) -> None:
        """Update from the Job's Pods. A Job whose Pods have all succeeded is about to end and needs none."""
        pods = job.pods
        if any(pod.alive for pod in pods) or sum(pod.phase == "Succeeded" for pod in pods) >= job.completions:
            self.podless_since, self.note = None, None
        elif self.podless_since is None:
            self.podless_since, self.pause, self.ask_at = now, PODLESS_SECONDS, now + PODLESS_SECONDS
        succeeded = {pod.meta.name for pod in pods if pod.phase == "Succeeded"}
        names = {pod.meta.name for pod in pods if not pod.gone}
        self.paces = {
            name: pace.ended() if name in succeeded else pace for name, pace in self.paces.items() if name in names
        }
        self.waits = {name: note for name, note in self.waits.items() if name in names - succeeded}
        done = job.shards_of(max(job.succeeded, len(succeeded)))
        self.unread = max(0, done - len(succeeded & self.paces.keys()))
        if self.running_since is None and any(_runs(pod) for pod in pods):
            self.running_since = now


class Probe:
    """Reads logs and events, and remembers what it has read. One thread at a time uses it for one run.

    Args:
        client: the API calls.
        interval: least seconds between two log reads of one run, and from a stage's start to its first one.
        clock: monotonic seconds.
    """

    def __init__(self, client: KubeClient, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._interval = interval
        self._clock = clock
        self._budget = Budget(EVENTS_SPACING, clock)
        self._known: dict[RunKey, dict[str, _Known]] = {}
        self._last_read: dict[RunKey, float] = {}

    def ask(self, key: RunKey, jobs: Sequence[JobView]) -> float | None:
        """Make at most two calls for the run.

        Returns: seconds until the next call may learn something, 0 if this one did, None if nothing runs.
        """
        now = self._clock()
        active = {job.meta.uid: job for job in jobs if job.active}
        if not active:
            self.forget(key)
            return None
        before = self._known.get(key, {})
        for uid in before.keys() - active.keys():
            self._budget.leave(uid)
        known = self._known[key] = {uid: before.get(uid) or _Known() for uid in active}
        for uid, entry in known.items():
            entry.see(active[uid], now)
            if entry.podless_since is None:
                self._budget.leave(uid)
        running = [pod for job in active.values() for pod in job.pods if _runs(pod)]
        waits = (self._ask_why(key, known, now), self._read_next(key, known, running, now))
        return min((wait for wait in waits if wait is not None), default=None)

    def progress(self, key: RunKey, jobs: Sequence[JobView]) -> Mapping[str, StageProgress]:
        """Progress of running Jobs by uid, as last read. Succeeded shards count in full."""
        known, now = self._known.get(key, {}), self._clock()
        found = {
            job.meta.uid: attempt_progress(entry.paces.values(), job.shards, entry.unread, now)
            for job in jobs
            if (entry := known.get(job.meta.uid)) is not None
        }
        return {uid: progress for uid, progress in found.items() if progress is not None}

    def notes(self, key: RunKey) -> Mapping[str, Note]:
        """Why Jobs have no Pods, or that their Pods wait for another run, by the Job's uid."""
        notes: dict[str, Note] = {}
        for uid, entry in self._known.get(key, {}).items():
            # All shards share the run's claim: if one computes, none waits for another run.
            waiting = next((note for note in entry.waits.values() if note), None) if not entry.paces else None
            if (note := entry.note or waiting) is not None:
                notes[uid] = note
        return notes

    def forget(self, key: RunKey) -> None:
        """Forget a run without active Jobs."""
        for uid in self._known.pop(key, {}):
            self._budget.leave(uid)
        self._last_read.pop(key, None)

    def _ask_why(self, key: RunKey, known: Mapping[str, _Known], now: float) -> float | None:
        """List events about the Job without Pods that is due first."""
        podless = {uid: entry for uid, entry in known.items() if entry.podless_since is not None}
        if not podless:
            return None
        uid = min(podless, key=lambda uid: podless[uid].ask_at)
        entry = podless[uid]
        wait = entry.ask_at - now
        if wait > 0:
            return wait
        if (wait := self._budget.take(uid)) > 0:
            return wait
        entry.ask_at = now + entry.pause
        entry.pause = min(2 * entry.pause, LONGEST_PAUSE)
        try:
            note = self._why_no_pods(key, uid)
        except ClusterError as error:
            log.debug("no events about a Job: %s", error, extra={"run": f"{key.namespace}/{key.name}"})
            return entry.ask_at - now
        learned = note != entry.note
        entry.note = note
        return 0.0 if learned else min(other.ask_at for other in podless.values()) - now

    def _read_next(
        self, key: RunKey, known: Mapping[str, _Known], running: Sequence[PodView], now: float
    ) -> float | None:
        """Read the log of the running Pod whose log was read the longest time ago."""
        due = {pod.meta.name: (known[pod.meta.owner or ""].running_since or 0.0) + self._interval for pod in running}
        if not due:
            return None
        wait = max(min(due.values()), self._last_read.get(key, float("-inf")) + self._interval) - now
        if wait > 0:
            return wait
        ready = [pod for pod in running if due[pod.meta.name] <= now]
        pod = min(ready, key=lambda pod: known[pod.meta.owner or ""].asked.get(pod.meta.name, float("-inf")))
        self._last_read[key] = now
        return 0.0 if self._read(key, known[pod.meta.owner or ""], pod, now) else self._interval

    def _read(self, key: RunKey, known: _Known, pod: PodView, now: float) -> bool:
        """Read one Pod's log. Returns whether it has anything new."""
        known.asked[pod.meta.name] = now
        try:
            text = self._client.read_log(key, pod.meta.name, CONTAINER, LINES)
        except ClusterError as error:
            log.debug("no log of %s: %s", pod.meta.name, error, extra={"run": f"{key.namespace}/{key.name}"})
            return False
        name, said = pod.meta.name, last_line(text, now)
        before = (known.paces.get(name), known.waits.get(name))
        if isinstance(said, Reading):
            known.waits.pop(name, None)
            known.paces[name] = known.paces[name].after(said) if name in known.paces else Pace.since(said)
        elif said is not None:
            known.waits[name] = said.note()
        return before != (known.paces.get(name), known.waits.get(name))

    def _why_no_pods(self, key: RunKey, uid: str) -> Note | None:
        refusals = self._client.list_warnings(key, uid, "FailedCreate")
        if not refusals:
            return None
        newest = max(refusals, key=lambda event: int(event["metadata"]["resourceVersion"]))
        return refused_pods(str(newest.get("message", "")))


def _runs(pod: PodView) -> bool:
    """Whether its log may grow."""
    return pod.alive and pod.node is not None and pod.started_at is not None and not pod.meta.deleting
