"""The planner's decisions, one by one. `test_planner_machine.py` looks for what nobody thought of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec, Retry
from evolution_operator.api.status import IterationMetrics
from evolution_operator.planner import policies
from evolution_operator.planner.actions import Resume, Start, Suspend
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Attempt, Failure, Observed, Published, Run
from evolution_operator.planner.plan import plan

from tests.support.run_document import minimal_spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENTS = {name: name[0] * 64 for name in ("model", "train", "validation", "contexts", "test", "replay")}
LOST = Failure("transient", "NodeLost", "the node is gone")
EVICTED = Failure("disruption", "Evicted", "the node was drained")
BROKEN = Failure("permanent", "DataInvalid", "line 3 is not JSON")


def corrupt(stage):
    return Failure("transient", "InputCorrupt", "a digest differs", corrupt=stage)


class Story:
    """A run told pass by pass: what is seen goes in, what the planner says comes out and is remembered."""

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
            report = Report(reason="Completed", contents=CONTENTS if stage == "prepare" else {}, seconds=9)
        base = Attempt(stage, number, self.keys[stage], state, f"{stage}-{number}", failure=failure, report=report)
        return replace(base, **fields)

    def see(self, *attempts, remember=True, seconds=0, **observed):
        self.now += timedelta(seconds=seconds)
        answer = plan(self.run, Observed(attempts, previous=self.previous, **observed), self.now)
        if remember:
            self.previous = answer.status
        return answer

    def done(self, *stages):
        """Attempts that have succeeded."""
        return [self.attempt(stage, "succeeded") for stage in stages]

    def after(self, *stages):
        """The story once these stages have succeeded."""
        for count in range(len(stages) + 1):
            self.see(*self.done(*stages[:count]))
        return self


def told(answer):
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
    graph = build_graph(Story(iterations=iterations).run.spec, {})
    assert [node.id for node in graph] == ids.split()
    seen = set()
    for node in graph:
        # Evaluations come last, after all that they could keep waiting, and inputs before what reads them.
        assert node.upstream <= seen
        seen.add(node.id)


def test_each_round_goes_on_from_the_last_ones_adapter():
    graph = {node.id: node for node in build_graph(Story(iterations=2).run.spec, {})}
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


def test_replay_is_read_only_where_there_is_any():
    data = Story().spec["data"]
    replay = {**data, "replay": [{"uri": "file:///data/a.json", "format": "alpaca"}]}
    for spec, expected in ((data, None), (replay, "prepare/replay")):
        sft = build_graph(Story(data=spec).run.spec, {})[1]
        assert sft.inputs.get("replay") == expected


# ---- what starts when

WHAT_STARTS = [
    ([], ["prepare"]),
    (["prepare"], ["sft"]),
    (["prepare", "sft"], ["generate-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1"], ["reflect-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1", "reflect-1"], ["dpo-1", "evaluate-0"]),
    (["prepare", "sft", "generate-1", "reflect-1", "dpo-1"], ["evaluate-0", "evaluate-1"]),
    (["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1"], []),
]


@pytest.mark.parametrize(("stages", "expected"), WHAT_STARTS)
def test_a_stage_starts_once_its_inputs_are_there(stages, expected):
    story = Story()
    answer = story.see(*story.done(*stages))
    assert told(answer) == [("Start", stage, 1) for stage in expected]


def test_a_start_says_all_that_the_stage_must_know():
    story = Story(generation={"shards": 4, "temperature": 0.5}, seed=7).after("prepare")
    start = next(a for a in story.see(*story.done("prepare", "sft")).actions if a.spec.stage == "generate-1")
    spec = start.spec
    assert (start.number, start.shards, start.critical) == (1, 4, True)
    assert (spec.key, spec.attempt, spec.seed) == (story.keys["generate-1"], "uid-1", 8)
    assert spec.settings.temperature == 0.5
    assert {name: (i.stage, i.key, i.output) for name, i in spec.inputs.items()} == {
        "model": ("prepare", story.keys["prepare"], "model"),
        "contexts": ("prepare", story.keys["prepare"], "contexts"),
        "adapter": ("sft", story.keys["sft"], "adapter"),
    }
    assert spec.graph == []


def test_prepare_is_told_the_whole_graph():
    story = Story()
    (start,) = story.see().actions
    assert start.spec.graph == build_graph(story.run.spec, {})


def test_what_prepare_finds_published_is_not_made_again():
    story = Story().after()
    prepare = story.attempt("prepare", "succeeded")
    report = prepare.report.model_copy(
        update={"published": ["sft", "evaluate-0", "dpo-1"], "figures": {"evaluate-0": {"distinct2": 3.0}}}
    )
    answer = story.see(replace(prepare, report=report))
    assert told(answer) == [("Start", "generate-1", 1), ("Start", "evaluate-1", 1)]
    assert ("StageCached", "sft: an earlier run had computed it") in events(answer)
    stages = answer.status.stage_by_id()
    assert {s for s in stages if stages[s].cached} == {"sft", "evaluate-0", "dpo-1"}
    # A bug once: the figures of evaluations that an earlier run had made were lost.
    assert answer.status.metrics == [IterationMetrics(iteration=0, figures={"distinct2": 3.0})]
    assert story.see(replace(prepare, report=report)).status.metrics == answer.status.metrics


def test_what_the_hand_finds_in_the_store_is_not_made_again():
    story = Story()
    published = {story.keys[stage]: Published() for stage in ("prepare", "sft", "generate-1")}
    answer = story.see(published=published, contents=CONTENTS)
    assert told(answer) == [("Start", "reflect-1", 1), ("Start", "evaluate-0", 1)]
    assert answer.status.progress == "3/7"


def test_a_changed_beta_makes_dpo_and_what_follows_again_and_ends_what_is_under_way():
    stages = ["prepare", "sft", "generate-1", "reflect-1"]
    story = Story().after(*stages)
    old = [*story.done(*stages), story.attempt("dpo-1")]
    story.see(*old)
    story.spec["dpo"] = {"beta": 0.5}
    answer = story.see(*old)
    assert told(answer)[:2] == [("Stop", "dpo-1", 1), ("Start", "dpo-1", 2)]
    assert [s.id for s in answer.status.stages if s.state == "Succeeded"] == stages


def test_more_iterations_on_a_finished_run_add_only_the_new_ones():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1"]
    story = Story().after(*stages)
    assert story.previous.phase == "Complete"
    story.spec["iterations"] = 2
    answer = story.see(seconds=100)
    assert told(answer) == [("Start", "generate-2", 1)]
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
    story = Story()
    seen = []
    for number in range(1, earlier + 1):
        seen.append(story.attempt("prepare", "failed", number, LOST))
        story.see(*seen)
    answer = story.see(*seen, story.attempt("prepare", "failed", earlier + 1, failure))
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.settled) == (state, earlier + 1)
    assert prepare.next_attempt_at == (story.now + timedelta(seconds=pause) if pause else None)
    assert answer.wake_at == prepare.next_attempt_at
    assert told(answer) == ([("Start", "prepare", earlier + 2)] if state == "Waiting" else [])
    (event,) = [event for event in answer.events if event.reason.startswith("Stage")]
    assert event.reason == ("StageFailed" if state == "Failed" else "StageRetrying")
    assert failure.message in event.message
    assert ("(attempt" in event.message) == (earlier > 0)


def test_the_next_attempt_comes_when_the_pause_is_over():
    story = Story().after()
    failed = story.attempt("prepare", "failed", failure=LOST)
    story.see(failed)
    assert told(story.see(failed, seconds=9)) == []
    answer = story.see(failed, seconds=1)
    assert told(answer) == [("Start", "prepare", 2)]
    assert answer.actions[0].spec.attempt == "uid-2"


def test_a_failed_run_stops_what_is_left_and_says_why():
    story = Story().after("prepare", "sft")
    seen = [*story.done("prepare", "sft"), story.attempt("evaluate-0")]
    story.see(*seen)
    answer = story.see(*seen, story.attempt("generate-1", "failed", failure=BROKEN))
    assert told(answer) == [("Stop", "evaluate-0", 1)]
    assert answer.status.phase == "Failed"
    failed = next(c for c in answer.status.conditions if c.type == "Failed")
    assert (failed.reason, failed.message) == (
        "StageFailed",
        "stage generate-1: DataInvalid: line 3 is not JSON",
    )


def test_a_failed_evaluation_keeps_nothing_from_being_made():
    story = Story().after("prepare", "sft")
    failed = story.attempt("evaluate-0", "failed", failure=BROKEN)
    answer = story.see(*story.done("prepare", "sft"), failed)
    assert told(answer) == [("Start", "generate-1", 1)]
    assert answer.status.phase == "Running"
    rest = ["generate-1", "reflect-1", "dpo-1", "evaluate-1"]
    assert story.see(*story.done("prepare", "sft", *rest), failed).status.phase == "Failed"


def test_a_retry_request_forgives_once():
    story = Story().after()
    seen = [story.attempt("prepare", "failed", failure=BROKEN)]
    assert story.see(*seen).status.phase == "Failed"
    story.retry = "2026-01-01T00:00:00Z"
    assert told(story.see(*seen)) == [("Start", "prepare", 2)]
    seen.append(story.attempt("prepare", "failed", 2, BROKEN))
    answer = story.see(*seen)
    assert (answer.status.phase, answer.actions) == ("Failed", ())
    assert answer.status.stage_by_id()["prepare"].failures == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("prepare", "raise spec.prepare.pod.resources.limits.memory, or take fewer records (data.*.samples)"),
        ("generate", "raise spec.generation.pod.resources.limits.memory, or lower generation.tokenBudget"),
        ("reflect", "raise spec.reflection.pod.resources.limits.memory, or lower reflection.tokenBudget"),
    ],
)
def test_a_process_killed_for_memory_cannot_give_advice_so_the_planner_does(kind, message):
    limit = policies.memory_limit(kind)
    advice = policies.advice(kind, Failure("out-of-memory", "OOMKilled", "it reached its limit", more_memory=limit))
    assert advice == f"it reached its limit: {message}"
    assert policies.advice(kind, LOST) == LOST.message


def test_a_process_killed_for_an_unknown_cause_is_not_said_to_have_lacked_memory():
    killed = Failure("transient", "Killed", "it was killed (SIGKILL)", more_memory="raise the limit")
    expected = "it was killed (SIGKILL); if memory was short, raise the limit, or lower generation.tokenBudget"
    assert policies.advice("generate", killed) == expected


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (7, 300), (99, 300)]
)
def test_the_pause_doubles_up_to_its_cap(failures, seconds):
    assert policies.backoff(failures, Retry()) == timedelta(seconds=seconds)


# ---- corrupt results


def test_a_corrupt_result_is_made_again_before_what_reads_it():
    stages = ["prepare", "sft"]
    story = Story().after(*stages)
    failed = story.attempt("generate-1", "failed", failure=corrupt("sft"))
    answer = story.see(*story.done(*stages), failed)
    assert told(answer) == [("Start", "sft", 2)]
    assert [reason for reason, _ in events(answer)] == ["OutputCorrupt", "StageRetrying"]
    again = story.attempt("sft", "running", 2)
    assert told(story.see(*story.done(*stages), failed, again, seconds=60)) == []
    answer = story.see(*story.done(*stages), failed, replace(again, state="succeeded"))
    assert told(answer) == [("Start", "generate-1", 2), ("Start", "evaluate-0", 1)]


def test_a_corrupt_result_is_told_once_though_its_stage_cannot_start_yet():
    story = Story().after("prepare", "sft")
    seen = [*story.done("prepare", "sft"), story.attempt("generate-1", "failed", failure=corrupt("sft"))]
    story.spec["suspend"] = True
    assert ("OutputCorrupt", "sft: a file of this stage no longer matches its digest; the stage runs again") in events(
        story.see(*seen)
    )
    story.spec["suspend"] = False
    answer = story.see(*seen)
    assert told(answer)[0] == ("Start", "sft", 2)
    assert [reason for reason, _ in events(answer)] == ["Resumed"]


def test_a_second_complaint_about_the_same_file_does_not_stop_the_repair():
    story = Story().after("prepare", "sft")
    seen = [*story.done("prepare", "sft"), story.attempt("evaluate-0", "failed", failure=corrupt("sft"))]
    story.see(*seen, story.attempt("generate-1"))
    repair = story.attempt("sft", "running", 2)
    late = story.attempt("generate-1", "failed", failure=corrupt("sft"))
    answer = story.see(*seen, late, repair)
    assert told(answer) == []
    assert answer.status.stage_by_id()["sft"].state == "Running"


# ---- lost memory, lost reports


@pytest.mark.parametrize("report", [None, Report(reason="Completed")])
def test_prepare_without_its_digests_runs_again(report):
    story = Story().after()
    silent = replace(story.attempt("prepare", "succeeded"), report=report)
    answer = story.see(silent)
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.reason) == ("Backoff", "ReportLost")
    answer = story.see(silent, seconds=10)
    assert told(answer) == [("Start", "prepare", 2)]
    assert told(story.see(silent, story.attempt("prepare", "succeeded", 2))) == [("Start", "sft", 1)]


@pytest.mark.parametrize("report", [None, Report(reason="Completed")])
def test_a_lost_report_of_a_prepare_that_repairs_its_result_costs_no_other_stage_its_memory(report):
    story = Story().after("prepare", "sft")
    failed = story.attempt("generate-1", "failed", failure=corrupt("prepare"))
    story.see(*story.done("prepare", "sft"), failed)
    again = replace(story.attempt("prepare", "succeeded", 2), report=report)
    answer = story.see(*story.done("sft"), failed, again)
    stages = answer.status.stage_by_id()
    assert (stages["prepare"].state, stages["prepare"].reason) == ("Backoff", "ReportLost")
    assert stages["sft"].state == "Succeeded"


def test_an_evaluation_without_any_report_runs_again():
    """An evaluation whose report has no figures is done: they are in its manifest."""
    story = Story().after("prepare", "sft")
    silent = replace(story.attempt("evaluate-0", "succeeded"), report=None)
    seen = story.done("prepare", "sft")
    evaluation = story.see(*seen, silent, remember=False).status.stage_by_id()["evaluate-0"]
    assert (evaluation.state, evaluation.reason) == ("Backoff", "ReportLost")
    wordless = replace(silent, report=Report(reason="Completed"))
    evaluation = story.see(*seen, wordless).status.stage_by_id()["evaluate-0"]
    assert (evaluation.state, evaluation.seconds) == ("Succeeded", None)


def test_any_other_stage_is_done_without_its_report():
    story = Story().after("prepare")
    silent = replace(story.attempt("sft", "succeeded"), report=None)
    assert story.see(*story.done("prepare"), silent).status.stage_by_id()["sft"].state == "Succeeded"


def test_an_attempt_whose_start_was_not_remembered_is_kept():
    story = Story().after()
    first = story.attempt("prepare", "failed", failure=EVICTED)
    story.see(first, remember=False)
    answer = story.see(first, story.attempt("prepare", "running", 2))
    assert told(answer) == []
    prepare = answer.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.attempts, prepare.settled) == ("Running", 2, 1)


def test_a_run_that_has_lost_its_status_goes_on_from_its_attempts():
    story = Story()
    seen = [
        story.attempt("prepare", "failed", 1, LOST),
        story.attempt("prepare", "succeeded", 2),
        story.attempt("sft", "running", 3),  # the first two are gone
    ]
    answer = story.see(*seen)
    assert told(answer) == []
    stages = answer.status.stage_by_id()
    assert (stages["prepare"].state, stages["prepare"].failures) == ("Succeeded", 1)
    assert (stages["sft"].state, stages["sft"].settled) == ("Running", 2)


def test_a_repair_whose_start_was_not_remembered_is_kept():
    story = Story().after("prepare", "sft")
    seen = [*story.done("prepare", "sft"), story.attempt("generate-1", "failed", failure=corrupt("sft"))]
    assert told(story.see(*seen, remember=False)) == [("Start", "sft", 2)]
    assert told(story.see(*seen, story.attempt("sft", "running", 2))) == []


def test_numbers_of_attempts_at_other_keys_are_taken():
    story = Story()
    stranger = replace(story.attempt("prepare"), key="0" * 64)
    answer = story.see(stranger)
    assert told(answer) == [("Stop", "prepare", 1), ("Start", "prepare", 2)]
    assert told(story.see(stranger, story.attempt("prepare", number=2))) == [("Stop", "prepare", 1)]
    assert story.previous.stage_by_id()["prepare"].state == "Running"


def test_an_attempt_that_was_told_to_stop_is_not_started_again_under_its_number():
    story = Story().after("prepare", "sft")
    seen = [*story.done("prepare", "sft"), story.attempt("evaluate-0", gpu_seconds=30)]
    story.see(*seen)
    failed = story.attempt("generate-1", "failed", failure=BROKEN)
    assert told(story.see(*seen, failed)) == [("Stop", "evaluate-0", 1)]
    assert story.previous.gpu_seconds == 30
    story.see(*seen, failed)
    assert story.previous.gpu_seconds == 30
    story.retry = "now"
    answer = story.see(*story.done("prepare", "sft"), failed)
    assert told(answer) == [("Start", "generate-1", 2), ("Start", "evaluate-0", 2)]


# ---- suspend, and giving way


def test_suspend_and_resume():
    story = Story().after("prepare")
    running = [*story.done("prepare"), story.attempt("sft")]
    story.see(*running)
    story.spec["suspend"] = True
    answer = story.see(*running)
    assert told(answer) == [("Suspend", "sft", 1)]
    assert answer.status.phase == "Suspended"
    held = [*story.done("prepare"), story.attempt("sft", "suspended")]
    assert told(story.see(*held)) == []
    story.spec["suspend"] = False
    answer = story.see(*held)
    assert told(answer) == [("Resume", "sft", 1)]
    assert [reason for reason, _ in events(answer)] == ["Resumed"]


def test_the_reason_beside_the_phase_says_what_holds_the_run_up_or_has_ended_it():
    story = Story(retry={"maxAttempts": 2}).after("prepare")
    done = story.done("prepare")
    assert story.see(*done, story.attempt("sft"), remember=False).status.reason is None
    note = ("Unschedulable", "no node")
    assert story.see(*done, story.attempt("sft", "queued", note=note), remember=False).status.reason == "Unschedulable"
    failed = story.attempt("sft", "failed", failure=Failure("transient", "Killed", "it was killed"))
    assert story.see(*done, failed).status.reason == "Backoff"
    again = story.attempt("sft", "failed", 2, Failure("transient", "StorageUnreachable", "away"))
    status = story.see(*done, failed, again, seconds=60).status
    assert (status.phase, status.reason) == ("Failed", "StorageUnreachable")
    late = Story(activeDeadlineSeconds=5)
    late.see()
    assert late.see(seconds=6).status.reason == "DeadlineExceeded"
    assert Story().see(invalid="spec.dpo.beta: no").status.reason == "InvalidSpec"


def test_an_attempt_of_which_nothing_runs_is_made_anew_where_its_pods_are_wanted_otherwise():
    story = Story().after("prepare")
    held = story.attempt("sft", note=("ImagePullBackOff", "image trian:1 cannot be pulled"))
    story.see(*story.done("prepare"), held)
    answer = story.see(*story.done("prepare"), replace(held, outdated=True))
    assert told(answer) == [("Stop", "sft", 1), ("Start", "sft", 2)]
    sft = answer.status.stage_by_id()["sft"]
    assert (sft.failures, sft.message) == (0, None)
    answer = story.see(*story.done("prepare"), story.attempt("sft", number=2))
    assert (told(answer), answer.status.stage_by_id()["sft"].state) == ([], "Running")


def test_a_suspended_attempt_is_made_anew_only_once_the_run_goes_on():
    story = Story(suspend=True).after("prepare")
    held = [*story.done("prepare"), story.attempt("sft", "suspended", outdated=True)]
    assert told(story.see(*held)) == [("Stop", "sft", 1)]
    story.spec["suspend"] = False
    assert told(story.see(*story.done("prepare"))) == [("Start", "sft", 2)]


def test_nothing_starts_in_a_suspended_run():
    answer = Story(suspend=True).see()
    assert (answer.actions, answer.status.phase) == ((), "Suspended")


GIVING_WAY = [
    # the evaluation, the critical stage, queue, what the evaluation is told
    ("running", "running", None, []),
    ("running", "queued", None, [Suspend("evaluate-0", 1)]),
    ("queued", "running", None, [Suspend("evaluate-0", 1)]),
    ("suspended", "running", None, []),
    ("suspended", "queued", None, []),
    ("suspended", "succeeded", None, []),  # reflect-1 is still to come
    ("running", "queued", "research", []),
    ("suspended", "running", "research", [Resume("evaluate-0", 1)]),
]


@pytest.mark.parametrize(("evaluation", "critical", "queue", "expected"), GIVING_WAY)
def test_evaluation_gives_way_to_what_others_wait_for(evaluation, critical, queue, expected):
    story = Story(**({"queueName": queue} if queue else {})).after("prepare", "sft")
    seen = [story.attempt("evaluate-0", evaluation), story.attempt("generate-1", critical)]
    answer = story.see(*story.done("prepare", "sft"), *seen)
    assert [action for action in answer.actions if not isinstance(action, Start)] == expected


def test_an_evaluation_that_was_put_off_goes_on_at_the_end():
    stages = ["prepare", "sft", "generate-1", "reflect-1", "dpo-1"]
    story = Story().after(*stages)
    answer = story.see(*story.done(*stages), story.attempt("evaluate-0", "suspended"))
    assert told(answer) == [("Resume", "evaluate-0", 1), ("Start", "evaluate-1", 1)]


# ---- time


def test_a_run_past_its_deadline_fails_and_stops():
    story = Story(activeDeadlineSeconds=60).after()
    running = story.attempt("prepare")
    answer = story.see(running, seconds=59)
    assert (told(answer), answer.wake_at) == ([], NOW + timedelta(seconds=60))
    answer = story.see(running, seconds=1)
    assert told(answer) == [("Stop", "prepare", 1)]
    assert answer.status.phase == "Failed"
    assert next(c for c in answer.status.conditions if c.type == "Failed").reason == "DeadlineExceeded"


def test_a_retry_after_the_deadline_has_the_whole_time_again():
    story = Story(activeDeadlineSeconds=60).after()
    assert story.see(seconds=60).status.phase == "Failed"
    story.retry = "now"
    answer = story.see(seconds=10)
    assert (answer.status.phase, answer.status.started_at) == ("Running", story.now)
    assert answer.wake_at == story.now + timedelta(seconds=60)


def test_more_iterations_on_a_finished_run_have_the_whole_time_again():
    story = Story(activeDeadlineSeconds=60, iterations=0).after("prepare", "sft", "evaluate-0")
    story.spec["iterations"] = 1
    answer = story.see(seconds=1000)
    assert (answer.status.phase, told(answer)) == ("Running", [("Start", "generate-1", 1)])


def test_a_finished_run_expires():
    story = Story(iterations=0, ttlSecondsAfterFinished=60).after("prepare", "sft", "evaluate-0")
    answer = story.see(seconds=59)
    assert (answer.expired, answer.wake_at) == (False, NOW + timedelta(seconds=60))
    assert story.see(seconds=1).expired


def test_conditions_move_only_with_their_status():
    story = Story().after()
    before = {c.type: c.last_transition_time for c in story.previous.conditions}
    story.see(story.attempt("prepare", "failed", failure=BROKEN), seconds=30)
    moved = {c.type for c in story.previous.conditions if c.last_transition_time != before[c.type]}
    assert moved == {"Progressing", "Failed"}
    assert {c.last_transition_time for c in story.previous.conditions if c.type in moved} == {story.now}


def test_a_spec_that_cannot_be_read_starts_nothing_and_forgets_nothing():
    story = Story().after("prepare")
    answer = story.see(*story.done("prepare"), story.attempt("sft"), invalid="spec.iterations: must be a whole number")
    assert (answer.actions, answer.status.phase) == ((), "Failed")
    assert events(answer) == [("Failed", "spec.iterations: must be a whole number")]
    assert [c.type for c in answer.status.conditions] == ["Accepted", "Progressing", "Suspended", "Complete", "Failed"]
    assert told(story.see(*story.done("prepare"), story.attempt("sft"))) == []
    assert story.previous.stage_by_id()["sft"].state == "Running"


# ---- figures


@pytest.mark.parametrize(
    ("metric", "figures", "expected"),
    [
        ("distinct2", [], None),
        ("distinct2", [{"distinct2": 1.0}, {"distinct2": 3.0}, {"distinct2": 2.0}], 1),
        ("distinct2", [{"distinct2": 1.0}, {"distinct2": 1.0}], 0),
        ("perplexity", [{"perplexity": 9.0}, {"perplexity": 8.0}], 1),
        ("stock_phrase_rate", [{"stock_phrase_rate": 0.1}, {"stock_phrase_rate": 0.2}], 0),
        ("perplexity", [{"distinct2": 1.0}, {"perplexity": 8.0}], 1),
    ],
)
def test_the_champion_has_the_best_figure(metric, figures, expected):
    entries = [IterationMetrics(iteration=t, figures=f) for t, f in enumerate(figures)]
    assert policies.champion(entries, metric) == expected


def test_progress_names_the_stage_its_shards_and_rows():
    from evolution_operator.api.status import StageProgress

    story = Story(generation={"shards": 4}).after("prepare", "sft")
    progress = StageProgress(done=40, total=96, unit="rows")
    running = story.attempt("generate-1", progress=progress, shards=4, shards_done=3)
    status = story.see(*story.done("prepare", "sft"), running).status
    assert (status.progress, status.stage) == ("2/7", "generate-1 3/4 shards 40/96 rows")


def test_stages_stop_when_the_run_no_longer_wants_them():
    story = Story().after()
    assert told(story.see(replace(story.attempt("prepare"), stage="dpo-9"))) == [
        ("Stop", "dpo-9", 1),
        ("Start", "prepare", 1),
    ]
