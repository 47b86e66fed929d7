"""What the operator's page shows of a run's messages: its own words and Kubernetes', and none of a stage's."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import Report
from evolution_operator.api.status import Condition, RunStatus, StageProgress, StageStatus
from evolution_operator.controller.events import build_event, joined
from evolution_operator.live.view import EventShown, Subject, run_document, run_summary
from evolution_operator.live.words import DELAYS, OWN_CONDITIONS, OWN_ENDINGS, event_shown, stage_shown
from evolution_operator.planner.actions import Event
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Attempt, AttemptState, Failure, Observed
from evolution_operator.planner.plan import plan
from evolution_operator.planner.progress import Waiting

from tests.support.live import played_run, played_status

SAID = "I have felt low since my father died"
"""What a seeker said: text of a dialogue."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENTS = {name: name[0] * 64 for name in ("model", "train", "validation", "contexts", "test", "replay")}
HELD = Failure("transient", "StorageUnreachable", f"row 3: {SAID}")
QUOTED = Failure("permanent", "InternalError", f"ValueError: 'a': {SAID}; started: {SAID}")
WAITS = Waiting(f"team/{SAID}").note()


class History:
    """Passes of the real planner over attempts whose stages quote a dialogue wherever they can write."""

    def __init__(self) -> None:
        self.run = played_run()
        self.keys = resolve_keys(build_graph(self.run.spec, {}), CONTENTS)
        self.status: RunStatus | None = None
        self.events: list[Event] = []
        self.now = NOW

    def attempt(self, stage: str, state: AttemptState, number: int = 1, **fields: Any) -> Attempt:
        report = None
        if state == "succeeded":
            report = Report(
                reason="Completed",
                message=SAID,
                notes=[f"the first one says {SAID!r}; if that is usual, take another judge"],
                contents=CONTENTS if stage == "prepare" else {},
                metrics={"distinct2": 30.5, SAID: 1.0} if stage.startswith("evaluate") else {},
                seconds=9,
            )
        unit = StageProgress(done=1, total=9, unit=SAID[:20]) if state == "running" else None
        return replace(Attempt(stage, number, self.keys[stage], state, report=report, progress=unit), **fields)

    def see(self, *attempts: Attempt) -> RunStatus:
        self.now += timedelta(minutes=10)
        decided = plan(self.run, Observed(attempts, previous=self.status), self.now)
        self.status = decided.status
        self.events += joined(decided.events)
        return decided.status

    def document(self, stage_words: bool) -> dict[str, Any]:
        assert self.status is not None
        run = {"metadata": {"namespace": "team-a", "name": "first", "uid": "uid", "resourceVersion": "1"}}
        bodies = [build_event(run, event, order, NOW) for order, event in enumerate(self.events)]
        events = [EventShown(NOW, body["type"], body["reason"], body["message"]) for body in bodies]
        return run_document(Subject.of("team-a", "first", self.run.spec), self.status, events, stage_words=stage_words)


@pytest.fixture
def history() -> History:
    """Retries, delays, successes with notes, and at last a failure for good."""
    told = History()
    done = told.attempt("prepare", "succeeded")
    told.see()
    told.see(told.attempt("prepare", "running"))
    told.see(done)
    told.see(done, told.attempt("sft", "failed", failure=HELD))
    told.see(done, told.attempt("sft", "running", 2, note=WAITS))
    ready = [done, told.attempt("sft", "succeeded", 2)]
    told.see(*ready)
    told.see(*ready, told.attempt("evaluate-0", "succeeded"), told.attempt("generate-1", "running"))
    told.see(*ready, told.attempt("evaluate-0", "succeeded"), told.attempt("generate-1", "failed", failure=QUOTED))
    return told


