"""Jobs and Pods as the API server shows them, for tests that need no API server."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from evolution_jobs.contract.stage import RankLayout, RunRef, StageSpec
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller import labels
from evolution_operator.controller.jobs.stage_job import build_job
from evolution_operator.controller.seen.views import JobView, PodView
from evolution_operator.controller.settings import Settings
from evolution_operator.planner.actions import Start

from tests.support.run_document import minimal_spec
from tests.support.stages.least_settings import least_settings

OWNER = RunRef(namespace="team", name="support", uid="run-uid")
SETTINGS = Settings(stage_image="train:1", lease_namespace="system", identity="pod")
KEY = "ab" * 32
"""Key of the stages of `stage_start`."""
STARTED = "2026-01-01T00:00:00Z"
ENDED = "2026-01-01T00:01:40Z"


def stage_start(
    kind: str = "sft",
    iteration: int | None = 0,
    shards: int = 1,
    *,
    run: RunRef = OWNER,
    attempt: str = "a-1",
    ranks: RankLayout | None = None,
) -> Start:
    """The first attempt at a stage of the smallest run; `ranks`: how many processes train it together."""
    stage = kind if kind in ("prepare", "prewarm", "sft") else f"{kind}-{iteration}"
    spec = StageSpec(
        run=run,
        stage=stage,
        kind=kind,  # type: ignore[arg-type]
        iteration=iteration,
        key=KEY,
        attempt=attempt,
        settings=least_settings(kind),
        seed=0,
        storage=EvolutionRunSpec.model_validate(minimal_spec()).storage,
        ranks=ranks or RankLayout(),
    )
    return Start(spec=spec, number=1, shards=shards, critical=kind != "evaluate")


def job_object(
    spec: EvolutionRunSpec,
    start: Start,
    *conditions: str,
    uid: str | None = None,
    version: int = 1,
    succeeded: int = 0,
    suspend: bool | None = None,
    by_us: bool = True,
    deleting: bool = False,
    reason: str = "",
    message: str = "",
) -> dict[str, Any]:
    """The Job that the operator would create, with conditions that hold; `by_us`: the operator has suspended it."""
    body = build_job(OWNER, spec, start, SETTINGS)
    body["metadata"] |= {"uid": uid or f"uid-of-{body['metadata']['name']}", "resourceVersion": str(version)}
    if deleting:
        body["metadata"]["deletionTimestamp"] = ENDED
    if suspend is not None:
        body["spec"]["suspend"] = suspend
        if suspend and by_us:
            body["metadata"]["annotations"][labels.SUSPENDED] = "true"
    body["status"] = {
        "startTime": STARTED,
        "succeeded": succeeded,
        "conditions": [
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": ENDED}
            for kind in conditions
        ],
    }
    return body


def pod_object(
    job: Mapping[str, Any],
    phase: str = "Running",
    *,
    name: str = "pod",
    version: int = 1,
    code: int | None = None,
    reason: str = "",
    message: Mapping[str, Any] | str = "",
    pod_reason: str = "",
    pod_message: str = "",
    beside: Mapping[str, Mapping[str, Any]] | None = None,
    limits: Mapping[str, Any] | None = None,
    disrupted: bool = False,
    unschedulable: str = "",
    waiting: tuple[str, str] | None = None,
    deleting: bool = False,
) -> dict[str, Any]:
    """A Pod of that Job; `code` is its container's exit code.

    `beside` are the states of injected containers by name; `limits` were added by a LimitRange.
    """
    template = copy.deepcopy(job["spec"]["template"])
    if limits:
        own = template["spec"]["containers"][0].setdefault("resources", {}).setdefault("limits", {})
        own |= limits
    conditions = []
    if disrupted:
        conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
    if unschedulable:
        conditions.append(
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable}
        )
    state: dict[str, Any] = {}
    if code is not None:
        text = message if isinstance(message, str) else json.dumps(message)
        state = {
            "terminated": {
                "exitCode": code,
                "reason": reason or ("Completed" if code == 0 else "Error"),
                "message": text,
                "startedAt": STARTED,
                "finishedAt": ENDED,
            }
        }
    elif waiting:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    elif phase == "Running":
        state = {"running": {"startedAt": STARTED}}
    metadata = {
        "name": name,
        "namespace": job["metadata"]["namespace"],
        "uid": f"uid-of-{job['metadata']['uid']}-{name}",
        "resourceVersion": str(version),
        "labels": {**template["metadata"]["labels"], labels.RUN: OWNER.name},
        "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
    }
    if deleting:
        metadata["deletionTimestamp"] = ENDED
    return {
        "metadata": metadata,
        "spec": {**template["spec"], "nodeName": None if unschedulable else "node-1"},
        "status": {
            "phase": phase,
            "reason": pod_reason,
            "message": pod_message,
            "conditions": conditions,
            "containerStatuses": [
                *({"name": name, "state": other} for name, other in (beside or {}).items()),
                {"name": "stage", "state": state},
            ],
        },
    }


def with_pods(job: JobView, pods: Iterable[PodView]) -> JobView:
    """The Job with those of these Pods that it owns, as the cache gives it."""
    return dataclasses.replace(job, pods=tuple(pod for pod in pods if pod.meta.owner == job.meta.uid))
