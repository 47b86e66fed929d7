"""Builds the Job object of an attempt. Pure; golden files test it.

The StageSpec is an annotation of the Pod template, which the downward API serves as a file. One call thus creates a Job
with its spec, and neither can change without the other.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from evolution_jobs.contract.errors import EXIT_PERMANENT, EXIT_TERMINATED
from evolution_jobs.contract.stage import RankLayout, RunRef, Shard
from evolution_jobs.contract.variables import MASTER_ADDRESS_VARIABLE, MASTER_PORT_VARIABLE

from ...api.spec import EvolutionRunSpec
from ...planner.actions import Start
from .. import labels
from ..settings import Settings
from .pods import Object, pod_template, template_digest
from .service import owner_reference, service_name

MASTER_PORT = 29500
"""torch's own default."""
NAME_LENGTH = 53
"""Longest Job name: with a shard's index and the Pod's random suffix it is still a DNS label of 63 characters."""


def job_name(owner: RunRef, kind: str, iteration: int | None, stage: str, key: str, number: int) -> str:
    """`<run>-<iteration>-<kind>-<digest8>`: the same for the same attempt, so creating it twice is harmless."""
    identity = "/".join((owner.uid, stage, key, str(number)))
    tail = f"-{iteration or 0}-{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return owner.name[: NAME_LENGTH - len(tail)].rstrip("-") + tail


def build_job(owner: RunRef, spec: EvolutionRunSpec, start: Start, settings: Settings) -> Object:
    """The Job of an attempt. With several shards or nodes it is Indexed, with one index for each.

    The planner retries, not the Job controller. Pods that were evicted or asked to end (exit code 143) are replaced
    and not counted. Only if a node that trains with others is disrupted the Job fails: the others have lost it and must
    begin again with it, from the checkpoint.
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
    layout = stage.ranks
    pods = start.shards * layout.nodes
    indexed = {"completionMode": "Indexed"} if pods > 1 else {}
    queue = {labels.QUEUE: spec.queue_name} if spec.queue_name else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**tags, **queue},
            "annotations": {labels.KEY: stage.key, labels.TEMPLATE: template_digest(template, layout)},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "parallelism": pods,
            "completions": pods,
            **indexed,
            "suspend": spec.queue_name is not None,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": failure_rules("Count" if layout.nodes > 1 else "Ignore")},
            "template": {"metadata": metadata, "spec": _meeting(template["spec"], owner, name, layout)},
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


def failure_rules(disruption: Literal["Ignore", "Count"] = "Ignore") -> list[Object]:
    """How a Pod's end counts: a disruption as given, SIGTERM not at all, a permanent error fails the Job."""

    def on_exit(action: str, code: int) -> Object:
        return {
            "action": action,
            "onExitCodes": {"containerName": labels.CONTAINER, "operator": "In", "values": [code]},
        }

    return [
        {"action": disruption, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("Ignore", EXIT_TERMINATED),
        on_exit("FailJob", EXIT_PERMANENT),
    ]


def _meeting(pod: Object, owner: RunRef, job: str, layout: RankLayout) -> Object:
    """The Pod, with the name by which the nodes find the first one if there are several."""
    if layout.nodes == 1:
        return pod
    # An Indexed Job names its Pods' hosts after itself and the index.
    found = {MASTER_ADDRESS_VARIABLE: f"{job}-0.{service_name(owner)}", MASTER_PORT_VARIABLE: str(MASTER_PORT)}
    variables = [{"name": name, "value": value} for name, value in found.items()]
    (container,) = pod["containers"]
    given = [each for each in container["env"] if each["name"] not in found]
    return {**pod, "subdomain": service_name(owner), "containers": [{**container, "env": [*given, *variables]}]}
