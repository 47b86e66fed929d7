"""The API server refuses a bad manifest with a message that names the field; `evolution validate` says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evolution_operator.api.validation import faults
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from hack.cluster.control_plane import ControlPlane
from tests.api.harness import Runs, manifest
from tests.support.run_document import minimal_spec

KeyPath = tuple[str | int, ...]
ABSENT = Ellipsis
SPEC = minimal_spec()
JUDGE = {"url": "http://judge:8000/v1", "model": "large"}
TEACHER = {"url": "http://teacher:8000/v1", "model": "large", "apiKeySecret": "teacher"}
REWARD = {"model": {"uri": "hf://owner/reward"}}
FIELDS = [
    {"name": "goal", "description": "what they want"},
    {"name": "level", "values": ["new to it", "stuck, or lost"]},
]
COMPARED = {"name": "mood", "field": "emotionalState", "label": "meta.mood"}
STORY = {"name": "story", "field": "situation", "label": "meta.story", "by": "similarity"}
SENTENCES = {"sentenceModel": {"uri": "package://small"}}

BAD: list[tuple[KeyPath, Any, str]] = [
    (("spec", "baseModel"), ABSENT, "spec.baseModel"),
    (("spec", "storage"), ABSENT, "spec.storage"),
    (("spec", "data"), ABSENT, "spec.data"),
    (("spec", "data", "seed"), [], "spec.data.seed"),
    (("spec", "data", "seed", 0, "format"), "csv", "spec.data.seed[0].format"),
    (("spec", "data", "seed", 0, "uri"), "ftp://host/file", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "hf://datasets/owner/name", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "hf://datasets/name", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "hf://name", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "s3://bucket", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "file:///~/x.jsonl", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "uri"), "file://C:\\x.jsonl", "spec.data.seed[0].uri"),
    (("spec", "data", "seed", 0, "format"), "mapping", "spec.data.seed[0].mapping"),
    (("spec", "data", "seed", 0, "sha256"), "0" * 64, "spec.data.seed[0].sha256"),
    (("spec", "data", "seed", 0, "endpoint"), "http://minio:9000", "spec.data.seed[0].endpoint"),
    (("spec", "data", "seed", 0, "samples"), 0, "spec.data.seed[0].samples"),
    (("spec", "data", "replay"), [{"uri": "hf://a/b", "format": "esconv"}], "spec.data.replay"),
    (("spec", "data", "test"), [{"uri": "hf://a/b", "format": "alpaca"}], "spec.data.test"),
    (("spec", "data", "validationFraction"), 1, "spec.data.validationFraction"),
    (("spec", "baseModel", "uri"), "meta-llama/Llama", "spec.baseModel.uri"),
    (("spec", "baseModel", "uri"), "hf://owner/name@main", "spec.baseModel.uri"),
    (("spec", "baseModel"), {"uri": "s3://b/m", "revision": "main"}, "spec.baseModel.revision"),
    (("spec", "baseModel", "tokenSecret"), "Not_A_Name", "spec.baseModel.tokenSecret"),
    (("spec", "storage", "uri"), "gs://bucket", "spec.storage.uri"),
    (("spec", "storage"), {"uri": "file:///runs", "endpoint": "http://minio:9000"}, "spec.storage.endpoint"),
    (("spec", "storage", "endpoint"), "minio:9000", "spec.storage.endpoint"),
    (("spec", "storage"), {"uri": "s3://bucket//runs"}, "spec.storage.uri"),
    (("spec", "storage"), {"uri": "s3://b/r", "endpoint": "http://host:9000/b/"}, "spec.storage.endpoint"),
    (("spec", "storage"), {"uri": "s3://b/r", "endpoint": "https://b.s3.amazonaws.com"}, "spec.storage.endpoint"),
    (("spec", "storage"), {"uri": "s3://b/r", "encryption": "AES256", "kmsKeyId": "k"}, "spec.storage.kmsKeyId"),
    (("spec", "storage"), {"uri": "file:///runs", "encryption": "AES256"}, "spec.storage.encryption"),
    (("spec", "iterations"), -1, "spec.iterations"),
    (("spec", "iterations"), 101, "spec.iterations"),
    (("spec", "iterations"), 1.5, "spec.iterations"),
    (("spec", "iterations"), "2", "spec.iterations"),
    (("spec", "seed"), 2**31, "spec.seed"),
    (("spec", "preferenceSource"), "parrot", "spec.preferenceSource"),
    (("spec", "preferenceSource"), "teacher", "spec.teacher"),
    (("spec", "stopping"), {}, "spec.stopping.marginBelow"),
    (("spec", "stopping"), {"marginBelow": 0.5}, "spec.stopping"),
    (("spec", "stopping"), {"worse": ["charm"]}, "spec.stopping.worse[0]"),
    (("spec", "stopping"), {"lengthRatio": 1}, "spec.stopping.lengthRatio"),
    (("spec",), {**SPEC, "stopping": {"divergence": 1}, "evaluation": {"driftContexts": 0}}, "spec.stopping"),
    (("spec", "teacher"), {"url": "http://teacher:8000/v1", "model": "large"}, "spec.teacher"),
    (("spec", "teacher"), {"url": "http://user:word@teacher:8000/v1", "model": "large"}, "spec.teacher.url"),
    (("spec", "teacher"), {"url": "http://teacher:8000/v1"}, "spec.teacher.model"),
    (("spec", "judge"), {"url": "http://user:word@judge:8000/v1", "model": "large"}, "spec.judge.url"),
    (("spec", "judge"), {"url": "http://judge:8000/v1"}, "spec.judge.model"),
    (("spec", "judge"), {**JUDGE, "samples": 0}, "spec.judge.samples"),
    (("spec", "judge"), {**JUDGE, "topP": 0.9}, "spec.judge.topP"),
    (("spec", "preferenceSource"), "reward", "spec.reward"),
    (("spec", "reward"), REWARD, "spec.reward"),
    (("spec", "reward"), {"candidates": 4}, "spec.reward.model"),
    (("spec", "reward"), {**REWARD, "judge": JUDGE}, "spec.reward.model"),
    (("spec", "reward"), {"judge": {**JUDGE, "samples": 5}}, "spec.reward.judge.samples"),
    (("spec", "reward"), {"judge": {"url": "http://judge:8000/v1"}}, "spec.reward.judge.model"),
    (("spec", "reward"), {"judge": JUDGE, "margin": 1.5}, "spec.reward.margin"),
    (("spec", "reward"), {**REWARD, "candidates": 0}, "spec.reward.candidates"),
    (("spec", "reward"), {**REWARD, "margin": -1}, "spec.reward.margin"),
    (("spec", "reward"), {"model": {"uri": "owner/reward"}}, "spec.reward.model.uri"),
    (
        ("spec",),
        {**SPEC, "preferenceSource": "reward", "reward": {**REWARD, "candidates": 1, "refine": False}},
        "spec.reward.candidates",
    ),
    (("spec", "preferenceSource"), "mixed", "spec.preferenceWeights"),
    (("spec", "preferenceWeights"), {"self": 3, "human": 1}, "spec.preferenceWeights"),
    (("spec", "preferenceWeights"), {"self": 3}, "spec.preferenceWeights.self"),
    (("spec", "preferenceWeights"), {"self": 3, "human": 0}, "spec.preferenceWeights.human"),
    (("spec", "sft"), {"epochs": 0}, "spec.sft.epochs"),
    (("spec", "sft"), {"scheduler": "step"}, "spec.sft.scheduler"),
    (("spec", "sft"), {"lora": {"r": 0}}, "spec.sft.lora.r"),
    (("spec", "sft"), {"lora": {"targetModules": "all-linear"}}, "spec.sft.lora.targetModules"),
    (("spec", "sft"), {"lora": {"targetModules": ["all-linear", "q_proj"]}}, "spec.sft.lora.targetModules"),
    (("spec", "sft"), {"processes": 4, "nodes": 3}, "spec.sft.processes"),
    (("spec", "dpo"), {"sharding": "full"}, "spec.dpo.sharding"),
    (("spec", "generation"), {"shards": 0}, "spec.generation.shards"),
    (("spec", "generation"), {"shards": 1001}, "spec.generation.shards"),
    (("spec", "generation"), {"topP": 0}, "spec.generation.topP"),
    (("spec", "generation"), {"temperature": -0.1}, "spec.generation.temperature"),
    (("spec", "reflection"), {"maxAttempts": 11}, "spec.reflection.maxAttempts"),
    (("spec", "reflection"), {"fields": []}, "spec.reflection.fields"),
    (("spec", "reflection"), {"fields": [{"name": "two words"}]}, "spec.reflection.fields[0].name"),
    (("spec", "reflection"), {"fields": [{"name": "a"}, {"name": "a"}]}, "spec.reflection.fields"),
    (("spec", "reflection"), {"fields": [{"name": "a", "values": ["b", "b"]}]}, "spec.reflection.fields[0].values"),
    (("spec", "dpo"), {"beta": 0}, "spec.dpo.beta"),
    (("spec", "dpo"), {"learningRate": 2}, "spec.dpo.learningRate"),
    (("spec", "evaluation"), {"championMetric": "charm"}, "spec.evaluation.championMetric"),
    (("spec", "evaluation"), {"profile": {"compare": []}}, "spec.evaluation.profile.compare"),
    (("spec", "evaluation"), {"profile": {"compare": [COMPARED, COMPARED]}}, "spec.evaluation.profile.compare"),
    (("spec", "evaluation"), {"profile": {"compare": [{**COMPARED, "field": "mood"}]}}, "spec.evaluation"),
    (("spec",), {**SPEC, "reflection": {"fields": FIELDS}, "evaluation": {"profile": {}}}, "spec.evaluation"),
    (("spec", "evaluation"), {"profile": {"compare": [COMPARED, STORY]}}, "spec.evaluation.sentenceModel"),
    (
        ("spec", "evaluation"),
        {"profile": {"compare": [{**STORY, "values": {"alone": ["lonely"]}}]}, **SENTENCES},
        "spec.evaluation.profile.compare[0].values",
    ),
    (
        ("spec", "evaluation"),
        {"profile": {"compare": [{**STORY, "by": "distance"}]}, **SENTENCES},
        "spec.evaluation.profile.compare[0].by",
    ),
    (("spec", "evaluation"), {"optionalFigures": ["meteor", "bertscore"]}, "spec.evaluation.sentenceModel"),
    (("spec", "evaluation"), {"optionalFigures": ["rouge"]}, "spec.evaluation.optionalFigures[0]"),
    (("spec", "pod"), {"resources": {"limits": {"cpu": 1.5}}}, "spec.pod.resources.limits.cpu"),
    (("spec", "pod"), {"nodeSelector": {"a": 1}}, "spec.pod.nodeSelector.a"),
    (("spec", "pod"), {"resources": {"requests": {"memory": "32GB"}}}, "spec.pod.resources.requests.memory"),
    (("spec", "pod"), {"env": [{"name": "A", "value": 1}]}, "spec.pod.env[0].value"),
    (("spec", "pod"), {"env": [{"name": "A", "valueFrom": {}}]}, "spec.pod.env[0].valueFrom"),
    (("spec", "pod"), {"tolerations": [{"key": "a", "operator": "Exist"}]}, "spec.pod.tolerations[0].operator"),
    (("spec", "pod"), {"tolerations": [{"effect": "NoSchedule"}]}, "spec.pod.tolerations[0].key"),
    (("spec", "pod"), {"volumeMounts": [{"name": "a", "mountPath": "x"}]}, "spec.pod.volumeMounts[0].mountPath"),
    (("spec", "pod"), {"imagePullPolicy": "Sometimes"}, "spec.pod.imagePullPolicy"),
    (("spec", "modelCache"), {}, "spec.modelCache.claim"),
    (("spec", "modelCache"), {"claim": "models", "hostPath": "/models"}, "spec.modelCache.claim"),
    (("spec", "modelCache"), {"claim": "models", "nodes": 2}, "spec.modelCache.nodes"),
    (("spec", "modelCache"), {"hostPath": "models"}, "spec.modelCache.hostPath"),
    (("spec", "modelCache"), {"hostPath": "/models/../etc"}, "spec.modelCache.hostPath"),
    (("spec", "modelCache"), {"hostPath": "/"}, "spec.modelCache.hostPath"),
    (("spec", "retry"), {"maxAttempts": 0}, "spec.retry.maxAttempts"),
    (("spec", "suspend"), "yes", "spec.suspend"),
    (("spec", "deletionPolicy"), "Shred", "spec.deletionPolicy"),
    (("spec", "activeDeadlineSeconds"), 0, "spec.activeDeadlineSeconds"),
    (("spec", "queueName"), "Not a queue", "spec.queueName"),
    (("spec", "iteratoins"), 2, "spec.iteratoins"),
    (("spec", "dpo"), {"betta": 0.2}, "spec.dpo.betta"),
    (("metadata", "name"), "n" * 41, "metadata.name"),
    (("metadata", "name"), "dotted.name", "metadata.name"),
]

GOOD: list[tuple[KeyPath, Any]] = [
    (("spec", "iterations"), 0),
    (("spec", "storage"), {"uri": "file:///runs"}),
    (("spec", "storage"), {"uri": "s3://minio/a//b/", "endpoint": "http://minio.minio:9000/s3/"}),
    (("spec", "storage"), {"uri": "s3://minio", "endpoint": "http://minio", "encryption": "aws:kms", "kmsKeyId": "k"}),
    (("spec", "baseModel"), {"uri": "pvc://claim/model"}),
    (("spec", "sft"), None),
    (("spec", "sft"), {"epochs": 1, "lora": {"targetModules": ["q_proj", "v_proj"]}}),
    (
        ("spec", "pod"),
        {"resources": {"limits": {"nvidia.com/gpu": 1, "memory": "48Gi"}}, "affinity": {"nodeAffinity": {}}},
    ),
    (("spec", "pod"), {"imagePullSecrets": ["one", {"name": "two"}]}),
    (
        ("spec", "pod"),
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}, {"name": "B"}]},
    ),
    (
        ("spec", "pod"),
        {"tolerations": [{"key": "gpu", "operator": "Exists"}], "volumes": [{"name": "a", "emptyDir": {}}]},
    ),
    (("spec", "data", "replay"), [{"uri": "s3://b/alpaca.json", "format": "alpaca", "samples": 500}]),
    (("spec", "generation"), {"topP": 1, "temperature": 0, "shards": 1000}),
    (("spec", "sft"), {"processes": 4, "nodes": 2, "sharding": "full"}),
    (("spec", "reflection"), {"fields": FIELDS}),
    (("spec", "evaluation"), {"profile": {}}),
    (("spec", "evaluation"), {"optionalFigures": ["meteor"]}),
    (("spec", "evaluation"), {"profile": {"compare": [COMPARED, STORY]}, **SENTENCES}),
    (("spec", "evaluation"), {"profile": {"compare": [{**COMPARED, "by": "label", "values": {"low": ["sad"]}}]}}),
    (("spec", "evaluation"), {"profile": {}, **SENTENCES}),
    (("spec", "evaluation"), {"optionalFigures": ["meteor", "bertscore"], **SENTENCES}),
    (("spec", "evaluation"), {"profile": {"compare": [{**COMPARED, "values": {"ill at ease": ["tense"]}}]}}),
    (
        ("spec",),
        {
            **SPEC,
            "reflection": {"fields": FIELDS},
            "evaluation": {"profile": {"compare": [{**COMPARED, "field": "level"}], "samples": 9}},
        },
    ),
    (("spec", "modelCache"), {"claim": "models"}),
    (("spec", "modelCache"), {"hostPath": "/var/lib/models", "nodes": 4, "pod": {"nodeSelector": {"gpu": "a"}}}),
    (("spec", "baseModel"), {"uri": "hf://owner/name", "quantization": "nf4"}),
    (("spec",), {**SPEC, "preferenceSource": "teacher", "teacher": TEACHER}),
    (("spec",), {**SPEC, "stopping": {"marginBelow": 0.5, "gpuHours": 0.5}, "dpo": {"heldOut": 0.1}}),
    (("spec", "stopping"), {"worse": ["bleu2_ref", "distinct2"], "lengthRatio": 1.5, "divergence": 2, "tokens": 10**9}),
    (("spec",), {**SPEC, "iterations": 0, "judge": JUDGE}),
    (
        ("spec", "judge"),
        {**JUDGE, "apiKeySecret": "judge", "seed": 3, "shards": 2, "pod": {"nodeSelector": {"a": "b"}}},
    ),
    (("spec",), {**SPEC, "preferenceSource": "mixed", "preferenceWeights": {"self": 3, "human": 1}}),
    (("spec",), {**SPEC, "preferenceSource": "reward", "reward": {**REWARD, "candidates": 1, "margin": 0.5}}),
    (("spec",), {**SPEC, "preferenceSource": "reward", "reward": {**REWARD, "margin": 7}}),
    (
        ("spec",),
        {**SPEC, "preferenceSource": "reward", "reward": {"judge": {**JUDGE, "apiKeySecret": "judge"}, "margin": 1}},
    ),
    (
        ("spec",),
        {**SPEC, "preferenceSource": "mixed", "preferenceWeights": {"self": 3, "reward": 1}, "reward": REWARD},
    ),
    (
        ("spec",),
        {**SPEC, "preferenceSource": "mixed", "preferenceWeights": {"none": 3, "teacher": 1}, "teacher": TEACHER},
    ),
    (("metadata", "name"), "n" * 40),
]


def changed(document: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    document = json.loads(json.dumps(document))
    *parents, last = path
    node: Any = document
    for part in parents:
        node = node[part]
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return document


@pytest.fixture
def runs(kube: client.ApiClient, namespace: str) -> Runs:
    return Runs(kube, namespace)


@pytest.fixture
def trial(kube: client.ApiClient) -> Runs:
    """Of a namespace that is there already, for manifests that the API server only checks."""
    return Runs(kube, "default")


def refusal(runs: Runs, document: dict[str, Any]) -> str:
    """The API server's error, with unknown fields refused as for kubectl."""
    with pytest.raises(ApiException) as refused:
        runs.apply(document, dry_run="All", field_validation="Strict")
    assert refused.value.status in (400, 422)
    return str(json.loads(refused.value.body)["message"])


