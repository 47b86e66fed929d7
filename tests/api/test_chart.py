"""The chart on a real API server: admission of every object, permissions, upgrade and uninstall."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from hack.cluster import ClusterError
from hack.cluster.control_plane import ControlPlane
from hack.cluster.processes import wait_until
from tests.support.cluster.chart import (
    CHART,
    FULL,
    NAMESPACED,
    VALUE_SETS,
    helm_program,
    pod_templates,
    render,
    value_flags,
)

MONITORING = "monitoring.coreos.com/v1"
"""Kinds of the Prometheus operator. Its CRDs are not installed here."""
ALLOWED = [
    ("get", "evolutionruns.evolution.run", "team-a"),
    ("watch", "evolutionruns.evolution.run", "team-a"),
    ("patch", "evolutionruns.evolution.run/status", "team-a"),
    ("create", "jobs.batch", "team-a"),
    ("delete", "jobs.batch", "team-a"),
    ("list", "pods", "team-a"),
    ("get", "pods/log", "team-a"),
    ("create", "events", "team-a"),
    ("create", "leases.coordination.k8s.io", "evolution"),
    ("update", "leases.coordination.k8s.io", "evolution"),
]
DENIED = [
    ("get", "secrets", "team-a"),
    ("list", "secrets", "evolution"),
    ("create", "pods", "team-a"),
    ("delete", "pods", "team-a"),
    ("create", "pods/exec", "team-a"),
    ("create", "pods/ephemeralcontainers", "team-a"),
    ("create", "serviceaccounts/token", "evolution"),
    ("update", "evolutionruns.evolution.run", "team-a"),
    ("create", "evolutionruns.evolution.run", "team-a"),
    ("get", "configmaps", "evolution"),
    ("create", "deployments.apps", "evolution"),
    ("create", "rolebindings.rbac.authorization.k8s.io", "evolution"),
    ("update", "customresourcedefinitions.apiextensions.k8s.io", ""),
    ("get", "nodes", ""),
    ("list", "namespaces", ""),
    ("create", "leases.coordination.k8s.io", "kube-system"),
    ("impersonate", "users", ""),
]


@pytest.fixture(scope="module")
def namespaces(control_plane: ControlPlane) -> Iterator[tuple[str, ...]]:
    """Namespaces that enforce Pod Security's level "restricted"."""
    names = ("evolution", "team-a", "team-b", "elsewhere")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in names:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        control_plane.kubectl("apply", "--server-side", "--filename=-", manifest=body)
    yield names
    control_plane.kubectl("delete", "namespaces", *names, "--wait=false")


@pytest.fixture
def release(control_plane: ControlPlane, namespaces: tuple[str, ...]) -> Iterator[Release]:
    """A release, gone after the test."""
    made = Release(control_plane)
    yield made
    made.helm("uninstall", "evo", "--ignore-not-found", "--no-hooks")


class Release:
    """Helm with the test's own control plane. No Pod runs there, so hooks are left out."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def helm(self, *arguments: str) -> str:
        command = [helm_program(), f"--kubeconfig={self._control_plane.kubeconfig}", "--namespace=evolution"]
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def install(self, values: dict[str, Any] | None = None) -> None:
        self.helm("upgrade", "--install", "evo", str(CHART), "--no-hooks", *value_flags(values or {}))

    def get(self, kind: str, name: str, namespace: str = "evolution") -> dict[str, Any]:
        found = self._control_plane.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")
        return dict(json.loads(found))

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"]
        resource, _, subresource = resource.partition("/")
        where.append(f"--subresource={subresource}")
        account = "--as=system:serviceaccount:evolution:evo-evolution-operator"
        try:
            answer = self._control_plane.kubectl("auth", "can-i", verb, resource, account, *where)
        except ClusterError:
            return False
        return answer.strip() == "yes"


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_the_api_server_admits_every_object(
    control_plane: ControlPlane, namespaces: tuple[str, ...], values: dict[str, Any]
) -> None:
    objects = [each for each in render(values) if each["apiVersion"] != MONITORING]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    output = control_plane.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", manifest=listed)
    assert len(output.splitlines()) == len(objects)


@pytest.mark.parametrize("values", [FULL, NAMESPACED], ids=["full", "namespaced"])
def test_pod_security_admits_every_pod(
    control_plane: ControlPlane, namespaces: tuple[str, ...], values: dict[str, Any]
) -> None:
    # The account and the classes do not exist on a dry run, and Pod Security does not check them.
    absent = ("serviceAccountName", "priorityClassName")
    for name, template in pod_templates(render(values)).items():
        spec = {field: value for field, value in template["spec"].items() if field not in absent}
        spec["restartPolicy"] = "Never"
        mounts = {mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", [])}
        given = {volume["name"] for volume in spec.get("volumes", [])}
        spec["volumes"] = [
            *spec.get("volumes", []),
            *({"name": each, "emptyDir": {}} for each in sorted(mounts - given)),
        ]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.split("/")[1]}, "spec": spec}
        wait_for_default_account = ["create", "--dry-run=server", "--namespace=team-a", "--filename=-"]
        control_plane.kubectl(*wait_for_default_account, manifest=body)


def test_pod_security_refuses_an_unrestricted_pod(control_plane: ControlPlane, namespaces: tuple[str, ...]) -> None:
    spec = {"containers": [{"name": "lax", "image": "x"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lax"}, "spec": spec}
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        control_plane.kubectl("create", "--dry-run=server", "--namespace=team-a", "--filename=-", manifest=body)


def test_a_cluster_wide_operator_has_the_permissions_for_its_work_and_no_more(release: Release) -> None:
    release.install()
    assert [case for case in ALLOWED if not release.may(*case)] == []
    assert [case for case in DENIED if release.may(*case)] == []


def test_a_namespaced_operator_has_no_permissions_elsewhere(release: Release) -> None:
    release.install({"rbac.scope": "namespace", "watchNamespaces": ["team-a"]})
    assert [case for case in ALLOWED if not release.may(*case)] == []
    elsewhere = [(verb, resource, "elsewhere") for verb, resource, _ in ALLOWED]
    assert [case for case in [*DENIED, *elsewhere] if release.may(*case)] == []


def test_users_with_the_role_edit_may_create_runs_and_viewers_only_read_them(
    control_plane: ControlPlane, release: Release
) -> None:
    release.install()
    for role in ("edit", "view"):
        control_plane.kubectl(
            "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}or", "--namespace=team-b"
        )

    def may(user: str, verb: str) -> bool:
        asked = ["auth", "can-i", verb, "evolutionruns.evolution.run", f"--as={user}", "--namespace=team-b"]
        try:
            return control_plane.kubectl(*asked).strip() == "yes"
        except ClusterError:
            return False

    # A controller aggregates the roles.
    wait_until(lambda: may("editor", "create") and may("viewor", "get"), "the roles are aggregated", timeout=30)
    verbs = ("create", "delete", "update", "get")
    assert [verb for verb in verbs if may("editor", verb)] == [*verbs]
    assert [verb for verb in verbs if may("viewor", verb)] == ["get"]


@pytest.fixture
def storage_class(control_plane: ControlPlane) -> Iterator[str]:
    """A class that is not the default until it is made so."""
    body = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "disks"},
        "provisioner": "kubernetes.io/no-provisioner",
    }
    control_plane.kubectl("create", "--filename=-", manifest=body)
    yield "disks"
    control_plane.kubectl("delete", "storageclass", "disks")


@pytest.fixture
def default_class(control_plane: ControlPlane, storage_class: str) -> str:
    """A default class, which MinIO's claim needs."""
    control_plane.kubectl("annotate", "storageclass", storage_class, "storageclass.kubernetes.io/is-default-class=true")
    return storage_class


