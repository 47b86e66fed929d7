"""Whether a run file is meant for a cluster or for this machine. Pure."""

from __future__ import annotations

from evolution_jobs.contract.stage import BLOCKS

from ...api.spec import EvolutionRun


def meant_for_cluster(run: EvolutionRun) -> bool:
    """Whether a run file says something that only a cluster has: a namespace, Secrets, Pods, volumes, a queue."""
    spec = run.spec
    said = (
        "namespace" in run.metadata.model_fields_set,
        spec.storage.credentials_secret,
        spec.base_model.token_secret,
        spec.base_model.uri.startswith("pvc://"),
        spec.model_cache,
        spec.queue_name,
        any(source.credentials_secret for source in spec.data.data_sets),
        any(pod.model_fields_set for pod in (spec.pod, *(spec.block(kind).pod for kind in BLOCKS if spec.block(kind)))),
    )
    return any(said)
