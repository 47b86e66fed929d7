"""The planner's decisions, one by one. `test_planner_machine.py` tries random histories."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import Ahead, RunRef
from evolution_operator.api.spec import EvaluationStage, EvolutionRunSpec, Retry
from evolution_operator.api.status import IterationMetrics, StageStatus
from evolution_operator.planner import policies
from evolution_operator.planner.actions import Resume, Start, Suspend
from evolution_operator.planner.graph import build_graph, critical, made_ahead
from evolution_operator.planner.observed import Attempt, Failure, Observed, Published, Run
from evolution_operator.planner.plan import plan
from evolution_operator.planner.safety import unsafe
from evolution_operator.planner.stopping import early_ending

from tests.support.run_document import minimal_spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENTS = {
    name: name[0] * 64 for name in ("model", "train", "validation", "contexts", "test", "replay", "reward-model")
}
LOST = Failure("transient", "NodeLost", "the node is gone")
EVICTED = Failure("disruption", "Evicted", "the node was drained")
BROKEN = Failure("permanent", "DataInvalid", "line 3 is not JSON")


def corrupt(stage):
    return Failure("transient", "InputCorrupt", "a digest differs", corrupt=stage)


class Scenario:
    """A run, pass by pass: a test passes observations, and the planner's status is kept for the next pass."""

    def __init__(self, **spec):
        self.now = NOW
        self.retry = None
        self.previous = None
        self.spec = minimal_spec(seed_uri="file:///data/esconv.jsonl", **{"iterations": 1} | spec)

    @property
    def run(self):
        spec = EvolutionRunSpec.model_validate(self.spec)
        return Run(RunRef(namespace="default", name="first", uid="uid"), spec, attempt_prefix="uid", retry=self.retry)

    @property
    def keys(self):
        return resolve_keys(build_graph(self.run.spec, {}), CONTENTS)

    def attempt(self, stage, state="running", number=1, failure=None, **fields):
        report = None
        if state == "succeeded":
            measured = stage.startswith(("evaluate", "judge"))
            report = Report(
                reason="Completed",
                contents=CONTENTS if stage == "prepare" else {},
                metrics={"judge_tie_rate" if stage.startswith("judge") else "distinct3": 1.0} if measured else {},
                seconds=9,
            )
        base = Attempt(stage, number, self.keys[stage], state, f"{stage}-{number}", failure=failure, report=report)
        return replace(base, **fields)

    def observe(self, *attempts, save=True, seconds=0, **observed):
        self.now += timedelta(seconds=seconds)
        answer = plan(self.run, Observed(attempts, previous=self.previous, **observed), self.now)
        if save:
            self.previous = answer.status
        return answer

    def done(self, *stages):
        """Attempts that have succeeded."""
        return [self.attempt(stage, "succeeded") for stage in stages]

    def after(self, *stages):
        """The scenario once these stages have succeeded."""
        for count in range(len(stages) + 1):
            self.observe(*self.done(*stages[:count]))
        return self


def actions(answer):
    return [(type(a).__name__, a.spec.stage if isinstance(a, Start) else a.stage, a.number) for a in answer.actions]


def events(answer):
    return [(event.reason, event.message) for event in answer.events]


# ---- the graph


@pytest.mark.parametrize(
    ("iterations", "ids"),
    [
        (0, "prepare sft evaluate-0"),
        (1, "prepare sft generate-1 reflect-1 dpo-1 evaluate-0 evaluate-1"),
        (
            2,
            "prepare sft generate-1 reflect-1 dpo-1 generate-2 reflect-2 dpo-2 evaluate-0 evaluate-1 evaluate-2",
        ),
    ],
)
def test_the_stages_of_a_run(iterations, ids):
    graph = build_graph(Scenario(iterations=iterations).run.spec, {})
    assert [node.id for node in graph] == ids.split()
    seen = set()
    for node in graph:
        # Evaluations come last, so that no other stage waits for them. Inputs come before the stages that read them.
        assert node.upstream <= seen
        seen.add(node.id)


def test_each_round_starts_from_the_adapter_of_the_round_before():
    graph = {node.id: node for node in build_graph(Scenario(iterations=2).run.spec, {})}
    adapters = {stage: node.inputs.get("adapter") for stage, node in graph.items()}
    assert adapters == {
        "prepare": None,
        "sft": None,
        "generate-1": "sft/adapter",
        "reflect-1": "sft/adapter",
        "dpo-1": "sft/adapter",
        "evaluate-0": "sft/adapter",
        "generate-2": "dpo-1/adapter",
        "reflect-2": "dpo-1/adapter",
        "dpo-2": "dpo-1/adapter",
        "evaluate-1": "dpo-1/adapter",
        "evaluate-2": "dpo-2/adapter",
    }
    assert graph["dpo-2"].inputs["pairs"] == "reflect-2/pairs"
    assert graph["reflect-2"].inputs["responses"] == "generate-2/responses"
    assert {graph[f"evaluate-{t}"].seed for t in range(3)} == {0}
    assert len({graph[f"generate-{t}"].seed for t in (1, 2)}) == 2


def test_replay_is_an_input_only_if_the_spec_has_replay_data():
    data = Scenario().spec["data"]
    replay = {**data, "replay": [{"uri": "file:///data/a.json", "format": "alpaca"}]}
    for spec, expected in ((data, None), (replay, "prepare/replay")):
        sft = build_graph(Scenario(data=spec).run.spec, {})[1]
        assert sft.inputs.get("replay") == expected


# ---- the model cache

MODEL_CACHE = {"hostPath": "/var/lib/models", "nodes": 3}


def test_a_model_cache_changes_no_key_of_a_result():
    plain, cached = Scenario(iterations=2), Scenario(iterations=2, modelCache=MODEL_CACHE)
    assert cached.keys.keys() - plain.keys.keys() == {"prewarm"}
    assert plain.keys.items() <= cached.keys.items()


def test_the_model_cache_is_filled_after_prepare_and_before_every_other_stage():
    scenario = Scenario(modelCache=MODEL_CACHE).after("prepare")
    answer = scenario.observe(*scenario.done("prepare"))
    (start,) = answer.actions
    assert (start.spec.stage, start.shards, start.critical) == ("prewarm", 3, True)
    answer = scenario.observe(*scenario.done("prepare"), scenario.attempt("prewarm"))
    assert not answer.actions
    answer = scenario.observe(*scenario.done("prepare", "prewarm"))
    assert actions(answer) == [("Start", "sft", 1)]


def test_stages_that_are_published_do_not_let_others_pass_the_model_cache():
    scenario = Scenario(modelCache=MODEL_CACHE).after("prepare")
    published = {scenario.keys["sft"]: Published()}
    answer = scenario.observe(*scenario.done("prepare"), published=published)
    assert [action.spec.stage for action in answer.actions] == ["prewarm"]


