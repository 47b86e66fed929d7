"""Jobs and Pods as the API server shows them, for tests that need no API server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller import labels
from evolution_operator.controller.jobs.stage_job import build_job
from evolution_operator.controller.settings import Settings
from evolution_operator.planner.actions import Start

OWNER = RunRef(namespace="team", name="support", uid="run-uid")
SETTINGS = Settings(stage_image="train:1", lease_namespace="system", identity="pod")
STARTED = "2026-01-01T00:00:00Z"
ENDED = "2026-01-01T00:01:40Z"


def job_object(
    spec: EvolutionRunSpec,
    start: Start,
    *conditions: str,
    uid: str | None = None,
    version: int = 1,
    succeeded: int = 0,
    suspend: bool | None = None,
    deleting: bool = False,
    reason: str = "",
    message: str = "",
) -> dict[str, Any]:
    """The Job that the operator would create, with conditions that hold."""
    body = build_job(OWNER, spec, start, SETTINGS)
    body["metadata"] |= {"uid": uid or f"uid-of-{body['metadata']['name']}", "resourceVersion": str(version)}
    if deleting:
        body["metadata"]["deletionTimestamp"] = ENDED
    if suspend is not None:
        body["spec"]["suspend"] = suspend
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
    disrupted: bool = False,
    unschedulable: str = "",
    waiting: tuple[str, str] | None = None,
    deleting: bool = False,
) -> dict[str, Any]:
    """A Pod of that Job; `code` is its container's exit code."""
    template = job["spec"]["template"]
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
            "conditions": conditions,
            "containerStatuses": [{"name": "stage", "state": state}],
        },
    }
