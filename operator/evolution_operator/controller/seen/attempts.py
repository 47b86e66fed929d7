"""Derives the planner's attempts from Jobs and Pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from evolution_jobs.contract.stage import RunRef

from ...api.status import StageProgress
from ...planner.observed import UNSCHEDULABLE, Attempt, AttemptState
from ..jobs.stage_job import job_name
from .endings import attempt_report, ended_at, ending, has_finished, job_failure
from .views import JobView, PodView

Note = tuple[str, str]
"""Reason and message of what holds an attempt up."""

PULL_REASONS = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"}
)
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


def observe(
    owner: RunRef,
    jobs: Iterable[JobView],
    progress: Mapping[str, StageProgress],
    notes: Mapping[str, Note],
    templates: Mapping[str, str],
) -> tuple[Attempt, ...]:
    """The run's attempts. `progress` and `notes` come from the probe, by the Job's uid.

    `templates` are the digests of the Pod templates that the spec gives now, by kind of stage.

    A Job that is being deleted is no longer an attempt, although its Pods may be alive: see `alive_stages`.
    """
    return tuple(
        _attempt(job, progress.get(job.meta.uid), notes.get(job.meta.uid), templates)
        for job in jobs
        if is_attempt(owner, job)
    )


def is_attempt(owner: RunRef, job: JobView) -> bool:
    """Whether the Job is an attempt of this run. Its name must match, because it holds a digest of run and attempt."""
    if job.meta.owner != owner.uid or job.meta.deleting:
        return False
    return job.meta.name == job_name(owner, job.meta.kind, job.iteration, job.meta.stage, job.key, job.number)


def alive_stages(owner: RunRef, jobs: Iterable[JobView], pods: Iterable[PodView]) -> dict[str, str]:
    """Stages with a process that may still write but is no attempt: stage id to the Job or Pod to wait for.

    A Job that is being deleted keeps its name until its Pods are gone. A Job may have lost its labels and still run.
    Pods outlive a Job that a user has deleted.
    """
    jobs = list(jobs)
    attempts = {job.meta.uid for job in jobs if is_attempt(owner, job)}
    others = [job for job in jobs if job.meta.uid not in attempts and (job.meta.deleting or not job.ended)]
    alive = {job.meta.stage: f"Job {job.meta.name}" for job in others}
    for pod in pods:
        if pod.alive and pod.meta.owner not in attempts:
            alive[pod.meta.stage] = f"Pod {pod.meta.name}"
    return alive


def _outdated(job: JobView, templates: Mapping[str, str]) -> bool:
    """Whether the spec gives another Pod template now, and no Pod runs or has ended without being counted yet."""
    if job.ended:
        return False
    current = templates.get(job.meta.kind, job.template)
    alive = [pod for pod in job.pods if pod.alive]
    idle = not any(pod.started_at for pod in alive) if alive else job.suspended or not job.pods
    return idle and job.template not in ("", current)


def _attempt(
    job: JobView,
    progress: StageProgress | None,
    note: Note | None,
    templates: Mapping[str, str],
) -> Attempt:
    state, trouble = _state(job, note)
    attempt = Attempt(
        stage=job.meta.stage,
        number=job.number,
        key=job.key,
        state=state,
        name=job.meta.name,
        started_at=job.started_at,
        shards_done=job.shards_of(max(job.succeeded, sum(map(has_finished, job.pods)))),
        shards=job.shards,
        gpu_seconds=sum(_gpu_seconds(pod) for pod in job.pods),
        lingering=state in ("succeeded", "failed") and not job.ended,
        outdated=_outdated(job, templates),
        note=trouble or (note if state == "running" else None),
        progress=progress if state == "running" else None,
    )
    if state == "failed":
        return replace(attempt, finished_at=ended_at(job), failure=job_failure(job))
    if state == "succeeded":
        return replace(attempt, finished_at=ended_at(job), report=attempt_report(job.pods))
    return attempt


def _state(job: JobView, note: Note | None) -> tuple[AttemptState, Note | None]:
    if (end := ending(job)) is not None:
        return end, _kept(job.pods)
    alive = [pod for pod in job.pods if pod.alive]
    if job.suspended and job.queue is not None:
        return "queued", ("AwaitingAdmission", f"waits for Kueue's queue {job.queue} to admit it")
    if job.suspended and not alive:
        return ("queued", suspended_elsewhere(job)) if job.held else ("suspended", None)
    if note is not None and not alive:
        return "queued", note
    unschedulable = bool(alive) and all(pod.unschedulable is not None for pod in alive)
    return "queued" if unschedulable else "running", holds_up(job.pods)


def _kept(pods: Sequence[PodView]) -> Note | None:
    """Says that other containers keep Pods whose stage has ended."""
    names = sorted({name for pod in pods for name in pod.kept_by})
    if not names:
        return None
    remedy = 'set spec.pod.annotations (for Istio sidecar.istio.io/inject: "false"), or use native sidecars'
    return "SidecarRunning", (
        f"the stage had ended, but container {', '.join(names)} kept its Pod, so the operator deleted its Job; "
        f"to keep Job and log, {remedy}"
    )


def suspended_elsewhere(job: JobView) -> Note:
    """Says that a Job waits for whatever has suspended it. The operator does not resume it: the other would win again."""
    return "JobSuspended", (
        f"something other than this operator has suspended Job {job.meta.name} and must resume it: a webhook, or Kueue "
        "with manageJobsWithoutQueueName (then set spec.queueName)"
    )


def holds_up(pods: Sequence[PodView]) -> Note | None:
    """What keeps Pods from starting, in a message that stays the same from one try to the next."""
    alive = [pod for pod in pods if pod.alive]
    for pod in alive:
        reason, message = pod.waiting or ("", "")
        if reason in PULL_REASONS:
            remedy = "check its name, and spec.pod.imagePullSecrets for a private registry"
            return "ImagePullBackOff", f"image {pod.image} cannot be pulled: {remedy}"
        if reason in CONFIG_REASONS:
            return reason, f"{message}: create it, or correct the run"
    unschedulable = [pod.unschedulable for pod in alive if pod.unschedulable is not None]
    if unschedulable:
        return UNSCHEDULABLE, f"{len(unschedulable)} of {len(alive)} Pods find no node: {unschedulable[0]}"
    return None


def _gpu_seconds(pod: PodView) -> float:
    if not pod.gpus or pod.started_at is None or pod.finished_at is None:
        return 0
    return pod.gpus * (pod.finished_at - pod.started_at).total_seconds()
