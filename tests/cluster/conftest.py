"""A node that runs real Pods, the images built and loaded, and the chart installed with MinIO.

The node is this host's own (`make cluster-up`): brought up here where it is not, and taken down again after. Where
EVOLUTION_E2E_KUBECONFIG names a cluster into which `make kind-load` has loaded the images, that one is used instead, and
tests that reach into the node are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.binaries import program
from hack.cluster.node import STATE, Node
from tests.api.harness import Runs
from tests.chart import CHART
from tests.cluster.harness import (
    EXAMPLE,
    NAMESPACE,
    RELEASE,
    ROOT,
    RUN_PATIENCE,
    SECRET,
    Bucket,
    Cluster,
)

KUBECONFIG = os.environ.get("EVOLUTION_E2E_KUBECONFIG")
IMAGES = "localhost/evolution-operator"
DISK_SIZE = "6g"
"""Of the disk under MinIO: in memory, so that a test can fill it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)


def hack(*arguments: str) -> None:
    """`python -m hack.cluster`; what it prints is shown as it comes."""
    subprocess.run([sys.executable, "-m", "hack.cluster", *arguments], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """This host's node, up."""
    if KUBECONFIG:
        pytest.skip("reaches into the node of `make cluster-up`")
    if os.geteuid() != 0:
        pytest.skip("a node needs root: run as root, or on kind (docs/quickstart-kind.md)")
    hack("build", "helm", "kubectl", "minio")
    there = STATE.exists()
    hack("up")
    yield Node(STATE)
    if not there:
        hack("down")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The cluster, with the images loaded."""
    if KUBECONFIG:
        kubectl = shutil.which("kubectl")
        assert kubectl is not None, "no kubectl on PATH"
        return Cluster(Path(KUBECONFIG), kubectl, None)
    node: Node = request.getfixturevalue("node")
    hack("image", "--file=images/operator/Dockerfile", f"--tag={IMAGES}/operator:e2e")
    hack("image", "--file=images/train/Dockerfile", f"--tag={IMAGES}/train:e2e", "--build-arg=WITH_SAMPLE=1")
    hack("load-program", "minio", f"{IMAGES}/minio:e2e")
    return Cluster(node.control_plane.kubeconfig, str(program("kubectl")), node)


@pytest.fixture(scope="session")
def minio_disk(cluster: Cluster) -> Iterator[Path | None]:
    """The directory under MinIO on this host, a disk of its own; None where the cluster provides volumes itself."""
    if cluster.node is None:
        yield None
        return
    disk = cluster.node.state / "minio"
    disk.mkdir(exist_ok=True)
    if not disk.is_mount():
        options = f"size={DISK_SIZE},mode=0770,uid=65532,gid=65532"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "minio", disk], check=True)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "minio"},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(disk)},
        },
    }
    cluster.kubectl("apply", "--filename=-", manifest=volume)
    yield disk
    cluster.kubectl("delete", "persistentvolume", "minio", "--wait=false")
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="session")
def release(cluster: Cluster, minio_disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster with the chart installed, as NOTES.txt and docs/quickstart-kind.md say, and the quickstart's data."""
    cluster.make_namespace(NAMESPACE)
    values: dict[str, object] = {"minio": {"enabled": True}}
    if cluster.node is not None:
        own = {name: {"repository": f"{IMAGES}/{name}", "tag": "e2e"} for name in ("operator", "train", "minio")}
        values = {
            "image": own["operator"],
            "stages": {"image": own["train"]},
            # Its disk lies in memory, and counts as the memory of whoever writes to it.
            "minio": {"enabled": True, "image": own["minio"], "resources": {"limits": {"memory": "8Gi"}}},
        }
    file = tmp_path_factory.mktemp("helm") / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    cluster.helm("upgrade", "--install", RELEASE, str(CHART), f"--values={file}", "--wait", "--timeout=5m")
    cluster.helm("test", RELEASE, "--timeout=3m")
    cluster.python(EXAMPLE / "upload.py")
    yield cluster
    cluster.kubectl("delete", "evolutionruns", "--all", "--all-namespaces", "--timeout=120s")
    cluster.helm("uninstall", RELEASE, "--wait", "--timeout=3m")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=180s")


@pytest.fixture(scope="session")
def bucket(release: Cluster) -> Bucket:
    """What the runs leave."""
    return Bucket(release)


@pytest.fixture(scope="session")
def runs(release: Cluster) -> Runs:
    """EvolutionRuns beside the chart."""
    return Runs(release.api, NAMESPACE)


@pytest.fixture(scope="session")
def finished(release: Cluster, runs: Runs) -> dict[str, Any]:
    """The quickstart's run, applied as its users do, once it is Complete."""
    release.kubectl("apply", f"--namespace={NAMESPACE}", f"--filename={EXAMPLE / 'evolutionrun-cluster.yaml'}")
    runs.wait(
        "quickstart", lambda run: run.get("status", {}).get("phase") in ("Complete", "Failed"), "end", RUN_PATIENCE
    )
    return runs.wait_phase("quickstart", "Complete", timeout=5)


@pytest.fixture
def elsewhere(release: Cluster, bucket: Bucket, finished: dict[str, Any]) -> Iterator[Runs]:
    """EvolutionRuns of a fresh namespace, which has the storage's Secret, too. What the quickstart made is there for them."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    release.make_namespace(name)
    literals = [f"--from-literal={key}={value}" for key, value in bucket.keys.items()]
    release.kubectl("create", f"--namespace={name}", "secret", "generic", SECRET, *literals)
    yield Runs(release.api, name)
    release.kubectl("delete", f"--namespace={name}", "evolutionruns", "--all", "--timeout=120s")
    release.kubectl("delete", "namespace", name, "--wait=false")
