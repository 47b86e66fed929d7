"""`evolution doctor`: what is seen of a machine, a cluster and its nodes, and what it means; and whole calls of the command."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_operator.api.crd import build_crd
from evolution_operator.api.spec import EvolutionRun
from evolution_operator.cli.doctor import command, see_machine
from evolution_operator.cli.doctor.cluster import ClusterSeen, check_cluster, differences
from evolution_operator.cli.doctor.machine import MachineSeen, TorchSeen, check_machine, minimums, older
from evolution_operator.cli.doctor.needs import PodNeed, needs_of
from evolution_operator.cli.doctor.nodes import check_gpu_nodes, check_image, check_placement, full_name
from evolution_operator.cli.doctor.objects import check_objects
from evolution_operator.cli.doctor.probe_pod import checks_of, probe_pod
from evolution_operator.cli.doctor.see_cluster import operator_settings
from evolution_operator.cli.doctor.where import meant_for_cluster
from evolution_operator.cli.kube import ApiError
from evolution_operator.cli.main import app
from evolution_operator.controller.settings import Settings
from typer.testing import CliRunner, Result

from tests.support.cluster.played_api import PlayedApi, played_api
from tests.support.run_document import minimal_spec, run_document

GIB = 1 << 30
MACHINE = MachineSeen(
    python="3.12.1",
    packages={"torch": "2.9.0", "transformers": "5.2.1", "openai": None},
    minimum={"torch": "2.8", "transformers": "5.2", "openai": "2"},
    cores=8,
    memory=16 * GIB,
    free={"/tmp": 100 * GIB},
)
A100 = ("A100", 80 * GIB, (8, 0))
MACHINES: list[tuple[str, MachineSeen, int | None, dict[str, str], str]] = [
    ("a laptop", MACHINE, None, {}, "none: stages compute on 8 cores"),
    (
        "a package is missing",
        replace(MACHINE, packages={"torch": None}),
        None,
        {"packages": "failed"},
        "not installed: torch",
    ),
    (
        "a package is old",
        replace(MACHINE, packages={"torch": "2.7.9+cu128"}),
        None,
        {"packages": "failed"},
        "torch 2.7.9+cu128 (needs 2.8)",
    ),
    (
        "little memory",
        replace(MACHINE, memory=3 * GIB),
        None,
        {"memory": "warning"},
        "even the quickstart needs 4.0 GiB",
    ),
    ("a model that no CPU here holds", MACHINE, 15 * GIB, {"memory": "failed"}, "the weights take about 30.0 GiB"),
    ("memory unknown", replace(MACHINE, memory=None), None, {"memory": "skipped"}, "not known"),
    ("a full disk", replace(MACHINE, free={"/tmp": GIB // 2}), None, {"disk": "failed"}, "512.0 MiB free in /tmp"),
    (
        "a disk for no large model",
        replace(MACHINE, free={"/tmp": 8 * GIB}),
        6 * GIB,
        {"disk": "warning"},
        "may need more",
    ),
    (
        "a GPU",
        replace(MACHINE, gpus=1, torch=TorchSeen((A100,), "13.2")),
        16 * GIB,
        {},
        "A100 (80.0 GiB)",
    ),
    (
        "a driver that torch cannot use",
        replace(MACHINE, gpus=2, torch=TorchSeen((), "13.2")),
        None,
        {"GPU": "failed"},
        "2 seen by the driver, 0 by torch; torch is built for CUDA 13.2",
    ),
    (
        "a torch for CPUs",
        replace(MACHINE, gpus=1, torch=TorchSeen()),
        None,
        {"GPU": "failed"},
        "this torch is a build for CPUs",
    ),
    (
        "an old GPU",
        replace(MACHINE, gpus=1, torch=TorchSeen((("V100", 32 * GIB, (7, 0)),), "13.2")),
        None,
        {"GPU": "failed"},
        "compute capability below 7.5",
    ),
    (
        "a model larger than the GPU",
        replace(MACHINE, gpus=1, torch=TorchSeen((A100,), "13.2")),
        90 * GIB,
        {"GPU": "failed"},
        "the weights alone take 90.0 GiB",
    ),
    (
        "a torch that crashes",
        replace(MACHINE, gpus=1, torch=TorchSeen(fault="ImportError: libcudart")),
        None,
        {"GPU": "failed"},
        "ImportError: libcudart",
    ),
]


@pytest.mark.parametrize(
    ("seen", "weights", "other", "words"), [each[1:] for each in MACHINES], ids=[e[0] for e in MACHINES]
)
def test_a_machine(seen: MachineSeen, weights: int | None, other: dict[str, str], words: str) -> None:
    checks = check_machine(seen, weights)
    assert {check.name for check in checks} == {"packages", "memory", "disk", "GPU"}
    assert {check.name: check.state for check in checks if check.state != "ok"} == other
    assert any(words in check.found for check in checks), checks


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("2.8", "2.8", False),
        ("2.10.1", "2.8", False),
        ("2.7.9", "2.8", True),
        ("5", "5.2", True),
        ("5.2.0.dev1", "5.2", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, minimum: str, expected: bool) -> None:
    assert older(version, minimum) is expected


def test_least_versions_are_those_of_the_package_itself() -> None:
    lines = [
        'torch>=2.8; extra == "train"',
        "pydantic>=2.12",
        'moto[server]>=5; extra == "unit"',
        "peft ; extra=='train'",
    ]
    assert minimums(lines, "train") == {"torch": "2.8", "peft": "0"}


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU is here, so the answer of torch is played."""
    answer = '{"devices": [["A100", 85899345920, [8, 0]]], "cuda": "13.2"}'
    monkeypatch.setattr(see_machine, "ASK_TORCH", f"print('a warning'); print({answer!r})")
    assert see_machine._ask_torch() == TorchSeen((A100,), "13.2")
    monkeypatch.setattr(see_machine, "ASK_TORCH", "raise SystemError('no driver')")
    assert see_machine._ask_torch().fault == "SystemError: no driver"


