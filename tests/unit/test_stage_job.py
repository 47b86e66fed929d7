"""The Job of an attempt, compared with golden files. `EVOLUTION_UPDATE_GOLDEN=1 pytest tests/unit/test_stage_job.py` writes them."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.stage import BLOCKS, RankLayout, RunRef, StageSpec
from evolution_operator.api.pod import PodSettings
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller import labels
from evolution_operator.controller.jobs.cleanup_job import build_cleanup_job, cleanup_name
from evolution_operator.controller.jobs.pods import cores_of, gpus_of, pod_template, template_digests
from evolution_operator.controller.jobs.service import build_service, service_name
from evolution_operator.controller.jobs.stage_job import NAME_LENGTH, build_job, job_name
from evolution_operator.controller.settings import Settings, SettingsError, read_settings
from evolution_operator.planner.actions import Start
from evolution_operator.planner.observed import Observed, Run
from evolution_operator.planner.plan import plan

from tests.support.cluster.objects import KEY, stage_start
from tests.support.run_document import minimal_spec

GOLDEN = Path(__file__).parent / "golden"
OWNER = RunRef(namespace="team", name="support", uid="6d7e4f0a-0000-4000-8000-000000000001")
SETTINGS = Settings(
    stage_image="registry/train:1", evaluation_priority_class="spare", lease_namespace="system", identity="pod"
)

LEAST = minimal_spec()
RICH: dict[str, Any] = {
    "baseModel": {"uri": "pvc://models/llama", "tokenSecret": None},
    "storage": {"uri": "s3://bucket/runs", "endpoint": "http://minio:9000", "credentialsSecret": "s3-credentials"},
    "data": {
        "seed": [{"uri": "s3://data/seed.json", "format": "esconv", "credentialsSecret": "seed-reader"}],
        "test": [{"uri": "s3://data/test.json", "format": "esconv", "credentialsSecret": "seed-reader"}],
        "replay": [{"uri": "hf://owner/alpaca", "format": "alpaca", "credentialsSecret": "hub.token"}],
    },
    "queueName": "gpus",
    "pod": {
        "image": "registry/general:2",
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["registry"],
        "serviceAccountName": "trainer",
        "nodeSelector": {"gpu": "a100"},
        "env": [{"name": "HF_HOME", "value": "/cache"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "big", "emptyDir": {"sizeLimit": "500Gi"}},
        ],
        "volumeMounts": [
            {"name": "cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "big", "mountPath": "/scratch/"},
        ],
        "labels": {"team": "support", labels.RUN: "forged"},
        "annotations": {"note": "x"},
    },
    "generation": {
        "shards": 3,
        "pod": {
            "resources": {"requests": {"cpu": 4}, "limits": {"nvidia.com/gpu": 1, "memory": "48Gi"}},
            "nodeSelector": {"gpu": "h100"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
            "priorityClassName": "high",
            "runtimeClassName": "nvidia",
            "schedulerName": "volcano",
            "terminationGracePeriodSeconds": 600,
        },
    },
}


NODES: dict[str, Any] = minimal_spec(
    sft={"processes": 4, "nodes": 2, "pod": {"resources": {"limits": {"nvidia.com/gpu": 4}}}}
)


TAUGHT: dict[str, Any] = minimal_spec(
    preferenceSource="teacher",
    teacher={"url": "https://api.example.com/v1", "model": "large", "apiKeySecret": "my.teacher"},
    reflection={"pod": {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}},
)


JUDGED: dict[str, Any] = minimal_spec(
    baseModel={"uri": "pvc://models/llama", "tokenSecret": "hub"},
    judge={"url": "https://api.example.com/v1", "model": "large", "apiKeySecret": "my.judge"},
    pod={"resources": {"limits": {"cpu": 8, "memory": "48Gi", "nvidia.com/gpu": 1}}},
)


RANKED: dict[str, Any] = minimal_spec(
    preferenceSource="mixed",
    preferenceWeights={"reward": 1, "teacher": 1},
    teacher=TAUGHT["teacher"],
    reward={"judge": {"url": "https://api.example.com/v1", "model": "large", "apiKeySecret": "my.ranker"}},
)


CACHED: dict[str, Any] = minimal_spec(
    modelCache={"hostPath": "/var/lib/models", "nodes": 3, "pod": {"resources": {"requests": {"cpu": 1}}}},
    pod={"tolerations": [{"key": "gpu", "operator": "Exists"}], "resources": {"limits": {"memory": "48Gi"}}},
    sft={"pod": {"nodeSelector": {"gpu": "h100"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}},
)


def parsed(spec: dict[str, Any]) -> EvolutionRunSpec:
    return EvolutionRunSpec.model_validate(spec)


def start(kind: str, iteration: int | None = None, shards: int = 1, ranks: RankLayout | None = None) -> Start:
    return stage_start(kind, iteration, shards, run=OWNER, attempt=f"{OWNER.uid}-1", ranks=ranks)


CASES = {
    "job-prepare-least": (LEAST, start("prepare")),
    "job-evaluate-least": (LEAST, start("evaluate", 0)),
    "job-prepare-rich": (RICH, start("prepare")),
    "job-generate-rich": (RICH, start("generate", 1, shards=3)),
    "job-prewarm-nodes": (CACHED, start("prewarm", shards=3)),
    "job-sft-cached": (CACHED, start("sft", 0)),
    "job-reflect-teacher": (TAUGHT, start("reflect", 1)),
    "job-judge": (JUDGED, start("judge", 1)),
    "job-sft-nodes": (NODES, start("sft", 0, ranks=RankLayout(processes=4, nodes=2))),
}


def check(name: str, document: dict[str, Any]) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(document, sort_keys=False, width=120)
    if os.environ.get("EVOLUTION_UPDATE_GOLDEN"):
        path.write_text(text)
    assert yaml.safe_load(path.read_text()) == document


@pytest.mark.parametrize("name", CASES)
def test_a_job_is_as_its_golden_file_says(name: str) -> None:
    spec, action = CASES[name]
    check(name, build_job(OWNER, parsed(spec), action, SETTINGS))


def test_prewarm_has_the_placement_and_resources_of_sft_but_never_a_gpu() -> None:
    spec = minimal_spec(
        modelCache={"claim": "models"},
        pod={"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        sft={
            "pod": {
                "nodeSelector": {"gpu": "h100"},
                "resources": {"requests": {"cpu": 4, "nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 1}},
            }
        },
    )
    chart = SETTINGS.model_copy(
        update={"stage_pod": PodSettings.model_validate({"resources": {"limits": {"amd.com/gpu": 1, "memory": "4Gi"}}})}
    )
    found = pod_template(parsed(spec), "prewarm", chart)["spec"]
    assert found["containers"][0]["resources"] == {"requests": {"cpu": 4}}
    assert found["nodeSelector"] == {"gpu": "h100"}
    assert found["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "topologySpreadConstraints" not in found
    del spec["sft"]
    found = pod_template(parsed(spec), "prewarm", chart)["spec"]
    assert found["containers"][0]["resources"] == {"limits": {"memory": "4Gi"}}


def test_a_cleanup_job_is_as_its_golden_file_says() -> None:
    check("job-cleanup", build_cleanup_job(OWNER, parsed(RICH), ["b" * 64, "a" * 64, "a" * 64], SETTINGS))


def test_the_service_of_a_run_is_as_its_golden_file_says() -> None:
    check("service", build_service(OWNER))


@pytest.mark.parametrize(
    ("spec", "secret", "holder"),
    [
        (TAUGHT, "my.teacher", "reflect"),
        (RANKED, "my.teacher", "reflect"),
        (RANKED, "my.ranker", "reflect"),
        (JUDGED, "my.judge", "judge"),
    ],
)
def test_only_the_stage_that_asks_an_endpoint_gets_its_key(spec: dict[str, Any], secret: str, holder: str) -> None:
    run = parsed(spec)
    templates = {kind: str(pod_template(run, kind, SETTINGS)) for kind in BLOCKS if run.block(kind)}
    assert {kind for kind, template in templates.items() if secret in template} == {holder}


def test_the_judge_has_no_gpu_no_model_and_the_image_of_stages() -> None:
    chart = SETTINGS.model_copy(update={"vllm_image": "registry/vllm:1"})
    for more in ({}, {"baseModel": {"uri": "hf://owner/model"}, "modelCache": {"claim": "models"}}):
        found = pod_template(parsed({**JUDGED, **more}), "judge", chart)["spec"]
        container = found["containers"][0]
        assert container["resources"] == {"limits": {"cpu": 8, "memory": "48Gi"}}
        assert container["image"] == SETTINGS.stage_image
        assert {volume["name"] for volume in found["volumes"]} == {
            "evolution-spec",
            "evolution-tmp",
            "evolution-scratch",
        }
        assert "HF_TOKEN" not in str(container["env"])
        assert found["priorityClassName"] == "spare"


@pytest.mark.parametrize(
    ("base", "reward", "claims"),
    [
        ("hf://owner/model", "pvc://rewards/skywork", {"prepare": ["rewards"], "reflect": ["rewards"], "sft": []}),
        ("pvc://models/a", "pvc://models/b", {kind: ["models"] for kind in ("prepare", "reflect", "sft")}),
        ("pvc://models/a", "pvc://rewards/b", {"reflect": ["models", "rewards"], "sft": ["models"]}),
        ("pvc://models/a", "hf://owner/reward", {"reflect": ["models"]}),
    ],
)
def test_the_claim_of_a_reward_model_is_mounted_where_it_is_read(
    base: str, reward: str, claims: dict[str, list[str]]
) -> None:
    spec = parsed(minimal_spec(model_uri=base, preferenceSource="reward", reward={"model": {"uri": reward}}))
    for kind, expected in claims.items():
        pod = pod_template(spec, kind, SETTINGS)["spec"]
        found = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        assert found == [{"claimName": claim, "readOnly": True} for claim in expected]
        assert len({volume["name"] for volume in pod["volumes"]}) == len(pod["volumes"])


def test_the_claim_of_a_sentence_model_is_mounted_where_it_is_read() -> None:
    spec = parsed(minimal_spec(evaluation={"sentenceModel": {"uri": "pvc://sentences/minilm"}}))
    mounted = {
        kind
        for kind in ("prepare", "sft", "reflect", "evaluate")
        for volume in pod_template(spec, kind, SETTINGS)["spec"]["volumes"]
        if volume.get("persistentVolumeClaim") == {"claimName": "sentences", "readOnly": True}
    }
    assert mounted == {"prepare", "evaluate"}


def test_a_services_name_is_a_label_that_begins_with_a_letter() -> None:
    longest = OWNER.model_copy(update={"name": "7" * 40})
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", service_name(longest))
    assert service_name(longest) != service_name(longest.model_copy(update={"uid": "another"}))


def test_other_numbers_of_processes_are_another_template() -> None:
    digests = {
        template_digests(parsed(minimal_spec(sft={"processes": processes, "nodes": nodes})), SETTINGS)["sft"]
        for processes, nodes in ((1, 1), (2, 1), (4, 1), (1, 2), (4, 2))
    }
    assert len(digests) == 5


def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("name", CASES)
def test_no_pod_has_permissions_it_does_not_need(name: str) -> None:
    spec, action = CASES[name]
    pod_spec = pod(build_job(OWNER, parsed(spec), action, SETTINGS))
    assert pod_spec["automountServiceAccountToken"] is False
    assert pod_spec["enableServiceLinks"] is False
    assert pod_spec["securityContext"]["runAsNonRoot"] is True
    assert pod_spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod_spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_gets_the_planners_stage_spec() -> None:
    job = build_job(OWNER, parsed(RICH), start("generate", 1, shards=3), SETTINGS)
    given = StageSpec.model_validate_json(job["spec"]["template"]["metadata"]["annotations"][labels.SPEC])
    assert given.shard.count == 3
    assert given.model_copy(update={"shard": start("generate", 1).spec.shard}) == start("generate", 1).spec


@pytest.mark.parametrize("build", ["stage", "cleanup"])
def test_on_openshift_pods_ask_for_no_user_and_no_group(build: str) -> None:
    settings = SETTINGS.model_copy(update={"openshift": True})
    job = (
        build_job(OWNER, parsed(LEAST), start("prepare"), settings)
        if build == "stage"
        else build_cleanup_job(OWNER, parsed(LEAST), [], settings)
    )
    assert pod(job)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_secrets_are_referenced_and_never_read() -> None:
    job = build_job(OWNER, parsed(RICH), start("prepare"), SETTINGS)
    (container,) = pod(job)["containers"]
    references = [
        variable["valueFrom"]["secretKeyRef"]["name"] for variable in container["env"] if "valueFrom" in variable
    ]
    assert set(references) == {"s3-credentials"}
    assert container["envFrom"] == [
        {"prefix": "CREDENTIALS_SEED_READER_", "secretRef": {"name": "seed-reader"}},
        {"prefix": "CREDENTIALS_HUBdTOKEN_", "secretRef": {"name": "hub.token"}},
    ]
    (other,) = pod(build_job(OWNER, parsed(RICH), start("sft", 0), SETTINGS))["containers"]
    assert "envFrom" not in other


@pytest.mark.parametrize("name", ["a", "n" * 40, "a" * 32 + "-" + "b" * 7])
def test_names_fit_a_label_with_shard_and_suffix(name: str) -> None:
    owner = RunRef(namespace="ns", name=name, uid=OWNER.uid)
    longest = job_name(owner, "generate", 100, "generate-100", KEY, 7)
    assert len(longest) <= NAME_LENGTH
    assert len(f"{longest}-999-abcde") <= 63
    assert "--" not in longest
    assert longest.startswith(name[:20])
    assert len(cleanup_name(owner)) <= NAME_LENGTH


def test_names_differ_between_attempts_and_between_runs_of_one_name() -> None:
    names = {
        job_name(owner, "sft", 0, "sft", key, number)
        for owner in (OWNER, RunRef(namespace="team", name="support", uid="another-uid"))
        for key in (KEY, "c" * 64)
        for number in (1, 2)
    }
    assert len(names) == 8
    assert job_name(OWNER, "sft", 0, "sft", KEY, 1) == job_name(OWNER, "sft", None, "sft", KEY, 1)


def test_pod_settings_of_a_stage_override_those_of_the_run_and_those_of_the_operator() -> None:
    settings = Settings(
        stage_pod=PodSettings(node_selector={"pool": "batch"}, runtime_class_name="gvisor", priority_class_name=None),
        critical_priority_class="critical",
        lease_namespace="system",
        identity="pod",
    )
    spec = parsed(
        {**LEAST, "pod": {"nodeSelector": {"gpu": "a100"}}, "dpo": {"pod": {"nodeSelector": {"gpu": "h100"}}}}
    )
    dpo, sft = (pod(build_job(OWNER, spec, start(kind, 1), settings)) for kind in ("dpo", "sft"))
    assert (dpo["nodeSelector"], sft["nodeSelector"]) == ({"gpu": "h100"}, {"gpu": "a100"})
    assert {dpo["runtimeClassName"], sft["runtimeClassName"]} == {"gvisor"}
    assert dpo["priorityClassName"] == "critical"


@pytest.mark.parametrize(
    ("kind", "block", "image"),
    [
        ("generate", {}, "vllm:1"),
        ("reflect", {}, "vllm:1"),
        ("evaluate", {"engine": "vllm"}, "vllm:1"),
        ("evaluate", {"engine": "transformers"}, "train:1"),
        ("generate", {"pod": {"image": "own:1"}}, "own:1"),
        ("sft", {}, "train:1"),
    ],
)
def test_stages_that_may_use_vllm_take_its_image(kind: str, block: dict[str, Any], image: str) -> None:
    spec = parsed({**LEAST, BLOCKS[kind]: block})
    for given, expected in (("vllm:1", image), ("", image.replace("vllm", "train"))):
        settings = Settings(stage_image="train:1", vllm_image=given)
        assert pod_template(spec, kind, settings)["spec"]["containers"][0]["image"] == expected


def test_a_run_of_the_most_rounds_fits_an_annotation() -> None:
    """Kubernetes accepts 256 KiB of annotations, and prepare's spec holds the whole graph."""
    spec = parsed({**LEAST, "iterations": 100})
    run = Run(RunRef(namespace="team", name="support", uid=OWNER.uid), spec, attempt_prefix=OWNER.uid)
    (action,) = plan(run, Observed(), datetime(2026, 1, 1, tzinfo=UTC)).actions
    assert isinstance(action, Start)
    job = build_job(OWNER, spec, action, SETTINGS)
    assert len(job["spec"]["template"]["metadata"]["annotations"][labels.SPEC].encode()) < 200 * 1024


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLUTION_STAGE_IMAGE", "x:1")
    monkeypatch.setenv("EVOLUTION_WORKERS", "9")
    monkeypatch.setenv("EVOLUTION_LEASE_SECONDS", "2.5")
    monkeypatch.setenv("EVOLUTION_STAGE_POD", json.dumps({"imagePullSecrets": ["registry"]}))
    monkeypatch.setenv("UNRELATED", "1")
    settings = read_settings()
    assert (settings.stage_image, settings.workers, settings.lease_seconds) == ("x:1", 9, 2.5)
    assert settings.stage_pod.image_pull_secrets == ["registry"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WORKERS", "many", "EVOLUTION_WORKERS: Input should be a valid integer"),
        ("WORKERS", "0", "EVOLUTION_WORKERS: Input should be greater than or equal to 1"),
        ("LEASE_SECONDS", "nan", "EVOLUTION_LEASE_SECONDS: "),
        ("STAGE_POD", "{", "EVOLUTION_STAGE_POD: .*EOF"),
        ("STAGE_POD", '{"imagePullSecret": 1}', "EVOLUTION_STAGE_POD.imagePullSecret: "),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"EVOLUTION_{variable}", value)
    with pytest.raises(SettingsError, match=message):
        read_settings()