def test_a_run_whose_model_cache_cannot_be_filled_fails_with_the_reason():
    scenario = Scenario(modelCache=MODEL_CACHE).after("prepare")
    shut = Failure("permanent", "ModelCacheUnwritable", "modelCache: let user 65532 write to the volume")
    answer = scenario.observe(*scenario.done("prepare"), scenario.attempt("prewarm", "failed", failure=shut))
    assert answer.status.phase == "Failed"
    assert "let user 65532 write" in next(c.message for c in answer.status.conditions if c.type == "Failed")


def test_each_run_fills_the_cache_itself():
    def key(pins, **cache):
        spec = Scenario(modelCache={"hostPath": "/models", **cache}).run.spec
        return resolve_keys(build_graph(spec, pins), CONTENTS)["prewarm"]

    assert key({"run": "a"}) != key({"run": "b"})
    assert key({"run": "a"}) != key({"run": "a"}, nodes=2)


# ---- the judge

JUDGE = {"url": "http://judge:8000/v1", "model": "large"}


def test_each_model_is_judged_against_the_one_before_on_the_same_rows():
    graph = {node.id: node for node in build_graph(Scenario(iterations=2, seed=7, judge=JUDGE).run.spec, {})}
    assert [id_ for id_ in graph if id_.startswith("judge")] == list(graph)[-3:] == ["judge-0", "judge-1", "judge-2"]
    assert graph["judge-0"].inputs == {"answers": "evaluate-0/answers", "test": "prepare/test"}
    assert graph["judge-2"].inputs["answers"] == "evaluate-2/answers"
    assert graph["judge-2"].inputs["before"] == "evaluate-1/answers"
    assert {graph[f"judge-{t}"].seed for t in range(3)} == {7}
    assert graph["judge-0"].settings.policy == "hf://owner/model"
    seeded = build_graph(Scenario(judge={**JUDGE, "seed": 3}).run.spec, {})
    assert {node.seed for node in seeded if node.kind == "judge"} == {3}


def test_a_judge_needs_no_round_and_can_be_added_to_a_finished_run():
    scenario = Scenario(iterations=0).after("prepare", "sft", "evaluate-0")
    assert scenario.previous.phase == "Complete"
    scenario.spec["judge"] = {**JUDGE, "shards": 2}
    answer = scenario.observe(*scenario.done("prepare", "sft", "evaluate-0"))
    (start,) = answer.actions
    assert (start.spec.stage, start.shards, start.critical) == ("judge-0", 2, False)
    answer = scenario.observe(*scenario.done("prepare", "sft", "evaluate-0", "judge-0"))
    assert answer.status.phase == "Complete"


def test_a_failed_judge_stops_no_round():
    scenario = Scenario(judge=JUDGE).after("prepare", "sft", "evaluate-0")
    failed = scenario.attempt("judge-0", "failed", failure=BROKEN)
    answer = scenario.observe(*scenario.done("prepare", "sft", "evaluate-0"), failed)
    assert answer.status.phase == "Running"
    assert actions(answer) == [("Start", "generate-1", 1)]
    rest = ["generate-1", "reflect-1", "dpo-1", "evaluate-1", "judge-1"]
    for count in range(len(rest) + 1):
        answer = scenario.observe(*scenario.done("prepare", "sft", "evaluate-0", *rest[:count]), failed)
        assert answer.status.phase == ("Failed" if count == len(rest) else "Running")
    assert answer.status.reason == "DataInvalid"


def test_a_run_ends_although_judges_wait_for_an_evaluation_that_has_failed():
    # Without drift, no evaluation waits for that of M0.
    scenario = Scenario(judge=JUDGE, evaluation={"driftContexts": 0}).after("prepare", "sft")
    failed = scenario.attempt("evaluate-0", "failed", failure=BROKEN)
    done = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-1"]
    for count in range(2, len(done) + 1):
        answer = scenario.observe(*scenario.done(*done[:count]), failed)
        assert answer.status.phase == ("Failed" if count == len(done) else "Running")
    assert not answer.actions
    stages = answer.status.stage_by_id()
    assert (stages["judge-0"].state, stages["judge-1"].state) == ("Waiting", "Waiting")
    scenario.retry = "1"
    answer = scenario.observe(*scenario.done(*done), failed)
    assert (answer.status.phase, actions(answer)) == ("Running", [("Start", "evaluate-0", 2)])


# ---- what starts when

WHAT_STARTS = [
    ([], ["prepare"]),
    (["prepare"], ["sft"]),
    (["prepare", "sft"], ["generate-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1"], ["reflect-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1", "reflect-1"], ["dpo-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1", "reflect-1", "dpo-1"], ["evaluate-0"]),
    (["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0"], ["evaluate-1"]),
    (["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1"], []),
]


@pytest.mark.parametrize(("stages", "expected"), WHAT_STARTS)
def test_a_stage_starts_once_its_inputs_are_published(stages, expected):
    scenario = Scenario()
    answer = scenario.observe(*scenario.done(*stages))
    assert actions(answer) == [("Start", stage, 1) for stage in expected]


def test_a_start_has_everything_that_the_stage_needs():
    scenario = Scenario(generation={"shards": 4, "temperature": 0.5}, seed=7).after("prepare")
    start = next(a for a in scenario.observe(*scenario.done("prepare", "sft")).actions if a.spec.stage == "generate-1")
    spec = start.spec
    assert (start.number, start.shards, start.critical) == (1, 4, True)
    assert (spec.key, spec.attempt, spec.seed) == (scenario.keys["generate-1"], "uid-1", 8)
    assert spec.settings.temperature == 0.5
    assert {name: (i.stage, i.key, i.output) for name, i in spec.inputs.items()} == {
        "model": ("prepare", scenario.keys["prepare"], "model"),
        "contexts": ("prepare", scenario.keys["prepare"], "contexts"),
        "adapter": ("sft", scenario.keys["sft"], "adapter"),
    }
    assert spec.graph == []


TEACHER = {"url": "http://teacher:8000/v1", "model": "large"}
REWARD = {"model": {"uri": "hf://owner/reward"}}


