"""The CRD is the models: nothing is lost on the way, and nothing in it is beyond a structural schema."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from evolution_jobs.contract.document import Document
from evolution_operator.api.crd import FILE, STAGES, build_crd
from evolution_operator.api.quantities import QUANTITY
from evolution_operator.api.spec import EvolutionRunSpec

ABSENT = object()
SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema node under its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from nodes(node[name], f"{path}[]")


def at(path: str) -> dict[str, Any]:
    node = SCHEMA
    for part in path.split("."):
        node = node["properties"][part]
    return node


def rules(path: str) -> list[str]:
    return [rule["rule"] for rule in at(path).get("x-kubernetes-validations", [])]


def test_the_file_is_what_the_models_say() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "evolution_operator.api.crd", "--check"], capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_a_file_that_has_drifted_is_named(tmp_path: Any) -> None:
    stale = tmp_path / "crd.yaml"
    stale.write_text(FILE.read_text().replace("maximum: 100", "maximum: 99", 1))
    command = [sys.executable, "-m", "evolution_operator.api.crd", "--check", "--output", str(stale)]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert check.stderr == f"{stale} differs from the models in evolution_operator/api: run `make crds`\n"


def test_every_field_is_described() -> None:
    bare = [
        path
        for path, node in nodes(SCHEMA)
        if path and not path.endswith("[]") and not path.startswith(".metadata") and not node.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("word", ["$ref", "anyOf", "allOf", "oneOf", "const", "title", "$defs"])
def test_nothing_is_left_that_a_structural_schema_cannot_have(word: str) -> None:
    assert [path for path, node in nodes(SCHEMA) if word in node] == []


def test_no_default_is_null() -> None:
    """The API server drops it, and Helm then finds that the CRD which kubectl has applied differs."""
    assert [path for path, node in nodes(SCHEMA) if node.get("default", ABSENT) is None] == []


def test_every_node_has_a_type_or_says_why_not() -> None:
    free = {"x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"}
    assert [path for path, node in nodes(SCHEMA) if "type" not in node and not free & set(node)] == []


def test_lists_and_texts_are_bounded_in_the_spec() -> None:
    unbounded = [
        path
        for path, node in nodes(at("spec"))
        if node.get("type") == "array" and "maxItems" not in node and not path.endswith("[]")
    ]
    assert unbounded == []


def _documents(model: type[Document]) -> Iterator[type[Document]]:
    yield model
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            annotation = pending.pop()
            if isinstance(annotation, type) and issubclass(annotation, Document):
                yield from _documents(annotation)
            pending.extend(getattr(annotation, "__args__", ()))


def test_every_rule_of_the_models_is_in_the_schema() -> None:
    stated = {rule.cel for document in _documents(EvolutionRunSpec) for rule in document.rules}
    written = {r["rule"] for _, node in nodes(SCHEMA) for r in node.get("x-kubernetes-validations", [])}
    assert stated
    assert stated <= written


@pytest.mark.parametrize("field", ["seed", "baseModel", "storage", "data", "preferenceSource", "preferenceWeights"])
def test_what_every_stage_depends_on_is_fixed(field: str) -> None:
    assert "self == oldSelf" in rules(f"spec.{field}")


@pytest.mark.parametrize(
    "field",
    [
        "sft.epochs",
        "sft.lora",
        "generation.topP",
        "reflection.maxAttempts",
        "dpo.beta",
        "teacher.model",
        "reward.margin",
        "reward.judge.model",
        "reward.judge.temperature",
        "judge.model",
    ],
)
def test_method_settings_are_fixed(field: str) -> None:
    assert "self == oldSelf" in rules(f"spec.{field}")


def test_an_unset_method_setting_stays_unset() -> None:
    assert any("has(self.samples) == has(oldSelf.samples)" in rule for rule in rules("spec.evaluation"))


def test_what_ranks_the_answers_is_fixed_but_not_where_a_judge_answers() -> None:
    assert {rule for rule in rules("spec.reward") if "oldSelf" in rule} == {
        "has(self.model) == has(oldSelf.model) && (!has(self.model) || self.model == oldSelf.model)",
        "has(self.judge) == has(oldSelf.judge)",
    }


def test_a_judge_may_be_added_and_removed() -> None:
    assert rules("spec.judge") == [
        "has(self.seed) == has(oldSelf.seed) && (!has(self.seed) || self.seed == oldSelf.seed)"
    ]


def test_of_a_teacher_only_what_decides_its_answers_is_fixed() -> None:
    named = {name for rule in rules("spec.teacher") for name in re.findall(r"has\(oldSelf\.(\w+)\)", rule)}
    assert named == {"temperature", "topP"}


@pytest.mark.parametrize(
    "field",
    [
        "generation.shards",
        "sft.processes",
        "dpo.nodes",
        "dpo.sharding",
        "generation.tokenBudget",
        "teacher.url",
        "teacher.apiKeySecret",
        "teacher.concurrency",
        "teacher.requestsPerMinute",
        "teacher.pricePerMillionInputTokens",
        "judge.url",
        "judge.concurrency",
        "judge.shards",
        "reward.batchSize",
        "reward.judge.url",
        "reward.judge.apiKeySecret",
        "reward.judge.concurrency",
        "dpo.checkpointSteps",
        "dpo.pod",
        "evaluation.championMetric",
        "evaluation.championRule",
        "suspend",
        "pod",
        "retry",
        "activeDeadlineSeconds",
    ],
)
def test_what_decides_no_result_may_change(field: str) -> None:
    assert rules(f"spec.{field}") == []


def test_rules_that_end_a_run_may_change() -> None:
    assert not any("oldSelf" in rule for rule in rules("spec.stopping"))


def test_iterations_may_grow() -> None:
    assert rules("spec.iterations") == ["self >= oldSelf"]


@pytest.mark.parametrize("stage", sorted({*STAGES} - {"teacher", "reward", "judge"}))
def test_a_blocks_default_is_empty_so_that_its_fields_defaults_apply(stage: str) -> None:
    assert at(f"spec.{stage}")["default"] == {}


def test_quantities_are_numbers_or_text() -> None:
    quantity = at("spec.pod.resources.limits")["additionalProperties"]
    assert quantity == {"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "maxLength": 64}


def test_kubernetes_own_objects_are_left_to_kubernetes() -> None:
    for field in ("volumes", "topologySpreadConstraints"):
        assert at(f"spec.pod.{field}")["items"]["x-kubernetes-preserve-unknown-fields"] is True
    assert at("spec.pod.affinity")["x-kubernetes-preserve-unknown-fields"] is True


def test_a_status_gets_no_defaults() -> None:
    assert [path for path, node in nodes(at("status")) if "default" in node] == []
