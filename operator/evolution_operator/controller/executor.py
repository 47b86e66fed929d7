"""Carries out the planner's actions. Each is idempotent: what is done already is left as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRunSpec
from ..planner.actions import Action, Resume, Start, Stop, Suspend
from ..planner.observed import Attempt, Failure
from .jobs.stage_job import build_job
from .kube.apiserver import AlreadyExistsError, ConflictError, InvalidError, NotFoundError, Object, RefusedError
from .kube.client import KubeClient, RunKey
from .seen.attempts import Note, alive_stages, is_attempt, observe
from .seen.cache import Cache
from .seen.views import JobView
from .settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What has become of the actions, for the planner to take into account."""

    begun: tuple[Attempt, ...] = ()
    """Attempts that were created."""
    held: tuple[Attempt, ...] = ()
    """Those that could not be, and why."""


class Executor:
    """Does on the cluster what the planner says."""

    def __init__(self, client: KubeClient, cache: Cache, settings: Settings) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings

    def carry_out(self, owner: RunRef, spec: EvolutionRunSpec, actions: Sequence[Action]) -> Outcome:
        """Do it all."""
        key = RunKey(owner.namespace, owner.name)
        jobs = [job for job in self._cache.seen(key).jobs if is_attempt(owner, job)]
        for action in actions:
            match action:
                case Stop():
                    for job in _of(jobs, action):
                        self.delete(key, job)
                case Suspend():
                    self._suspend(key, _of(jobs, action))
                case Resume():
                    self._resume(key, _of(jobs, action))
        starts = [action for action in actions if isinstance(action, Start)]
        results = [self._start(key, owner, spec, start) for start in starts]
        return Outcome(
            begun=tuple(attempt for attempt in results if attempt is not None and attempt.name is not None),
            held=tuple(attempt for attempt in results if attempt is not None and attempt.name is None),
        )

    def _start(self, key: RunKey, owner: RunRef, spec: EvolutionRunSpec, start: Start) -> Attempt | None:
        """The attempt: created, with its Job's name, or held up, without one. None where its Job was there already."""
        job = build_job(owner, spec, start, self._settings)
        seen = self._cache.seen(key)
        awaited = alive_stages(owner, seen.jobs, seen.pods).get(start.spec.stage)
        if awaited is not None:
            return self._found(key, owner, start, job, awaited)
        try:
            created = self._cache.put_job(self._client.create_job(job))
        except AlreadyExistsError:
            return self._found(key, owner, start, job, f"Job {job['metadata']['name']}")
        except RefusedError as error:
            return _held(start, _refusal(error))
        except InvalidError as error:
            message = f"the API server refuses the Job; correct spec.pod or the stage's pod: {error}"
            return _attempt(start, failure=Failure("permanent", "PodInvalid", message))
        extra = {"run": f"{key.namespace}/{key.name}", "stage": start.spec.stage}
        log.info("created Job %s, attempt %d", job["metadata"]["name"], start.number, extra=extra)
        return next(iter(observe(owner, [created], {}, {}, {})), None)

    def _found(self, key: RunKey, owner: RunRef, start: Start, job: Object, awaited: str) -> Attempt | None:
        """The Job, or a Pod of it, is there although it was not seen: it ends, is new, or its labels were edited away."""
        metadata = job["metadata"]
        held = _held(start, ("Terminating", f"waits for {awaited} of an earlier attempt to end"))
        try:
            found = self._client.read_job(key, metadata["name"])
        except NotFoundError:
            return held
        view = self._cache.put_job(found)
        if view.meta.deleting:
            return held
        if not is_attempt(owner, view):
            told = {"labels": metadata["labels"], "annotations": metadata["annotations"]}
            owned = {"ownerReferences": metadata["ownerReferences"]}
            healed = self._client.patch_job(key, metadata["name"], {"metadata": {**told, **owned}})
            self._cache.put_job(healed)
        return None

    def delete(self, key: RunKey, job: JobView) -> None:
        """Delete a Job. It keeps its name until its Pods are gone."""
        try:
            deleted = self._client.delete_job(key, job.meta.name, job.meta.uid)
        except (NotFoundError, ConflictError):
            # It is gone, whatever the cache says; another one of its name is none of ours to delete.
            self._cache.forget_job(job)
            return
        if deleted is not None:
            self._cache.put_job(deleted)

    def _suspend(self, key: RunKey, jobs: Iterable[JobView]) -> None:
        for job in jobs:
            if job.queue is not None:
                # Kueue would start it again. Deleted, it keeps its rows and checkpoints and is queued anew on resume.
                self.delete(key, job)
            elif not job.suspended:
                self._patch_suspend(key, job, True)

    def _resume(self, key: RunKey, jobs: Iterable[JobView]) -> None:
        for job in jobs:
            if job.suspended and job.queue is None:
                self._patch_suspend(key, job, False)

    def _patch_suspend(self, key: RunKey, job: JobView, suspend: bool) -> None:
        try:
            self._cache.put_job(self._client.patch_job(key, job.meta.name, {"spec": {"suspend": suspend}}))
        except NotFoundError:
            self._cache.forget_job(job)


def _of(jobs: Iterable[JobView], action: Stop | Suspend | Resume) -> list[JobView]:
    return [job for job in jobs if (job.meta.stage, job.number) == (action.stage, action.number)]


def _refusal(error: RefusedError) -> Note:
    if error.quota:
        return "QuotaExceeded", f"{error}: raise the quota or delete finished runs"
    if error.terminating:
        return "NamespaceTerminating", str(error)
    return "JobRefused", str(error)


def _held(start: Start, note: Note) -> Attempt:
    return _attempt(start, note=note)


def _attempt(start: Start, note: Note | None = None, failure: Failure | None = None) -> Attempt:
    return Attempt(
        stage=start.spec.stage,
        number=start.number,
        key=start.spec.key,
        state="failed" if failure else "queued",
        shards=start.shards,
        note=note,
        failure=failure,
    )