# ---- nodes


def node(name: str = "n", allocatable: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    offered = {"cpu": "8", "memory": "32Gi"} | (allocatable or {})
    document: dict[str, Any] = {
        "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": {"taints": more.pop("taints", []), "unschedulable": more.pop("unschedulable", False)},
        "status": {"allocatable": offered, "conditions": [{"type": "Ready", "status": more.pop("ready", "True")}]},
    }
    document["status"]["images"] = [{"names": [image]} for image in more.pop("images", [])]
    assert not more
    return document


def need(resources: dict[str, Any] | None = None, **pod: Any) -> PodNeed:
    return PodNeed(("sft", "dpo"), {"containers": [{"image": "train:1", "resources": resources or {}}], **pod})


GPU = {"limits": {"nvidia.com/gpu": 1, "memory": "24Gi"}}
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
PLACES: list[tuple[str, PodNeed, dict[str, Any], str]] = [
    ("anything", need(), node(), ""),
    ("a GPU", need(GPU), node(allocatable={"nvidia.com/gpu": "4"}), ""),
    ("no GPU", need(GPU), node(), "offers no nvidia.com/gpu"),
    (
        "too few",
        need({"limits": {"nvidia.com/gpu": 8}}),
        node(allocatable={"nvidia.com/gpu": "4"}),
        "offers nvidia.com/gpu 4",
    ),
    ("a request below its limit", need({"requests": {"memory": "1Gi"}, "limits": {"memory": "64Gi"}}), node(), ""),
    ("memory", need({"requests": {"memory": "33Gi"}}), node(), "offers memory 32Gi"),
    ("cores", need({"requests": {"cpu": "7500m"}}), node(), ""),
    ("a label", need(nodeSelector={"zone": "a"}), node(labels={"zone": "b"}), "without label zone=a"),
    ("a taint", need(), node(taints=[TAINT]), "taint nvidia.com/gpu=present:NoSchedule is not tolerated"),
    ("tolerated", need(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]), node(taints=[TAINT]), ""),
    (
        "tolerated by value",
        need(tolerations=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]),
        node(taints=[TAINT]),
        "",
    ),
    (
        "another effect",
        need(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}]),
        node(taints=[TAINT]),
        "taint nvidia.com/gpu=present:NoSchedule is not tolerated",
    ),
    ("everything tolerated", need(tolerations=[{"operator": "Exists"}]), node(taints=[TAINT]), ""),
    ("only preferred", need(), node(taints=[{**TAINT, "effect": "PreferNoSchedule"}]), ""),
    ("not ready", need(), node(ready="Unknown"), "not ready"),
    ("cordoned", need(), node(unschedulable=True), "cordoned"),
]


