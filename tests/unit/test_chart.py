"""The chart as Helm renders it: permissions, network policies, and the restrictions of each Pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_operator.api.pod import PodSettings
from evolution_operator.controller import labels
from evolution_operator.controller.settings import PREFIX, Settings, read_settings

from tests.support.cluster.chart import (
    CHART,
    FULL,
    NAMESPACED,
    VALUE_SETS,
    helm,
    one,
    pod_templates,
    render,
    value_flags,
)

ROOT = Path(__file__).parents[2]
COPIES = {
    "crds/evolution.run_evolutionruns.yaml": CHART / "crds/evolution.run_evolutionruns.yaml",
    "operator/evolution_operator/controller/rbac.yaml": CHART / "files/rbac.yaml",
}


@pytest.mark.parametrize(("source", "copy"), COPIES.items(), ids=COPIES)
def test_files_that_the_chart_copies_are_up_to_date(source: str, copy: Path) -> None:
    assert copy.read_bytes() == (ROOT / source).read_bytes(), f"{source} has changed: run `make crds`"


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_it_lints(values: dict[str, Any]) -> None:
    result = helm("lint", "--strict", str(CHART), *value_flags(values))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_every_pod_is_restricted_and_bounded(values: dict[str, Any]) -> None:
    templates = pod_templates(render(values))
    assert len(templates) >= 2
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is name.startswith("Deployment/"), name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert "memory" in container["resources"]["limits"], name


def test_on_openshift_no_pod_asks_for_a_user_or_group(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render({"openshift": True, "minio.enabled": True})
    templates = pod_templates(objects)
    assert len(templates) == 4
    for name, template in templates.items():
        containers = template["spec"]["containers"]
        contexts = [template["spec"]["securityContext"], *(each["securityContext"] for each in containers)]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & {field for context in contexts for field in context}, name
    assert _settings(_environment(objects), monkeypatch).openshift is True


@pytest.mark.parametrize("form", ["registry", {"name": "registry"}])
def test_pull_secrets_are_names_or_objects(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"imagePullSecrets": [form], "stages.pod": {"imagePullSecrets": [form]}, "minio.enabled": True}
    objects = render(values)
    for name, template in pod_templates(objects).items():
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}], name
    assert _settings(_environment(objects), monkeypatch).stage_pod.image_pull_secrets == ["registry"]


def test_no_secret_has_a_fixed_value() -> None:
    first, second = (one(render({"minio.enabled": True}), "Secret")["data"] for _ in range(2))
    assert set(first) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert not set(first.values()) & set(second.values())
    objects = render({"minio.enabled": True, "minio.existingSecret": "mine"})
    assert not [each for each in objects if each["kind"] == "Secret"]
    assert "mine" in json.dumps(one(objects, "StatefulSet"))


def test_permissions_are_the_controllers_rules_and_no_more() -> None:
    rules = yaml.safe_load((ROOT / "operator/evolution_operator/controller/rbac.yaml").read_text())
    cluster = render()
    assert one(cluster, "ClusterRole", "evo-evolution-operator")["rules"] == rules["served"]
    assert one(cluster, "Role")["rules"] == rules["own"]
    account = one(cluster, "ServiceAccount")["metadata"]["name"]
    (subject,) = one(cluster, "ClusterRoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "evolution"}


def test_with_namespace_scope_no_permission_reaches_further() -> None:
    objects = render(NAMESPACED)
    assert not [each for each in objects if each["kind"].startswith("ClusterRole")]
    served = {each["metadata"]["namespace"]: each["metadata"]["name"] for each in objects if each["kind"] == "Role"}
    assert served == {
        "evolution": "evo-evolution-operator-leader",
        "team-a": "evo-evolution-operator",
        "team-b": "evo-evolution-operator",
    }
    assert _environment(objects)["KOPF_RUN_NAMESPACES"] == "team-a team-b"


def test_namespaces_without_namespace_scope_are_refused() -> None:
    result = helm("template", "evo", str(CHART), *value_flags({"watchNamespaces": ["a"]}))
    assert result.returncode != 0
    assert "watchNamespaces: applies to rbac.scope=namespace only" in result.stderr


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_the_operator_understands_its_environment(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _environment(render(values))
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert {name for name in environment if name.startswith(PREFIX)} <= known
    _settings(environment, monkeypatch)


def test_every_setting_in_the_schema_reaches_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    values = dict.fromkeys(schema.keys() - {"logFormat"}, 7)
    given = _settings(_environment(render({"settings": values})), monkeypatch).model_dump()
    for name, value in values.items():
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        assert given[snake] == value


def test_the_live_page_is_for_forwarded_ports_unless_the_values_say_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings(_environment(render()), monkeypatch).live == "portForward"
    for access in ("portForward", "network", "off"):
        assert _settings(_environment(render({"live.access": access})), monkeypatch).live == access


@pytest.mark.parametrize(
    ("values", "format_"), [({}, "json"), ({"logFormat": "json"}, "json"), ({"logFormat": "text"}, "full")]
)
def test_the_log_has_the_format_of_the_values(values: dict[str, Any], format_: str) -> None:
    assert _environment(render({"settings": values}))["KOPF_RUN_LOG_FORMAT"] == format_


def test_stages_defaults_are_those_of_a_pod_block(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    fields = {field.alias for field in PodSettings.model_fields.values()}
    assert set(schema["properties"]["stages"]["properties"]["pod"]["properties"]) == fields - {"image"}
    settings = _settings(_environment(render(FULL)), monkeypatch)
    assert settings.stage_pod.resources is not None
    assert settings.stage_pod.resources.limits == {"nvidia.com/gpu": 1}
    assert settings.evaluation_priority_class == "evo-evolution-operator-evaluation"
    assert settings.critical_priority_class == "evo-evolution-operator-critical"


def test_there_is_a_disruption_budget_only_with_more_than_one_replica() -> None:
    assert not [each for each in render({"replicas": 1}) if each["kind"] == "PodDisruptionBudget"]
    budget = one(render({"replicas": 2}), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_stages_reach_dns_storage_and_declared_destinations() -> None:
    policy = one(render(FULL), "NetworkPolicy", "-stages")["spec"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": labels.RUN, "operator": "Exists"}]}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    dns, minio, declared = policy["egress"]
    assert dns["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
    assert {port["port"] for port in dns["ports"]} == {53}
    (target,) = minio["to"]
    pods = pod_templates(render(FULL))["StatefulSet/evo-evolution-operator-minio"]["metadata"]["labels"]
    assert target["podSelector"]["matchLabels"].items() <= pods.items()
    assert [declared] == FULL["networkPolicies.jobs.egress"]


def test_without_a_declaration_stages_reach_only_dns() -> None:
    (dns,) = one(render(), "NetworkPolicy", "-stages")["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}


def test_every_served_namespace_has_a_network_policy_for_stages() -> None:
    policies = [each["metadata"] for each in render(NAMESPACED) if each["kind"] == "NetworkPolicy"]
    namespaces = {metadata["namespace"] for metadata in policies if metadata["name"].endswith("-stages")}
    assert namespaces == {"evolution", "team-a", "team-b"}
    given = render({"networkPolicies.jobs.namespaces": ["runs"]})
    assert one(given, "NetworkPolicy", "-stages")["metadata"]["namespace"] == "runs"


def test_the_pod_of_helm_test_may_read_restricted_metrics() -> None:
    objects = render(FULL)
    (rule,) = one(objects, "NetworkPolicy", "evo-evolution-operator")["spec"]["ingress"]
    selectors = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    test = one(objects, "Pod")["metadata"]["labels"]
    assert any(selector.items() <= test.items() for selector in selectors)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "/replicas"),
        ({"image.pullPolicy": "Sometimes"}, "/image/pullPolicy"),
        ({"settings": {"leaseNamespace": "x"}}, "leaseNamespace"),
        ({"rbac.scope": "galaxy"}, "/rbac/scope"),
        ({"live.access": "everyone"}, "/live/access"),
        ({"settings": {"live": "network"}}, "live"),
        ({"imagePullSecrets": [{"secret": "x"}]}, "/imagePullSecrets/0"),
        ({"stages.pod": {"imagePullSecrets": [7]}}, "/imagePullSecrets/0"),
        ({"openshift": "yes"}, "/openshift"),
        ({"resources": {"limits": {"memory": "1GB"}}}, "/resources/limits/memory"),
        ({"env": [{"name": "A", "value": 1}]}, "/env/0/value"),
        ({"stages.pod": {"env": [{"value": "x"}]}}, "/stages/pod/env/0"),
        ({"stages.pod": {"tolerations": [{"key": "a", "operator": "Exist"}]}}, "/stages/pod/tolerations/0/operator"),
        ({"minio.bucket": "Not A Bucket"}, "/minio/bucket"),
        ({"stages.pod": {"image": "x"}}, "image"),
        ({"networkPolicies.operator.apiServer.cidrs": ["everywhere"]}, "/networkPolicies/operator/apiServer/cidrs"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    result = helm("template", "evo", str(CHART), *value_flags(values))
    assert result.returncode != 0
    assert field in result.stderr


def test_the_first_command_is_in_the_notes() -> None:
    result = helm("install", "evo", str(CHART), "--dry-run=client", "--namespace=evolution", "--set=minio.enabled=true")
    assert result.returncode == 0, result.stderr
    notes = result.stdout.partition("NOTES:")[2]
    assert "helm test evo --namespace evolution" in notes
    assert "endpoint: http://evo-evolution-operator-minio.evolution:9000" in notes
    assert "credentialsSecret: evolution-storage" in notes
    assert "PersistentVolumeClaim data-evo-evolution-operator-minio-0" in notes
    assert "minio.persistence.enabled=false" in notes
    assert "evolution dashboard --namespace evolution" in notes


def _environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def _settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_settings()


def test_the_operator_knows_the_image_with_vllm_only_if_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "EVOLUTION_VLLM_IMAGE" not in _environment(render({}))
    objects = render({"stages.vllmImage.repository": "registry.example.com/vllm"})
    settings = _settings(_environment(objects), monkeypatch)
    assert settings.vllm_image == settings.stage_image.replace("evolution-operator/train", "registry.example.com/vllm")
