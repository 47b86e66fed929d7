"""Executes the planner's actions on the cluster. Every action is idempotent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRunSpec
from ..planner.actions import Action, Resume, Start, Stop, Suspend
from ..planner.observed import Attempt, Failure
from . import labels
from .jobs.service import build_service
from .jobs.stage_job import build_job
from .kube.apiserver import AlreadyExistsError, ConflictError, InvalidError, NotFoundError, Object, RefusedError
from .kube.client import KubeClient, RunKey
from .seen.attempts import Note, alive_stages, is_attempt, observe
from .seen.cache import Cache
from .seen.refusals import invalid_job, refused_job
from .seen.views import JobView
from .settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of the actions, for the planner to take into account."""

    begun: tuple[Attempt, ...] = ()
    """Attempts whose Job was created."""
    held: tuple[Attempt, ...] = ()
    """Attempts whose Job could not be created, with the reason."""


class Executor:
    """Creates, deletes, suspends and resumes Jobs."""

    def __init__(self, client: KubeClient, cache: Cache, settings: Settings) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings

    def execute(self, owner: RunRef, spec: EvolutionRunSpec, actions: Sequence[Action]) -> Outcome:
        """Execute all actions. Raises ClusterError."""
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
        """Creates the attempt's Job. The result has a name if the Job was created; None if it existed already."""
        job = build_job(owner, spec, start, self._settings)
        seen = self._cache.seen(key)
        blocking = alive_stages(owner, seen.jobs, seen.pods).get(start.spec.stage)
        if blocking is not None:
            return self._found(key, owner, start, job, blocking)
        try:
            if start.spec.ranks.nodes > 1:
                self._create_service(owner)
            created = self._cache.put_job(self._client.create_job(job))
        except AlreadyExistsError:
            return self._found(key, owner, start, job, f"Job {job['metadata']['name']}")
        except RefusedError as error:
            return _held(start, refused_job(str(error), error.terminating))
        except InvalidError as error:
            return _attempt(start, failure=Failure("permanent", "PodInvalid", invalid_job(str(error), job)))
        extra = {"run": f"{key.namespace}/{key.name}", "stage": start.spec.stage}
        log.info("created Job %s, attempt %d", job["metadata"]["name"], start.number, extra=extra)
        return next(iter(observe(owner, [created], {}, {}, {})), None)

    def _create_service(self, owner: RunRef) -> None:
        """Create the Service by which the run's Pods find each other, unless it exists."""
        try:
            self._client.create_service(build_service(owner))
        except AlreadyExistsError:
            return

    def _found(self, key: RunKey, owner: RunRef, start: Start, job: Object, blocking: str) -> Attempt | None:
        """A Job or Pod of this stage exists that the cache does not count: it is ending, new, or has lost its labels."""
        metadata = job["metadata"]
        held = _held(start, ("Terminating", f"waits for {blocking} of an earlier attempt to end"))
        try:
            found = self._client.read_job(key, metadata["name"])
        except NotFoundError:
            return held
        view = self._cache.put_job(found)
        if view.meta.deleting:
            return held
        if not is_attempt(owner, view):
            # Its labels, annotations or owner were edited: put them back.
            names = ("labels", "annotations", "ownerReferences")
            patch = {"metadata": {name: metadata[name] for name in names}}
            view = self._cache.put_job(self._client.patch_job(key, metadata["name"], patch))
            if not is_attempt(owner, view):
                return _held(
                    start, ("JobEdited", f"something else removes the operator's labels of Job {view.meta.name}")
                )
        return None

    def delete(self, key: RunKey, job: JobView) -> None:
        """Delete a Job. It keeps its name until its Pods are gone."""
        try:
            deleted = self._client.delete_job(key, job.meta.name, job.meta.uid)
        except (NotFoundError, ConflictError):
            # It is gone. A Job of the same name with another uid is not ours to delete.
            self._cache.forget_job(job)
            return
        if deleted is not None:
            self._cache.put_job(deleted)

    def _suspend(self, key: RunKey, jobs: Iterable[JobView]) -> None:
        for job in jobs:
            if job.queue is not None:
                # Kueue would start a suspended Job again. Rows and checkpoints survive deletion, and resuming queues
                # a new Job.
                self.delete(key, job)
            elif not job.suspended or job.held:
                self._patch_suspend(key, job, True)

    def _resume(self, key: RunKey, jobs: Iterable[JobView]) -> None:
        for job in jobs:
            if job.suspended and job.queue is None:
                self._patch_suspend(key, job, False)

    def _patch_suspend(self, key: RunKey, job: JobView, suspend: bool) -> None:
        # The annotation tells our suspension from that of a webhook or a queue. If a Job is suspended although we have
        # resumed it, a second try would only begin a fight.
        annotations = {labels.SUSPENDED: str(suspend).lower()}
        patch = {"metadata": {"annotations": annotations}, "spec": {"suspend": suspend}}
        try:
            self._cache.put_job(self._client.patch_job(key, job.meta.name, patch))
        except NotFoundError:
            self._cache.forget_job(job)


def _of(jobs: Iterable[JobView], action: Stop | Suspend | Resume) -> list[JobView]:
    return [job for job in jobs if (job.meta.stage, job.number) == (action.stage, action.number)]


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
