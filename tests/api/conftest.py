"""One real control plane per test process and one namespace per test. No other cluster is ever reached."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from hack.cluster.processes import wait_until
from tests.api.harness import OperatorProcess, Runs, Script, install, running_script

CRDS = Path(__file__).parents[2] / "crds"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.api)


def established(control_plane: ControlPlane) -> bool:
    """Whether every CRD is served."""
    items = json.loads(control_plane.kubectl("get", "customresourcedefinitions", "--output=json"))["items"]
    conditions = [{each["type"]: each["status"] for each in item["status"].get("conditions") or []} for item in items]
    return all(each.get("Established") == "True" for each in conditions)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[ControlPlane]:
    """Started once, with the project's CRDs. KUBECONFIG names it, and no in-cluster address is set."""
    # pytest-xdist's workers choose free ports at the same time. On one address two of them could choose the same.
    address = "127.0.0.1" if worker_id == "master" else f"127.0.0.{2 + int(worker_id.removeprefix('gw'))}"
    with (
        pytest.MonkeyPatch.context() as patch,
        ControlPlane(tmp_path_factory.mktemp("control-plane"), address=address) as started,
    ):
        patch.setenv("KUBECONFIG", str(started.kubeconfig))
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        if any(CRDS.glob("*.yaml")):
            started.kubectl("apply", "--server-side", f"--filename={CRDS}")
            # `kubectl wait` fails on a CRD that is too young to have conditions.
            wait_until(lambda: established(started), "CRD served")
        yield started


@pytest.fixture(scope="session")
def kwok(control_plane: ControlPlane) -> Iterator[Kwok]:
    """Simulated nodes, from the first test that uses them to the end of the session."""
    with Kwok(control_plane) as started:
        yield started


@pytest.fixture
def kube(control_plane: ControlPlane) -> Iterator[client.ApiClient]:
    """A client with the administrator's permissions."""
    configuration = client.Configuration()
    config.load_kube_config(str(control_plane.kubeconfig), client_configuration=configuration)
    assert configuration.host == control_plane.server, "the tests use only their own cluster"
    with client.ApiClient(configuration) as api:
        yield api


@pytest.fixture
def namespace(kube: client.ApiClient) -> Iterator[str]:
    """A fresh namespace, deleted after the test."""
    core = client.CoreV1Api(kube)
    name = f"test-{uuid.uuid4().hex[:10]}"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    core.delete_namespace(name)


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, where the operator has the permissions of rbac.yaml in all namespaces."""
    install(control_plane)
    return control_plane


@pytest.fixture(scope="module")
def operator(
    installed: ControlPlane, kwok: Kwok, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for all namespaces."""
    process = OperatorProcess(installed, tmp_path_factory.mktemp("operator"), progress_interval_seconds="2")
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def script(kube: client.ApiClient, kwok: Kwok) -> Iterator[Script]:
    """Sets how stages' Pods end."""
    with running_script(kube) as script:
        yield script


@pytest.fixture
def runs(kube: client.ApiClient, namespace: str, operator: OperatorProcess, script: Script) -> Runs:
    """EvolutionRuns of a fresh namespace, with a running operator."""
    return Runs(kube, namespace)
