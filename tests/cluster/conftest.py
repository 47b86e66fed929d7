"""A node that runs real Pods, the images built and loaded, and the chart installed with MinIO, by the commands of docs/.

The node is this host's own (`make cluster-up`). If it is not up, it is brought up here and taken down afterwards. If
EVOLUTION_E2E_KUBECONFIG names a cluster into which `make kind-load` has loaded the images, that one is used instead, and
tests that need access to the node are skipped.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.binaries import program
from hack.cluster.node import STATE, Node
from hack.cluster.volumes import NAMES
from tests.api.harness import Runs
from tests.cluster.harness import (
    NAMESPACE,
    RELEASE,
    ROOT,
    RUN_PATIENCE,
    SECRET,
    Bucket,
    Cluster,
)
from tests.support.cluster.chart import CHART
from tests.support.shell import Shell

KUBECONFIG = os.environ.get("EVOLUTION_E2E_KUBECONFIG")
DISK_SIZE = "6g"
"""Size of the disk under MinIO, in memory, for a test that fills it."""
PRIVATE = ("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""Variables that a user's shell does not have."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
    # Tests that install the chart themselves run before the release that the other tests share.
    items.sort(key=lambda item: item in ours and "release" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """The shell that runs the commands of the pages, one after another."""
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    with Shell(ROOT, environment) as made:
        yield made


@pytest.fixture(scope="session")
def node(shell: Shell) -> Iterator[Node]:
    """This host's node, brought up by the commands of docs/development.md."""
    if KUBECONFIG:
        pytest.skip("needs access to the node of `make cluster-up`")
    if os.geteuid() != 0:
        pytest.skip("a node needs root: run as root, or on kind (docs/quickstart-kind.md)")
    shell.walk("development.md", "A control plane and a node from Go modules")
    there = STATE.exists()
    shell.walk("development.md", "A node without Docker")
    yield Node(STATE)
    if not there:
        shell.walk("development.md", "Take the node down")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, shell: Shell) -> Cluster:
    """The cluster, with the images loaded."""
    if KUBECONFIG:
        shell.run(f"export KUBECONFIG={shlex.quote(KUBECONFIG)}")
        kubectl = shutil.which("kubectl")
        assert kubectl is not None, "no kubectl on PATH"
        return Cluster(Path(KUBECONFIG), kubectl, None)
    node: Node = request.getfixturevalue("node")
    shell.walk("development.md", "Images on that node")
    return Cluster(node.control_plane.kubeconfig, str(program("kubectl")), node)


@pytest.fixture(scope="session")
def minio_disk(cluster: Cluster) -> Iterator[Path | None]:
    """A small disk under the node's volumes, for a test that fills MinIO's. None if the cluster is not this host's node."""
    if cluster.node is None:
        yield None
        return
    disk = cluster.node.volumes.directory
    options = f"size={DISK_SIZE},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "volumes", disk], check=True)
    for name in NAMES:
        cluster.node.volumes.folder(name).mkdir()
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest, cluster: Cluster, shell: Shell) -> Iterator[Cluster]:
    """The cluster with the chart and the quickstart's data. It is uninstalled by the commands of docs/install.md."""
    fills_the_disk = any("minio_disk" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if fills_the_disk:
        request.getfixturevalue("minio_disk")
    # Stricter than the page: the namespace enforces restricted Pod Security.
    cluster.make_namespace(NAMESPACE)
    shell.walk("quickstart-kind.md", "The same, step by step", block=0)
    if fills_the_disk and cluster.node is not None:
        # A disk in memory counts as memory of the process that writes to it.
        more = ["--reset-then-reuse-values", "--set=minio.resources.limits.memory=8Gi"]
        cluster.helm("upgrade", RELEASE, str(CHART), *more, "--wait", "--timeout=5m")
    yield cluster
    shell.walk("install.md", "Uninstall")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=180s")


@pytest.fixture(scope="session")
def bucket(release: Cluster) -> Bucket:
    """The bucket with the artifacts of the runs."""
    return Bucket(release)


@pytest.fixture(scope="session")
def runs(release: Cluster) -> Runs:
    """EvolutionRuns in the namespace of the chart."""
    return Runs(release.api, NAMESPACE)


@pytest.fixture(scope="session")
def finished(release: Cluster, runs: Runs, shell: Shell) -> dict[str, Any]:
    """The quickstart's run, applied and watched by the commands of docs/quickstart-kind.md, once it is Complete."""

    def ends() -> None:
        ended = ("Complete", "Failed")
        runs.wait("quickstart", lambda run: run.get("status", {}).get("phase") in ended, "end", RUN_PATIENCE)

    shell.walk("quickstart-kind.md", "The same, step by step", block=1, watched=ends)
    return runs.wait_phase("quickstart", "Complete", timeout=5)


@pytest.fixture
def elsewhere(release: Cluster, bucket: Bucket, finished: dict[str, Any]) -> Iterator[Runs]:
    """EvolutionRuns of a fresh namespace with the storage's Secret. They can use the quickstart's results."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    release.make_namespace(name)
    literals = [f"--from-literal={key}={value}" for key, value in bucket.keys.items()]
    release.kubectl("create", f"--namespace={name}", "secret", "generic", SECRET, *literals)
    yield Runs(release.api, name)
    release.kubectl("delete", f"--namespace={name}", "evolutionruns", "--all", "--timeout=120s")
    release.kubectl("delete", "namespace", name, "--wait=false")