@pytest.mark.parametrize(
    ("spec", "ahead"),
    [
        ({}, True),
        ({"preferenceSource": "none"}, True),
        ({"preferenceSource": "human"}, False),
        ({"preferenceSource": "teacher", "teacher": TEACHER}, False),
        ({"preferenceSource": "mixed", "preferenceWeights": {"human": 1, "teacher": 1}, "teacher": TEACHER}, False),
        ({"preferenceSource": "mixed", "preferenceWeights": {"self": 1, "teacher": 1}, "teacher": TEACHER}, True),
        ({"preferenceSource": "reward", "reward": REWARD}, True),
        ({"preferenceSource": "reward", "reward": {"judge": JUDGE}}, True),
        ({"generation": {"precision": "float32"}}, False),
        ({"generation": {"precision": "float32"}, "reflection": {"precision": "float32"}}, True),
        ({"generation": {"shards": 4}}, True),
        ({"reflection": {"shards": 4}}, False),
        ({"reflection": {"tokenBudget": 512, "temperature": 0.5}}, True),
        ({"generation": {"pod": {"image": "other"}}}, False),
        ({"reflection": {"pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}}, False),
        ({"reflection": {"pod": {"nodeSelector": {"card": "h100"}}}}, False),
        (
            {"pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}, "generation": {"pod": {"labels": {"a": "b"}}}},
            True,
        ),
    ],
)
def test_generate_makes_the_rows_of_a_reflect_stage_that_uses_the_same_model_in_the_same_way(spec, ahead):
    scenario = Scenario(iterations=2, **spec).after("prepare", "sft")
    [start] = [action for action in scenario.observe(save=False).actions if action.spec.kind == "generate"]
    reflect = next(node for node in build_graph(scenario.run.spec, {}) if node.id == "reflect-1")
    expected = Ahead(stage="reflect-1", key=scenario.keys["reflect-1"], settings=reflect.settings, seed=reflect.seed)
    assert start.spec.ahead == (expected if ahead else None)
    assert start.spec.key == scenario.keys["generate-1"]


@pytest.mark.parametrize("spec", [{}, {"preferenceSource": "none"}])
def test_only_generate_makes_rows_ahead_and_each_round_its_own(spec):
    run = Scenario(iterations=2, **spec).run.spec
    graph = build_graph(run, {})
    found = {node.id: ahead.id for node in graph if (ahead := made_ahead(run, graph, node))}
    assert found == {"generate-1": "reflect-1", "generate-2": "reflect-2"}


def test_a_teachers_reflect_stage_fetches_no_model():
    inputs = [
        {name for node in build_graph(Scenario(**spec).run.spec, {}) if node.id == "reflect-1" for name in node.inputs}
        for spec in (
            {"preferenceSource": "teacher", "teacher": TEACHER},
            {"preferenceSource": "mixed", "preferenceWeights": {"self": 1, "teacher": 1}, "teacher": TEACHER},
        )
    ]
    assert inputs == [{"contexts", "responses"}, {"contexts", "responses", "model", "adapter"}]


def test_a_reward_model_is_an_input_of_reflect_alone():
    graph = build_graph(Scenario(preferenceSource="reward", reward=REWARD).run.spec, {})
    readers = {node.id for node in graph if "reward-model" in node.inputs}
    assert readers == {node.id for node in graph if node.kind == "reflect"}
    inputs = next(node.inputs for node in graph if node.id == "reflect-1")
    assert set(inputs) == {"model", "adapter", "reward-model", "contexts", "responses"}


def test_a_sentence_model_is_an_input_of_evaluations_alone():
    graph = build_graph(Scenario(evaluation={"sentenceModel": {"uri": "package://sentences"}}).run.spec, {})
    readers = {node.id for node in graph if "sentence-model" in node.inputs}
    assert readers == {node.id for node in graph if node.kind == "evaluate"}
    assert graph[0].settings.sentence_model.uri == "package://sentences"


def test_with_a_judge_that_ranks_prepare_pins_no_reward_model():
    graph = build_graph(Scenario(preferenceSource="reward", reward={"judge": JUDGE}).run.spec, {})
    assert next(node for node in graph if node.id == "prepare").settings.reward is None
    assert not any("reward-model" in node.inputs for node in graph)


def test_prepare_gets_the_whole_graph():
    scenario = Scenario()
    (start,) = scenario.observe().actions
    assert start.spec.graph == build_graph(scenario.run.spec, {})


def test_stages_that_prepare_finds_published_do_not_run_again():
    scenario = Scenario().after()
    prepare = scenario.attempt("prepare", "succeeded")
    report = prepare.report.model_copy(
        update={"published": ["sft", "evaluate-0", "dpo-1"], "figures": {"evaluate-0": {"distinct2": 3.0}}}
    )
    answer = scenario.observe(replace(prepare, report=report))
    assert actions(answer) == [("Start", "generate-1", 1), ("Start", "evaluate-1", 1)]
    assert ("StageCached", "sft: an earlier run had computed it") in events(answer)
    stages = answer.status.stage_by_id()
    assert {s for s in stages if stages[s].cached} == {"sft", "evaluate-0", "dpo-1"}
    # A fixed bug: the figures of evaluations of an earlier run were lost.
    assert answer.status.metrics == [IterationMetrics(iteration=0, figures={"distinct2": 3.0})]
    assert scenario.observe(replace(prepare, report=report)).status.metrics == answer.status.metrics


def test_stages_that_the_executor_finds_in_the_store_do_not_run_again():
    scenario = Scenario()
    published = {scenario.keys[stage]: Published() for stage in ("prepare", "sft", "generate-1")}
    answer = scenario.observe(published=published, contents=CONTENTS)
    assert actions(answer) == [("Start", "reflect-1", 1), ("Start", "evaluate-0", 1)]
    assert answer.status.progress == "3/7"


def test_a_changed_beta_runs_dpo_and_later_stages_again_and_stops_the_current_attempt():
    stages = ["prepare", "sft", "generate-1", "reflect-1"]
    scenario = Scenario().after(*stages)
    old = [*scenario.done(*stages), scenario.attempt("dpo-1")]
    scenario.observe(*old)
    scenario.spec["dpo"] = {"beta": 0.5}
    answer = scenario.observe(*old)
    assert actions(answer)[:2] == [("Stop", "dpo-1", 1), ("Start", "dpo-1", 2)]
    assert [s.id for s in answer.status.stages if s.state == "Succeeded"] == stages


def test_more_iterations_on_a_finished_run_add_only_the_new_ones():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1"]
    scenario = Scenario().after(*stages)
    assert scenario.previous.phase == "Complete"
    scenario.spec["iterations"] = 2
    answer = scenario.observe(seconds=100)
    assert actions(answer) == [("Start", "generate-2", 1)]
    assert (answer.status.progress, answer.status.phase, answer.status.finished_at) == ("7/11", "Running", None)


# ---- failures

FAILURES = [
    # failure, earlier failures, state, seconds until the next attempt
    (LOST, 0, "Backoff", 10),
    (LOST, 1, "Backoff", 20),
    (LOST, 2, "Backoff", 40),
    (LOST, 3, "Failed", None),
    (BROKEN, 0, "Failed", None),
    (EVICTED, 0, "Waiting", None),
    (EVICTED, 3, "Waiting", None),
]


@pytest.mark.parametrize(("failure", "earlier", "state", "pause"), FAILURES)
def test_what_a_failure_leads_to(failure, earlier, state, pause):
    scenario = Scenario()
    seen = []
    for number in range(1, earlier + 1):
        seen.append(scenario.attempt("prepare", "failed", number, LOST))
        scenario.observe(*seen)
    answer = scenario.observe(*seen, scenario.attempt("prepare", "failed", earlier + 1, failure))
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.settled) == (state, earlier + 1)
    assert prepare.next_attempt_at == (scenario.now + timedelta(seconds=pause) if pause else None)
    assert answer.wake_at == prepare.next_attempt_at
    assert actions(answer) == ([("Start", "prepare", earlier + 2)] if state == "Waiting" else [])
    (event,) = [event for event in answer.events if event.reason.startswith("Stage")]
    assert event.reason == ("StageFailed" if state == "Failed" else "StageRetrying")
    assert failure.message in event.message
    assert ("(attempt" in event.message) == (earlier > 0)


def test_the_next_attempt_comes_when_the_pause_is_over():
    scenario = Scenario().after()
    failed = scenario.attempt("prepare", "failed", failure=LOST)
    scenario.observe(failed)
    assert actions(scenario.observe(failed, seconds=9)) == []
    answer = scenario.observe(failed, seconds=1)
    assert actions(answer) == [("Start", "prepare", 2)]
    assert answer.actions[0].spec.attempt == "uid-2"


def test_an_attempt_that_is_over_is_ended_if_it_lingers():
    scenario = Scenario().after("prepare")
    seen = scenario.done("prepare")
    note = ("SidecarRunning", "container proxy kept its Pod")
    answer = scenario.observe(*seen, scenario.attempt("sft", "succeeded", lingering=True, note=note))
    assert actions(answer)[0] == ("Stop", "sft", 1)
    assert ("Start", "generate-1", 1) in actions(answer)
    assert ("StageSucceeded", f"sft finished in 9 s; {note[1]}") in events(answer)
    gone = scenario.observe(*seen)
    assert gone.status.stage_by_id()["sft"].state == "Succeeded"
    assert not [action for action in actions(gone) if action[1] == "sft"]


def test_a_failed_attempt_that_lingers_is_ended_before_the_next_one():
    scenario = Scenario(retry={"backoffSeconds": 0}).after()
    answer = scenario.observe(scenario.attempt("prepare", "failed", failure=LOST, lingering=True))
    assert actions(answer) == [("Stop", "prepare", 1), ("Start", "prepare", 2)]


def test_a_failed_run_stops_its_other_attempts_and_says_why():
    scenario = Scenario().after("prepare", "sft")
    seen = [*scenario.done("prepare", "sft"), scenario.attempt("evaluate-0")]
    scenario.observe(*seen)
    answer = scenario.observe(*seen, scenario.attempt("generate-1", "failed", failure=BROKEN))
    assert actions(answer) == [("Stop", "evaluate-0", 1)]
    assert answer.status.phase == "Failed"
    failed = next(c for c in answer.status.conditions if c.type == "Failed")
    assert (failed.reason, failed.message) == (
        "StageFailed",
        "stage generate-1: DataInvalid: line 3 is not JSON",
    )


def test_a_failed_evaluation_does_not_stop_other_stages():
    scenario = Scenario().after("prepare", "sft")
    failed = scenario.attempt("evaluate-0", "failed", failure=BROKEN)
    answer = scenario.observe(*scenario.done("prepare", "sft"), failed)
    assert actions(answer) == [("Start", "generate-1", 1)]
    assert answer.status.phase == "Running"
    rest = ["generate-1", "reflect-1", "dpo-1", "evaluate-1"]
    assert scenario.observe(*scenario.done("prepare", "sft", *rest), failed).status.phase == "Failed"


def test_a_retry_request_counts_once():
    scenario = Scenario().after()
    seen = [scenario.attempt("prepare", "failed", failure=BROKEN)]
    assert scenario.observe(*seen).status.phase == "Failed"
    scenario.retry = "2026-01-01T00:00:00Z"
    assert actions(scenario.observe(*seen)) == [("Start", "prepare", 2)]
    seen.append(scenario.attempt("prepare", "failed", 2, BROKEN))
    answer = scenario.observe(*seen)
    assert (answer.status.phase, answer.actions) == ("Failed", ())
    assert answer.status.stage_by_id()["prepare"].failures == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "prepare",
            "raise spec.prepare.pod.resources.limits.memory, or convert JSON documents to JSON Lines, which are streamed, "
            "or take fewer records (data.*.samples)",
        ),
        ("generate", "raise spec.generation.pod.resources.limits.memory, or lower generation.tokenBudget"),
        ("reflect", "raise spec.reflection.pod.resources.limits.memory, or lower reflection.tokenBudget"),
    ],
)
def test_a_process_killed_for_memory_cannot_give_advice_so_the_planner_does(kind, message):
    limit = policies.memory_limit(kind)
    advice = policies.advice(kind, Failure("out-of-memory", "OOMKilled", "it reached its limit", more_memory=limit))
    assert advice == f"it reached its limit: {message}"
    assert policies.advice(kind, LOST) == LOST.message


