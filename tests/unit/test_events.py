"""Events are sent in order, off the path of the runs, and each one that is not sent is counted."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from evolution_operator.controller.events import EventRecorder, joined
from evolution_operator.controller.kube.apiserver import AlreadyExistsError, UnreachableError
from evolution_operator.planner.actions import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = {"metadata": {"namespace": "team", "name": "support", "uid": "u", "resourceVersion": "7"}}
PATIENCE = 20.0


class Cluster:
    """Accepts events once `open` is set."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sent: list[str] = []
        self.answer: Exception | None = None

    def create_event(self, event: dict[str, Any]) -> None:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.answer is not None:
            raise self.answer
        self.sent.append(event["message"])


def new_recorder(cluster: Cluster, lost: list[str], limit: int = 100) -> EventRecorder:
    return EventRecorder(cluster, lost.append, limit)  # type: ignore[arg-type]


def events(*messages: str) -> list[Event]:
    return [Event("Normal", "StageSucceeded", message) for message in messages]


def test_recording_does_not_wait_and_stopping_does() -> None:
    cluster, lost = Cluster(), []
    recorder = new_recorder(cluster, lost)
    recorder.start()
    recorder.record(RUN, events("a", "b"), NOW)
    assert cluster.entered.wait(PATIENCE)
    # Nothing is sent yet, and more may be recorded.
    recorder.record(RUN, events("c"), NOW)
    assert cluster.sent == []
    cluster.open.set()
    recorder.stop(PATIENCE)
    assert (cluster.sent, lost) == (["a", "b", "c"], [])


def test_events_beyond_the_limit_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    cluster, lost = Cluster(), []
    recorder = new_recorder(cluster, lost, limit=2)
    recorder.record(RUN, events("a", "b", "c"), NOW)
    assert lost == ["QueueFull"]
    assert "was not sent" in caplog.text
    cluster.open.set()
    recorder.send_waiting()
    assert cluster.sent == ["a", "b"]


def test_events_that_are_unsent_at_the_end_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    cluster, lost = Cluster(), []
    recorder = new_recorder(cluster, lost)
    recorder.start()
    recorder.record(RUN, events("a", "b", "c"), NOW)
    assert cluster.entered.wait(PATIENCE)
    recorder.stop(0.0)
    cluster.open.set()
    assert lost == ["Stopped", "Stopped"]
    assert "2 events were not sent" in caplog.text


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (UnreachableError("away"), ["UnreachableError"]),
        (AlreadyExistsError("there"), []),
        (KeyError("x"), ["KeyError"]),
    ],
)
def test_an_event_that_cannot_be_sent_is_counted_and_does_not_stop_the_next(
    answer: Exception, counted: list[str]
) -> None:
    cluster, lost = Cluster(), []
    cluster.answer = answer
    cluster.open.set()
    recorder = new_recorder(cluster, lost)
    recorder.start()
    recorder.record(RUN, events("a"), NOW)
    recorder.stop(PATIENCE)
    assert lost == counted
    later = new_recorder(cluster, lost)
    cluster.answer = None
    later.start()
    later.record(RUN, events("b"), NOW)
    later.stop(PATIENCE)
    assert cluster.sent == ["b"]


def test_started_stages_are_named_in_the_event_that_let_them_start() -> None:
    events = [
        Event("Normal", "StageSucceeded", "sft finished in 12 s"),
        Event("Normal", "StageStarted", "generate-1"),
        Event("Normal", "StageStarted", "evaluate-0"),
    ]
    (event,) = joined(events)
    assert (event.reason, event.message) == ("StageSucceeded", "sft finished in 12 s; started: generate-1, evaluate-0")


def test_a_stage_that_starts_on_its_own_has_its_own_event() -> None:
    """After a pause, for example."""
    events = (Event("Normal", "StageStarted", "sft (attempt 2)"),)
    assert joined(events) == events


def test_events_that_start_nothing_are_not_changed() -> None:
    events = (Event("Warning", "StageFailed", "sft: x: y"), Event("Warning", "Failed", "stage sft: x: y"))
    assert joined(events) == events
