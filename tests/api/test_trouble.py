"""Trouble around a run: quotas, images, Jobs deleted and edited by hand, and its own deletion."""

from __future__ import annotations

import json
import os
import signal

from evolution_operator.controller import labels
from kubernetes import client

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from tests.api.harness import KWOK, STAYS, Outcome, Runs, Script, condition, end, manifest, report, stage, wait_for


def _quota(runs: Runs, resource: str, amount: int) -> None:
    body = client.V1ResourceQuota(
        metadata=client.V1ObjectMeta(name="tight"), spec=client.V1ResourceQuotaSpec(hard={resource: str(amount)})
    )
    runs.core.create_namespaced_resource_quota(runs.namespace, body)
    wait_for(
        lambda: runs.core.read_namespaced_resource_quota("tight", runs.namespace),
        lambda quota: quota.status.hard,
        "the quota counts",
    )


def test_a_quota_on_jobs_is_named_and_waited_for(runs: Runs, script: Script) -> None:
    _quota(runs, "count/jobs.batch", 0)
    runs.create("poor")
    run = runs.wait("poor", lambda run: stage(run, "prepare").get("reason") == "QuotaExceeded", "the quota is named")
    progressing = condition(run, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "QuotaExceeded")
    assert "exceeded quota: tight" in progressing["message"]
    assert stage(run, "prepare")["state"] == "Queued"

    runs.core.delete_namespaced_resource_quota("tight", runs.namespace)
    run = runs.wait_phase("poor", "Complete")
    assert stage(run, "prepare")["failures"] == 0


def test_a_quota_on_pods_is_named_and_waited_for(runs: Runs, script: Script) -> None:
    _quota(runs, "pods", 0)
    runs.create("podless")
    run = runs.wait("podless", lambda run: stage(run, "prepare").get("reason") == "QuotaExceeded", "the quota is named")
    assert stage(run, "prepare")["message"].startswith("exceeded quota: tight, requested: pods=1")

    runs.core.delete_namespaced_resource_quota("tight", runs.namespace)
    run = runs.wait("podless", lambda run: stage(run, "prepare").get("state") == "Succeeded", "prepare", timeout=90)
    assert stage(run, "prepare")["failures"] == 0