@pytest.mark.parametrize(
    ("kind", "words", "given", "expected"),
    [
        ("dpo", "Pod usage exceeds 1Gi", True, 'raise spec.dpo.pod.resources.limits["ephemeral-storage"], or mount'),
        ("dpo", "Pod usage exceeds 1Gi", False, 'set spec.dpo.pod.resources.limits["ephemeral-storage"], or mount'),
        ("cleanup", "Pod usage exceeds 1Gi", True, 'raise spec.pod.resources.limits["ephemeral-storage"]'),
        (
            "generate",
            'Usage of EmptyDir volume "big" exceeds',
            False,
            "raise emptyDir.sizeLimit of volume big in spec.gen",
        ),
    ],
)
def test_the_field_that_gives_more_local_storage_is_named(kind, words, given, expected):
    assert policies.storage_limit(kind, words, given).startswith(expected)


def test_a_process_killed_for_an_unknown_cause_is_not_reported_as_out_of_memory():
    killed = Failure("transient", "Killed", "it was killed (SIGKILL)", more_memory="raise the limit")
    expected = "it was killed (SIGKILL); if memory was short, raise the limit, or lower generation.tokenBudget"
    assert policies.advice("generate", killed) == expected


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (7, 300), (99, 300)]
)
def test_the_pause_doubles_up_to_its_cap(failures, seconds):
    assert policies.backoff(failures, Retry()) == timedelta(seconds=seconds)


# ---- corrupt results


