"""Faults in real Pods: each run ends Complete with intact artifacts, and repeats only the work that was lost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from hack.cluster.node import Node
from tests.api.harness import Runs, condition, stage, wait_for
from tests.cluster.harness import (
    NAMESPACE,
    RUN_PATIENCE,
    SECRET,
    STAGE_PATIENCE,
    Bucket,
    Cluster,
    delete_operator,
    evict,
    example_run,
    kill_container,
    read_manifests,
    scale_minio,
)

pytestmark = pytest.mark.timeout(3600)
OUTAGE_SECONDS = 60.0
KILLED = ("sft", "reflect-2")
"""Stages with a process that SIGKILL ends, as when memory runs out."""


def progress(runs: Runs, pod: client.V1Pod) -> list[int]:
    """Rows or steps done, as the Pod has reported so far."""
    text = runs.core.read_namespaced_pod_log(pod.metadata.name, pod.metadata.namespace)
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line["progress"]["done"] for line in lines if "progress" in line]


def pod_at(runs: Runs, stage_id: str, done: int, attempt: int = 1) -> client.V1Pod:
    """A stage's Pod, once it has reported that so many rows or steps are done."""
    pod = wait_for(lambda: _pod(runs, stage_id, attempt), bool, f"Pod of {stage_id}", STAGE_PATIENCE)
    wait_for(
        lambda: progress(runs, pod)[-1:], lambda last: last and last[0] >= done, f"{stage_id} at {done}", STAGE_PATIENCE
    )
    return pod


def _pod(runs: Runs, stage_id: str, attempt: int) -> client.V1Pod | None:
    selector = f"evolution.run/stage={stage_id},evolution.run/attempt={attempt}"
    found = runs.core.list_namespaced_pod(runs.namespace, label_selector=selector).items
    return next((p for p in found if p.status.phase == "Running" and not p.metadata.deletion_timestamp), None)


def test_a_run_survives_every_fault(release: Cluster, node: Node, elsewhere: Runs, bucket: Bucket) -> None:
    runs = elsewhere
    runs.apply(example_run("gauntlet", runs.namespace, seed=1))

    runs.pod("prepare")
    delete_operator(release)

    killed = pod_at(runs, "sft", done=2)
    saved = progress(runs, killed)[-1] - 1
    kill_container(killed)
    delete_operator(release)
    again = pod_at(runs, "sft", done=saved, attempt=2)
    assert progress(runs, again)[0] >= saved, "training resumes from its checkpoint"

    pod_at(runs, "generate-1", done=0)
    scale_minio(release, 0)
    scale_minio(release, 1)
    delete_operator(release)

    pod_at(runs, "reflect-1", done=0)
    scale_minio(release, 0)
    time.sleep(OUTAGE_SECONDS)  # the fault itself: a minute without storage
    scale_minio(release, 1)

    evicted = pod_at(runs, "dpo-1", done=1)
    evict(release, evicted)
    delete_operator(release)
    replaced = pod_at(runs, "dpo-1", done=1)
    assert progress(runs, replaced)[0] >= 1, "it saved when it was asked to stop, and resumes from there"

    pod_at(runs, "generate-2", done=0)
    node.control_plane.restart_apiserver()

    rebooted = pod_at(runs, "reflect-2", done=0)
    kill_container(rebooted)
    release.restart_node()
    delete_operator(release)

    pod_at(runs, "dpo-2", done=1)
    node.control_plane.restart_apiserver()
    delete_operator(release)

    run = runs.wait("gauntlet", lambda found: found.get("status", {}).get("finishedAt"), "end", RUN_PATIENCE)
    assert run["status"]["phase"] == "Complete", json.dumps(run["status"]["conditions"], indent=1)
    with bucket.store() as store:
        manifests = read_manifests(store, run)
    failures = {each["id"]: each.get("failures", 0) for each in run["status"]["stages"] if each["id"] not in KILLED}
    assert set(failures.values()) == {0}, "neither an outage of storage nor an eviction is a failure"
    assert {name: stage(run, name)["failures"] for name in KILLED} == dict.fromkeys(KILLED, 1)
    assert stage(run, "dpo-1")["attempts"] == 1, "the Job of an evicted Pod replaces it"
    assert stage(run, "prepare")["attempts"] == 1, "a killed operator costs no attempt"
    assert all(manifest.counts.get("rows.corruptChunks", 0) == 0 for manifest in manifests.values())
    assert all(manifest.counts.get("checkpoints.corrupt", 0) == 0 for manifest in manifests.values())
    attempts = {
        (job.metadata.labels["evolution.run/stage"], job.metadata.labels["evolution.run/attempt"])
        for job in runs.jobs()
    }
    assert len(attempts) == len(runs.jobs()), "no attempt was started twice"


