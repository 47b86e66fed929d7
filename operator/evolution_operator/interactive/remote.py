"""Runs on the cluster of the current kubeconfig context: apply one, and watch it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evolution_jobs.contract.errors import PermanentError

from ..api.spec import API_VERSION, PLURAL, EvolutionRun
from ..api.status import RunStatus
from ..api.validation import load_run
from ..cli.cluster import fetch, read_status
from ..cli.kube import ApiError, Cluster, explained
from ..cli.named import RUN_FILES, open_results

POLL_SECONDS = 5.0
"""Seconds between two looks at a run."""
MISSES = 60
"""Looks in a row that may find the API server unreachable: five minutes."""
CONFLICT = 409


@dataclass(frozen=True)
class ClusterRun:
    """A run on the cluster."""

    namespace: str
    name: str
    change: Literal["created", "configured", "unchanged"]
    """What `apply` did."""


def apply(run: str | Path | EvolutionRun, *, namespace: str | None = None) -> ClusterRun:
    """Create the run on the cluster, or change it to this spec. It needs the operator there.

    Without `namespace`, it is the one that the run names, or else that of the kubeconfig context. Raises RunFileError on an
    invalid file, and PermanentError (`NoCluster`, `ClusterRefused` with the API server's words, `ClusterUnreachable`).
    """
    run = run if isinstance(run, EvolutionRun) else load_run(Path(run))
    if namespace is None and "namespace" in run.metadata.model_fields_set:
        namespace = run.metadata.namespace
    cluster = Cluster(namespace)
    name, document = run.metadata.name, run.written()
    path = f"/apis/{API_VERSION}/namespaces/{cluster.namespace}/{PLURAL}"
    with explained(
        f"not allowed to create or change EvolutionRuns in namespace {cluster.namespace}",
        f"the cluster has no EvolutionRuns, or no namespace {cluster.namespace}: install the operator, or create the namespace",
    ):
        try:
            cluster.post(path, {**document, "metadata": {"name": name, "namespace": cluster.namespace}})
        except ApiError as error:
            if error.status != CONFLICT:
                raise
        else:
            return ClusterRun(cluster.namespace, name, "created")
        before = cluster.get(f"{path}/{name}")
        after = cluster.patch(f"{path}/{name}", {"spec": merge_patch(before.get("spec"), document["spec"])})
    same = before["metadata"].get("generation") == after["metadata"].get("generation")
    return ClusterRun(cluster.namespace, name, "unchanged" if same else "configured")


def watch(
    run: str | Path | ClusterRun, *, namespace: str | None = None, interval: float = POLL_SECONDS
) -> Iterator[RunStatus]:
    """The status of a run whenever it has changed, until it is Complete or Failed.

    `run` is what `apply` returned, the name of a run on the cluster, or a run file that another process drives on this
    machine, of which only finished stages are seen. `interval` is the time between two looks, in seconds. A cluster that
    does not answer is asked again for five minutes. Raises PermanentError (`NoCluster`, `ClusterRefused`, ...).
    """
    if isinstance(run, ClusterRun):
        namespace, run = run.namespace, run.name
    last, missed = None, 0
    while True:
        try:
            status, missed = _status(str(run), namespace), 0
        except PermanentError as error:
            missed += 1
            if error.reason != "ClusterUnreachable" or missed >= MISSES:
                raise
            status = last
        if status is not None and status != last:
            last = status
            yield status
            if status.phase in ("Complete", "Failed"):
                return
        time.sleep(interval)


def merge_patch(before: Any, after: Any) -> Any:
    """The JSON merge patch (RFC 7386) that makes `after` of `before`: what is gone becomes null."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    changed = {name: merge_patch(before.get(name), value) for name, value in after.items() if before.get(name) != value}
    return {**dict.fromkeys(before.keys() - after.keys()), **changed}


def _status(run: str, namespace: str | None) -> RunStatus | None:
    if run.endswith(RUN_FILES):
        return open_results(run).status
    return read_status(fetch(run, namespace).get("status") or {})