@pytest.mark.parametrize(
    ("resources", "cores"),
    [
        ({}, 0),
        ({"requests": {"memory": "1Gi"}}, 0),
        ({"requests": {"cpu": "500m"}}, 1),
        ({"requests": {"cpu": 4}}, 4),
        ({"requests": {"cpu": "500m"}, "limits": {"cpu": "2500m"}}, 3),
        ({"limits": {"cpu": "many"}}, 0),
    ],
)
def test_a_stage_computes_with_the_cores_of_its_resources(resources: dict[str, Any], cores: int) -> None:
    assert cores_of(resources) == cores


@pytest.mark.parametrize(
    ("resource", "counts"),
    [
        ("nvidia.com/gpu", True),
        ("nvidia.com/gpu.shared", True),
        ("nvidia.com/mig-1g.10gb", True),
        ("nvidia.com/mig-1g.10gb.shared", True),
        ("amd.com/gpu", True),
        ("gpu.intel.com/i915", True),
        ("gpu.intel.com/xe", True),
        ("k8s.amazonaws.com/vgpu", True),
        ("volcano.sh/vgpu-number", True),
        ("gpu.intel.com/i915_monitoring", False),
        ("nvidia.com/gpumem", False),
        ("aliyun.com/gpu-mem", False),
        ("example.com/gpus", False),
        ("cpu", False),
    ],
)
def test_gpus_slices_and_shares_of_them_are_counted(resource: str, counts: bool) -> None:
    assert gpus_of({"limits": {resource: "2", "memory": "1Gi"}}) == (2 if counts else 0)
    assert gpus_of({"requests": {resource: 1}}) == (1 if counts else 0)
