"""The Job that deletes the artifacts of a deleted run. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from evolution_jobs.contract.cleanup import CleanupSpec
from evolution_jobs.contract.stage import RunRef

from ...api.pod import SPEC_DIRECTORY
from ...api.spec import EvolutionRunSpec
from .. import labels
from ..settings import Settings
from .pods import (
    Object,
    container_basics,
    credentials_env,
    merged,
    pod_basics,
    present,
    spec_volume,
    variables,
    volumes_and_mounts,
)
from .stage_job import NAME_LENGTH, common_labels, failure_rules

TTL_SECONDS = 600
RETRIES = 3


def cleanup_name(owner: RunRef) -> str:
    """`<run>-cleanup-<digest8>`."""
    tail = f"-cleanup-{hashlib.sha256(owner.uid.encode()).hexdigest()[:8]}"
    return owner.name[: NAME_LENGTH - len(tail)].rstrip("-") + tail


def build_cleanup_job(owner: RunRef, spec: EvolutionRunSpec, keys: Iterable[str], settings: Settings) -> Object:
    """A Job without an owner: deleting the run in the foreground would delete this Job with its dependents."""
    pod = merged(settings.stage_pod, spec.pod, spec.prepare.pod)
    cleanup = CleanupSpec(
        run=owner,
        storage=spec.storage,
        keys=sorted(set(keys)),
    )
    tags = {**common_labels(owner.name, labels.CLEANUP), labels.STAGE: labels.CLEANUP}
    volumes, mounts = volumes_and_mounts([spec_volume("cleanup.json")], pod)
    container = {
        **container_basics(pod, settings),
        "command": ["python", "-m", "evolution_jobs.cleanup", "--spec", f"{SPEC_DIRECTORY}/cleanup.json"],
        "env": variables(credentials_env(spec.storage, None), pod),
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": cleanup_name(owner), "namespace": owner.namespace, "labels": tags},
        "spec": {
            "backoffLimit": RETRIES,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": failure_rules()},
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {
                "metadata": {
                    "labels": {**(pod.labels or {}), **tags},
                    "annotations": {
                        **(pod.annotations or {}),
                        labels.SPEC: json.dumps(cleanup.wire(), separators=(",", ":")),
                    },
                },
                "spec": {**pod_basics(pod, settings), "containers": [present(container)], "volumes": volumes},
            },
        },
    }