def test_what_keeps_a_pod_from_starting_is_named(runs: Runs, script: Script, control_plane: ControlPlane) -> None:
    runs.create("nowhere", prepare={"pod": {"nodeSelector": {"no": "such-node"}}})
    run = runs.wait("nowhere", lambda run: stage(run, "prepare").get("reason") == "Unschedulable", "no node")
    assert stage(run, "prepare")["state"] == "Queued"
    assert "1 of 1 Pods find no node: 0/1 nodes are available" in condition(run, "Progressing")["message"]
    (head, row) = control_plane.kubectl("get", "evo", f"--namespace={runs.namespace}").splitlines()
    assert head.split() == ["NAME", "PHASE", "REASON", "STAGE", "PROGRESS", "AGE"]
    assert row.split()[:4] == ["nowhere", "Running", "Unschedulable", "prepare"]
    described = control_plane.kubectl("describe", "evo", "nowhere", f"--namespace={runs.namespace}").splitlines()
    status = described[described.index("Status:") :]
    assert [line for line in status if line.endswith(":") and line.split(":")[0].strip() == "Message"] == []

    pod = runs.pod("prepare", phase="Pending")
    for reason, message, expected in (
        (
            "ErrImagePull",
            'failed to pull image "example.invalid/train:1": not found',
            "image example.invalid/train:1 cannot be pulled: check its name, and spec.pod.imagePullSecrets",
        ),
        ("CreateContainerConfigError", 'secret "s3" not found', 'secret "s3" not found: create it, or correct'),
    ):
        waiting = {"waiting": {"reason": reason, "message": message}}
        container = {"name": "stage", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
        runs.core.patch_namespaced_pod_status(
            pod.metadata.name, runs.namespace, {"status": {"containerStatuses": [container]}}
        )
        run = runs.wait(
            "nowhere", lambda run, text=expected: text in stage(run, "prepare").get("message", ""), f"{reason} is named"
        )
    assert {"Unschedulable", "ImagePullBackOff"} <= {
        event.reason for event in runs.events("nowhere", "CreateContainerConfigError")
    }

    # The advice of the message works: no Pod has run, so a new attempt starts with the current spec.
    runs.patch(
        "nowhere", {"spec": {"pod": {"image": "example.invalid/train:2"}, "prepare": {"pod": {"nodeSelector": None}}}}
    )
    run = runs.wait_phase("nowhere", "Complete")
    assert (stage(run, "prepare")["attempts"], stage(run, "prepare")["failures"]) == (2, 0)
    images = {pod.spec.containers[0].image for pod in runs.core.list_namespaced_pod(runs.namespace).items}
    assert images == {"example.invalid/train:2"}


def test_suspended_work_resumes_with_the_resources_in_the_current_spec(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("small")
    runs.pod("sft")
    runs.patch("small", {"spec": {"suspend": True}})
    runs.wait_phase("small", "Suspended")
    more = {"requests": {"cpu": "2", "memory": "8Gi"}}
    runs.patch("small", {"spec": {"suspend": False, "sft": {"pod": {"resources": more}}}})
    run = runs.wait_phase("small", "Complete")
    (container,) = runs.job("sft", attempt=2).spec.template.spec.containers
    assert container.resources.requests == more["requests"]
    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (2, 0)


def test_a_running_attempt_is_not_disturbed_by_new_pod_settings(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("steady")
    pod = runs.pod("sft")
    runs.patch("steady", {"spec": {"pod": {"image": "example.invalid/train:2"}}})
    runs.wait(
        "steady",
        lambda run: run["status"]["observedGeneration"] == run["metadata"]["generation"],
        "the operator has seen it",
    )
    end(runs.core, runs.namespace, pod.metadata.name, "sft", Outcome())
    run = runs.wait_phase("steady", "Complete")
    assert stage(run, "sft")["attempts"] == 1
    assert runs.job("evaluate-0").spec.template.spec.containers[0].image == "example.invalid/train:2"


def test_a_job_deleted_by_hand_is_created_again_once_its_pods_are_gone(runs: Runs, script: Script, kwok: Kwok) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("cut")
    pod, job = runs.pod("sft"), runs.job("sft")
    assert kwok.process.pid is not None
    os.kill(kwok.process.pid, signal.SIGSTOP)  # its node hangs: the Pod stays in deletion
    try:
        runs.batch.delete_namespaced_job(job.metadata.name, runs.namespace, propagation_policy="Background")
        run = runs.wait("cut", lambda run: stage(run, "sft").get("reason") == "Terminating", "the Pod is waited for")
        assert stage(run, "sft")["message"] == f"waits for Pod {pod.metadata.name} of an earlier attempt to end"
        assert [j.metadata.uid for j in runs.jobs() if j.metadata.labels[labels.STAGE] == "sft"] == []
    finally:
        os.kill(kwok.process.pid, signal.SIGCONT)

    run = runs.wait_phase("cut", "Complete")
    again = runs.job("sft")
    assert (again.metadata.name, again.metadata.uid != job.metadata.uid) == (job.metadata.name, True)
    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (1, 0)


def test_a_job_deleted_after_its_end_is_not_created_again(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("tidy")
    runs.pod("sft")
    runs.batch.delete_namespaced_job(runs.job("prepare").metadata.name, runs.namespace, propagation_policy="Background")
    end(runs.core, runs.namespace, runs.pod("sft").metadata.name, "sft", Outcome())
    runs.wait_phase("tidy", "Complete")
    assert {job.metadata.labels[labels.STAGE] for job in runs.jobs()} == {"sft", "evaluate-0"}


def test_pods_that_a_limit_range_refuses_use_up_no_attempt(runs: Runs, script: Script) -> None:
    default = client.V1LimitRangeItem(type="Container", default={"memory": "512Mi"})
    body = client.V1LimitRange(
        metadata=client.V1ObjectMeta(name="defaults"), spec=client.V1LimitRangeSpec(limits=[default])
    )
    runs.core.create_namespaced_limit_range(runs.namespace, body)
    pod = {"annotations": {f"{KWOK}/outcome": "run"}, "resources": {"requests": {"memory": "1Gi"}}}
    runs.create("tight", pod=pod)
    run = runs.wait(
        "tight", lambda run: stage(run, "prepare").get("reason") == "PodsRefused", "prepare's Pods are refused"
    )
    prepare = stage(run, "prepare")
    assert (prepare["state"], prepare["failures"]) == ("Queued", 0)
    assert "must be less than or equal to memory limit of 512Mi" in prepare["message"]
    assert prepare["message"].endswith("set pod.resources.limits, or see the namespace's LimitRange")
    runs.patch("tight", {"spec": {"pod": {"resources": {"limits": {"memory": "2Gi"}}}}})
    runs.wait_phase("tight", "Complete")


def test_a_sidecar_that_keeps_its_pod_does_not_keep_its_run(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("meshed")
    pod = runs.pod("sft")
    moment = "2026-01-01T00:00:00Z"
    ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(report("sft")), "finishedAt": moment}
    states = {"stage": {"terminated": ended}, "proxy": {"running": {"startedAt": moment}}}
    statuses = [
        {"name": name, "state": state, "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        for name, state in states.items()
    ]
    runs.core.patch_namespaced_pod_status(
        pod.metadata.name, runs.namespace, {"status": {"containerStatuses": statuses}}
    )
    run = runs.wait_phase("meshed", "Complete")
    assert "container proxy kept its Pod" in stage(run, "sft")["message"]
    assert stage(run, "sft")["attempts"] == 1
    wait_for(
        lambda: {job.metadata.labels[labels.STAGE] for job in runs.jobs()},
        lambda stages: stages == {"prepare", "evaluate-0"},
        "the Job of sft is gone",
    )


def test_a_job_edited_by_hand_is_repaired(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS, STAYS)
    runs.create("bent")
    runs.pod("sft")
    job = runs.job("sft")
    stripped = {"metadata": {"labels": {labels.RUN: None, labels.ATTEMPT: None}, "annotations": {labels.KEY: None}}}
    runs.batch.patch_namespaced_job(job.metadata.name, runs.namespace, stripped)
    healed = wait_for(
        lambda: runs.batch.read_namespaced_job(job.metadata.name, runs.namespace),
        lambda job: labels.RUN in job.metadata.labels and labels.ATTEMPT in job.metadata.labels,
        "its labels are back",
    )
    assert healed.metadata.uid == job.metadata.uid

    runs.batch.patch_namespaced_job(job.metadata.name, runs.namespace, {"spec": {"suspend": True}})
    wait_for(
        lambda: runs.batch.read_namespaced_job(job.metadata.name, runs.namespace),
        lambda job: not job.spec.suspend,
        "it is resumed",
    )
    end(runs.core, runs.namespace, runs.pod("sft").metadata.name, "sft", Outcome())
    runs.wait_phase("bent", "Complete")
    assert runs.job("sft").metadata.uid == job.metadata.uid


def test_two_runs_of_one_name_do_not_interfere(runs: Runs, script: Script, kube: client.ApiClient) -> None:
    other = Runs(kube, f"{runs.namespace}-b")
    runs.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=other.namespace)))
    script.will(runs.namespace, "sft", Outcome(65, {"reason": "DataInvalid", "message": "no"}))
    runs.create("same")
    other.create("same")
    runs.wait_phase("same", "Failed")
    other.wait_phase("same", "Complete")
    assert not {job.metadata.name for job in runs.jobs()} & {job.metadata.name for job in other.jobs()}
    runs.core.delete_namespace(other.namespace)


def test_a_run_created_again_under_its_name_starts_from_the_beginning(runs: Runs, script: Script) -> None:
    runs.create("twice")
    runs.wait_phase("twice", "Complete")
    before = {job.metadata.uid for job in runs.jobs()}
    runs.delete("twice")
    runs.wait_gone("twice")
    runs.create("twice")
    run = runs.wait_phase("twice", "Complete")
    assert run["status"]["progress"] == "3/3"
    assert len([job for job in runs.jobs() if job.metadata.uid not in before]) == 3


def test_artifacts_are_deleted_if_the_policy_says_so(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    script.will(runs.namespace, labels.CLEANUP, STAYS)
    runs.create("clean", deletionPolicy="Delete")
    runs.pod("sft")
    run = runs.get("clean")
    assert run["metadata"]["finalizers"] == [labels.FINALIZER]
    runs.delete("clean")
    cleanup = wait_for(
        lambda: [job for job in runs.jobs() if job.metadata.labels[labels.STAGE] == labels.CLEANUP], bool, "cleanup"
    )[0]
    assert [job.metadata.name for job in runs.jobs()] == [cleanup.metadata.name], "no stage that could write is left"
    assert cleanup.spec.template.spec.containers[0].command[:3] == ["python", "-m", "evolution_jobs.cleanup"]
    keys = [s["key"] for s in run["status"]["stages"] if "key" in s]
    assert all(key in cleanup.spec.template.metadata.annotations[labels.SPEC] for key in keys)
    assert runs.get("clean")["metadata"]["deletionTimestamp"]

    (pod,) = wait_for(
        lambda: [
            pod
            for pod in runs.core.list_namespaced_pod(
                runs.namespace, label_selector=f"{labels.STAGE}={labels.CLEANUP}"
            ).items
            if pod.status.phase == "Running"
        ],
        bool,
        "the cleanup runs",
    )
    end(runs.core, runs.namespace, pod.metadata.name, labels.CLEANUP, Outcome())
    runs.wait_gone("clean")


def test_a_cleanup_that_fails_can_be_abandoned(runs: Runs, script: Script) -> None:
    broken = Outcome(65, {"reason": "StorageDenied", "message": "no"})
    script.will(runs.namespace, labels.CLEANUP, *[broken] * 8)
    runs.create("stuck", deletionPolicy="Delete", prepare={"pod": {"terminationGracePeriodSeconds": 1}})
    runs.wait_phase("stuck", "Complete")
    runs.delete("stuck")
    (event,) = [event for event in runs.events("stuck", "CleanupFailed") if event.reason == "CleanupFailed"]
    assert "StorageDenied: no" in event.message
    assert "set spec.deletionPolicy to Retain" in event.message
    runs.patch("stuck", {"spec": {"deletionPolicy": "Retain"}})
    runs.wait_gone("stuck")


def test_what_blocks_a_cleanup_is_reported(runs: Runs, script: Script) -> None:
    runs.create("held", deletionPolicy="Delete")
    runs.wait_phase("held", "Complete")
    _quota(runs, "count/jobs.batch", 0)
    runs.delete("held")
    event = next(event for event in runs.events("held", "CleanupFailed") if event.reason == "CleanupFailed")
    assert "exceeded quota: tight" in event.message
    runs.core.delete_namespaced_resource_quota("tight", runs.namespace)
    runs.wait_gone("held")


def test_a_namespace_can_be_deleted_with_all_its_runs(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("inside", deletionPolicy="Delete")
    runs.pod("sft")
    runs.core.delete_namespace(runs.namespace)
    wait_for(
        lambda: [ns.metadata.name for ns in runs.core.list_namespace().items],
        lambda names: runs.namespace not in names,
        "the namespace is gone",
    )
    runs.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=runs.namespace)))


def test_a_spec_that_this_operator_cannot_read_is_reported(
    runs: Runs, script: Script, control_plane: ControlPlane
) -> None:
    """As after a downgrade: the API server's CRD knows more than the operator."""
    definition = f"{'evolutionruns'}.{'evolution.run'}"
    patch = '[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/dpo/properties/beta/maximum", "value": 100}]'
    original = patch.replace("100", "10")
    control_plane.kubectl("patch", "crd", definition, "--type=json", f"--patch={patch}")
    try:
        document = manifest("newer", runs.namespace, dpo={"beta": 50})
        wait_for(lambda: _applies(runs, document), bool, "the API server takes it")
        run = runs.wait_phase("newer", "Failed")
    finally:
        control_plane.kubectl("patch", "crd", definition, "--type=json", f"--patch={original}")
    accepted = condition(run, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"] == "spec.dpo.beta: must be at most 10, not 50"
    assert runs.jobs() == []


def _applies(runs: Runs, document: dict[str, object]) -> bool:
    try:
        runs.apply(document)
    except client.ApiException:
        return False
    return True