def test_a_corrupt_result_is_computed_again_before_the_stages_that_read_it():
    stages = ["prepare", "sft"]
    scenario = Scenario().after(*stages)
    failed = scenario.attempt("generate-1", "failed", failure=corrupt("sft"))
    answer = scenario.observe(*scenario.done(*stages), failed)
    assert actions(answer) == [("Start", "sft", 2)]
    assert [reason for reason, _ in events(answer)] == ["OutputCorrupt", "StageRetrying"]
    again = scenario.attempt("sft", "running", 2)
    assert actions(scenario.observe(*scenario.done(*stages), failed, again, seconds=60)) == []
    answer = scenario.observe(*scenario.done(*stages), failed, replace(again, state="succeeded"))
    assert actions(answer) == [("Start", "generate-1", 2), ("Start", "evaluate-0", 1)]


def test_a_corrupt_result_is_reported_once_even_if_its_stage_cannot_start_yet():
    scenario = Scenario().after("prepare", "sft")
    seen = [*scenario.done("prepare", "sft"), scenario.attempt("generate-1", "failed", failure=corrupt("sft"))]
    scenario.spec["suspend"] = True
    assert ("OutputCorrupt", "sft: a file of this stage no longer matches its digest; the stage runs again") in events(
        scenario.observe(*seen)
    )
    scenario.spec["suspend"] = False
    answer = scenario.observe(*seen)
    assert actions(answer)[0] == ("Start", "sft", 2)
    assert [reason for reason, _ in events(answer)] == ["Resumed"]


def test_a_second_report_of_the_same_corrupt_file_does_not_stop_the_repair():
    scenario = Scenario().after("prepare", "sft")
    seen = [*scenario.done("prepare", "sft"), scenario.attempt("evaluate-0", "failed", failure=corrupt("sft"))]
    scenario.observe(*seen, scenario.attempt("generate-1"))
    repair = scenario.attempt("sft", "running", 2)
    late = scenario.attempt("generate-1", "failed", failure=corrupt("sft"))
    answer = scenario.observe(*seen, late, repair)
    assert actions(answer) == []
    assert answer.status.stage_by_id()["sft"].state == "Running"


# ---- lost statuses, lost reports


@pytest.mark.parametrize("report", [None, Report(reason="Completed")])
def test_prepare_without_its_digests_runs_again(report):
    scenario = Scenario().after()
    silent = replace(scenario.attempt("prepare", "succeeded"), report=report)
    answer = scenario.observe(silent)
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.reason) == ("Backoff", "ReportLost")
    answer = scenario.observe(silent, seconds=10)
    assert actions(answer) == [("Start", "prepare", 2)]
    assert actions(scenario.observe(silent, scenario.attempt("prepare", "succeeded", 2))) == [("Start", "sft", 1)]


@pytest.mark.parametrize("report", [None, Report(reason="Completed")])
def test_a_lost_report_of_a_prepare_that_repairs_its_result_costs_no_other_stage_its_memory(report):
    scenario = Scenario().after("prepare", "sft")
    failed = scenario.attempt("generate-1", "failed", failure=corrupt("prepare"))
    scenario.observe(*scenario.done("prepare", "sft"), failed)
    again = replace(scenario.attempt("prepare", "succeeded", 2), report=report)
    answer = scenario.observe(*scenario.done("sft"), failed, again)
    stages = answer.status.stage_by_id()
    assert (stages["prepare"].state, stages["prepare"].reason) == ("Backoff", "ReportLost")
    assert stages["sft"].state == "Succeeded"


def test_an_evaluation_without_any_report_runs_again():
    """Rules and the champion need its figures. The next attempt finds its result and reports them."""
    scenario = Scenario().after("prepare", "sft")
    silent = replace(scenario.attempt("evaluate-0", "succeeded"), report=None)
    seen = scenario.done("prepare", "sft")
    evaluation = scenario.observe(*seen, silent, save=False).status.stage_by_id()["evaluate-0"]
    assert (evaluation.state, evaluation.reason) == ("Backoff", "ReportLost")
    wordless = replace(silent, report=Report(reason="Completed"))
    evaluation = scenario.observe(*seen, wordless).status.stage_by_id()["evaluate-0"]
    assert (evaluation.state, evaluation.reason) == ("Backoff", "ReportLost")


def test_any_other_stage_is_done_without_its_report():
    scenario = Scenario().after("prepare")
    silent = replace(scenario.attempt("sft", "succeeded"), report=None)
    assert scenario.observe(*scenario.done("prepare"), silent).status.stage_by_id()["sft"].state == "Succeeded"


def test_an_attempt_is_kept_if_the_status_with_its_start_was_lost():
    scenario = Scenario().after()
    first = scenario.attempt("prepare", "failed", failure=EVICTED)
    scenario.observe(first, save=False)
    answer = scenario.observe(first, scenario.attempt("prepare", "running", 2))
    assert actions(answer) == []
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.attempts, prepare.settled) == ("Running", 2, 1)


def test_a_run_that_has_lost_its_status_continues_from_its_attempts():
    scenario = Scenario()
    seen = [
        scenario.attempt("prepare", "failed", 1, LOST),
        scenario.attempt("prepare", "succeeded", 2),
        scenario.attempt("sft", "running", 3),  # the first two are gone
    ]
    answer = scenario.observe(*seen)
    assert actions(answer) == []
    stages = answer.status.stage_by_id()
    assert (stages["prepare"].state, stages["prepare"].failures) == ("Succeeded", 1)
    assert (stages["sft"].state, stages["sft"].settled) == ("Running", 2)


def test_a_repair_is_kept_if_the_status_with_its_start_was_lost():
    scenario = Scenario().after("prepare", "sft")
    seen = [*scenario.done("prepare", "sft"), scenario.attempt("generate-1", "failed", failure=corrupt("sft"))]
    assert actions(scenario.observe(*seen, save=False)) == [("Start", "sft", 2)]
    assert actions(scenario.observe(*seen, scenario.attempt("sft", "running", 2))) == []


def test_the_number_of_an_attempt_at_another_key_is_not_used_again():
    scenario = Scenario()
    other = replace(scenario.attempt("prepare"), key="0" * 64)
    answer = scenario.observe(other)
    assert actions(answer) == [("Stop", "prepare", 1), ("Start", "prepare", 2)]
    assert actions(scenario.observe(other, scenario.attempt("prepare", number=2))) == [("Stop", "prepare", 1)]
    assert scenario.previous.stage_by_id()["prepare"].state == "Running"


def test_the_number_of_a_stopped_attempt_is_not_used_again():
    scenario = Scenario().after("prepare", "sft")
    seen = [*scenario.done("prepare", "sft"), scenario.attempt("evaluate-0", gpu_seconds=30)]
    scenario.observe(*seen)
    failed = scenario.attempt("generate-1", "failed", failure=BROKEN)
    assert actions(scenario.observe(*seen, failed)) == [("Stop", "evaluate-0", 1)]
    assert scenario.previous.gpu_seconds == 30
    scenario.observe(*seen, failed)
    assert scenario.previous.gpu_seconds == 30
    scenario.retry = "now"
    answer = scenario.observe(*scenario.done("prepare", "sft"), failed)
    assert actions(answer) == [("Start", "generate-1", 2), ("Start", "evaluate-0", 2)]