@pytest.mark.parametrize(("wanted", "place", "why"), [each[1:] for each in PLACES], ids=[each[0] for each in PLACES])
def test_a_pod_fits_a_node_or_it_says_why_not(wanted: PodNeed, place: dict[str, Any], why: str) -> None:
    check = check_placement(wanted, [place])
    assert check.state == ("failed" if why else "ok")
    assert (f"1 node: {why}" if why else "1 of 1 nodes") in check.found


def test_gpus_and_images_of_nodes() -> None:
    gpus = [node(allocatable={"nvidia.com/gpu": "4"}), node(allocatable={"nvidia.com/gpu": "2", "amd.com/gpu": "1"})]
    assert check_gpu_nodes(gpus).found == "1 amd.com/gpu, 6 nvidia.com/gpu on 2 nodes"
    assert check_gpu_nodes([node(allocatable={"nvidia.com/gpu": "0"})]).state == "warning"
    images = [node(images=["docker.io/evolution/train:1"]), node(images=["docker.io/evolution/train@sha256:0"])]
    assert check_image("evolution/train:1", images).found == "1 of 2 nodes have it"
    assert check_image("evolution/train:2", images).state == "skipped", (
        "nothing is known of an image that no node lists"
    )


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("train", "docker.io/library/train:latest"),
        ("own/train:1", "docker.io/own/train:1"),
        ("registry:5000/train", "registry:5000/train:latest"),
        ("localhost/train:1", "localhost/train:1"),
        ("quay.io/own/train@sha256:0", "quay.io/own/train@sha256:0"),
    ],
)
def test_full_names_of_images(image: str, expected: str) -> None:
    assert full_name(image) == expected


# ---- the cluster

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALLOWED = {"status": {"allowed": True}}
OPERATOR: dict[str, Any] = {
    "metadata": {"namespace": "evolution", "name": "evo", "labels": {"app.kubernetes.io/version": "0.1.0"}},
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "operator",
                        "env": [
                            {"name": "KOPF_RUN_CLUSTERWIDE", "value": "true"},
                            {"name": "EVOLUTION_STAGE_IMAGE", "value": "registry/train:1"},
                            {"name": "EVOLUTION_STAGE_POD", "value": '{"imagePullSecrets": ["pull"]}'},
                            {"name": "EVOLUTION_WORKERS", "value": "many"},
                            {"name": "EVOLUTION_IDENTITY", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "EVOLUTION_LEASE_NAMESPACE", "value": "evolution"},
                        ],
                    }
                ]
            }
        },
    },
    "status": {"readyReplicas": 1},
}
LEASE = {"spec": {"holderIdentity": "evo-1", "renewTime": "2025-12-31T23:59:58.000000Z"}}
SEEN = ClusterSeen(
    server="https://k8s",
    namespace="team",
    version={"major": "1", "minor": "34+", "gitVersion": "v1.34.4"},
    definition=build_crd(),
    served={"resources": []},
    found_namespace={"status": {"phase": "Active"}},
    operators={"items": [OPERATOR]},
    leases={"evolution/evo": LEASE},
    rights={"create evolutionruns": ALLOWED, "get pods/log": ALLOWED},
    now=NOW,
)
FORBIDDEN, MISSING = ApiError(403, "forbidden"), ApiError(404, "not found")