def texts(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def test_no_text_of_a_dialogue_is_in_what_the_operator_shows(history: History) -> None:
    assert history.status is not None
    assert history.status.phase == "Failed"
    shown = texts([history.document(stage_words=False), run_summary("team-a", "first", history.status.wire())])
    for piece in (SAID, SAID[:20], "low since", "father"):
        assert piece not in shown
    # The status has it, and a run's own terminal and page show it.
    local = texts(history.document(stage_words=True))
    assert local.count(SAID) >= 5
    assert SAID[:20] in texts(history.status.wire())


def test_what_the_operator_knows_itself_is_shown(history: History) -> None:
    document = history.document(stage_words=False)
    conditions = {each["type"]: each["message"] for each in document["conditions"]}
    assert conditions["Failed"] == "stage generate-1: InternalError"
    stages = {stage["id"]: stage for stage in document["stages"]}
    assert (stages["generate-1"]["reason"], stages["generate-1"]["withheld"]) == ("InternalError", True)
    assert [(event["reason"], event["message"]) for event in document["events"]] == [
        ("Started", "11 stages"),
        ("StageStarted", "prepare"),
        ("StageSucceeded", "prepare finished in 9 s"),
        ("StageRetrying", "sft: StorageUnreachable"),
        ("StageStarted", "sft (attempt 2)"),
        ("StageSucceeded", "sft (attempt 2) finished in 9 s"),
        ("StageSucceeded", "evaluate-0 finished in 9 s; started: generate-1"),
        ("StageFailed", "generate-1: InternalError"),
        ("Failed", "stage generate-1: InternalError"),
    ]
    assert [row["name"] for row in document["figures"]] == ["distinct2"]


def test_every_event_of_the_planner_that_quotes_no_stage_is_shown_whole() -> None:
    for reason, message in [
        ("StageCached", "prepare: an earlier run had computed it; started: sft"),
        ("Resumed", "11 stages; started: dpo-1, evaluate-0 (attempt 2)"),
        ("Suspended", "spec.suspend is true; checkpoints and finished rows are kept"),
        ("Complete", "11/11 stages finished"),
        ("Failed", "not finished 60 s after it started"),
        ("Unschedulable", "sft: 1 of 1 Pods find no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ("StoppedEarly", "the answers have 60.0 words, those of M0 20.0; stopping.lengthRatio allows 2 times as many"),
    ]:
        assert event_shown(reason, message) == message


def test_an_event_that_is_not_known_shows_its_reason_only() -> None:
    assert event_shown("Surprise", SAID) is None
    assert event_shown("StageStarted", SAID) is None
    assert event_shown("StageSucceeded", f"sft finished in 9 s; started: {SAID}") == "sft finished in 9 s"


@pytest.mark.parametrize(
    ("state", "reason", "message", "shown"),
    [
        ("Queued", "Unschedulable", "1 of 1 Pods find no node", True),
        ("Running", "ComputedElsewhere", WAITS[1] if WAITS else "", False),
        ("Running", "ComputedElsewhere", (Waiting("team/other").note() or ("", ""))[1], True),
        ("Backoff", "OOMKilled", "Pod x was killed because it reached its memory limit of 8Gi", True),
        ("Backoff", "StorageUnreachable", SAID, False),
        ("Failed", "DataInvalid", SAID, False),
        ("Succeeded", "Completed", SAID, False),
        ("Waiting", "OutputCorrupt", "a file of this stage no longer matches its digest", True),
    ],
)
def test_a_stages_message_is_shown_if_the_stage_has_not_written_it(
    state: Any, reason: str, message: str, shown: bool
) -> None:
    stage = StageStatus(id="sft", name="sft", state=state, reason=reason, message=message)
    assert stage_shown(stage) == (message if shown else None)


@pytest.mark.parametrize(
    ("condition", "stage", "shown"),
    [
        (
            ("Failed", "DeadlineExceeded", "not finished 60 s after it started"),
            {},
            "not finished 60 s after it started",
        ),
        (("Accepted", "InvalidSpec", "spec.dpo.beta: too small"), {}, "spec.dpo.beta: too small"),
        (
            ("Progressing", "Backoff", f"stage sft will be tried again: {SAID}"),
            {"state": "Backoff", "reason": "DiskFull", "message": SAID},
            "stage sft will be tried again: DiskFull",
        ),
        (
            ("Progressing", "Unschedulable", "stage sft: 1 of 1 Pods find no node"),
            {"state": "Queued", "reason": "Unschedulable", "message": "1 of 1 Pods find no node"},
            "stage sft: 1 of 1 Pods find no node",
        ),
    ],
)
def test_a_condition_says_which_stage_and_why(
    condition: tuple[Any, str, str], stage: dict[str, Any], shown: str
) -> None:
    type_, reason, message = condition
    holds: Any = "True" if type_ == "Failed" else "False"
    given = Condition(type=type_, status=holds, reason=reason, message=message, last_transition_time=NOW)
    status = RunStatus(conditions=[given], stages=[StageStatus.model_validate({"id": "sft", "name": "sft", **stage})])
    (found,) = run_document(Subject("team", "first"), status, [], stage_words=False)["conditions"]
    assert found["message"] == shown


def test_the_document_has_a_value_for_each_model_and_the_champion() -> None:
    document = run_document(
        Subject.of("team-a", "first", played_run().spec), played_status(7, 40), None, stage_words=False
    )
    assert (document["models"], document["champion"], document["championMetric"]) == ([0, 1], 1, "Distinct-2, %")
    figures = {row["name"]: row for row in document["figures"]}
    assert figures["distinct2"]["values"] == [31.47, 34.02]
    assert figures["distinct2"]["intervals"][1] == [31.639, 36.742]
    assert (figures["distinct2"]["better"], figures["perplexity"]["better"]) == ("higher", "lower")
    running = next(stage for stage in document["stages"] if stage["state"] == "Running")
    assert running["progress"] == {"done": 40, "total": 96, "unit": "rows", "etaSeconds": 75}
    assert (document["done"], document["events"]) == (7, None)


def test_the_reasons_that_are_named_here_are_those_of_the_operator() -> None:
    """So that a renamed reason does not silently lose its message."""
    page = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text()
    for reason in (DELAYS | OWN_ENDINGS | OWN_CONDITIONS) - {"StoppedEarly"}:
        assert f"`{reason}`" in page, reason