@pytest.mark.parametrize(("path", "value", "field"), BAD, ids=lambda part: str(part)[:40])
def test_a_bad_manifest_is_refused_by_both_with_its_field(trial: Runs, path: KeyPath, value: Any, field: str) -> None:
    document = changed(manifest("bad", trial.namespace), path, value)
    assert field.replace("[0]", "") in refusal(trial, document).replace("[0]", "")
    assert field in {fault.path for fault in faults(document)}


@pytest.mark.parametrize(("path", "value"), GOOD, ids=lambda part: str(part)[:40])
def test_a_good_manifest_is_accepted_by_both(trial: Runs, path: KeyPath, value: Any) -> None:
    document = changed(manifest("good", trial.namespace), path, value)
    assert faults(document) == []
    trial.apply(document, dry_run="All", field_validation="Strict")


FIXED: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "spec.seed"),
    ({"baseModel": {"uri": "hf://owner/other"}}, "spec.baseModel"),
    ({"storage": {"uri": "s3://elsewhere"}}, "spec.storage"),
    ({"data": {"contextSamples": 5}}, "spec.data"),
    ({"data": {"seed": [{"uri": "hf://x/y", "format": "esconv"}]}}, "spec.data"),
    ({"preferenceSource": "human"}, "spec.preferenceSource"),
    ({"sft": {"epochs": 3}}, "spec.sft.epochs"),
    ({"sft": {"lora": {"r": 16}}}, "spec.sft.lora"),
    ({"generation": {"temperature": 1}}, "spec.generation.temperature"),
    ({"reflection": {"maxAttempts": 5}}, "spec.reflection.maxAttempts"),
    ({"dpo": {"beta": 0.2}}, "spec.dpo.beta"),
    ({"evaluation": {"samples": 5}}, "spec.evaluation.samples"),
    ({"iterations": 1}, "spec.iterations"),
]