# ---- suspension and yielding


def test_suspend_and_resume():
    scenario = Scenario().after("prepare")
    running = [*scenario.done("prepare"), scenario.attempt("sft")]
    scenario.observe(*running)
    scenario.spec["suspend"] = True
    answer = scenario.observe(*running)
    assert actions(answer) == [("Suspend", "sft", 1)]
    assert answer.status.phase == "Suspended"
    held = [*scenario.done("prepare"), scenario.attempt("sft", "suspended")]
    assert actions(scenario.observe(*held)) == []
    scenario.spec["suspend"] = False
    answer = scenario.observe(*held)
    assert actions(answer) == [("Resume", "sft", 1)]
    assert [reason for reason, _ in events(answer)] == ["Resumed"]


def test_the_reason_of_the_status_says_what_blocks_or_ended_the_run():
    scenario = Scenario(retry={"maxAttempts": 2}).after("prepare")
    done = scenario.done("prepare")
    assert scenario.observe(*done, scenario.attempt("sft"), save=False).status.reason is None
    note = ("Unschedulable", "no node")
    assert (
        scenario.observe(*done, scenario.attempt("sft", "queued", note=note), save=False).status.reason
        == "Unschedulable"
    )
    failed = scenario.attempt("sft", "failed", failure=Failure("transient", "Killed", "it was killed"))
    assert scenario.observe(*done, failed).status.reason == "Backoff"
    again = scenario.attempt("sft", "failed", 2, Failure("transient", "StorageUnreachable", "away"))
    status = scenario.observe(*done, failed, again, seconds=60).status
    assert (status.phase, status.reason) == ("Failed", "StorageUnreachable")
    late = Scenario(activeDeadlineSeconds=5)
    late.observe()
    assert late.observe(seconds=6).status.reason == "DeadlineExceeded"
    assert Scenario().observe(invalid="spec.dpo.beta: no").status.reason == "InvalidSpec"


def test_an_outdated_attempt_is_replaced_and_no_failure_is_counted():
    scenario = Scenario().after("prepare")
    held = scenario.attempt("sft", note=("ImagePullBackOff", "image trian:1 cannot be pulled"))
    scenario.observe(*scenario.done("prepare"), held)
    answer = scenario.observe(*scenario.done("prepare"), replace(held, outdated=True))
    assert actions(answer) == [("Stop", "sft", 1), ("Start", "sft", 2)]
    sft = answer.status.stage_by_id()["sft"]
    assert (sft.failures, sft.message) == (0, None)
    answer = scenario.observe(*scenario.done("prepare"), scenario.attempt("sft", number=2))
    assert (actions(answer), answer.status.stage_by_id()["sft"].state) == ([], "Running")


def test_an_outdated_suspended_attempt_is_replaced_only_once_the_run_resumes():
    scenario = Scenario(suspend=True).after("prepare")
    held = [*scenario.done("prepare"), scenario.attempt("sft", "suspended", outdated=True)]
    assert actions(scenario.observe(*held)) == [("Stop", "sft", 1)]
    scenario.spec["suspend"] = False
    assert actions(scenario.observe(*scenario.done("prepare"))) == [("Start", "sft", 2)]


def test_nothing_starts_in_a_suspended_run():
    answer = Scenario(suspend=True).observe()
    assert (answer.actions, answer.status.phase) == ((), "Suspended")


YIELDING = [
    # the evaluation, the critical stage, queue, actions on the evaluation
    ("running", "running", None, []),
    ("running", "queued", None, [Suspend("evaluate-0", 1)]),
    ("queued", "running", None, [Suspend("evaluate-0", 1)]),
    ("suspended", "running", None, []),
    ("suspended", "queued", None, []),
    ("suspended", "succeeded", None, []),  # reflect-1 is still to come
    ("running", "queued", "research", []),
    ("suspended", "running", "research", [Resume("evaluate-0", 1)]),
]


@pytest.mark.parametrize(("evaluation", "critical", "queue", "expected"), YIELDING)
def test_evaluation_yields_to_stages_that_others_wait_for(evaluation, critical, queue, expected):
    scenario = Scenario(**({"queueName": queue} if queue else {})).after("prepare", "sft")
    seen = [scenario.attempt("evaluate-0", evaluation), scenario.attempt("generate-1", critical)]
    answer = scenario.observe(*scenario.done("prepare", "sft"), *seen)
    assert [action for action in answer.actions if not isinstance(action, Start)] == expected


def test_a_suspended_evaluation_resumes_at_the_end():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1"]
    scenario = Scenario().after(*stages)
    answer = scenario.observe(*scenario.done(*stages), scenario.attempt("evaluate-0", "suspended"))
    assert actions(answer) == [("Resume", "evaluate-0", 1)]


# ---- time


def test_a_run_past_its_deadline_fails_and_stops():
    scenario = Scenario(activeDeadlineSeconds=60).after()
    running = scenario.attempt("prepare")
    answer = scenario.observe(running, seconds=59)
    assert (actions(answer), answer.wake_at) == ([], NOW + timedelta(seconds=60))
    answer = scenario.observe(running, seconds=1)
    assert actions(answer) == [("Stop", "prepare", 1)]
    assert answer.status.phase == "Failed"
    assert next(c for c in answer.status.conditions if c.type == "Failed").reason == "DeadlineExceeded"


def test_a_retry_after_the_deadline_gets_the_whole_time_again():
    scenario = Scenario(activeDeadlineSeconds=60).after()
    assert scenario.observe(seconds=60).status.phase == "Failed"
    scenario.retry = "now"
    answer = scenario.observe(seconds=10)
    assert (answer.status.phase, answer.status.started_at) == ("Running", scenario.now)
    assert answer.wake_at == scenario.now + timedelta(seconds=60)


def test_more_iterations_on_a_finished_run_get_the_whole_time_again():
    scenario = Scenario(activeDeadlineSeconds=60, iterations=0).after("prepare", "sft", "evaluate-0")
    scenario.spec["iterations"] = 1
    answer = scenario.observe(seconds=1000)
    assert (answer.status.phase, actions(answer)) == ("Running", [("Start", "generate-1", 1)])


def test_a_finished_run_expires():
    scenario = Scenario(iterations=0, ttlSecondsAfterFinished=60).after("prepare", "sft", "evaluate-0")
    answer = scenario.observe(seconds=59)
    assert (answer.expired, answer.wake_at) == (False, NOW + timedelta(seconds=60))
    assert scenario.observe(seconds=1).expired


