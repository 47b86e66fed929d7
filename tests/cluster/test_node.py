"""The node of `make cluster-up`: restricted Pods run, find Services by name, and survive a restart.

Images are the cluster's own static programs, so nothing is downloaded.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.node import Node

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module", autouse=True)
def programs(node: Node) -> None:
    for name in ("kubectl", "pause"):
        node.load_program(name, _image(name))


@pytest.fixture
def namespace(node: Node) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    node.control_plane.kubectl("create", "--filename=-", manifest=manifest)
    yield name
    node.control_plane.kubectl("delete", "namespace", name)


def _image(program: str) -> str:
    return f"localhost/evolution-operator/{program}:test"


def _start(
    node: Node, namespace: str, name: str, program: str, pod: dict[str, Any] | None = None, **container: Any
) -> None:
    spec = {"name": name, "image": _image(program), "securityContext": RESTRICTED, **container}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [spec], **(pod or {})},
    }
    node.control_plane.kubectl("create", f"--namespace={namespace}", "--filename=-", manifest=manifest)


def _wait(node: Node, namespace: str, name: str, condition: str) -> None:
    where = [f"--namespace={namespace}", f"pod/{name}"]
    node.control_plane.kubectl("wait", *where, f"--for={condition}", "--timeout=120s")


def test_a_restricted_pod_reaches_a_service_by_name_and_its_log_is_read(node: Node, namespace: str) -> None:
    # kubectl reads the API server's name from here, so its call needs DNS and the Service address.
    by_name = [{"name": "KUBERNETES_SERVICE_HOST", "value": "kubernetes.default.svc"}]
    _start(node, namespace, "asks", "kubectl", args=["get", "--raw=/readyz"], env=by_name)
    _wait(node, namespace, "asks", "jsonpath={.status.phase}=Succeeded")
    assert node.control_plane.kubectl("logs", f"--namespace={namespace}", "asks") == "ok"


def test_a_pod_keeps_running_while_kubelet_and_runtime_restart(node: Node, namespace: str) -> None:
    started = ["get", f"--namespace={namespace}", "pod/stays"]
    started.append("--output=jsonpath={.status.containerStatuses[0].state.running.startedAt}")
    _start(node, namespace, "stays", "pause")
    _wait(node, namespace, "stays", "condition=Ready")
    before = node.control_plane.kubectl(*started)

    command = [sys.executable, "-m", "hack.cluster", "restart", "containerd", "kubelet"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)

    _start(node, namespace, "comes", "pause")  # the restarted kubelet runs Pods
    _wait(node, namespace, "comes", "condition=Ready")
    assert node.control_plane.kubectl(*started) == before != ""


def test_a_claim_gets_a_volume_and_the_next_up_makes_it_available_again(node: Node, namespace: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    node.control_plane.kubectl("create", f"--namespace={namespace}", "--filename=-", manifest=claim)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    pod = {"securityContext": {"fsGroup": 4711}, "volumes": [volume]}
    _start(node, namespace, "keeps", "pause", pod, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    _wait(node, namespace, "keeps", "condition=Ready")
    get = ["get", f"--namespace={namespace}", "persistentvolumeclaim/data", "--output=jsonpath={.spec.volumeName}"]
    name = node.control_plane.kubectl(*get)
    folder = node.volumes.folder(name)
    assert folder.stat().st_gid == 4711, "a Pod's fsGroup may write to it"
    (folder / "old").mkdir()
    node.control_plane.kubectl("delete", f"--namespace={namespace}", "pod/keeps", "persistentvolumeclaim/data")
    node.control_plane.kubectl("wait", f"persistentvolume/{name}", "--for=jsonpath={.status.phase}=Released")

    subprocess.run([sys.executable, "-m", "hack.cluster", "up"], cwd=Path(__file__).parents[2], check=True)

    node.control_plane.kubectl("wait", f"persistentvolume/{name}", "--for=jsonpath={.status.phase}=Available")
    assert list(folder.iterdir()) == []


def test_a_second_up_changes_nothing(node: Node) -> None:
    before = {process.name: process.pid for process in node.processes}
    assert None not in before.values()
    subprocess.run([sys.executable, "-m", "hack.cluster", "up"], cwd=Path(__file__).parents[2], check=True)
    assert {process.name: process.pid for process in node.processes} == before
