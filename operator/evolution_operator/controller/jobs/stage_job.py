"""Builds the Job object of an attempt. Pure; golden files test it.

The StageSpec is an annotation of the Pod template, which the downward API serves as a file. One call thus creates a Job
with its spec, and neither can change without the other.
"""

from __future__ import annotations

import hashlib
import json

from evolution_jobs.contract.errors import EXIT_PERMANENT, EXIT_TERMINATED
from evolution_jobs.contract.stage import RunRef, Shard

from ...api.spec import API_VERSION, KIND, EvolutionRunSpec
from ...planner.actions import Start
from .. import labels
from ..settings import Settings
from .pods import CONTAINER, Object, pod_template, template_digest

NAME_LENGTH = 53
"""Longest Job name: with a shard's index and the Pod's random suffix it is still a DNS label of 63 characters."""


def job_name(owner: RunRef, kind: str, iteration: int | None, stage: str, key: str, number: int) -> str:
    """`<run>-<iteration>-<kind>-<digest8>`: the same for the same attempt, so creating it twice is harmless."""
    identity = "/".join((owner.uid, stage, key, str(number)))
    tail = f"-{iteration or 0}-{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return owner.name[: NAME_LENGTH - len(tail)].rstrip("-") + tail


def build_job(owner: RunRef, spec: EvolutionRunSpec, start: Start, settings: Settings) -> Object:
    """The Job of an attempt. With several shards it is Indexed, with one index a shard.

    The planner retries, not the Job controller. Pods that were evicted or asked to end (exit code 143) are replaced
    and not counted.
    """
    stage = start.spec
    template = pod_template(spec, stage.kind, settings)
    spec_of_all = stage.model_copy(update={"shard": Shard(index=0, count=start.shards)})
    name = job_name(owner, stage.kind, stage.iteration, stage.stage, stage.key, start.number)
    tags = {
        **common_labels(owner.name, stage.kind),
        labels.STAGE: stage.stage,
        labels.ITERATION: str(stage.iteration or 0),
        labels.ATTEMPT: str(start.number),
    }
    annotations = {labels.SPEC: json.dumps(spec_of_all.wire(), ensure_ascii=False, separators=(",", ":"))}
    metadata = {
        "labels": {**template["metadata"]["labels"], **tags},
        "annotations": {**template["metadata"]["annotations"], **annotations},
    }
    indexed = {"completionMode": "Indexed"} if start.shards > 1 else {}
    queue = {labels.QUEUE: spec.queue_name} if spec.queue_name else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**tags, **queue},
            "annotations": {labels.KEY: stage.key, labels.TEMPLATE: template_digest(template)},
            "ownerReferences": [_owner_reference(owner)],
        },
        "spec": {
            "parallelism": start.shards,
            "completions": start.shards,
            **indexed,
            "suspend": spec.queue_name is not None,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": failure_rules()},
            "template": {**template, "metadata": metadata},
        },
    }


def common_labels(run: str, component: str) -> dict[str, str]:
    """Labels of everything that belongs to a run."""
    return {
        "app.kubernetes.io/name": "evolution-run",
        "app.kubernetes.io/instance": run,
        "app.kubernetes.io/component": component,
        labels.MANAGED_BY: labels.OPERATOR,
        labels.RUN: run,
    }


def failure_rules() -> list[Object]:
    """How a Pod's end counts: a disruption not at all, a permanent error fails the Job."""

    def on_exit(action: str, code: int) -> Object:
        return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [code]}}

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("Ignore", EXIT_TERMINATED),
        on_exit("FailJob", EXIT_PERMANENT),
    ]


def _owner_reference(owner: RunRef) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
