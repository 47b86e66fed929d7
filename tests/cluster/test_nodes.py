"""Two Pods that train together: they meet, one is killed, and the attempt on both goes on from the checkpoint.

They read the model from a cache that prewarm has filled.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes import client

from hack.cluster.node import Node
from tests.api.harness import Runs, stage, wait_for
from tests.cluster.harness import (
    RUN_PATIENCE,
    STAGE_PATIENCE,
    Bucket,
    Cluster,
    example_run,
    kill_container,
    read_manifests,
)

pytestmark = pytest.mark.timeout(3600)
SFT: dict[str, Any] = {
    "nodes": 2,
    "learningRate": 2.5e-4,
    "pod": {"resources": {"requests": {"cpu": "500m", "memory": "1500Mi"}, "limits": {"cpu": 1, "memory": "3Gi"}}},
}


CLAIM = "models"


def claim(runs: Runs) -> None:
    """A claim for the model cache, of the default StorageClass."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
    runs.core.create_namespaced_persistent_volume_claim(runs.namespace, body)


def pods(runs: Runs, attempt: int) -> list[client.V1Pod]:
    """The Pods of sft, by node."""
    selector = f"evolution.run/stage=sft,evolution.run/attempt={attempt}"
    found = runs.core.list_namespaced_pod(runs.namespace, label_selector=selector).items
    return sorted(found, key=lambda pod: pod.metadata.labels["batch.kubernetes.io/job-completion-index"])


def steps(runs: Runs, pod: client.V1Pod) -> list[int]:
    """Steps done, as a Pod has reported so far."""
    text = runs.core.read_namespaced_pod_log(pod.metadata.name, pod.metadata.namespace)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line["progress"]["done"] for line in lines if "progress" in line]


def first_pod_at(runs: Runs, attempt: int, done: int) -> list[client.V1Pod]:
    """Both Pods, once the first has reported so many steps."""
    both = wait_for(
        lambda: pods(runs, attempt),
        lambda found: len(found) == 2 and found[0].status.phase == "Running",
        f"Pods of attempt {attempt}",
        STAGE_PATIENCE,
    )
    wait_for(lambda: steps(runs, both[0])[-1:], lambda last: last and last[0] >= done, f"step {done}", STAGE_PATIENCE)
    return both


def test_two_nodes_train_together_and_survive_the_loss_of_one(
    release: Cluster, node: Node, elsewhere: Runs, bucket: Bucket
) -> None:
    runs = elsewhere
    claim(runs)
    runs.apply(example_run("pair", runs.namespace, iterations=0, sft=SFT, modelCache={"claim": CLAIM}))
    first, second = first_pod_at(runs, attempt=1, done=1)
    assert steps(runs, second) == [], "only the first node reports"
    saved = steps(runs, first)[-1] - 1
    kill_container(second)
    again, _ = first_pod_at(runs, attempt=2, done=max(saved, 1))
    assert steps(runs, again)[0] >= saved, "training resumes from its checkpoint"

    run = runs.wait("pair", lambda found: found.get("status", {}).get("finishedAt"), "end", RUN_PATIENCE)
    assert run["status"]["phase"] == "Complete", json.dumps(run["status"]["conditions"], indent=1)
    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (2, 1)
    with bucket.store() as store:
        manifests = read_manifests(store, run)
    assert manifests["sft"].details["processes"] == 2
    # config.json, tokenizer, weights: SmolLM2-135M in float32.
    assert manifests["prewarm"].counts["bytes"] > 500 << 20
    assert {"pull", "import", "fetch", "load", "work"} == set(manifests["sft"].phases)
    kept = [path for path in node.volumes.directory.glob("*/files/*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) == manifests["prewarm"].counts["bytes"]

    assert len(runs.core.list_namespaced_service(runs.namespace).items) == 1
    release.kubectl("delete", f"--namespace={runs.namespace}", "evolutionrun", "pair", "--timeout=120s")
    wait_for(
        lambda: runs.core.list_namespaced_service(runs.namespace).items, lambda left: not left, "no Service is left"
    )