def changed(document: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {**document, **parts}


def serving(*namespaces: str) -> dict[str, Any]:
    operator = copy.deepcopy(OPERATOR)
    operator["spec"]["template"]["spec"]["containers"][0]["env"][0] = {
        "name": "KOPF_RUN_NAMESPACES",
        "value": " ".join(namespaces),
    }
    return operator


CLUSTERS: list[tuple[str, ClusterSeen, dict[str, str], str]] = [
    ("all is well", SEEN, {}, "Kubernetes v1.34.4 at https://k8s"),
    (
        "old",
        replace(SEEN, version={"major": "1", "minor": "29", "gitVersion": "v1.29"}),
        {"cluster": "failed"},
        "1.30 is needed",
    ),
    ("refused", replace(SEEN, version=ApiError(401, "who are you")), {"cluster": "failed"}, "who are you"),
    (
        "no CRD",
        replace(SEEN, definition=MISSING, served=MISSING),
        {"EvolutionRun (CRD)": "failed"},
        "does not know EvolutionRuns",
    ),
    (
        "no CRD to be seen",
        replace(SEEN, definition=FORBIDDEN, served=MISSING),
        {"EvolutionRun (CRD)": "failed"},
        "does not know",
    ),
    ("a CRD not to be read", replace(SEEN, definition=FORBIDDEN), {"EvolutionRun (CRD)": "skipped"}, "may not read it"),
    ("no operator", replace(SEEN, operators={"items": []}), {"operator": "failed"}, "no Deployment of it is found"),
    ("no rights to look", replace(SEEN, operators=FORBIDDEN), {"operator": "skipped"}, "may not list Deployments"),
    (
        "another namespace",
        replace(SEEN, operators={"items": [serving("a", "b")]}),
        {"operator": "failed"},
        "evolution/evo does not serve namespace team",
    ),
    ("this namespace", replace(SEEN, operators={"items": [serving("a", "team")]}), {}, "evo-1 leads"),
    (
        "two operators",
        replace(SEEN, operators={"items": [OPERATOR, OPERATOR]}),
        {"operator": "failed"},
        "all would act",
    ),
    (
        "not ready",
        replace(
            SEEN,
            operators={
                "items": [changed(OPERATOR, status={"conditions": [{"status": "False", "message": "quota exceeded"}]})]
            },
        ),
        {"operator": "failed"},
        "quota exceeded",
    ),
    (
        "another version",
        replace(
            SEEN,
            operators={
                "items": [
                    changed(
                        OPERATOR, metadata={**OPERATOR["metadata"], "labels": {"app.kubernetes.io/version": "9.0.0"}}
                    )
                ]
            },
        ),
        {"operator": "warning"},
        "has version 9.0.0, this command 0.1.0",
    ),
    ("never led", replace(SEEN, leases={"evolution/evo": MISSING}), {"operator: leader": "failed"}, "never led"),
    (
        "a Lease not to be read",
        replace(SEEN, leases={"evolution/evo": FORBIDDEN}),
        {"operator: leader": "skipped"},
        "may not read",
    ),
    (
        "released",
        replace(SEEN, leases={"evolution/evo": {"spec": {"holderIdentity": ""}}}),
        {"operator: leader": "failed"},
        "no replica leads",
    ),
    (
        "stale",
        replace(SEEN, leases={"evolution/evo": {"spec": {**LEASE["spec"], "renewTime": "2025-12-31T23:50:00Z"}}}),
        {"operator: leader": "warning"},
        "renewed 600 s ago",
    ),
    ("no namespace", replace(SEEN, found_namespace=MISSING), {"namespace team": "failed"}, "it does not exist"),
    (
        "a namespace that ends",
        replace(SEEN, found_namespace={"status": {"phase": "Terminating"}}),
        {"namespace team": "failed"},
        "being deleted",
    ),
    (
        "may not create",
        replace(SEEN, rights={"create evolutionruns": {"status": {"allowed": False}}}),
        {"rights": "failed"},
        "may not create evolutionruns in namespace team",
    ),
    (
        "may not read logs",
        replace(SEEN, rights={"create evolutionruns": ALLOWED, "get pods/log": {"status": {}}}),
        {"rights": "warning"},
        "may not get pods/log",
    ),
    (
        "rights unknown",
        replace(SEEN, rights={"create evolutionruns": FORBIDDEN}),
        {"rights": "skipped"},
        "does not say",
    ),
]


@pytest.mark.parametrize(
    ("seen", "other", "words"), [each[1:] for each in CLUSTERS], ids=[each[0] for each in CLUSTERS]
)
def test_a_cluster(seen: ClusterSeen, other: dict[str, str], words: str) -> None:
    checks = check_cluster(seen, "0.1.0")
    assert {check.name: check.state for check in checks if check.state != "ok"} == other
    assert any(words in check.found for check in checks), checks
    assert all(check.remedy for check in checks if check.state == "failed"), "each failure says what to do"


def test_an_older_and_a_newer_definition_are_told_by_their_fields() -> None:
    older, newer = build_crd(), build_crd()
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del spec["stopping"]
    del spec["dpo"]["properties"]["beta"]
    assert differences(older) == (["spec.dpo.beta", "spec.stopping"], [])
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["later"] = {
        "type": "string"
    }
    assert differences(newer) == ([], ["spec.later"])
    checks = {check.name: check for check in check_cluster(replace(SEEN, definition=older), "0.1.0")}
    assert checks["EvolutionRun (CRD)"].found == "older than this command: it lacks spec.dpo.beta, spec.stopping"


def test_the_operators_own_settings_decide_what_pods_look_like() -> None:
    settings = operator_settings(SEEN)
    assert (settings.stage_image, settings.stage_pod.image_pull_secrets) == ("evolution-operator/train:latest", None), (
        "a setting that cannot be read leaves the defaults"
    )
    operator = copy.deepcopy(OPERATOR)
    operator["spec"]["template"]["spec"]["containers"][0]["env"].pop(3)
    settings = operator_settings(replace(SEEN, operators={"items": [operator]}))
    assert (settings.stage_image, settings.stage_pod.image_pull_secrets) == ("registry/train:1", ["pull"])


# ---- what a run needs


def run(**spec: Any) -> EvolutionRun:
    return EvolutionRun.model_validate(run_document(minimal_spec(**spec)))


FULL = {
    "model_uri": "pvc://models/llama",
    "storage": {"uri": "s3://bucket/runs", "credentialsSecret": "s3"},
    "data": {"seed": [{"uri": "s3://data/seed.jsonl", "format": "esconv", "credentialsSecret": "data"}]},
    "preferenceSource": "teacher",
    "teacher": {"url": "https://api.example.com/v1", "model": "m", "apiKeySecret": "teacher"},
    "pod": {
        "serviceAccountName": "irsa",
        "priorityClassName": "high",
        "imagePullSecrets": ["pull"],
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "own", "key": "x"}}}],
    },
    "sft": {"pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
}


