"""Asks a cluster what the checks need. Only reads, and asks what this user may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import ValidationError

from ...api.spec import API_VERSION, GROUP, PLURAL
from ...controller.settings import PREFIX, Settings
from ..dashboard import MARK, SELECTOR
from ..kube import ApiError, Cluster
from .cluster import Answer, ClusterSeen, environment, serves
from .objects import KINDS

OPERATORS = {"labelSelector": SELECTOR}
USUAL_NAMESPACE = "evolution"
"""Where docs/install.md installs the operator."""
RIGHTS = (
    ("create", GROUP, PLURAL, ""),
    ("get", GROUP, PLURAL, ""),
    ("patch", GROUP, PLURAL, ""),
    ("delete", GROUP, PLURAL, ""),
    ("get", "", "pods", "log"),
)
"""What this user wants to do with runs: verb, group, resource and subresource."""
GROUPS = {"PriorityClass": "/apis/scheduling.k8s.io/v1", "RuntimeClass": "/apis/node.k8s.io/v1"}
"""Paths of kinds that belong to no namespace."""


def see_cluster(cluster: Cluster) -> ClusterSeen:
    """What the cluster answers. Raises PermanentError `ClusterUnreachable`."""
    version = ask(cluster, "/version")
    operators = _operators(cluster)
    return ClusterSeen(
        server=cluster.server,
        namespace=cluster.namespace,
        version=version,
        definition=ask(cluster, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"),
        served=ask(cluster, f"/apis/{API_VERSION}"),
        found_namespace=ask(cluster, f"/api/v1/namespaces/{cluster.namespace}"),
        operators=operators,
        leases=_leases(cluster, operators),
        rights={_named(*each): _may(cluster, *each) for each in RIGHTS},
        now=_time(cluster),
    )


def ask(cluster: Cluster, path: str, query: Mapping[str, str] | None = None) -> Answer:
    """The answer, or the refusal."""
    try:
        return cluster.get(path, query)
    except ApiError as error:
        return error


def _operators(cluster: Cluster) -> Answer:
    """All operators; where the user may not list them everywhere, those in the usual namespace and in the run's own."""
    everywhere = ask(cluster, "/apis/apps/v1/deployments", OPERATORS)
    if not isinstance(everywhere, ApiError):
        return {"items": _ours(everywhere)}
    found = [
        ask(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments", OPERATORS)
        for namespace in dict.fromkeys((USUAL_NAMESPACE, cluster.namespace))
    ]
    items = [item for answer in found if not isinstance(answer, ApiError) for item in _ours(answer)]
    # That there is none in two namespaces says nothing of the others.
    return {"items": items} if items else everywhere


def _ours(answer: Mapping[str, Any]) -> list[Any]:
    return [item for item in answer.get("items") or [] if MARK in environment(item)]


def _leases(cluster: Cluster, operators: Answer) -> dict[str, Answer]:
    leases: dict[str, Answer] = {}
    for each in [] if isinstance(operators, ApiError) else operators.get("items") or []:
        namespace, name = each["metadata"]["namespace"], each["metadata"]["name"]
        variables = environment(each)
        place = variables.get(MARK) or namespace
        lease = variables.get(f"{PREFIX}LEASE_NAME") or name
        leases[f"{namespace}/{name}"] = ask(cluster, f"/apis/coordination.k8s.io/v1/namespaces/{place}/leases/{lease}")
    return leases


def _named(verb: str, _group: str, resource: str, subresource: str) -> str:
    return f"{verb} {resource}{'/' if subresource else ''}{subresource}"


def _may(cluster: Cluster, verb: str, group: str, resource: str, subresource: str) -> Answer:
    wanted = {"namespace": cluster.namespace, "verb": verb, "group": group, "resource": resource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted | ({"subresource": subresource} if subresource else {})},
    }
    try:
        return cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    except ApiError as error:
        return error


def _time(cluster: Cluster) -> datetime | None:
    try:
        return parsedate_to_datetime(cluster.date or "")
    except ValueError:
        return None


def see_objects(cluster: Cluster, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Answer]:
    """The objects of these kinds and names. Of a Secret, only the names of its keys are kept."""
    found: dict[tuple[str, str], Answer] = {}
    for kind, name in names:
        place = GROUPS.get(kind) or f"/api/v1/namespaces/{cluster.namespace}"
        answer = ask(cluster, f"{place}/{KINDS[kind]}/{name}")
        if kind == "Secret" and not isinstance(answer, ApiError):
            answer = {"data": dict.fromkeys(answer.get("data") or {}, "")}
        found[kind, name] = answer
    return found


def operator_settings(seen: ClusterSeen) -> Settings:
    """The settings of the operator that serves the namespace, as far as its Deployment has them; else the defaults."""
    items = [] if isinstance(seen.operators, ApiError) else seen.operators.get("items") or []
    serving = [each for each in items if serves(each, seen.namespace)]
    variables = environment(serving[0]) if serving else {}
    given: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if name.startswith(PREFIX)
    }
    try:
        return Settings(**{name: given[name] for name in Settings.model_fields if name in given})
    except ValidationError:
        return Settings()
