"""What a user does with a run, and how the operator responds."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from evolution_operator.api.spec import RETRY_ANNOTATION
from evolution_operator.controller import labels
from kubernetes import client

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from tests.api.harness import (
    STAYS,
    Kubelet,
    OperatorProcess,
    Outcome,
    Runs,
    Script,
    audit,
    condition,
    end,
    report,
    stage,
    wait_for,
)


def test_a_run_completes(runs: Runs, script: Script, control_plane: ControlPlane) -> None:
    runs.create("whole", iterations=1, generation={"shards": 3})
    run = runs.wait_phase("whole", "Complete")

    status = run["status"]
    assert status["progress"] == "7/7"
    assert {s["state"] for s in status["stages"]} == {"Succeeded"}
    assert [(m["iteration"], m["figures"]) for m in status["metrics"]] == [
        (0, {"distinct2": 0.5}),
        (1, {"distinct2": 0.6}),
    ]
    assert status["champion"] == 1
    assert stage(run, "generate-1")["shards"] == "3/3"
    assert condition(run, "Complete")["status"] == "True"
    order = [name for place, name, _ in script.seen if place == runs.namespace]
    assert order[:2] == ["prepare", "sft"]
    assert order.index("generate-1") < order.index("reflect-1") < order.index("dpo-1") < order.index("evaluate-1")
    events = runs.events("whole", "Complete")
    assert Counter(event.reason for event in events) == {"Started": 1, "StageSucceeded": 7, "Complete": 1}
    started = [name for event in events for name in event.message.partition("; started: ")[2].split(", ") if name]
    assert sorted(started) == sorted(s["id"] for s in status["stages"])
    created = [
        call for call in audit(control_plane, runs.namespace) if (call.verb, call.resource) == ("create", "jobs")
    ]
    assert len(created) == 7


def test_a_permanent_failure_ends_the_run_with_the_stages_own_message(runs: Runs, script: Script) -> None:
    failure = {"reason": "DataInvalid", "message": "data.seed[0]: record 3 has no turns"}
    script.will(runs.namespace, "sft", Outcome(65, failure))
    runs.create("bad")
    run = runs.wait_phase("bad", "Failed")

    failed = condition(run, "Failed")
    assert (failed["reason"], failed["message"]) == (
        "StageFailed",
        "stage sft: DataInvalid: data.seed[0]: record 3 has no turns",
    )
    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (1, 1)
    warnings = [(e.reason, e.message) for e in runs.events("bad", "Failed") if e.type == "Warning"]
    assert warnings[0] == ("StageFailed", "sft: DataInvalid: data.seed[0]: record 3 has no turns")
    assert [reason for reason, _ in warnings] == ["StageFailed", "Failed"]
    assert len(runs.jobs()) == 2


def test_a_transient_failure_is_retried(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", Outcome(75, {"reason": "StorageUnreachable", "message": "s3 is down"}))
    runs.create("again")
    run = runs.wait_phase("again", "Complete")

    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (2, 1)
    (retried,) = [event for event in runs.events("again", "Complete") if event.reason == "StageRetrying"]
    assert retried.message == "sft: StorageUnreachable: s3 is down"


def test_a_run_out_of_retries_continues_after_a_retry_request(runs: Runs, script: Script) -> None:
    lost = Outcome(75, {"reason": "StorageUnreachable", "message": "s3 is down"})
    script.will(runs.namespace, "sft", lost, lost)
    runs.create("tried")
    run = runs.wait_phase("tried", "Failed")
    assert condition(run, "Failed")["reason"] == "RetriesExhausted"
    assert stage(run, "sft")["failures"] == 2

    runs.patch("tried", {"metadata": {"annotations": {RETRY_ANNOTATION: "once more"}}})
    run = runs.wait_phase("tried", "Complete")
    assert (stage(run, "sft")["attempts"], run["status"]["retried"]) == (3, "once more")


def test_an_unexplained_kill_is_reported_with_advice_about_memory(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", Outcome(137, {}), Outcome(137, {}))
    runs.create("big")
    run = runs.wait_phase("big", "Failed")
    assert stage(run, "sft")["reason"] == "Killed"
    assert "set spec.sft.pod.resources.limits.memory" in condition(run, "Failed")["message"]


def test_a_lost_node_of_several_restarts_the_attempt_on_all(runs: Runs, script: Script) -> None:
    core, selector = runs.core, f"{labels.STAGE}=sft"
    script.will(runs.namespace, "sft", STAYS, STAYS)
    uid = runs.create("pair", sft={"nodes": 2})["metadata"]["uid"]
    first, second = wait_for(
        lambda: core.list_namespaced_pod(runs.namespace, label_selector=selector).items,
        lambda pods: [pod.status.phase for pod in pods] == ["Running", "Running"],
        "two Pods run",
    )
    (service,) = core.list_namespaced_service(runs.namespace).items
    assert [owner.uid for owner in service.metadata.owner_references] == [uid]
    assert {first.spec.subdomain, second.spec.subdomain} == {service.metadata.name}
    addresses = {each.value for p in (first, second) for each in p.spec.containers[0].env if each.name == "MASTER_ADDR"}
    job = runs.job("sft").metadata.name
    assert addresses == {f"{job}-0.{service.metadata.name}"}
    assert {p.spec.hostname for p in (first, second)} == {f"{job}-0", f"{job}-1"}

    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=second.metadata.name, namespace=runs.namespace))
    core.create_namespaced_pod_eviction(second.metadata.name, runs.namespace, eviction)
    run = runs.wait_phase("pair", "Complete")
    assert (stage(run, "sft")["attempts"], stage(run, "sft").get("failures", 0)) == (2, 0)
    assert "shards" not in stage(run, "sft")


def test_the_model_cache_is_filled_on_each_node_before_training(runs: Runs, script: Script, kwok: Kwok) -> None:
    script.will(runs.namespace, "prewarm", STAYS, STAYS)
    with kwok.joined("second"):
        runs.create("warm", iterations=0, modelCache={"hostPath": "/var/lib/models", "nodes": 2})
        pods = wait_for(
            lambda: runs.core.list_namespaced_pod(runs.namespace, label_selector=f"{labels.STAGE}=prewarm").items,
            lambda found: [pod.status.phase for pod in found] == ["Running", "Running"],
            "two Pods fill the cache",
        )
        assert {pod.spec.node_name for pod in pods} == {"second", *kwok.nodes}
        assert {job.metadata.labels[labels.STAGE] for job in runs.jobs()} == {"prepare", "prewarm"}, "sft waits"
        for pod in pods:
            end(runs.core, runs.namespace, pod.metadata.name, "prewarm", Outcome())
        run = runs.wait_phase("warm", "Complete")
        assert stage(run, "prewarm")["shards"] == "2/2"
        (volume,) = [volume for volume in runs.job("sft").spec.template.spec.volumes if volume.host_path]
        assert volume.host_path.path == "/var/lib/models"


def test_an_evicted_pod_is_replaced_and_no_failure_is_counted(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS, STAYS)
    runs.create("moved")
    first = runs.pod("sft")
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=first.metadata.name, namespace=runs.namespace))
    runs.core.create_namespaced_pod_eviction(first.metadata.name, runs.namespace, eviction)
    second = wait_for(lambda: runs.pod("sft"), lambda pod: pod.metadata.uid != first.metadata.uid, "another Pod")
    end(runs.core, runs.namespace, second.metadata.name, "sft", Outcome())

    run = runs.wait_phase("moved", "Complete")
    assert (stage(run, "sft")["attempts"], stage(run, "sft")["failures"]) == (1, 0)
    assert len([job for job in runs.jobs() if job.metadata.labels[labels.STAGE] == "sft"]) == 1


def test_a_suspended_run_stops_and_resumes_in_the_same_job(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("paused")
    pod, job = runs.pod("sft"), runs.job("sft")
    runs.patch("paused", {"spec": {"suspend": True}})
    run = runs.wait("paused", lambda run: stage(run, "sft").get("state") == "Suspended", "sft is suspended")
    assert run["status"]["phase"] == "Suspended"
    assert condition(run, "Suspended")["status"] == "True"
    remaining = runs.core.list_namespaced_pod(runs.namespace, label_selector=f"{labels.STAGE}=sft").items
    assert pod.metadata.uid not in {p.metadata.uid for p in remaining if p.status.phase == "Running"}

    runs.patch("paused", {"spec": {"suspend": False}})
    runs.wait_phase("paused", "Complete")
    assert runs.job("sft").metadata.uid == job.metadata.uid
    assert {"Suspended", "Resumed"} <= {event.reason for event in runs.events("paused", "Complete")}


def test_rounds_may_be_added_to_a_finished_run(runs: Runs, script: Script) -> None:
    runs.create("more")
    runs.wait_phase("more", "Complete")
    before = {job.metadata.uid for job in runs.jobs()}
    runs.patch("more", {"spec": {"iterations": 1}})
    run = runs.wait_phase("more", "Complete")
    assert run["status"]["progress"] == "7/7"
    made = {job.metadata.labels[labels.STAGE] for job in runs.jobs() if job.metadata.uid not in before}
    assert made == {"generate-1", "reflect-1", "dpo-1", "evaluate-1"}


def test_results_of_an_earlier_run_need_no_job(runs: Runs, script: Script) -> None:
    known = report("prepare", published=["sft", "evaluate-0"], figures={"evaluate-0": {"distinct2": 0.7}})
    script.will(runs.namespace, "prepare", Outcome(0, known))
    runs.create("cached")
    run = runs.wait_phase("cached", "Complete")
    assert stage(run, "sft")["cached"] is True
    assert run["status"]["metrics"] == [{"iteration": 0, "figures": {"distinct2": 0.7}}]
    assert [job.metadata.labels[labels.STAGE] for job in runs.jobs()] == ["prepare"]


def test_evaluation_yields_to_the_next_round(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "evaluate-0", STAYS)
    script.will(runs.namespace, "generate-1", STAYS)
    gpus = {
        "pod": {"resources": {"limits": {"nvidia.com/gpu": 8}}, "annotations": {"kwok.evolution.run/outcome": "run"}}
    }
    script.will(runs.namespace, "sft", STAYS)
    runs.create("busy", iterations=1, evaluation=gpus, generation=gpus)
    # The evaluation gets the node's GPUs first, so the generation's Pod waits for the evaluation's.
    blocker = client.V1Pod(
        metadata=client.V1ObjectMeta(name="blocker", annotations={"kwok.evolution.run/outcome": "run"}),
        spec=client.V1PodSpec(
            containers=[
                client.V1Container(
                    name="c",
                    image="example.invalid/c",
                    resources=client.V1ResourceRequirements(limits={"nvidia.com/gpu": "8"}),
                )
            ]
        ),
    )
    runs.core.create_namespaced_pod(runs.namespace, blocker)
    wait_for(
        lambda: runs.core.read_namespaced_pod("blocker", runs.namespace),
        lambda pod: pod.status.phase == "Running",
        "the GPUs are taken",
    )
    end(runs.core, runs.namespace, runs.pod("sft").metadata.name, "sft", Outcome())
    run = runs.wait("busy", lambda run: stage(run, "evaluate-0").get("state") == "Suspended", "evaluation yields")
    assert stage(run, "generate-1")["reason"] == "Unschedulable"
    assert condition(run, "Progressing")["reason"] == "Unschedulable"

    runs.core.delete_namespaced_pod("blocker", runs.namespace)
    end(runs.core, runs.namespace, runs.pod("generate-1").metadata.name, "generate-1", Outcome())
    end(runs.core, runs.namespace, runs.pod("evaluate-0").metadata.name, "evaluate-0", Outcome())
    run = runs.wait_phase("busy", "Complete")
    assert stage(run, "evaluate-0")["attempts"] == 1


def test_a_deadline_ends_the_run_and_its_jobs(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "prepare", STAYS)
    runs.create("late", activeDeadlineSeconds=3)
    run = runs.wait_phase("late", "Failed")
    assert condition(run, "Failed")["reason"] == "DeadlineExceeded"
    wait_for(runs.jobs, lambda jobs: not jobs, "its Job is gone")


def test_a_finished_run_is_deleted_after_its_time_to_live(runs: Runs, script: Script) -> None:
    runs.create("brief", ttlSecondsAfterFinished=1)
    runs.wait_gone("brief")
    wait_for(runs.jobs, lambda jobs: not jobs, "its Jobs are gone")


def test_the_jobs_of_a_deleted_run_are_deleted(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "sft", STAYS)
    runs.create("gone")
    runs.pod("sft")
    assert "finalizers" not in runs.get("gone")["metadata"]
    runs.delete("gone")
    runs.wait_gone("gone")
    wait_for(runs.jobs, lambda jobs: not jobs, "its Jobs are gone")


@pytest.mark.parametrize(
    ("pod", "field"),
    [
        ({"volumes": [{"name": "NOT-A-NAME", "emptyDir": {}}]}, 'spec.pod.volumes["NOT-A-NAME"].name'),
        (
            {"volumes": [{"name": "cache", "emptyDir": {"sizelimit": "1Gi"}}]},
            'unknown field "spec.pod.volumes["cache"].emptyDir.sizelimit"',
        ),
        ({"volumeMounts": [{"name": "cahce", "mountPath": "/cache"}]}, 'spec.pod.volumeMounts["cahce"].name'),
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
            "spec.pod.resources.requests",
        ),
    ],
)
def test_a_spec_that_makes_an_invalid_pod_fails_once_and_names_its_field(
    runs: Runs, script: Script, pod: dict[str, Any], field: str
) -> None:
    runs.create("odd", pod=pod)
    run = runs.wait_phase("odd", "Failed")
    message = condition(run, "Failed")["message"]
    assert "PodInvalid" in message
    assert field in message
    assert (stage(run, "prepare")["failures"], runs.jobs()) == (1, [])


def test_kueue_admits_and_the_operator_does_not_interfere(runs: Runs, script: Script) -> None:
    script.will(runs.namespace, "prepare", STAYS)
    runs.create("queued", queueName="gpus")
    run = runs.wait("queued", lambda run: stage(run, "prepare").get("state") == "Queued", "prepare waits for Kueue")
    assert stage(run, "prepare")["reason"] == "AwaitingAdmission"
    job = runs.job("prepare")
    assert job.metadata.labels[labels.QUEUE] == "gpus"
    assert job.spec.suspend is True

    runs.batch.patch_namespaced_job(job.metadata.name, runs.namespace, {"spec": {"suspend": False}})
    runs.wait("queued", lambda run: stage(run, "prepare").get("state") == "Running", "prepare runs")
    runs.patch("queued", {"spec": {"suspend": True}})
    wait_for(runs.jobs, lambda jobs: not jobs, "the Job leaves the queue")
    runs.patch("queued", {"spec": {"suspend": False}})
    again = runs.job("prepare")
    assert again.metadata.name == job.metadata.name
    assert again.spec.suspend is True


def test_a_finished_run_costs_nothing(runs: Runs, script: Script, control_plane: ControlPlane) -> None:
    runs.create("still")
    runs.wait_phase("still", "Complete")
    runs.events("still", "Complete")
    before = len(audit(control_plane, runs.namespace))
    # Each of these starts a pass over the run, and nothing about it has changed.
    for job in runs.jobs():
        runs.batch.patch_namespaced_job(job.metadata.name, runs.namespace, {"metadata": {"labels": {"poked": "1"}}})
    runs.patch("still", {"metadata": {"labels": {"poked": "1"}}})
    # A second run passes through the same queue after it.
    runs.create("next")
    runs.wait_phase("next", "Complete")
    after = audit(control_plane, runs.namespace)[before:]
    assert [call for call in after if call.name.startswith("still")] == []


def test_users_see_the_run_in_kubectl_metrics_and_logs(
    runs: Runs, script: Script, control_plane: ControlPlane, operator: OperatorProcess
) -> None:
    runs.create("shown")
    runs.wait_phase("shown", "Complete")
    runs.events("shown", "Complete")
    table = control_plane.kubectl("get", "evo", "--namespace", runs.namespace, "--output=wide")
    header, row = (line.split() for line in table.splitlines())
    assert header == ["NAME", "PHASE", "REASON", "STAGE", "PROGRESS", "CHAMPION", "AGE"]
    assert (row[0], row[1], row[2], row[3]) == ("shown", "Complete", "3/3", "0")
    described = control_plane.kubectl("describe", "evo", "shown", "--namespace", runs.namespace)
    assert "StageSucceeded" in described
    assert "AllStagesSucceeded" in described

    assert operator.get("/healthz") == "ok\n"
    metrics = operator.get("/metrics")
    assert 'evolution_stage_seconds_count{stage="prepare"}' in metrics
    assert "evolution_reconcile_seconds_bucket" in metrics
    assert "evolution_leader 1.0" in metrics
    lines = [line for line in operator.lines() if line.get("run") == f"{runs.namespace}/shown"]
    assert any(line.get("stage") == "sft" for line in lines)


def test_progress_is_shown_while_a_stage_runs(
    runs: Runs, script: Script, control_plane: ControlPlane, kwok: Kwok
) -> None:
    kubelet = Kubelet(control_plane, kwok.nodes[0])
    script.will(runs.namespace, "sft", STAYS)
    runs.create("slow")
    pod = runs.pod("sft").metadata.name
    for done in (10, 30):
        line = {"progress": {"stage": "sft", "shard": 0, "done": done, "total": 120, "unit": "steps"}}
        kubelet.logs[runs.namespace, pod] = f"a line of some library\n{json.dumps(line)}\n"
        run = runs.wait(
            "slow", lambda run, done=done: stage(run, "sft").get("progress", {}).get("done") == done, f"step {done}"
        )
    assert stage(run, "sft")["progress"]["etaSeconds"] > 0
    assert run["status"]["stage"] == "sft 30/120 steps"
    assert "sft 30/120 steps" in control_plane.kubectl("get", "evo", "slow", "--namespace", runs.namespace)
    reads = [call for call in audit(control_plane, runs.namespace) if call.resource == "pods/log"]
    statuses = [call for call in audit(control_plane, runs.namespace) if call.resource == "evolutionruns/status"]
    assert len(reads) < 20
    assert len(statuses) < 20
    end(runs.core, runs.namespace, pod, "sft", Outcome())
    run = runs.wait_phase("slow", "Complete")
    assert "progress" not in stage(run, "sft")
    kubelet.stop()