def test_everything_that_a_run_names_is_looked_for() -> None:
    needs = needs_of(run(**FULL).spec, Settings(stage_image="train:1"))
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert needs.secrets == {"s3": keys, "data": keys, "teacher": {"API_KEY"}, "pull": set(), "own": {"x"}}
    assert (needs.service_accounts, needs.claims, needs.priority_classes) == ({"irsa"}, {"models"}, {"high"})
    kinds = {each.kinds: each.requests for each in needs.pods}
    assert kinds == {("prepare", "generate", "reflect", "dpo", "evaluate"): {}, ("sft",): {"nvidia.com/gpu": 1}}
    found = {
        ("Secret", "s3"): {"data": dict.fromkeys(keys, "")},
        ("Secret", "data"): {"data": {"AWS_ACCESS_KEY_ID": ""}},
        ("Secret", "teacher"): MISSING,
        ("Secret", "pull"): FORBIDDEN,
        ("Secret", "own"): {"data": {"x": ""}},
        ("ServiceAccount", "irsa"): {},
        ("PersistentVolumeClaim", "models"): {"status": {"phase": "Pending"}},
        ("PriorityClass", "high"): MISSING,
    }
    states = {check.name: check for check in check_objects(needs, found, "team")}
    assert {name: check.state for name, check in states.items()} == {
        "Secret s3": "ok",
        "Secret data": "failed",
        "Secret teacher": "failed",
        "Secret pull": "skipped",
        "Secret own": "ok",
        "ServiceAccount irsa": "ok",
        "PersistentVolumeClaim models": "warning",
        "PriorityClass high": "failed",
    }
    assert states["Secret teacher"].remedy == "kubectl -n team create secret generic teacher --from-literal=API_KEY=..."
    assert states["Secret data"].found == "it has no key AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (run_document(minimal_spec()), False),
        (run_document(minimal_spec(), namespace="team"), True),
        (run_document(minimal_spec(storage={"uri": "s3://b/r", "credentialsSecret": "s3"})), True),
        (run_document(minimal_spec(sft={"pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}})), True),
        (run_document(minimal_spec(queueName="q")), True),
        (run_document(minimal_spec(model_uri="pvc://c/m")), True),
    ],
)
def test_a_file_tells_where_it_is_to_run(document: dict[str, Any], expected: bool) -> None:
    assert meant_for_cluster(EvolutionRun.model_validate(document)) is expected


# ---- the probe Pod

TRIAL = '{"uri": "s3://b/r", "worked": ["list", "write", "read", "create", "delete"], "ahead": 0.5}'


def seen_pod(phase: str, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    statuses = [{"name": "stage", "state": state}] if state else []
    return {
        "spec": {"containers": [{"image": "train:1"}]},
        "status": {"phase": phase, "containerStatuses": statuses, **status},
    }


def waiting(reason: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": "the words"}}


@pytest.mark.parametrize(
    ("pod", "log", "late", "expected"),
    [
        (seen_pod("Pending"), "", False, None),
        (seen_pod("Pending", waiting("ErrImagePull")), "", False, None),
        (seen_pod("Pending", waiting("ImagePullBackOff")), "", False, ("image train:1 (from a Pod)", "failed")),
        (seen_pod("Pending", waiting("InvalidImageName")), "", False, ("image train:1 (from a Pod)", "failed")),
        (seen_pod("Pending", waiting("CreateContainerConfigError")), "", False, ("probe Pod (from a Pod)", "failed")),
        (
            seen_pod("Pending", conditions=[{"status": "False", "message": "0/3 nodes are available"}]),
            "",
            True,
            ("probe Pod", "failed"),
        ),
        (seen_pod("Succeeded"), f"a warning\n{TRIAL}\n", False, ("storage (from a Pod)", "ok")),
        (
            seen_pod("Failed"),
            "No module named evolution_jobs.storage_trial",
            False,
            ("storage (from a Pod)", "skipped"),
        ),
        (seen_pod("Failed"), "StorageInvalid: no", False, ("storage (from a Pod)", "failed")),
        (seen_pod("Failed", message="deadline"), "", False, ("storage (from a Pod)", "failed")),
    ],
)
def test_what_a_probe_pod_shows(pod: dict[str, Any], log: str, late: bool, expected: tuple[str, str] | None) -> None:
    found = checks_of(pod, lambda: log, late)
    if expected is None:
        assert found is None, "it is looked at again"
    else:
        assert found is not None
        assert expected in [(check.name, check.state) for check in found]


def test_a_probe_pod_is_a_stages_without_its_gpu() -> None:
    template = needs_of(run(**FULL).spec, Settings(stage_image="train:1")).pods[1].template
    pod = probe_pod(template, run(**FULL).spec.storage, "team")
    (container,) = pod["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", "evolution_jobs.storage_trial"]
    assert json.loads(container["command"][-1]) == {"uri": "s3://bucket/runs", "credentialsSecret": "s3"}
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert container["securityContext"] == template["containers"][0]["securityContext"], "the level restricted holds"
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert {
        "name": "AWS_ACCESS_KEY_ID",
        "valueFrom": {"secretKeyRef": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}},
    } in container["env"]
    assert pod["metadata"]["labels"]["evolution.run/run"] == "evolution-doctor", (
        "so that NetworkPolicies of stages apply"
    )


# ---- whole calls


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def by_name(result: Result) -> dict[str, dict[str, str]]:
    document = json.loads(result.stdout)
    assert document["ok"] is (result.exit_code == 0)
    return {check["name"]: check for check in document["checks"]}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything is installed: `make unit` has no torch."""
    monkeypatch.setattr(command, "see_machine", lambda state: MACHINE)


def file_of(directory: Path, **spec: Any) -> str:
    model = directory / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"x" * 2048)
    given = {"model_uri": model.as_uri(), "storage_uri": (directory / "store").as_uri()} | spec
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(minimal_spec(**given))))
    return str(path)


@pytest.mark.usefixtures("machine")
def test_this_machine_for_a_run_file(tmp_path: Path) -> None:
    result = doctor("-f", file_of(tmp_path), "-o", "json")
    assert result.exit_code == 0, result.output
    checks = by_name(result)
    assert checks["base model"]["found"] == f"{(tmp_path / 'model').as_uri()}, weights of 2.0 KiB"
    assert checks["storage: conditional write"]["state"] == "ok"
    missing = doctor("-f", file_of(tmp_path, model_uri=(tmp_path / "none").as_uri()))
    assert missing.exit_code == 1
    assert "failed   base model: ModelMissing: baseModel.uri: file://" in missing.stdout
    assert missing.stdout.splitlines()[-1].endswith(" 1 failed, 0 skipped")


@pytest.mark.usefixtures("machine")
def test_without_a_file_it_says_what_was_not_looked_at() -> None:
    result = doctor("--machine")
    assert result.exit_code == 0
    assert "skipped  storage, base model: no run file is named" in result.stdout


def test_a_cluster_without_its_packages_is_one_message() -> None:
    code = (
        "import sys; sys.modules['kubernetes'] = None; sys.argv = ['evolution', 'doctor', '--cluster'];"
        "from evolution_operator.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cluster: DependencyMissing: a cluster needs the kubernetes package" in done.stdout
    assert done.returncode == 1


@pytest.mark.usefixtures("machine")
def test_the_key_of_an_endpoint_is_looked_for_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = {"url": "https://api.example.com/v1", "model": "m", "apiKeySecret": "teacher"}
    file = file_of(tmp_path, preferenceSource="teacher", teacher=teacher)
    first = by_name(doctor("-f", file, "-o", "json"))["API key of teacher"]
    assert first["state"] == "failed"
    variable = first["found"].split()[1]
    monkeypatch.setenv(variable, "sk-very-secret-key")
    second = doctor("-f", file, "-o", "json")
    assert by_name(second)["API key of teacher"]["state"] == "ok"
    assert "sk-very" not in second.stdout


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PlayedApi]:
    """A cluster on which everything is well, with one GPU node."""
    with played_api(monkeypatch, tmp_path, "team") as api:
        labels = {**OPERATOR["metadata"]["labels"]}
        # The chart's nameOverride.
        labels |= {"app.kubernetes.io/name": "improver", "app.kubernetes.io/component": "operator"}
        operator = copy.deepcopy(OPERATOR)
        operator["metadata"]["labels"] = labels
        operator["spec"]["template"]["spec"]["containers"][0]["env"].pop(3)
        foreign = copy.deepcopy(operator)
        foreign["metadata"]["name"] = "another-operator"
        foreign["spec"]["template"]["spec"]["containers"][0]["env"] = []
        api.answers = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/evolutionruns.evolution.run": build_crd(),
            "/apis/evolution.run/v1alpha1": {"resources": []},
            "/api/v1/namespaces/team": {"status": {"phase": "Active"}},
            "/apis/apps/v1/deployments": {"items": [foreign, operator]},
            "/apis/coordination.k8s.io/v1/namespaces/evolution/leases/evo": {"spec": {"holderIdentity": "evo-1"}},
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": ALLOWED,
            "/api/v1/nodes": {"items": [node(allocatable={"nvidia.com/gpu": "1"}, images=["registry/train:1"])]},
            "/api/v1/namespaces/team/secrets/s3": {
                "data": {"AWS_ACCESS_KEY_ID": "c2VjcmV0", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0"}
            },
            "/api/v1/namespaces/team/secrets/pull": {"data": {}},
        }
        yield api


ON_CLUSTER = {
    "storage": {"uri": "s3://bucket/runs", "credentialsSecret": "s3"},
    "pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
}


def test_a_cluster_for_a_run_file_that_is_meant_for_one(api: PlayedApi, tmp_path: Path) -> None:
    result = doctor("-f", file_of(tmp_path, model_uri="hf://owner/model", **ON_CLUSTER), "-o", "json")
    checks = by_name(result)
    assert {check["name"] for check in checks.values() if check["state"] != "ok"} == {"storage"}, checks
    assert checks["Secret s3"]["found"] == "it exists with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    assert "c2VjcmV0" not in result.stdout
    assert checks["image registry/train:1"]["found"] == "1 of 1 nodes have it"
    assert {method for method, path, _ in api.asked if "selfsubject" not in path} == {"GET"}, "it changes nothing"
    api.answers["/api/v1/nodes"] = {"items": [node()]}
    del api.answers["/api/v1/namespaces/team/secrets/s3"]
    result = doctor("-f", str(tmp_path / "run.yaml"), "-o", "json")
    failed = {check["name"] for check in by_name(result).values() if check["state"] == "failed"}
    assert failed == {"Secret s3", "nodes for prepare, sft, generate, reflect, dpo, evaluate"}


def test_a_user_with_few_rights_is_told_what_is_not_known(api: PlayedApi, tmp_path: Path) -> None:
    for path in list(api.answers):
        if path not in (
            "/version",
            "/apis/evolution.run/v1alpha1",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        ):
            api.answers[path] = 403
    result = doctor("--cluster", "-f", file_of(tmp_path, model_uri="hf://owner/model", **ON_CLUSTER), "-o", "json")
    checks = by_name(result)
    assert {check["state"] for check in checks.values()} == {"ok", "skipped"}, checks
    assert checks["nodes"]["state"] == "skipped"


def test_with_pods_one_pod_tries_the_storage_and_is_deleted(api: PlayedApi, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/team/pods"
    api.answers[f"POST {path}"] = {}

    def made(asked: str) -> None:
        posted = [body for method, at, body in api.asked if method == "POST" and at == path]
        if posted and asked.startswith(f"{path}/"):
            name = posted[0]["metadata"]["name"]
            api.answers[f"GET {path}/{name}"] = {**posted[0], **{"status": seen_pod("Succeeded")["status"]}}
            api.answers[f"DELETE {path}/{name}"] = {}
            api.logs[name] = lambda query: iter([TRIAL.encode() + b"\n"])

    api.before = made
    result = doctor("--pods", "-f", file_of(tmp_path, model_uri="hf://owner/model", **ON_CLUSTER), "-o", "json")
    checks = by_name(result)
    assert checks["storage: conditional write (from a Pod)"]["state"] == "ok", checks
    assert checks["image registry/train:1 (from a Pod)"]["found"] == "it was pulled and started"
    assert [method for method, at, _ in api.asked if at.startswith(path) and "log" not in at] == [
        "POST",
        "GET",
        "DELETE",
    ]
    api.before = lambda asked: None
    api.answers[f"POST {path}"] = 403
    refused = by_name(doctor("--pods", "-f", str(tmp_path / "run.yaml"), "-o", "json"))["probe Pod"]
    assert refused["found"] == "the API server refuses it: words for 403"


def test_an_invalid_file_and_no_cluster_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    checks = by_name(doctor("--cluster", "-o", "json"))
    assert checks["cluster"]["state"] == "failed"
    assert checks["cluster"]["found"].startswith("NoCluster: no cluster is configured")
    assert doctor("--cluster").exit_code == 1
    wrong = file_of(tmp_path, iterations=-1)
    assert "spec.iterations" in str(doctor("-f", wrong).exception)
