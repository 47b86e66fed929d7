"""Derives the planner's attempts from Jobs and Pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from evolution_jobs.contract.errors import EXIT_KILLED, FailureKind, failure_kind
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RunRef
from pydantic import ValidationError

from ...api.status import StageProgress
from ...planner.observed import UNSCHEDULABLE, Attempt, AttemptState, Failure
from ...planner.policies import memory_limit
from ..jobs.stage_job import job_name
from .views import JobView, PodView

Note = tuple[str, str]
"""Reason and message of what holds an attempt up."""

PULL_REASONS = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"}
)
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
NODE_REASONS = frozenset(
    {
        "Evicted",
        "NodeAffinity",
        "NodeLost",
        "NodeShutdown",
        "OutOfcpu",
        "OutOfephemeral-storage",
        "OutOfmemory",
        "OutOfpods",
        "Preempting",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
    }
)
"""Reasons with which a kubelet fails a whole Pod because of the node (k8s.io/kubernetes/pkg/kubelet)."""
SEVERITY: tuple[FailureKind, ...] = ("permanent", "out-of-memory", "transient", "disruption")
"""If several Pods have failed, the most severe failure is the attempt's: the other Pods ended because of it."""


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
        shards_done=job.shards_done,
        shards=job.shards,
        gpu_seconds=sum(_gpu_seconds(pod) for pod in job.pods),
        outdated=_outdated(job, templates),
        note=trouble or (note if state == "running" else None),
        progress=progress if state == "running" else None,
    )
    if state == "failed":
        return replace(attempt, finished_at=job.conditions["Failed"].since, failure=_failure(job))
    if state == "succeeded":
        return _succeeded(replace(attempt, finished_at=job.conditions["Complete"].since), job)
    return attempt


def _state(job: JobView, note: Note | None) -> tuple[AttemptState, Note | None]:
    alive = [pod for pod in job.pods if pod.alive]
    if not alive and "Complete" in job.conditions:
        return "succeeded", None
    if not alive and "Failed" in job.conditions:
        return "failed", None
    if job.suspended and job.queue is not None:
        return "queued", ("AwaitingAdmission", f"waits for Kueue's queue {job.queue} to admit it")
    if job.suspended and not alive:
        return "suspended", None
    if note is not None and not alive:
        return "queued", note
    unschedulable = bool(alive) and all(pod.unschedulable is not None for pod in alive)
    return "queued" if unschedulable else "running", holds_up(job.pods)


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


def pods_failure(pods: Sequence[PodView]) -> Failure | None:
    """The most severe failure among Pods, in the stage's own words if it left any; None if none failed."""
    failures = [_pod_failure(pod) for pod in pods if pod.phase == "Failed" or pod.exit_code]
    return min(failures, key=lambda failure: SEVERITY.index(failure.kind), default=None)


def _failure(job: JobView) -> Failure:
    if (found := pods_failure(job.pods)) is not None:
        return found
    condition = job.conditions["Failed"]
    lost = f"{condition.message or condition.reason}; its Pod and its termination message are gone"
    if condition.reason == "PodFailurePolicy":
        return Failure("permanent", "StageFailed", lost)
    return Failure("transient", "PodLost", lost)


def _pod_failure(pod: PodView) -> Failure:
    report = _report(pod)
    kind = _kind(pod)
    more_memory = memory_limit(pod.meta.kind)
    if kind == "out-of-memory":
        message = f"Pod {pod.meta.name} was killed because it reached its memory limit"
        return Failure(kind, "OOMKilled", message, more_memory=more_memory)
    if report and report.message:
        return Failure(kind, report.reason, report.message, report.corrupt)
    if kind == "transient" and pod.exit_code in EXIT_KILLED:
        message = f"Pod {pod.meta.name} was killed (SIGKILL), and its node gives no reason"
        return Failure(kind, "Killed", message, more_memory=more_memory)
    code = "" if pod.exit_code is None else f" (exit code {pod.exit_code})"
    message = f"Pod {pod.meta.name} ended{code}: {pod.message.strip()[-500:] or 'it left no message; see its log'}"
    reason, corrupt = (report.reason, report.corrupt) if report else (pod.reason or "PodFailed", None)
    return Failure(kind, reason, message, corrupt)


def _kind(pod: PodView) -> FailureKind:
    if pod.disrupted or pod.reason in NODE_REASONS:
        return "disruption"
    if pod.reason == "OOMKilled":
        return "out-of-memory"
    if pod.exit_code is None:
        return "transient"
    if pod.exit_code in EXIT_KILLED and (pod.meta.deleting or pod.gone):
        # It was asked to end, and killed because it took longer than its grace period.
        return "disruption"
    return failure_kind(pod.exit_code)


def _succeeded(attempt: Attempt, job: JobView) -> Attempt:
    reports = reports_of(job.pods)
    report = reports.get("Completed") or reports.get("Cached")
    if report is None and any(pod.phase == "Succeeded" for pod in job.pods):
        # A message that cannot be read once cannot be read again: the Pod's end is all that it reports.
        report = Report(reason="Completed")
    return replace(attempt, report=report)


def reports_of(pods: Sequence[PodView]) -> dict[str, Report]:
    """Reports of the Pods that ended with exit code 0, by reason."""
    return {report.reason: report for pod in pods if pod.exit_code == 0 and (report := _report(pod)) is not None}


def _report(pod: PodView) -> Report | None:
    try:
        return Report.stored(pod.message)
    except ValidationError:
        return None


def _gpu_seconds(pod: PodView) -> float:
    if not pod.gpus or pod.started_at is None or pod.finished_at is None:
        return 0
    return pod.gpus * (pod.finished_at - pod.started_at).total_seconds()
