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
    """Takes events once it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.told: list[str] = []
        self.answer: Exception | None = None

    def create_event(self, event: dict[str, Any]) -> None:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.answer is not None:
            raise self.answer
        self.told.append(event["message"])


def sender(cluster: Cluster, lost: list[str], limit: int = 100) -> EventRecorder:
    return EventRecorder(cluster, lost.append, limit)  # type: ignore[arg-type]


def news(*messages: str) -> list[Event]:
    return [Event("Normal", "StageSucceeded", message) for message in messages]


def test_who_tells_does_not_wait_and_the_end_does() -> None:
    cluster, lost = Cluster(), []
    events = sender(cluster, lost)
    events.start()
    events.record(RUN, news("a", "b"), NOW)
    assert cluster.entered.wait(PATIENCE)
    # Nothing is sent yet, and more may be told.
    events.record(RUN, news("c"), NOW)
    assert cluster.told == []
    cluster.open.set()
    events.stop(PATIENCE)
    assert (cluster.told, lost) == (["a", "b", "c"], [])


def test_what_does_not_find_room_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    cluster, lost = Cluster(), []
    events = sender(cluster, lost, limit=2)
    events.record(RUN, news("a", "b", "c"), NOW)
    assert lost == ["QueueFull"]
    assert "was not sent" in caplog.text
    cluster.open.set()
    events.send_waiting()
    assert cluster.told == ["a", "b"]


def test_what_is_left_at_the_end_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    cluster, lost = Cluster(), []
    events = sender(cluster, lost)
    events.start()
    events.record(RUN, news("a", "b", "c"), NOW)
    assert cluster.entered.wait(PATIENCE)
    events.stop(0.0)
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
def test_what_fails_is_counted_and_keeps_nothing_back(answer: Exception, counted: list[str]) -> None:
    cluster, lost = Cluster(), []
    cluster.answer = answer
    cluster.open.set()
    events = sender(cluster, lost)
    events.start()
    events.record(RUN, news("a"), NOW)
    events.stop(PATIENCE)
    assert lost == counted
    later = sender(cluster, lost)
    cluster.answer = None
    later.start()
    later.record(RUN, news("b"), NOW)
    later.stop(PATIENCE)
    assert cluster.told == ["b"]


def test_stages_that_start_are_told_with_the_end_that_lets_them_start() -> None:
    events = [
        Event("Normal", "StageSucceeded", "sft finished in 12 s"),
        Event("Normal", "StageStarted", "generate-1"),
        Event("Normal", "StageStarted", "evaluate-0"),
    ]
    (told,) = joined(events)
    assert (told.reason, told.message) == ("StageSucceeded", "sft finished in 12 s; started: generate-1, evaluate-0")


def test_a_stage_that_starts_by_itself_is_told_by_itself() -> None:
    """After a pause, say."""
    events = (Event("Normal", "StageStarted", "sft (attempt 2)"),)
    assert joined(events) == events


def test_what_does_not_start_anything_is_told_as_it_is() -> None:
    events = (Event("Warning", "StageFailed", "sft: x: y"), Event("Warning", "Failed", "stage sft: x: y"))
    assert joined(events) == events