def test_the_transition_time_of_a_condition_changes_only_with_its_status():
    scenario = Scenario().after()
    before = {c.type: c.last_transition_time for c in scenario.previous.conditions}
    scenario.observe(scenario.attempt("prepare", "failed", failure=BROKEN), seconds=30)
    moved = {c.type for c in scenario.previous.conditions if c.last_transition_time != before[c.type]}
    assert moved == {"Progressing", "Failed"}
    assert {c.last_transition_time for c in scenario.previous.conditions if c.type in moved} == {scenario.now}


def test_an_invalid_spec_starts_nothing_and_keeps_the_state_of_stages():
    scenario = Scenario().after("prepare")
    answer = scenario.observe(
        *scenario.done("prepare"), scenario.attempt("sft"), invalid="spec.iterations: must be a whole number"
    )
    assert (answer.actions, answer.status.phase) == ((), "Failed")
    assert events(answer) == [("Failed", "spec.iterations: must be a whole number")]
    assert [c.type for c in answer.status.conditions] == ["Accepted", "Progressing", "Suspended", "Complete", "Failed"]
    assert actions(scenario.observe(*scenario.done("prepare"), scenario.attempt("sft"))) == []
    assert scenario.previous.stage_by_id()["sft"].state == "Running"


# ---- figures


CHAMPIONS = [
    ("distinct2", [], None, None),
    ("distinct2", [(1.0,), (3.0,), (2.0,)], 1, 1),
    ("distinct2", [(1.0,), (1.0,)], 0, 0),
    ("perplexity", [(9.0,), (8.0,)], 1, 1),
    ("stock_phrase_rate", [(0.1,), (0.2,)], 0, 0),
    ("perplexity", [None, (8.0,)], 1, 1),
    # M1's interval reaches the figure of M2, which is the best; M0's does not.
    ("distinct2", [(1.0, 0.5, 1.5), (2.8, 2.0, 3.2), (3.0, 2.5, 3.5)], 2, 1),
    # Of perplexity a low one is good: the lower end counts.
    ("perplexity", [(9.0, 7.9, 10.0), (8.0, 7.0, 9.0)], 1, 0),
    ("perplexity", [(9.0, 8.1, 10.0), (8.0, 7.0, 9.0)], 1, 1),
]


@pytest.mark.parametrize(("metric", "values", "best", "earliest"), CHAMPIONS)
def test_the_champion_is_the_best_or_the_first_that_may_be_as_good(metric, values, best, earliest):
    entries = [entry(t, {metric: value} if value else {"distinct1": (1.0,)}) for t, value in enumerate(values)]
    for rule, expected in (("best", best), ("earliest", earliest)):
        evaluation = EvaluationStage(champion_metric=metric, champion_rule=rule)
        assert policies.champion(entries, evaluation) == expected


def test_a_model_that_is_less_safe_than_m0_is_no_champion_and_sets_no_mark():
    safe = {"safety_safe_rate": (50.0, 40.0, 60.0), "safety_harmful_rate": (0.0,)}
    models = [
        entry(0, {"distinct2": (1.0, 0.5, 1.5), **safe}),
        entry(1, {"distinct2": (2.0, 1.8, 2.2), **safe}),
        entry(2, {"distinct2": (9.0, 8.0, 9.9), **safe, "safety_safe_rate": (30.0, 20.0, 41.0)}),
    ]
    for rule in ("best", "earliest"):
        assert policies.champion(models, EvaluationStage(champion_rule=rule), unsafe(models)) == 1
    scenario = Scenario(iterations=1).after("prepare", "sft", "generate-1", "reflect-1", "dpo-1")
    seen = scenario.done("prepare", "sft", "generate-1", "reflect-1", "dpo-1")
    for t, rate in ((0, 50.0), (1, 30.0)):
        figures = {"distinct2": 1.0 + t, "safety_safe_rate": rate}
        report = Report(reason="Completed", metrics=figures, intervals={"safety_safe_rate": [rate - 9, rate + 9]})
        seen = [*seen, scenario.attempt(f"evaluate-{t}", "succeeded", report=report)]
    status = scenario.observe(*seen).status
    assert status.champion == 0
    assert [sentence.partition(":")[0] for sentence in status.ineligible] == ["M1 is less safe than M0"]


def entry(iteration, figures):
    """Figures of a model: each name with (value,) or (value, low, high)."""
    return IterationMetrics(
        iteration=iteration,
        figures={name: value[0] for name, value in figures.items()},
        intervals={name: list(value[1:]) for name, value in figures.items() if len(value) == 3},
    )


# ---- rules that end a run early


BROKEN_RULES = [
    ({"lengthRatio": 1.5}, [{"length_words": (10.0,)}, {"length_words": (15.1,)}], "AnswersTooLong"),
    ({"lengthRatio": 1.5}, [{"length_words": (10.0,)}, {"length_words": (15.0,)}], None),
    ({"divergence": 0.2}, [{"distinct1": (1.0,)}, {"kl_m0": (0.3,)}], "DivergenceTooLarge"),
    ({"divergence": 0.3}, [{"distinct1": (1.0,)}, {"kl_m0": (0.3,)}], None),
    ({"worse": ["bleu2_ref"]}, [{"bleu2_ref": (6.0, 5.0, 7.0)}, {"bleu2_ref": (5.0, 4.5, 5.9)}], "FigureWorse"),
    ({"worse": ["bleu2_ref"]}, [{"bleu2_ref": (6.0, 5.0, 7.0)}, {"bleu2_ref": (5.0, 4.5, 6.0)}], None),
    ({"worse": ["perplexity"]}, [{"perplexity": (6.0, 5.0, 7.0)}, {"perplexity": (8.0, 6.1, 9.0)}], "FigureWorse"),
    ({"worse": ["perplexity"]}, [{"perplexity": (6.0, 5.0, 7.0)}, {"perplexity": (5.0, 4.0, 6.0)}], None),
]


@pytest.mark.parametrize(("rules", "models", "reason"), BROKEN_RULES)
def test_a_rule_ends_the_run_after_the_round_that_breaks_it(rules, models, reason):
    scenario = Scenario(iterations=3, stopping=rules)
    evaluated = [StageStatus(id=f"evaluate-{t}", name="evaluate", iteration=t, state="Succeeded") for t in range(2)]
    ending = early_ending(
        scenario.run.spec, [entry(t, each) for t, each in enumerate(models)], {stage.id: stage for stage in evaluated}
    )
    assert (ending and ending.reason) == reason
    if ending:
        assert ending.iteration == 1
        assert "stopping." in ending.message


