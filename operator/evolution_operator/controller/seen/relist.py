"""Reads a run, its Jobs and its Pods again if the cache may be incomplete. This is rare, because watches feed the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..kube.apiserver import NotFoundError
from ..kube.client import KubeClient, RunKey
from .cache import Cache, Seen

FINISHED = ("Complete", "Failed")


class Relist:
    """Remembers when each run was last listed, and lists it again when needed.

    Args:
        client, cache: where lists come from and where they go.
        interval: seconds after which an unfinished run is listed again, in case a broken watch has lost events.
        missed: called for each change of a run that its watch had not delivered.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        interval: float,
        missed: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._cache = cache
        self._interval = interval
        self._missed = missed
        self._clock = clock
        self._begun = clock()
        self._all_requested = float("-inf")
        self._since: dict[RunKey, float] = {}
        self._looked_up: dict[RunKey, tuple[frozenset[str], int]] = {}
        """What the last list was made for: Jobs that had ended without known Pods, and the number of deleted Jobs."""

    def request_all(self) -> None:
        """List each unfinished run at its next pass, because a watch was broken."""
        self._all_requested = self._clock()

    def request(self, key: RunKey) -> None:
        """List this run at its next pass, because a failed call may have taken effect."""
        self._since[key] = float("-inf")

    def forget(self, key: RunKey) -> None:
        """Forget a deleted run."""
        self._since.pop(key, None)
        self._looked_up.pop(key, None)

    def ensure(self, key: RunKey, seen: Seen) -> Seen:
        """The run as seen, read and listed again first if something may be missing. Raises ClusterError."""
        now = self._clock()
        unseen = frozenset(job.meta.uid for job in seen.jobs if job.ended_unseen)
        looked_up, lost = self._looked_up.get(key, (frozenset(), 0))
        finished = seen.run is not None and _at_rest(seen.run)
        # Nothing of a new run can be missing. Objects of an earlier run of the same name may be gone meanwhile.
        since = self._since.setdefault(key, self._begun if seen.jobs or seen.pods else now)
        overdue = not finished and (since <= self._all_requested or now - since >= self._interval)
        if not overdue and unseen <= looked_up and seen.lost <= lost:
            return seen
        if overdue:
            self._read(key, seen.run)
        listed = self.list(key)
        self._since[key] = now
        self._looked_up[key] = unseen, seen.lost
        return listed

    def list(self, key: RunKey) -> Seen:
        """The run, listed now. Raises ClusterError."""
        self._cache.replace_jobs(key, self._client.list_jobs(key))
        self._cache.replace_pods(key, self._client.list_pods(key))
        return self._cache.seen(key)

    def _read(self, key: RunKey, known: Mapping[str, Any] | None) -> None:
        """Read the run itself: a silent watch delivers neither its changes nor its deletion."""
        version = known["metadata"]["resourceVersion"] if known else None
        try:
            run = self._client.read_run(key)
        except NotFoundError:
            if known is not None:
                self._cache.drop_run(key, known["metadata"]["uid"])
                self._missed()
            return
        self._cache.put_run(run)
        if run["metadata"]["resourceVersion"] != version:
            self._missed()


def _at_rest(run: Mapping[str, Any]) -> bool:
    """Whether nothing more happens to the run. A run that is being deleted still waits for its Jobs to go."""
    return (run.get("status") or {}).get("phase") in FINISHED and not run["metadata"].get("deletionTimestamp")