def test_a_wrong_secret_is_named_and_the_run_finishes_with_the_right_one(
    release: Cluster, elsewhere: Runs, bucket: Bucket
) -> None:
    runs = elsewhere
    wrong = {"stringData": {"AWS_SECRET_ACCESS_KEY": "not-the-key"}}
    runs.core.patch_namespaced_secret(SECRET, runs.namespace, wrong)
    runs.apply(example_run("denied", runs.namespace, iterations=0))
    run = runs.wait_phase("denied", "Failed", timeout=STAGE_PATIENCE)
    failed = condition(run, "Failed")
    assert "credentials" in failed["message"].lower()
    assert "not-the-key" not in json.dumps(run["status"]), "no secret in the status"

    runs.core.patch_namespaced_secret(SECRET, runs.namespace, {"stringData": bucket.keys})
    release.evolution("retry", "denied", "--namespace", runs.namespace)
    runs.wait_phase("denied", "Complete", timeout=STAGE_PATIENCE)


def test_a_stage_killed_for_memory_says_what_to_raise(release: Cluster, node: Node, elsewhere: Runs) -> None:
    runs = elsewhere
    sft = {
        "learningRate": 3.0e-4,
        "pod": {"resources": {"requests": {"memory": "256Mi"}, "limits": {"memory": "600Mi"}}},
    }
    runs.apply(example_run("hungry", runs.namespace, iterations=0, sft=sft, retry={"maxAttempts": 1}))
    run = runs.wait_phase("hungry", "Failed", timeout=STAGE_PATIENCE)
    assert stage(run, "sft")["reason"] == "OOMKilled"
    assert "memory" in condition(run, "Failed")["message"]

    enough = {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "3Gi"}}}
    runs.patch("hungry", {"spec": {"sft": {"pod": enough}}})
    release.evolution("retry", "hungry", "--namespace", runs.namespace)
    runs.wait_phase("hungry", "Complete", timeout=STAGE_PATIENCE)


def test_a_missing_image_is_named_within_a_minute(release: Cluster, elsewhere: Runs) -> None:
    runs = elsewhere
    image = "localhost/evolution-operator/absent:1"
    runs.apply(example_run("absent", runs.namespace, iterations=0, prepare={"pod": {"image": image}}))

    def names_the_image(run: dict[str, Any]) -> bool:
        return any(
            "ImagePullBackOff" in each["reason"] + each.get("message", "") and image in each.get("message", "")
            for each in run.get("status", {}).get("conditions", [])
        )

    runs.wait("absent", names_the_image, "a condition names the image", timeout=60)
    runs.patch("absent", {"spec": {"prepare": {"pod": {"image": None}}}})
    runs.wait_phase("absent", "Complete", timeout=STAGE_PATIENCE)


def test_a_full_bucket_is_named_and_the_run_continues_once_there_is_room(
    release: Cluster, minio_disk: Path | None, elsewhere: Runs, bucket: Bucket
) -> None:
    if minio_disk is None:
        pytest.skip("fills the disk under MinIO, on this host")
    runs = elsewhere
    free = os.statvfs(minio_disk)
    ballast = minio_disk / ".ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (free.f_bavail - 64) * free.f_frsize)
    try:
        runs.apply(example_run("full", runs.namespace, iterations=0, sft={"learningRate": 5.0e-4}))
        run = runs.wait(
            "full",
            lambda found: "full" in str(stage(found, "prepare").get("message", "")).lower(),
            "full",
            STAGE_PATIENCE,
        )
        assert stage(run, "prepare")["reason"] == "StorageFull"
    finally:
        ballast.unlink()
    release.evolution("retry", "full", "--namespace", runs.namespace)
    run = runs.wait_phase("full", "Complete", timeout=STAGE_PATIENCE)
    with bucket.store() as store:
        read_manifests(store, run)


def test_no_container_of_the_chart_was_restarted(release: Cluster) -> None:
    pods = release.core.list_namespaced_pod(NAMESPACE).items
    restarted = [pod.metadata.name for pod in pods if any(s.restart_count for s in pod.status.container_statuses or [])]
    assert restarted == [], "no container of the chart was restarted by its probes"
