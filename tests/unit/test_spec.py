"""The least manifest is the paper's experiment (arXiv 2505.16610)."""

from typing import get_args

import pytest
from evolution_jobs.contract.figures import KINDS
from evolution_jobs.contract.settings import SETTINGS
from evolution_jobs.contract.stage import Node
from evolution_operator.api.spec import EvaluationStage, EvolutionRun
from evolution_operator.planner.graph import build_graph
from pydantic import ValidationError

from tests.support.run_document import run_document

LEAST = run_document()

PAPER = [
    # what the paper says, where it is in the spec
    ("iterations", 2),
    ("preferenceSource", "self"),
    ("data.validationFraction", 0.1),  # 9:1 by conversation
    ("data.minHistoryTurns", 3),
    ("sft.lora.r", 8),
    ("sft.lora.alpha", 16),
    ("sft.epochs", 2),
    ("sft.earlyStoppingPatience", 3),
    ("generation.temperature", 0.9),
    ("generation.topP", 0.8),
    ("generation.topK", 50),
    ("generation.repetitionPenalty", 1.2),
    ("reflection.temperature", 0.9),
    ("reflection.topP", 0.8),
    ("reflection.topK", 50),
    ("reflection.repetitionPenalty", 1.2),
    ("reflection.maxAttempts", 3),
    ("reflection.maxLengthRatio", 2.0),
    ("dpo.beta", 0.1),
    ("dpo.sftWeight", 1.0),  # gamma
    ("dpo.learningRate", 5e-6),
    ("dpo.batchSize", 4),
    ("dpo.gradientAccumulation", 2),
    ("evaluation.temperature", 0.9),
]


@pytest.mark.parametrize(("path", "value"), PAPER)
def test_defaults_are_the_papers(path, value):
    place = EvolutionRun.model_validate(LEAST).wire()["spec"]
    for part in path.split("."):
        place = place[part]
    assert place == value


def test_the_defaults_reach_the_stages():
    run = EvolutionRun.model_validate(LEAST)
    graph = {node.id: node.settings for node in build_graph(run.spec, {})}
    assert graph["dpo-2"].beta == 0.1
    assert graph["reflect-1"].source == "self"
    for stage in ("generate-1", "reflect-1", "evaluate-0"):
        assert (graph[stage].temperature, graph[stage].top_p, graph[stage].top_k) == (0.9, 0.8, 50)


def test_a_stage_is_told_its_method_and_nothing_of_where_it_runs():
    run = EvolutionRun.model_validate(LEAST)
    for node in build_graph(run.spec, {}):
        assert type(node.settings) is SETTINGS[node.kind]
        assert Node.model_validate_json(node.model_dump_json(by_alias=True, exclude_none=True)) == node
        assert {"pod", "shards", "championMetric"}.isdisjoint(node.wire()["settings"])


# The paper's own experiments, beside the main one.
EXPERIMENTS = {
    "M0 alone": {"iterations": 0},
    "one iteration": {"iterations": 1},
    "the human answer as chosen": {"preferenceSource": "human"},
    "refined without a profile": {"preferenceSource": "none"},
    "a reward model in place of fixed principles": {
        "preferenceSource": "reward",
        "reward": {"model": {"uri": "hf://owner/reward"}},
    },
    "a pairwise judge in its place": {
        "preferenceSource": "reward",
        "reward": {"judge": {"url": "http://judge:8000/v1", "model": "large"}},
    },
    "a stronger teacher's answer": {
        "preferenceSource": "teacher",
        "teacher": {"url": "http://teacher:8000/v1", "model": "large"},
    },
}


@pytest.mark.parametrize("changes", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_papers_experiments_can_be_said(changes):
    spec = EvolutionRun.model_validate({**LEAST, "spec": {**LEAST["spec"], **changes}}).spec
    graph = build_graph(spec, {})
    assert len(graph) == 3 + 4 * spec.iterations
    sources = {node.settings.source for node in graph if node.kind == "reflect"}
    assert sources == ({spec.preference_source} if spec.iterations else set())


def test_a_compared_field_is_one_that_the_profile_has_and_evaluate_is_told_which_there_are():
    goal = {"reflection": {"fields": [{"name": "goal"}]}}
    compared = {"profile": {"compare": [{"name": "goal", "field": "goal", "label": "meta.goal"}]}}

    def graph(**changes):
        spec = EvolutionRun.model_validate({**LEAST, "spec": {**LEAST["spec"], **changes}}).spec
        return {node.kind: node.settings for node in build_graph(spec, {})}

    stages = graph(**goal, evaluation=compared)
    assert stages["prepare"].labels == ["meta.goal"]
    assert [field.name for field in stages["evaluate"].profile_fields] == ["goal"]
    assert stages["prepare"].model_use.answers["evaluation.profile.maxNewTokens"] == 256
    assert graph(evaluation={"profile": {}})["prepare"].labels == ["emotion_type", "problem_type"]
    assert graph(**goal)["evaluate"].profile_fields is None
    sentences = {"sentenceModel": {"uri": "package://sentences"}}
    assert [graph(evaluation=each)["prepare"].optional_labels for each in ({"profile": {}}, sentences)] == [None, None]
    assert graph(evaluation={"profile": {}, **sentences})["prepare"].optional_labels == ["situation"]
    assert graph(**goal, evaluation={**compared, **sentences})["prepare"].optional_labels is None
    for changes in ({**goal, "evaluation": {"profile": {}}}, {"evaluation": compared}):
        with pytest.raises(
            ValidationError, match=r"evaluation: profile compares a field that the profile does not have"
        ):
            graph(**changes)


def test_texts_are_compared_with_a_sentence_model_and_have_no_words():
    def validated(sentences, **more):
        compared = {"name": "story", "field": "situation", "label": "situation", "by": "similarity", **more}
        evaluation = {"profile": {"compare": [compared]}, **sentences}
        return EvolutionRun.model_validate({**LEAST, "spec": {**LEAST["spec"], "evaluation": evaluation}})

    sentences = {"sentenceModel": {"uri": "package://sentences"}}
    validated(sentences)
    validated({}, by="label", values={"alone": ["lonely"]})
    with pytest.raises(ValidationError, match="sentenceModel: must be set to compare profiles by similarity"):
        validated({})
    with pytest.raises(ValidationError, match="values: has words for labels, and by: similarity compares texts"):
        validated(sentences, values={"alone": ["lonely"]})


def test_a_run_survives_the_trip_over_the_wire():
    run = EvolutionRun.model_validate(LEAST)
    again = EvolutionRun.model_validate_json(run.model_dump_json(by_alias=True))
    assert again == run
    assert EvolutionRun.model_validate(run.wire()) == run


def test_a_document_does_not_change():
    run = EvolutionRun.model_validate(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        run.spec.iterations = 3


def test_every_metric_that_can_choose_a_champion_has_a_direction():
    choices = get_args(EvaluationStage.model_fields["champion_metric"].annotation)
    assert {KINDS[name].better for name in choices} == {"higher", "lower"}
