"""How Jobs and their Pods ended: well or not, with which report or failure. Pure.

The container of the stage decides, whatever else is in its Pod: an injected proxy may go on for ever, or fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from evolution_jobs.contract.errors import (
    EXIT_KILLED,
    EXIT_PERMANENT,
    EXIT_TERMINATED,
    RANK_LOST,
    FailureKind,
    failure_kind,
)
from evolution_jobs.contract.manifest import Report
from pydantic import ValidationError

from ...planner.observed import Failure
from ...planner.policies import memory_limit, storage_limit
from .views import JobView, PodView

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
NODES_DOING = "The node "
"""How a kubelet's message begins if it evicts a Pod because the node is short (pkg/kubelet/eviction/helpers.go)."""
SEVERITY: tuple[FailureKind, ...] = ("permanent", "out-of-memory", "transient", "disruption")
"""If several Pods have failed, the most severe failure is the attempt's: the other Pods ended because of it."""


def ending(job: JobView) -> Literal["succeeded", "failed"] | None:
    """How the attempt has ended; None if it has not. Its Job may go on: a container keeps a Pod, or a Pod is replaced."""
    if job.ended:
        if any(pod.alive for pod in job.pods):
            return None
        finished = _finished(job) if "Failed" in job.conditions else not any(map(_overdrew_at_its_end, job.pods))
        return "succeeded" if finished else "failed"
    # The Job controller replaces a Pod that ended with this code. It would exceed the same limit again.
    if any(exceeded_own_limit(pod) and pod.exit_code == EXIT_TERMINATED for pod in job.pods):
        return "failed"
    kept = [pod for pod in job.pods if pod.kept_by]
    if any(not has_finished(pod) for pod in kept):
        return "failed"
    return "succeeded" if kept and _finished(job) else None


def ended_at(job: JobView) -> datetime | None:
    """When the attempt ended: as its Job says, or the last of its Pods."""
    if job.ended:
        return (job.conditions.get("Failed") or job.conditions["Complete"]).since
    return max((pod.finished_at for pod in job.pods if pod.finished_at is not None), default=None)


def has_finished(pod: PodView) -> bool:
    """Whether the stage has ended well. Its last words must say so if the Pod was evicted for a limit of its own."""
    return pod.exit_code == 0 and not _overdrew_at_its_end(pod)


def exceeded_own_limit(pod: PodView) -> bool:
    """Whether the kubelet evicted the Pod because it used more local storage than it may. The next one would, too.

    Kubernetes marks evictions by the node with the condition DisruptionTarget, and these not.
    """
    return bool(pod.evicted) and not pod.disrupted and not str(pod.evicted).startswith(NODES_DOING)


def job_failure(job: JobView) -> Failure:
    """Why a Job's attempt has failed."""
    if (found := pods_failure(job)) is not None:
        return found
    condition = job.conditions["Failed"]
    lost = f"{condition.message or condition.reason}; its Pod and its termination message are gone"
    if condition.reason == "PodFailurePolicy":
        return Failure("permanent", "StageFailed", lost)
    return Failure("transient", "PodLost", lost)


def pods_failure(job: JobView) -> Failure | None:
    """The most severe failure among a Job's Pods, in the stage's own words if it left any; None if none failed."""
    failed = [pod for pod in job.pods if not has_finished(pod) and (pod.phase == "Failed" or pod.exit_code is not None)]
    failures = [(_pod_failure(pod, job), pod) for pod in failed]
    worst = min(failures, key=lambda found: _severity(*found), default=None)
    return worst[0] if worst else None


def _severity(failure: Failure, pod: PodView) -> tuple[int, int]:
    """Lowest for what most likely made other Pods fail.

    A Pod that has lost another one explains less than the cluster that has taken a Pod away, but more than a Pod that
    was asked to end: the Job controller asks the others once one has failed.
    """
    if failure.reason == RANK_LOST:
        return SEVERITY.index("disruption"), 1
    taken = pod.disrupted or pod.evicted is not None or pod.reason in NODE_REASONS
    return SEVERITY.index(failure.kind), 0 if taken or failure.kind != "disruption" else 2


def attempt_report(pods: Sequence[PodView]) -> Report | None:
    """The report of an attempt that has ended well: that of the Pod that published its result."""
    reports = reports_of(pods)
    report = reports.get("Completed") or reports.get("Cached")
    if report is None and any(map(has_finished, pods)):
        # A message that cannot be read once cannot be read again: the Pod's end is all that it reports.
        report = Report(reason="Completed")
    return report


def reports_of(pods: Sequence[PodView]) -> dict[str, Report]:
    """Reports of the Pods that ended with exit code 0, by reason."""
    return {report.reason: report for pod in pods if pod.exit_code == 0 and (report := _report(pod)) is not None}


def _finished(job: JobView) -> bool:
    return sum(map(has_finished, job.pods)) >= job.completions


def _overdrew_at_its_end(pod: PodView) -> bool:
    """Whether exit code 0 may only mean that the process obeyed the kubelet."""
    return pod.exit_code == 0 and exceeded_own_limit(pod) and _report(pod) is None


def _pod_failure(pod: PodView, job: JobView) -> Failure:
    report, kind, name = _report(pod), _kind(pod), f"Pod {pod.meta.name}"
    if exceeded_own_limit(pod) and kind != "permanent":
        words = str(pod.evicted).strip().removesuffix(".")
        remedy = storage_limit(pod.meta.kind, words, given="ephemeral-storage" in job.limits)
        return Failure("transient", "Evicted", f"{name} was evicted: {words}: {remedy}")
    more_memory = memory_limit(pod.meta.kind, given="memory" in job.limits)
    if kind == "out-of-memory":
        return Failure(kind, "OOMKilled", f"{name} {_out_of_memory(pod, job)}", more_memory=more_memory)
    if report and report.message:
        return Failure(kind, report.reason, report.message, report.corrupt)
    if kind == "transient" and pod.exit_code in EXIT_KILLED:
        message = f"{name} was killed (SIGKILL), and its node gives no reason"
        return Failure(kind, "Killed", message, more_memory=more_memory)
    code = "" if pod.exit_code is None else f" (exit code {pod.exit_code})"
    message = f"{name} ended{code}: {pod.message.strip()[-500:] or 'it left no message; see its log'}"
    reason, corrupt = (report.reason, report.corrupt) if report else (pod.reason or "PodFailed", None)
    return Failure(kind, reason, message, corrupt)


def _out_of_memory(pod: PodView, job: JobView) -> str:
    """Which limit a Pod reached. A limit that its Job does not set is the namespace's default (LimitRange)."""
    limit = pod.limits.get("memory")
    if limit is None:
        return "was killed because memory ran out; it has no memory limit, so its node was short"
    if "memory" not in job.limits:
        return f"was killed because it reached its memory limit of {limit}, which is not the run's but the namespace's"
    return f"was killed because it reached its memory limit of {limit}"


def _kind(pod: PodView) -> FailureKind:
    if pod.exit_code == EXIT_PERMANENT and exceeded_own_limit(pod):
        return "permanent"
    if pod.disrupted or pod.evicted is not None or pod.reason in NODE_REASONS:
        return "disruption"
    if pod.reason == "OOMKilled":
        return "out-of-memory"
    if pod.exit_code is None:
        return "transient"
    if pod.exit_code in EXIT_KILLED and (pod.meta.deleting or pod.gone):
        # It was asked to end, and killed because it took longer than its grace period.
        return "disruption"
    return failure_kind(pod.exit_code)


def _report(pod: PodView) -> Report | None:
    try:
        return Report.stored(pod.message)
    except ValidationError:
        return None
