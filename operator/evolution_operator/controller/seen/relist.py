"""Lists a run's Jobs and Pods where the cache may lack something: seldom, because watches feed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..kube.client import KubeClient, RunKey
from .cache import Cache, Seen

FINISHED = ("Complete", "Failed")


class Relist:
    """Remembers since when each run has been seen whole.

    Args:
        client, cache: what is listed, and what takes it in.
        interval: seconds after which an unfinished run is listed again, against events that a broken watch has lost.
        clock: monotonic seconds.
    """

    def __init__(
        self, client: KubeClient, cache: Cache, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._cache = cache
        self._interval = interval
        self._clock = clock
        self._begun = clock()
        self._distrusted = float("-inf")
        self._since: dict[RunKey, float] = {}
        self._looked_up: dict[RunKey, tuple[frozenset[str], int]] = {}
        """For what lists have been asked: Jobs that had ended without their Pods being known, and Jobs that went."""

    def distrust(self) -> None:
        """A watch was broken: list each unfinished run at its next pass."""
        self._distrusted = self._clock()

    def doubt(self, key: RunKey) -> None:
        """A call for this run has failed and may have taken effect: list it at its next pass."""
        self._since[key] = float("-inf")

    def forget(self, key: RunKey) -> None:
        """Forget a run that is gone."""
        self._since.pop(key, None)
        self._looked_up.pop(key, None)

    def ensure(self, key: RunKey, seen: Seen) -> Seen:
        """The view of the run, listed anew where it may lack something. Raises ClusterError."""
        now = self._clock()
        unseen = frozenset(job.meta.uid for job in seen.jobs if job.ended_unseen)
        looked_up, lost = self._looked_up.get(key, (frozenset(), 0))
        finished = seen.run is not None and _at_rest(seen.run)
        # Of a run that is new nothing can have been lost; what an earlier one of its name has left may be gone by now.
        since = self._since.setdefault(key, self._begun if seen.jobs or seen.pods else now)
        overdue = not finished and (since <= self._distrusted or now - since >= self._interval)
        if not overdue and unseen <= looked_up and seen.lost <= lost:
            return seen
        whole = self.look(key)
        self._since[key] = now
        self._looked_up[key] = unseen, seen.lost
        return whole

    def look(self, key: RunKey) -> Seen:
        """The view of the run, listed now. Raises ClusterError."""
        self._cache.replace_jobs(key, self._client.list_jobs(key))
        self._cache.replace_pods(key, self._client.list_pods(key))
        return self._cache.seen(key)


def _at_rest(run: Mapping[str, Any]) -> bool:
    """Whether nothing more is to come of the run: one that is being deleted waits for its Jobs to go."""
    return (run.get("status") or {}).get("phase") in FINISHED and not run["metadata"].get("deletionTimestamp")
