"""Runs with their Jobs and Pods as last seen, from watches and from the operator's own writes.

kopf has indices of its own. They miss deletions while a watch was broken, and this process's latest writes. A reconcile
that relied on them would create an attempt twice, or wait for ever for one that is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Generic, TypeVar

from ..kube.client import Listing, RunKey
from .views import JobView, PodView, job_view, pod_view

View = TypeVar("View", JobView, PodView)

REMEMBERED = 10_000
"""Uids of deleted objects that are remembered, so that a late answer does not add one again."""


@dataclass(frozen=True)
class Seen:
    """A run with its Jobs and Pods at one moment."""

    run: Mapping[str, Any] | None
    jobs: tuple[JobView, ...]
    """Each with its Pods."""
    pods: tuple[PodView, ...]
    """All Pods, including those of deleted Jobs."""
    lost: int = 0
    """Jobs so far that were deleted before they had ended: Pods of theirs may be alive without being known yet."""


@dataclass
class _Objects(Generic[View]):
    """The newest version of each object, by run and uid."""

    by_run: dict[RunKey, dict[str, View]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Version at which an object was deleted, by uid. A later version adds it again: it had only lost its label."""

    def put(self, view: View) -> None:
        meta = view.meta
        if self.dropped.get(meta.uid, -1) >= meta.version:
            return
        views = self.by_run.setdefault(_key(view), {})
        known = views.get(meta.uid)
        if known is None or known.meta.version <= meta.version:
            views[meta.uid] = view

    def drop(self, view: View) -> None:
        self.dropped[view.meta.uid] = view.meta.version
        if len(self.dropped) > REMEMBERED:
            del self.dropped[next(iter(self.dropped))]
        views = self.by_run.get(_key(view), {})
        views.pop(view.meta.uid, None)
        if not views:
            self.by_run.pop(_key(view), None)

    def of(self, key: RunKey) -> tuple[View, ...]:
        return tuple(self.by_run.get(key, {}).values())


class Cache:
    """Runs, Jobs and Pods by run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[RunKey, Mapping[str, Any]] = {}
        self._lost: dict[RunKey, int] = {}
        self._jobs: _Objects[JobView] = _Objects()
        self._pods: _Objects[PodView] = _Objects()

    def seen(self, key: RunKey) -> Seen:
        """What is known about a run now."""
        with self._lock:
            run, jobs, pods, lost = self._runs.get(key), self._jobs.of(key), self._pods.of(key), self._lost.get(key, 0)
        # Outside the lock, which all runs and kopf's event loop share.
        by_job: dict[str | None, list[PodView]] = defaultdict(list)
        for pod in pods:
            by_job[pod.meta.owner].append(pod)
        return Seen(run, tuple(replace(job, pods=tuple(by_job[job.meta.uid])) for job in jobs), pods, lost)

    def runs(self) -> dict[RunKey, Mapping[str, Any]]:
        """All runs."""
        with self._lock:
            return dict(self._runs)

    def put_run(self, body: Mapping[str, Any]) -> None:
        """Store a run, unless a newer version is known."""
        key = run_key(body)
        with self._lock:
            known = self._runs.get(key)
            if known is None or _version(known) <= _version(body):
                self._runs[key] = _without_bulk(body)

    def drop_run(self, key: RunKey, uid: str) -> None:
        """Forget a deleted run; a later one of the same name stays."""
        with self._lock:
            known = self._runs.get(key)
            if known is not None and known["metadata"]["uid"] == uid:
                del self._runs[key]
                self._lost.pop(key, None)

    def put_job(self, body: Mapping[str, Any]) -> JobView:
        """Store a Job, unless a newer version is known."""
        view = job_view(body)
        with self._lock:
            self._jobs.put(view)
        return view

    def put_pod(self, body: Mapping[str, Any]) -> PodView:
        """Store a Pod, unless a newer version is known."""
        view = pod_view(body)
        with self._lock:
            self._pods.put(view)
        return view

    def drop_job(self, body: Mapping[str, Any]) -> None:
        """Forget a deleted Job and its deleted Pods."""
        self.forget_job(job_view(body))

    def forget_job(self, job: JobView) -> None:
        """Forget a Job that the API server no longer has."""
        key = _key(job)
        with self._lock:
            self._drop_job(job)
            if not job.ended and key in self._runs:
                self._lost[key] = self._lost.get(key, 0) + 1

    def drop_pod(self, body: Mapping[str, Any]) -> None:
        """Mark a Pod as gone. Its exit code, report and GPU time are kept as long as its Job exists."""
        view = pod_view(body)
        with self._lock:
            self._mark_gone(view)

    def replace_jobs(self, key: RunKey, listed: Listing) -> None:
        """Store a full list of a run's Jobs. Jobs missing from it are gone, unless they are newer than the list."""
        views = {view.meta.uid: view for view in map(job_view, listed.items)}
        with self._lock:
            for job in self._jobs.of(key):
                if job.meta.uid not in views and job.meta.version <= listed.version:
                    self._drop_job(job)
            for job in views.values():
                self._jobs.put(job)

    def replace_pods(self, key: RunKey, listed: Listing) -> None:
        """Store a full list of a run's Pods."""
        views = {view.meta.uid: view for view in map(pod_view, listed.items)}
        with self._lock:
            for pod in self._pods.of(key):
                if pod.meta.uid not in views and pod.meta.version <= listed.version:
                    self._mark_gone(pod)
            for pod in views.values():
                self._pods.put(pod)

    def _drop_job(self, job: JobView) -> None:
        self._jobs.drop(job)
        for pod in self._pods.of(_key(job)):
            if pod.meta.owner == job.meta.uid and pod.gone:
                self._pods.drop(pod)

    def _mark_gone(self, pod: PodView) -> None:
        if any(job.meta.uid == pod.meta.owner for job in self._jobs.of(_key(pod))):
            self._pods.put(replace(pod, gone=True))
        else:
            self._pods.drop(pod)


def run_key(body: Mapping[str, Any]) -> RunKey:
    """The key of a run's resource."""
    return RunKey(body["metadata"]["namespace"], body["metadata"]["name"])


def _key(view: JobView | PodView) -> RunKey:
    return RunKey(view.meta.namespace, view.meta.run)


def _version(body: Mapping[str, Any]) -> int:
    return int(body["metadata"]["resourceVersion"])


def _without_bulk(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The resource without managedFields, which only other tools read."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}