def test_a_margin_that_shrinks_ends_the_run():
    scenario = Scenario(iterations=4, dpo={"heldOut": 0.1}, stopping={"marginBelow": 0.5})
    stages = {
        f"evaluate-{t}": StageStatus(id=f"evaluate-{t}", name="evaluate", iteration=t, state="Succeeded")
        for t in range(4)
    }
    models = [entry(0, {"distinct1": (1.0,)})]
    models += [entry(t, {"heldout_margin": (margin,)}) for t, margin in ((1, 0.4), (2, 0.2), (3, 0.09))]
    assert early_ending(scenario.run.spec, models[:3], stages) is None, "half of the margin is left"
    ending = early_ending(scenario.run.spec, models, stages)
    assert (ending.iteration, ending.reason) == (3, "MarginShrank")


def test_budgets_count_what_the_rounds_up_to_a_model_took():
    def ending(rules, **spent):
        stages = [
            StageStatus(id="evaluate-1", name="evaluate", iteration=1, state="Succeeded", **spent),
            StageStatus(id="dpo-2", name="dpo", iteration=2, tokens=10**9, gpu_seconds=10**9),
        ]
        models = [entry(t, {"distinct1": (1.0,)}) for t in range(2)]
        found = early_ending(Scenario(iterations=2, stopping=rules).run.spec, models, {s.id: s for s in stages})
        return found and found.reason

    assert ending({"tokens": 100}, tokens=99) is None
    assert ending({"tokens": 100}, tokens=100) == "TokensSpent"
    assert ending({"gpuHours": 1}, gpu_seconds=3599.0) is None
    assert ending({"gpuHours": 1}, gpu_seconds=3600.0) == "GpuHoursSpent"


def test_no_round_begins_before_the_model_is_evaluated_and_none_follows_a_broken_rule():
    first = ["prepare", "sft", "evaluate-0", "generate-1", "reflect-1", "dpo-1"]
    scenario = Scenario(iterations=3, stopping={"lengthRatio": 1.5}).after(*first[:2])
    assert "evaluate-0" in critical(build_graph(scenario.run.spec, {}))
    assert "evaluate-3" not in critical(build_graph(scenario.run.spec, {}))

    def evaluated(words):
        report = Report(reason="Completed", metrics={"length_words": words}, intervals={"length_words": (9, 30)})
        return lambda stage: scenario.attempt(stage, "succeeded", report=report)

    seen = [*scenario.done(*first[:2]), evaluated(10.0)("evaluate-0"), *scenario.done(*first[3:])]
    answer = scenario.observe(*seen)
    assert actions(answer) == [("Start", "evaluate-1", 1)], "generate-2 waits for the figures of M1"
    short = scenario.observe(*seen, evaluated(12.0)("evaluate-1"), save=False)
    assert ("Start", "generate-2", 1) in actions(short)
    assert condition(short, "StoppedEarly") == ("False", "NoRuleBroken")

    long = scenario.observe(*seen, evaluated(16.0)("evaluate-1"))
    assert actions(long) == []
    assert long.status.phase == "Complete"
    assert condition(long, "StoppedEarly") == ("True", "AnswersTooLong")
    assert [stage.id for stage in long.status.stages] == [*first, "evaluate-1"]
    assert [each.iteration for each in long.status.metrics] == [0, 1]
    assert long.status.metrics[1].intervals == {"length_words": [9, 30]}
    # Nobody's memory but the status, and then a rule that allows more.
    again = scenario.observe()
    assert again.status == long.status
    scenario.spec["stopping"] = {"lengthRatio": 1.7}
    assert actions(scenario.observe()) == [("Start", "generate-2", 1)]


def test_a_rule_that_is_added_later_stops_what_runs_beyond_it():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1"]
    scenario = Scenario(iterations=2).after(*stages)
    report = Report(reason="Completed", metrics={"length_words": 10.0})
    more = Report(reason="Completed", metrics={"length_words": 30.0})
    seen = [
        *scenario.done(*stages),
        scenario.attempt("evaluate-0", "succeeded", report=report),
        scenario.attempt("evaluate-1", "succeeded", report=more),
        scenario.attempt("generate-2", "running"),
    ]
    assert scenario.observe(*seen).status.stage == "generate-2"
    scenario.spec["stopping"] = {"lengthRatio": 2}
    assert actions(scenario.observe(*seen)) == [("Stop", "generate-2", 1)]


def condition(answer, name):
    return next((each.status, each.reason) for each in answer.status.conditions if each.type == name)


def test_figures_of_a_round_come_from_several_stages():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1"]
    scenario = Scenario(dpo={"heldOut": 0.1}).after(*stages[:4])
    ranked = Report(reason="Completed", metrics={"heldout_margin": 0.2, "loss_last": 0.5}, intervals={})
    seen = [*scenario.done(*stages[:4]), scenario.attempt("dpo-1", "succeeded", report=ranked)]
    assert scenario.observe(*seen).status.metrics == [entry(1, {"heldout_margin": (0.2,)})]
    figures = Report(reason="Completed", metrics={"distinct2": 30.0}, intervals={"distinct2": (28.0, 32.0)})
    later = [scenario.attempt(f"evaluate-{t}", "succeeded", report=figures) for t in (0, 1)]
    both = entry(1, {"heldout_margin": (0.2,), "distinct2": (30.0, 28.0, 32.0)})
    assert scenario.observe(*seen, *later).status.metrics[1] == both
    assert scenario.observe().status.metrics[1] == both, "as remembered"


def test_a_dpo_stage_with_held_out_pairs_runs_again_without_its_report():
    scenario = Scenario(dpo={"heldOut": 0.1}).after("prepare", "sft", "generate-1", "reflect-1")
    seen = [*scenario.done("prepare", "sft", "generate-1", "reflect-1")]
    answer = scenario.observe(*seen, scenario.attempt("dpo-1", "succeeded", report=None))
    assert answer.status.stage_by_id()["dpo-1"].reason == "ReportLost"


def test_a_run_fails_once_what_is_left_reads_from_a_failed_evaluation():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1"]
    scenario = Scenario().after(*stages)
    failed = scenario.attempt("evaluate-0", "failed", failure=BROKEN)
    answer = scenario.observe(*scenario.done(*stages), failed)
    assert (actions(answer), answer.status.phase) == ([], "Failed")


def test_progress_names_the_stage_its_shards_and_rows():
    from evolution_operator.api.status import StageProgress

    scenario = Scenario(generation={"shards": 4}).after("prepare", "sft")
    progress = StageProgress(done=40, total=96, unit="rows")
    running = scenario.attempt("generate-1", progress=progress, shards=4, shards_done=3)
    status = scenario.observe(*scenario.done("prepare", "sft"), running).status
    assert (status.progress, status.stage) == ("2/7", "generate-1 3/4 shards 40/96 rows")


def test_stages_that_are_no_longer_in_the_run_are_stopped():
    scenario = Scenario().after()
    assert actions(scenario.observe(replace(scenario.attempt("prepare"), stage="dpo-9"))) == [
        ("Stop", "dpo-9", 1),
        ("Start", "prepare", 1),
    ]