def test_minio_without_an_available_volume_is_refused_at_once_and_names_the_claim(
    release: Release, request: pytest.FixtureRequest
) -> None:
    claim = "minio.persistence: PersistentVolumeClaim evolution/data-evo-evolution-operator-minio-0 would wait forever"
    with pytest.raises(AssertionError, match=rf"{claim}, because the cluster has no default StorageClass: .*has none"):
        release.install({"minio.enabled": True})
    release.install({"minio.enabled": True, "minio.persistence.enabled": False})
    release.helm("uninstall", "evo", "--no-hooks")

    disks = request.getfixturevalue("storage_class")
    with pytest.raises(AssertionError, match=r"storageClassName to a class of this cluster \(it has disks\)"):
        release.install({"minio.enabled": True})
    with pytest.raises(AssertionError, match='the cluster has no StorageClass "tapes"'):
        release.install({"minio.enabled": True, "minio.persistence.storageClassName": "tapes"})
    release.install({"minio.enabled": True, "minio.persistence.storageClassName": disks})
    release.helm("uninstall", "evo", "--no-hooks")

    request.getfixturevalue("default_class")
    release.install({"minio.enabled": True})


def test_minio_uses_a_volume_that_an_administrator_has_created(release: Release, control_plane: ControlPlane) -> None:
    spec = {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/none"}}
    body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "by-hand"}, "spec": spec}
    control_plane.kubectl("create", "--filename=-", manifest=body)
    try:
        release.install({"minio.enabled": True})
    finally:
        control_plane.kubectl("delete", "persistentvolume", "by-hand", "--wait=false")


@pytest.mark.usefixtures("default_class")
def test_an_upgrade_keeps_the_secret_and_leaves_minio_running(release: Release) -> None:
    release.install({"minio.enabled": True})
    secret, minio = release.get("secret", "evolution-storage"), release.get("sts", "evo-evolution-operator-minio")
    assert len(base64.b64decode(secret["data"]["AWS_SECRET_ACCESS_KEY"])) == 40

    release.install({"minio.enabled": True, "replicas": 2, "commonLabels": {}, "settings": {"workers": 2}})

    assert release.get("secret", "evolution-storage")["data"] == secret["data"]
    assert release.get("sts", "evo-evolution-operator-minio")["spec"]["template"] == minio["spec"]["template"]
    assert release.get("deployment", "evo-evolution-operator")["spec"]["replicas"] == 2


@pytest.mark.usefixtures("default_class")
def test_uninstalling_leaves_the_crd_and_the_runs_and_nothing_else(
    control_plane: ControlPlane, release: Release
) -> None:
    release.install({"minio.enabled": True, "replicas": 2, "priorityClasses.create": True})
    release.helm("uninstall", "evo", "--no-hooks")
    kinds = "deploy,sts,svc,cm,secret,sa,role,rolebinding,netpol,pdb,clusterrole,clusterrolebinding,priorityclass"
    left = control_plane.kubectl(
        "get", kinds, "--all-namespaces", "--selector=app.kubernetes.io/part-of=evolution-operator", "--output=name"
    )
    assert left == ""
    assert control_plane.kubectl("get", "crd", "evolutionruns.evolution.run", "--output=name")
