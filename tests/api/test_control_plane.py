"""The control plane that the other tests use: its controllers work, and so do KWOK's Pods."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from hack.cluster.processes import wait_until


def _job(name: str, annotations: dict[str, str] | None = None, **spec: Any) -> client.V1Job:
    container = client.V1Container(name="stage", image="example.invalid/stage")
    pod = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(annotations=annotations),
        spec=client.V1PodSpec(restart_policy="Never", containers=[container]),
    )
    return client.V1Job(
        metadata=client.V1ObjectMeta(name=name), spec=client.V1JobSpec(template=pod, backoff_limit=0, **spec)
    )


def _first(list_method: Callable[..., Any], holds: Callable[[Any], bool], **where: Any) -> Any:
    """The first object, existing or future, for which ``holds`` is true."""
    watcher = watch.Watch()
    for event in watcher.stream(list_method, timeout_seconds=30, **where):
        if event["type"] != "DELETED" and holds(event["object"]):
            watcher.stop()
            return event["object"]
    pytest.fail(f"no such object within 30 s: {where}")


def _ended(job: client.V1Job) -> bool:
    return any(condition.type in ("Complete", "Failed") for condition in job.status.conditions or [])


def _conditions(job: client.V1Job) -> set[str]:
    return {condition.type for condition in job.status.conditions if condition.status == "True"}


def test_a_job_gets_a_pod_and_completes_when_the_pod_succeeds(kube: client.ApiClient, namespace: str) -> None:
    core, batch = client.CoreV1Api(kube), client.BatchV1Api(kube)
    batch.create_namespaced_job(namespace, _job("prepare"))

    pod = _first(core.list_namespaced_pod, lambda _: True, namespace=namespace)
    assert pod.metadata.owner_references[0].name == "prepare"
    core.patch_namespaced_pod_status(pod.metadata.name, namespace, {"status": {"phase": "Succeeded"}})

    job = _first(batch.list_namespaced_job, _ended, namespace=namespace)
    assert "Complete" in _conditions(job)


def test_deleting_an_owner_deletes_its_dependents(kube: client.ApiClient, namespace: str) -> None:
    core, batch = client.CoreV1Api(kube), client.BatchV1Api(kube)
    batch.create_namespaced_job(namespace, _job("sft"))
    _first(core.list_namespaced_pod, lambda _: True, namespace=namespace)

    batch.delete_namespaced_job("sft", namespace, propagation_policy="Background")

    wait_until(lambda: not core.list_namespaced_pod(namespace).items, "the Job's Pods are collected", timeout=30)


@pytest.mark.parametrize(
    ("annotations", "condition", "code"),
    [
        ({}, "Complete", 0),
        ({"kwok.evolution.run/after": "200ms"}, "Complete", 0),
        ({"kwok.evolution.run/outcome": "fail", "kwok.evolution.run/exit-code": "42"}, "Failed", 42),
    ],
)
def test_kwok_ends_a_pod_as_its_annotations_say(
    kube: client.ApiClient,
    namespace: str,
    kwok: Kwok,
    annotations: dict[str, str],
    condition: str,
    code: int,
) -> None:
    core, batch = client.CoreV1Api(kube), client.BatchV1Api(kube)
    annotations["kwok.evolution.run/message"] = 'said "so": {}'
    batch.create_namespaced_job(namespace, _job("dpo", annotations))

    job = _first(batch.list_namespaced_job, _ended, namespace=namespace)

    assert condition in _conditions(job)
    (pod,) = core.list_namespaced_pod(namespace).items
    assert pod.spec.node_name in kwok.nodes
    terminated = pod.status.container_statuses[0].state.terminated
    assert (terminated.exit_code, terminated.message) == (code, 'said "so": {}')


def test_kwok_keeps_a_pod_running_until_its_annotation_changes_and_ends_a_deleted_one(
    kube: client.ApiClient, namespace: str, kwok: Kwok
) -> None:
    core, batch = client.CoreV1Api(kube), client.BatchV1Api(kube)
    for name in ("kept", "deleted"):
        batch.create_namespaced_job(namespace, _job(name, {"kwok.evolution.run/outcome": "run"}))
    pods = {
        name: _first(
            core.list_namespaced_pod,
            lambda pod: pod.status.phase == "Running",
            namespace=namespace,
            label_selector=f"job-name={name}",
        ).metadata.name
        for name in ("kept", "deleted")
    }

    core.delete_namespaced_pod(pods["deleted"], namespace)
    patch = {"metadata": {"annotations": {"kwok.evolution.run/outcome": "succeed"}}}
    core.patch_namespaced_pod(pods["kept"], namespace, patch)

    for name, condition in {"kept": "Complete", "deleted": "Failed"}.items():
        job = _first(batch.list_namespaced_job, _ended, namespace=namespace, field_selector=f"metadata.name={name}")
        assert condition in _conditions(job)


def test_a_client_without_permissions_is_refused_and_audited(control_plane: ControlPlane, namespace: str) -> None:
    user = f"unprivileged-{namespace}"
    kubeconfig = control_plane.kubeconfig_for(user)
    with config.new_client_from_config(str(kubeconfig)) as api, pytest.raises(ApiException) as refusal:
        client.CoreV1Api(api).list_namespaced_pod(namespace)
    assert refusal.value.status == 403

    events = [json.loads(line) for line in control_plane.audit_log.read_text().splitlines()]
    (event,) = [event for event in events if event["user"]["username"] == user]
    assert (event["verb"], event["objectRef"]["resource"]) == ("list", "pods")
    assert event["responseStatus"]["code"] == 403


def test_the_apiserver_keeps_its_objects_over_a_restart(
    control_plane: ControlPlane, kube: client.ApiClient, namespace: str
) -> None:
    control_plane.stop_apiserver()
    with pytest.raises(Exception, match="Connection refused"):
        client.CoreV1Api(kube).read_namespace(namespace)
    control_plane.start_apiserver()
    assert client.CoreV1Api(kube).read_namespace(namespace).status.phase == "Active"


def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from hack.cluster.processes import Process, environment;"
        "process = Process('child', pathlib.Path(sys.argv[1]), tied=True);"
        "process.start(['sleep', '300'], environment()); print(process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.communicate()
    wait_until(lambda: not _running(child), "the child ends with its parent", timeout=30)


def _running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
