"""The chart on a real cluster: Helm, kubectl, the bucket, and the faults that an administrator can cause."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import corrupt_files, read_manifest
from evolution_jobs.store.open import open_store
from kubernetes import client, config

from hack.cluster.node import Node
from tests.api.harness import Runs, wait_for
from tests.support.cluster.chart import helm_program

ROOT = Path(__file__).parents[2]
EVOLUTION = str(Path(sys.executable).with_name("evolution"))
EXAMPLE = ROOT / "examples/quickstart"
RELEASE, NAMESPACE = "evo", "evolution"
FULLNAME = f"{RELEASE}-evolution-operator"
MINIO = f"{FULLNAME}-minio"
SECRET = "evolution-storage"
OPERATOR_PODS = "app.kubernetes.io/name=evolution-operator,app.kubernetes.io/component=operator"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
STAGE_PATIENCE = 600.0
RUN_PATIENCE = 2400.0


class Cluster:
    """A cluster that runs Pods. `node` is that of `make cluster-up`, or None on kind."""

    def __init__(self, kubeconfig: Path, kubectl: str, node: Node | None) -> None:
        self.kubeconfig = kubeconfig
        self.node = node
        self._kubectl = kubectl
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self.api = client.ApiClient(configuration)
        self.core = client.CoreV1Api(self.api)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user's shell: kubectl on PATH, and this cluster as the current one."""
        path = f"{Path(self._kubectl).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """What kubectl prints; `manifest` is its standard input."""
        given = None if manifest is None else json.dumps(manifest)
        return self._call([self._kubectl, *arguments], given)

    def helm(self, *arguments: str) -> str:
        """What Helm prints for the release's namespace."""
        return self._call([helm_program(), f"--namespace={NAMESPACE}", *arguments])

    def evolution(self, *arguments: str) -> str:
        """What `evolution` prints."""
        return self._call([EVOLUTION, *arguments])

    def refusal(self, *arguments: str) -> tuple[int, str]:
        """Exit code of an `evolution` that fails, and all that it prints."""
        done = subprocess.run(
            [EVOLUTION, *arguments], capture_output=True, text=True, env=self.environment, cwd=ROOT, check=False
        )
        return done.returncode, done.stdout + done.stderr

    @contextlib.contextmanager
    def dashboard(self) -> Iterator[str]:
        """The address that `evolution dashboard` prints, while it forwards."""
        command = [EVOLUTION, "dashboard", "--no-open", "--namespace", NAMESPACE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=ROOT) as process:
            try:
                assert process.stdout is not None
                address = re.search(r"http://\S+/", process.stdout.readline())
                assert address is not None
                yield address[0]
            finally:
                process.terminate()

    def make_namespace(self, name: str) -> None:
        """Create a namespace that enforces restricted Pod Security, unless it exists."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        self.kubectl("apply", "--server-side", "--filename=-", manifest=body)

    def restart_node(self) -> None:
        """Stop and start kubelet and container runtime, as a reboot does to what runs under them."""
        assert self.node is not None
        restart = [sys.executable, "-m", "hack.cluster", "restart"]
        subprocess.run([*restart, "containerd", "kubelet"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def _call(self, command: list[str], given: str | None = None) -> str:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, env=self.environment, cwd=ROOT, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout


class Bucket:
    """The chart's MinIO, through a port-forward like a user's."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.keys = credentials(cluster)

    @contextlib.contextmanager
    def store(self, prefix: str = "runs") -> Iterator[Store]:
        """A run's storage, as its stages see it."""
        names = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""} | self.keys
        before = {name: os.environ.get(name) for name in names}
        with self.forwarded() as endpoint:
            os.environ.update(names)
            try:
                yield open_store(Storage(uri=f"s3://{NAMESPACE}/{prefix}", endpoint=endpoint))
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})

    def download(self, location: str, target: Path) -> None:
        """Copy one object of the bucket to a file, without any code of this project."""
        keys = {name.lower(): value for name, value in self.keys.items()}
        with self.forwarded() as endpoint:
            s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=PATH_STYLE, **keys)
            s3.download_file(NAMESPACE, location, str(target))

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[str]:
        """The service's address on this machine, while its port is forwarded."""
        command = ["kubectl", f"--namespace={NAMESPACE}", "port-forward", f"service/{MINIO}", ":9000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._cluster.environment) as process:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found is not None, "kubectl cannot forward to MinIO"
            try:
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()


PATH_STYLE = Config(s3={"addressing_style": "path"})


def credentials(cluster: Cluster) -> dict[str, str]:
    """The chart's storage Secret."""
    data = cluster.core.read_namespaced_secret(SECRET, NAMESPACE).data
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def example_run(name: str, namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    """The quickstart's manifest for clusters under another name, with blocks of its spec merged or replaced."""
    document: dict[str, Any] = yaml.safe_load((EXAMPLE / "evolutionrun-cluster.yaml").read_text())
    document["metadata"] = {"name": name, "namespace": namespace}
    for field, value in spec.items():
        block = document["spec"].get(field)
        document["spec"][field] = {**block, **value} if isinstance(block, dict) else value
    return document


def read_manifests(store: Store, run: dict[str, Any]) -> dict[str, Manifest]:
    """The manifest of every stage of a finished run. Every file exists and matches its digest."""
    manifests = {}
    for stage in run["status"]["stages"]:
        manifest = read_manifest(store, stage["key"])
        assert manifest is not None, f"{stage['id']} has no manifest"
        assert corrupt_files(store, manifest) == []
        manifests[stage["id"]] = manifest
    return manifests


def delete_operator(cluster: Cluster) -> str:
    """Delete the operator's Pod without a grace period, as a lost node does. Returns the name of the deleted Pod."""
    (pod,) = cluster.core.list_namespaced_pod(NAMESPACE, label_selector=OPERATOR_PODS).items
    cluster.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE, grace_period_seconds=0)
    return str(pod.metadata.name)


def kill_container(pod: client.V1Pod) -> None:
    """End a Pod's process by SIGKILL, as nothing inside the Pod can. Only on this host's own node."""
    uid = pod.metadata.uid
    found = [pid for pid in _pids() if uid in _read(pid, "cgroup") and "evolution_jobs" in _read(pid, "cmdline")]
    assert found, f"no process of Pod {pod.metadata.name} on this host"
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def evict(cluster: Cluster, pod: client.V1Pod) -> None:
    """Evict a Pod as a drain does: SIGTERM, and its grace period to save."""
    metadata = client.V1ObjectMeta(name=pod.metadata.name, namespace=pod.metadata.namespace)
    cluster.core.create_namespaced_pod_eviction(
        pod.metadata.name, pod.metadata.namespace, client.V1Eviction(metadata=metadata)
    )


def scale_minio(cluster: Cluster, replicas: int) -> None:
    """Scale MinIO, and wait until it has so many replicas."""
    cluster.kubectl("scale", f"--namespace={NAMESPACE}", f"statefulset/{MINIO}", f"--replicas={replicas}")
    apps = client.AppsV1Api(cluster.api)
    wait_for(
        lambda: apps.read_namespaced_stateful_set(MINIO, NAMESPACE).status,
        lambda status: (status.ready_replicas or 0) == replicas and (status.replicas or 0) == replicas,
        f"{replicas} replicas of MinIO",
    )


def running(runs: Runs, name: str, stage: str) -> dict[str, Any]:
    """The run once a stage of it runs and has reported progress."""
    return runs.wait(
        name,
        lambda run: any(
            each["id"] == stage
            and (each["state"] == "Succeeded" or (each["state"] == "Running" and "progress" in each))
            for each in run.get("status", {}).get("stages", [])
        ),
        f"{name}: {stage} runs",
        STAGE_PATIENCE,
    )


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