def test_fields_that_finished_results_depend_on_cannot_change(runs: Runs) -> None:
    runs.create("fixed", iterations=2)
    for patch, field in FIXED:
        with pytest.raises(ApiException) as refused:
            runs.patch("fixed", {"spec": patch})
        answer = json.loads(refused.value.body)
        assert refused.value.status == 422
        assert field in {cause["field"] for cause in answer["details"]["causes"]}, patch
        assert "may only be raised" in answer["message"] or "create another EvolutionRun" in answer["message"]


def test_fields_that_decide_no_result_may_change(runs: Runs) -> None:
    runs.create("free", iterations=1)
    for patch in (
        {"iterations": 3},
        {"suspend": True},
        {"generation": {"shards": 8, "tokenBudget": 4096, "pod": {"image": "other:1"}}},
        {"dpo": {"checkpointSteps": 5}},
        {"evaluation": {"championMetric": "perplexity", "championRule": "best"}},
        {"stopping": {"lengthRatio": 1.5}},
        {"stopping": None},
        {"pod": {"nodeSelector": {"gpu": "a100"}}},
        {"retry": {"maxAttempts": 9}},
        {"activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 60, "deletionPolicy": "Delete"},
    ):
        runs.patch("free", {"spec": patch})


def test_a_judge_that_ranks_may_move_and_may_not_be_replaced(runs: Runs) -> None:
    runs.create("ranked", iterations=1, preferenceSource="reward", reward={"judge": JUDGE})
    runs.patch("ranked", {"spec": {"reward": {"judge": {"url": "https://elsewhere/v1", "concurrency": 2}}}})
    for patch, field in (
        ({"judge": {"model": "other"}}, "spec.reward.judge.model"),
        ({"judge": None, **REWARD}, "spec.reward.judge"),
    ):
        with pytest.raises(ApiException) as refused:
            runs.patch("ranked", {"spec": {"reward": patch}})
        assert field in {cause["field"] for cause in json.loads(refused.value.body)["details"]["causes"]}


def test_kubectl_explains_and_lists(control_plane: ControlPlane, runs: Runs) -> None:
    explained = control_plane.kubectl("explain", "evolutionrun.spec.dpo")
    assert "How strongly the policy is kept close to its reference." in explained
    assert "Number of" not in control_plane.kubectl("explain", "evo.spec")
    assert "Digest of everything that decides the result" in control_plane.kubectl("explain", "evo.status.stages.key")
    runs.create("listed")
    assert "listed" in control_plane.kubectl("get", "evolution", "--namespace", runs.namespace)


def test_the_least_manifest_gets_the_papers_defaults(runs: Runs) -> None:
    least = manifest("least", runs.namespace)
    for field in ("iterations", "pod", "retry"):
        del least["spec"][field]
    spec = runs.apply(least)["spec"]
    assert (spec["iterations"], spec["dpo"]["beta"], spec["dpo"]["learningRate"]) == (2, 0.1, 5e-06)
    assert (spec["sft"]["lora"]["r"], spec["sft"]["lora"]["alpha"]) == (8, 16)
    assert (spec["generation"]["temperature"], spec["generation"]["topP"], spec["generation"]["topK"]) == (0.9, 0.8, 50)
