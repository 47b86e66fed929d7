"""Deletion of a run with `deletionPolicy: Delete`: a finalizer holds it until a Job has deleted its artifacts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRunSpec
from ..planner.actions import Event
from . import labels
from .events import RecordEvents
from .executor import Executor
from .jobs.cleanup_job import build_cleanup_job, cleanup_name
from .kube.apiserver import AlreadyExistsError, RefusedError
from .kube.client import KubeClient, RunKey
from .seen.attempts import holds_up, suspended_elsewhere
from .seen.cache import Cache, Seen
from .seen.endings import ended_at, ending, job_failure, pods_failure, reports_of
from .seen.relist import Relist
from .seen.views import JobView
from .settings import Settings

log = logging.getLogger(__name__)

PAUSE = timedelta(minutes=2)
"""Between a failed cleanup and the next one."""


class Deletion:
    """Deletes a run: stops its Jobs, cleans up its artifacts, removes the finalizer."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        executor: Executor,
        relist: Relist,
        settings: Settings,
        record: RecordEvents,
    ) -> None:
        self._client = client
        self._cache = cache
        self._executor = executor
        self._relist = relist
        self._settings = settings
        self._record_events = record

    def guard(self, key: RunKey, run: Mapping[str, Any], spec: EvolutionRunSpec | None) -> Mapping[str, Any]:
        """The run, with our finalizer if and only if its policy is Delete."""
        wanted = spec is not None and spec.deletion_policy == "Delete"
        if wanted == (labels.FINALIZER in _finalizers(run)):
            return run
        return self._set_finalizer(key, run, wanted)

    def proceed(self, key: RunKey, seen: Seen, spec: EvolutionRunSpec | None, now: datetime) -> float | None:
        """One pass over a run that is being deleted. Returns the seconds until the next."""
        run = seen.run
        if run is None or labels.FINALIZER not in _finalizers(run):
            return None
        if spec is None or spec.deletion_policy != "Delete":
            self._set_finalizer(key, run, False)
            return None
        owner = RunRef(namespace=key.namespace, name=key.name, uid=run["metadata"]["uid"])
        cleanup = [job for job in seen.jobs if job.meta.name == cleanup_name(owner)]
        if not cleanup and not _at_work(owner, seen):
            # No stage may write while the artifacts are deleted, so list Jobs that no watch has reported yet.
            seen = self._relist.list(key)
        if _at_work(owner, seen):
            for job in _stages(owner, seen):
                if not job.meta.deleting:
                    self._executor.delete(key, job)
            # A watch reports the end of each.
            return self._settings.held_retry_seconds
        if not cleanup:
            return self._clean_up(key, owner, run, spec, now)
        return self._follow(key, run, cleanup[0], spec, now)

    def _clean_up(
        self, key: RunKey, owner: RunRef, run: Mapping[str, Any], spec: EvolutionRunSpec, now: datetime
    ) -> float | None:
        stages = (run.get("status") or {}).get("stages") or []
        keys = [stage["key"] for stage in stages if stage.get("key")]
        try:
            self._cache.put_job(self._client.create_job(build_cleanup_job(owner, spec, keys, self._settings)))
        except AlreadyExistsError:
            self._cache.put_job(self._client.read_job(key, cleanup_name(owner)))
        except RefusedError as error:
            if not error.terminating:
                self._warn(run, spec, f"the API server refuses the Job that would delete them: {error}", now)
                return self._settings.held_retry_seconds
            # Nothing can be created in this namespace any more, and its deletion waits for this run.
            log.warning(
                "the namespace is being deleted: artifacts stay in %s",
                spec.storage.uri,
                extra={"run": f"{key.namespace}/{key.name}"},
            )
            self._set_finalizer(key, run, False)
            return None
        return self._settings.held_retry_seconds

    def _follow(
        self,
        key: RunKey,
        run: Mapping[str, Any],
        job: JobView,
        spec: EvolutionRunSpec,
        now: datetime,
    ) -> float | None:
        end = ending(job)
        if end == "succeeded":
            if (kept := reports_of(job.pods).get("RecordsUnknown")) is not None:
                self._record_events(run, [Event("Warning", "ArtifactsKept", kept.message)], now)
            if not job.ended:
                # Another container keeps its Pod, so its ttlSecondsAfterFinished would never begin.
                self._executor.delete(key, job)
            self._set_finalizer(key, run, False)
            return None
        if end is None or job.meta.deleting:
            if (why := _hindrance(job)) is not None:
                self._warn(run, spec, why, now)
            return self._settings.held_retry_seconds
        wait = (ended_at(job) or now) + PAUSE - now
        if wait > timedelta(0):
            self._warn(run, spec, _hindrance(job) or job_failure(job).message, now)
            return wait.total_seconds()
        self._executor.delete(key, job)
        return self._settings.held_retry_seconds

    def _warn(self, run: Mapping[str, Any], spec: EvolutionRunSpec, why: str, now: datetime) -> None:
        message = (
            f"artifacts in {spec.storage.uri} could not be deleted: {why.removesuffix('.')}. The operator tries again; "
            "to keep them and delete only the run, set spec.deletionPolicy to Retain"
        )
        self._record_events(run, [Event("Warning", "CleanupFailed", message)], now)

    def _set_finalizer(self, key: RunKey, run: Mapping[str, Any], wanted: bool) -> Mapping[str, Any]:
        others = [name for name in _finalizers(run) if name != labels.FINALIZER]
        metadata = {
            # Fails if another client has changed the finalizers meanwhile.
            "resourceVersion": run["metadata"]["resourceVersion"],
            "finalizers": [*others, labels.FINALIZER] if wanted else others,
        }
        patched = self._client.patch_run(key, {"metadata": metadata})
        self._cache.put_run(patched)
        return patched


def _stages(owner: RunRef, seen: Seen) -> list[JobView]:
    return [job for job in seen.jobs if job.meta.owner == owner.uid]


def _at_work(owner: RunRef, seen: Seen) -> bool:
    """Whether a stage may still write. Its Pods may outlive its Job."""
    return bool(_stages(owner, seen)) or any(pod.alive for pod in seen.pods if pod.meta.kind != labels.CLEANUP)


def _hindrance(job: JobView) -> str | None:
    """What is wrong with a cleanup, in its own words if it left any; None if nothing is known to be wrong."""
    if job.suspended:
        return suspended_elsewhere(job)[1]
    if (trouble := holds_up(job.pods)) is not None:
        return f"Job {job.meta.name} does not start: {trouble[1]}"
    if (failure := pods_failure(job)) is not None:
        return f"{failure.reason}: {failure.message} (Job {job.meta.name})"
    return None


def _finalizers(run: Mapping[str, Any]) -> list[str]:
    return list(run["metadata"].get("finalizers") or [])
