"""What watches do not tell: how far a running stage is (its log), and why a Job has no Pods (events about it).

Both cost the API server more than they tell, so both are asked seldom. Of each run one log an interval is read, and none
of a stage that is over within the first. Events are asked for with pauses that double, and of all runs together one list
every `EVENTS_SPACING`: the API server answers such a list by going through all events of the namespace. A watch would
cost it every event of the cluster, all the time, for the few that say why a Job has no Pods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...api.status import StageProgress
from ...planner.progress import Pace, Reading, attempt_progress, last_line
from ..jobs.pods import CONTAINER
from ..kube.apiserver import ClusterError
from ..kube.client import KubeClient, RunKey
from .attempts import Note
from .budget import Budget
from .views import JobView, PodView

log = logging.getLogger(__name__)

LINES = 20
"""Log lines read from the end: the newest progress line is among them, unless a library is chatty."""
PODLESS_SECONDS = 5.0
"""A Job that has had no Pod for this long is asked about; then after twice the time, and so on."""
LONGEST_PAUSE = 300.0
EVENTS_SPACING = 2.0
"""Seconds between two lists of events, whichever runs they are about."""


@dataclass
class _Known:
    """What was found out about one Job. Times are seconds of the inquiry's clock."""

    podless_since: float | None = None
    pause: float = PODLESS_SECONDS
    ask_at: float = 0.0
    """When to ask (again) why it has no Pods."""
    note: Note | None = None
    running_since: float | None = None
    paces: dict[str, Pace] = field(default_factory=dict)
    """What was seen of each Pod's rows, by its name; of Pods that are gone nothing."""
    unread: int = 0
    """Shards that have ended well and of whose rows nothing was seen."""
    waits: dict[str, Note | None] = field(default_factory=dict)
    """What Pods that have waited for another run say of it, by name."""
    asked: dict[str, float] = field(default_factory=dict)
    """When each Pod's log was last asked for."""

    def see(self, job: JobView, now: float) -> None:
        """Take in which Pods the Job has; one of which all have succeeded is about to end, and needs none."""
        pods = job.pods
        if any(pod.alive for pod in pods) or sum(pod.phase == "Succeeded" for pod in pods) >= job.shards:
            self.podless_since, self.note = None, None
        elif self.podless_since is None:
            self.podless_since, self.pause, self.ask_at = now, PODLESS_SECONDS, now + PODLESS_SECONDS
        succeeded = {pod.meta.name for pod in pods if pod.phase == "Succeeded"}
        names = {pod.meta.name for pod in pods if not pod.gone}
        self.paces = {
            name: pace.ended() if name in succeeded else pace for name, pace in self.paces.items() if name in names
        }
        self.waits = {name: note for name, note in self.waits.items() if name in names - succeeded}
        self.unread = max(job.shards_done, len(succeeded)) - len(succeeded & self.paces.keys())
        if self.running_since is None and any(_runs(pod) for pod in pods):
            self.running_since = now


class Probe:
    """Asks, and remembers. One thread at a time uses it for one run.

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

        Returns: seconds until it is worth asking again, 0 where something new was learned, None where nothing runs.
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
        """Progress of running Jobs by uid, as last read; shards that have succeeded have done all they had to."""
        known, now = self._known.get(key, {}), self._clock()
        found = {
            job.meta.uid: attempt_progress(entry.paces.values(), job.shards, entry.unread, now)
            for job in jobs
            if (entry := known.get(job.meta.uid)) is not None
        }
        return {uid: progress for uid, progress in found.items() if progress is not None}

    def notes(self, key: RunKey) -> Mapping[str, Note]:
        """What keeps Jobs without Pods, or that their Pods wait for another run, by uid."""
        notes: dict[str, Note] = {}
        for uid, entry in self._known.get(key, {}).items():
            # Shards begin together: one that computes means that the claim is this run's.
            waiting = next((note for note in entry.waits.values() if note), None) if not entry.paces else None
            if (note := entry.note or waiting) is not None:
                notes[uid] = note
        return notes

    def forget(self, key: RunKey) -> None:
        """Forget a run of which nothing is at work."""
        for uid in self._known.pop(key, {}):
            self._budget.leave(uid)
        self._last_read.pop(key, None)

    def _ask_why(self, key: RunKey, known: Mapping[str, _Known], now: float) -> float | None:
        """Ask about the Job without Pods whose turn it is."""
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
        """Read the log of the running Pod that was asked for the longest time ago."""
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
        """Whether the log told anything new."""
        known.asked[pod.meta.name] = now
        try:
            text = self._client.read_log(key, pod.meta.name, CONTAINER, LINES)
        except ClusterError as error:
            log.debug("no log of %s: %s", pod.meta.name, error, extra={"run": f"{key.namespace}/{key.name}"})
            return False
        name, told = pod.meta.name, last_line(text, now)
        before = (known.paces.get(name), known.waits.get(name))
        if isinstance(told, Reading):
            known.waits.pop(name, None)
            known.paces[name] = known.paces[name].after(told) if name in known.paces else Pace.since(told)
        elif told is not None:
            known.waits[name] = told.note()
        return before != (known.paces.get(name), known.waits.get(name))

    def _why_no_pods(self, key: RunKey, uid: str) -> Note | None:
        refusals = self._client.list_warnings(key, uid, "FailedCreate")
        if not refusals:
            return None
        newest = max(refusals, key=lambda event: int(event["metadata"]["resourceVersion"]))
        # The Pod's name in front is another one each time.
        message = str(newest.get("message", "")).rpartition(" is forbidden: ")[2]
        if "exceeded quota" in message:
            return "QuotaExceeded", f"{message}: raise the quota or lower the stage's pod.resources"
        return "PodsRefused", message


def _runs(pod: PodView) -> bool:
    """Whether it can have a log that grows."""
    return pod.alive and pod.node is not None and pod.started_at is not None and not pod.meta.deleting
