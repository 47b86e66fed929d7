"""The command line against a real API server: doctor, a file of init, and the logs of a stage's Pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import BaseModelSource, Source
from evolution_operator.cli.init.answers import TRIAL_STORAGE
from evolution_operator.cli.init.manifest import Answers, manifest
from evolution_operator.cli.main import app
from kubernetes import client
from typer.testing import CliRunner, Result

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from tests.api.harness import STAYS, Kubelet, Outcome, Runs, Script, end

CONTEXT = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def checks(*arguments: str) -> dict[str, dict[str, str]]:
    result = call("doctor", *arguments, "-o", "json")
    assert result.stdout, result.exception
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


@pytest.fixture
def first(namespace: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The file that init writes for a cluster, and its document."""
    answers = Answers(
        name="first",
        where="cluster",
        model=BaseModelSource(uri="hf://owner/model"),
        data=Source(uri="s3://evolution/data/seed.jsonl", format="messages"),
        storage=TRIAL_STORAGE,
        gpus=1,
    )
    path = tmp_path / "run.yaml"
    path.write_text(manifest(answers))
    return path, yaml.safe_load(path.read_text())


def test_doctor_reads_a_real_cluster(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    first: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CONTEXT, str(control_plane.kubeconfig))
    file, _ = first
    found = checks("-f", str(file), "-n", namespace)
    assert found["cluster"]["state"] == "ok"
    assert found["EvolutionRun (CRD)"] == {
        "name": "EvolutionRun (CRD)",
        "state": "ok",
        "found": "installed, with the fields of this command",
    }
    assert found[f"namespace {namespace}"]["state"] == "ok"
    assert found["rights"]["state"] == "ok"
    assert found["operator"]["found"] == "no Deployment of it is found"
    assert found["Secret evolution-storage"]["state"] == "failed"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    metadata = client.V1ObjectMeta(name="evolution-storage")
    client.CoreV1Api(kube).create_namespaced_secret(namespace, client.V1Secret(metadata=metadata, string_data=keys))
    assert checks("-f", str(file), "-n", namespace)["Secret evolution-storage"]["state"] == "ok"
    assert checks("-f", str(file), "-n", "nowhere")["namespace nowhere"]["state"] == "failed"


def test_doctor_says_what_a_user_without_rights_may_not_see(
    control_plane: ControlPlane, namespace: str, first: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTEXT, str(control_plane.kubeconfig_for("somebody", [])))
    found = checks("-f", str(first[0]), "-n", namespace)
    assert found["cluster"]["state"] == "ok"
    assert found["rights"]["state"] == "failed"
    names = ("EvolutionRun (CRD)", "operator", f"namespace {namespace}", "Secret evolution-storage", "nodes")
    assert {found[name]["state"] for name in names} == {"skipped"}


def test_a_probe_pod_is_admitted_where_pod_security_is_restricted(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    first: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No kubelet runs it here, so it only shows that it waits, and that it is deleted."""
    monkeypatch.setattr(CONTEXT, str(control_plane.kubeconfig))
    monkeypatch.setattr("evolution_operator.cli.doctor.probe_pod.SECONDS", 1)
    core = client.CoreV1Api(kube)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.patch_namespace(namespace, {"metadata": {"labels": restricted}})
    document = first[1]
    # With a selector that no node has, no simulated node takes it either.
    document["spec"]["prepare"] = {"pod": {"nodeSelector": {"no": "node"}, "resources": {}}}
    first[0].write_text(yaml.safe_dump(document))
    found = checks("-f", str(first[0]), "-n", namespace, "--pods")["probe Pod"]
    assert found["found"].startswith("after 1 s: "), found
    assert [pod for pod in core.list_namespaced_pod(namespace).items if not pod.metadata.deletion_timestamp] == []


def test_the_api_server_takes_the_file_that_init_writes(
    kube: client.ApiClient, namespace: str, first: tuple[Path, dict[str, Any]]
) -> None:
    document = first[1]
    assert document["spec"]["sft"] is None, "all its fields are comments"
    created = Runs(kube, namespace).apply(document, field_validation="Strict")
    assert created["spec"]["data"]["seed"][0]["format"] == "messages"
    assert created["spec"]["sft"]["epochs"] == 2, "an empty block has its defaults"


def test_logs_of_a_stage_are_those_of_its_pods(
    runs: Runs, script: Script, control_plane: ControlPlane, kwok: Kwok, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTEXT, str(control_plane.kubeconfig))
    kubelet = Kubelet(control_plane, kwok.nodes[0])
    script.will(runs.namespace, "generate-1", STAYS, STAYS)
    runs.create("told", iterations=1, generation={"shards": 2})
    runs.wait("told", lambda run: "generate-1" in run.get("status", {}).get("stage", ""), "generate-1 runs")
    runs.pod("generate-1")
    pods = sorted(
        pod.metadata.name
        for pod in runs.core.list_namespaced_pod(runs.namespace, label_selector="evolution.run/stage=generate-1").items
    )
    for index, pod in enumerate(pods):
        kubelet.logs[runs.namespace, pod] = f"shard {index}\n"
    place = ("-n", runs.namespace)
    shown = call("logs", "told", *place)
    assert shown.stdout.splitlines() == ["[0] shard 0", "[1] shard 1"], shown.exception
    missing = call("logs", "told", "dpo-1", *place).exception
    assert isinstance(missing, PermanentError)
    assert "stage dpo-1 has not started: it is Waiting" in str(missing)
    for pod in pods:
        end(runs.core, runs.namespace, pod, "generate-1", Outcome())
    kubelet.stop()
