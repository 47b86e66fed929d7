"""The operator has the permissions that it needs and no others, according to the API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from hack.cluster.control_plane import ControlPlane
from tests.api.harness import (
    OPERATOR_NAMESPACE,
    SERVICE_ACCOUNT,
    OperatorProcess,
    Runs,
    Script,
    audit,
    install,
    uninstall_cluster_wide,
)

ALLOWED = [
    ("evolution.run", "evolutionruns", "", ("get", "list", "watch", "patch", "delete")),
    ("evolution.run", "evolutionruns", "status", ("patch",)),
    ("evolution.run", "evolutionruns", "finalizers", ("update",)),
    ("batch", "jobs", "", ("get", "list", "watch", "create", "patch", "delete")),
    ("", "services", "", ("create",)),
    ("", "pods", "", ("list", "watch")),
    ("", "pods", "log", ("get",)),
    ("", "events", "", ("create", "list")),
]
DENIED = [
    ("", "secrets", "", ("get", "list", "watch", "create", "update", "patch", "delete")),
    ("", "configmaps", "", ("get", "list", "create", "update", "delete")),
    ("", "pods", "", ("get", "create", "update", "patch", "delete", "deletecollection")),
    ("", "pods", "exec", ("create", "get")),
    ("", "pods", "attach", ("create", "get")),
    ("", "pods", "portforward", ("create", "get")),
    ("", "pods", "ephemeralcontainers", ("update", "patch")),
    ("", "pods", "eviction", ("create",)),
    ("", "pods", "binding", ("create",)),
    ("", "events", "", ("update", "patch", "delete")),
    ("", "services", "", ("get", "list", "watch", "update", "patch", "delete")),
    ("", "serviceaccounts", "", ("get", "list", "create", "impersonate")),
    ("", "serviceaccounts", "token", ("create",)),
    ("", "persistentvolumeclaims", "", ("get", "list", "create", "delete")),
    ("", "namespaces", "", ("get", "list", "watch", "create", "delete")),
    ("", "nodes", "", ("get", "list", "watch", "patch")),
    ("", "nodes", "proxy", ("get", "create")),
    ("apps", "deployments", "", ("get", "create", "patch", "delete")),
    ("batch", "cronjobs", "", ("get", "create")),
    ("batch", "jobs", "", ("update", "deletecollection")),
    ("batch", "jobs", "status", ("update", "patch")),
    ("evolution.run", "evolutionruns", "", ("create", "update", "deletecollection")),
    ("apiextensions.k8s.io", "customresourcedefinitions", "", ("get", "list", "create", "patch", "delete")),
    ("rbac.authorization.k8s.io", "roles", "", ("get", "create", "bind", "escalate")),
    ("rbac.authorization.k8s.io", "clusterroles", "", ("get", "create", "bind", "escalate")),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "", ("create", "patch")),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", ("create", "patch")),
    ("certificates.k8s.io", "certificatesigningrequests", "", ("create", "approve")),
    ("coordination.k8s.io", "leases", "", ("get", "list", "create", "update", "delete")),
    ("*", "*", "", ("*",)),
]


@pytest.fixture
def account(installed: ControlPlane) -> Iterator[client.ApiClient]:
    """The operator's own account."""
    path = installed.kubeconfig_for(SERVICE_ACCOUNT, ["system:serviceaccounts"])
    with config.new_client_from_config(str(path)) as api:
        yield api


def may(api: client.ApiClient, group: str, resource: str, subresource: str, verb: str, namespace: str | None) -> bool:
    attributes = client.V1ResourceAttributes(
        group=group, resource=resource, subresource=subresource or None, verb=verb, namespace=namespace
    )
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    return bool(answer.status.allowed)


def rows(table: list[tuple[str, str, str, tuple[str, ...]]]) -> list[tuple[str, str, str, str]]:
    return [(group, resource, subresource, verb) for group, resource, subresource, verbs in table for verb in verbs]


@pytest.mark.parametrize(("group", "resource", "subresource", "verb"), rows(ALLOWED))
def test_it_may(account: client.ApiClient, group: str, resource: str, subresource: str, verb: str) -> None:
    assert may(account, group, resource, subresource, verb, "default")


@pytest.mark.parametrize(("group", "resource", "subresource", "verb"), rows(DENIED))
def test_it_may_not(account: client.ApiClient, group: str, resource: str, subresource: str, verb: str) -> None:
    assert not may(account, group, resource, subresource, verb, "default")


def test_its_lease_is_in_its_own_namespace(account: client.ApiClient, namespace: str) -> None:
    for verb in ("get", "create", "update"):
        assert may(account, "coordination.k8s.io", "leases", "", verb, OPERATOR_NAMESPACE)
    assert not may(account, "coordination.k8s.io", "leases", "", "delete", OPERATOR_NAMESPACE)


def test_a_secret_is_really_refused(account: client.ApiClient, kube: client.ApiClient, namespace: str) -> None:
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s3"), string_data={"AWS_SECRET_ACCESS_KEY": "hidden"})
    client.CoreV1Api(kube).create_namespaced_secret(namespace, secret)
    with pytest.raises(ApiException) as refusal:
        client.CoreV1Api(account).read_namespaced_secret("s3", namespace)
    assert refusal.value.status == 403


def test_one_namespace_is_served_with_permissions_in_it_only(
    installed: ControlPlane, kube: client.ApiClient, namespace: str, tmp_path: Path, script: Script
) -> None:
    uninstall_cluster_wide(installed)
    install(installed, (namespace,))
    operator = OperatorProcess(installed, tmp_path, namespaces=(namespace,))
    operator.start()
    try:
        runs = Runs(kube, namespace)
        runs.create("alone")
        runs.wait_phase("alone", "Complete")
        assert [call for call in audit(installed, namespace) if call.code == 403] == []
    finally:
        operator.stop()
        install(installed)
    # A word of its own: the key in a Job's name can hold 403, too.
    assert [line for line in operator.lines() if re.search(r"\b(403|[Ff]orbidden)\b", line["message"])] == []
