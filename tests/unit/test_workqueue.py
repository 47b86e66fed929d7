"""Each run at most once at a time, bursts once, failures ever more seldom. No test here waits for time to pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import RunKey
from evolution_operator.controller.process import workqueue
from evolution_operator.controller.process.workqueue import Pass, WorkQueue

A, B = RunKey("ns", "a"), RunKey("ns", "b")
PATIENCE = 20.0


@pytest.fixture
def started() -> Iterator[Callable[..., WorkQueue]]:
    queues: list[WorkQueue] = []

    def start(work: Pass, workers: int = 2, interval: float = 0.0, failed: list[Exception] | None = None) -> WorkQueue:
        queue = WorkQueue(work, workers, interval, (failed if failed is not None else []).append)
        queues.append(queue)
        queue.start()
        return queue

    yield start
    for queue in queues:
        queue.stop(PATIENCE)


def test_nothing_is_worked_on_before_it_is_resumed(started: Callable[..., WorkQueue]) -> None:
    seen: list[RunKey] = []
    both = threading.Event()

    def work(key: RunKey) -> None:
        seen.append(key)
        if len(seen) == 2:
            both.set()

    queue = started(work, workers=1)
    queue.nudge(A)
    assert queue.depth() == 1
    assert seen == []
    queue.resume([B])
    assert both.wait(PATIENCE)
    assert set(seen) == {A, B}


def test_a_run_is_worked_on_by_one_thread_at_a_time_and_once_more_if_nudged_meanwhile(
    started: Callable[..., WorkQueue],
) -> None:
    began, go_on, twice = threading.Event(), threading.Event(), threading.Event()
    at_work = [0]
    most = [0]
    passes: list[RunKey] = []

    def work(key: RunKey) -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        began.set()
        go_on.wait(PATIENCE)
        at_work[0] -= 1
        passes.append(key)
        if len(passes) == 2:
            twice.set()

    queue = started(work, workers=4)
    queue.resume([A])
    assert began.wait(PATIENCE)
    for _ in range(50):
        queue.nudge(A)
    assert queue.longest_pass() > 0
    go_on.set()
    assert twice.wait(PATIENCE)
    queue.stop(PATIENCE)
    assert (most[0], len(passes)) == (1, 2)


def test_runs_do_not_wait_for_each_other(started: Callable[..., WorkQueue]) -> None:
    stuck, other = threading.Event(), threading.Event()

    def work(key: RunKey) -> None:
        if key == A:
            stuck.wait(PATIENCE)
        else:
            other.set()

    queue = started(work)
    queue.resume([A, B])
    assert other.wait(PATIENCE)
    stuck.set()


def test_a_failure_is_counted_and_repeated_and_hurts_nobody_else(
    started: Callable[..., WorkQueue], caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    tries, recovered = [], threading.Event()

    def work(key: RunKey) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise UnreachableError("no API server")
        if len(tries) == 2:
            raise ZeroDivisionError("a bug")
        recovered.set()

    queue = started(work, failed=errors)
    queue.resume([A])
    assert recovered.wait(PATIENCE)
    assert [type(error) for error in errors] == [UnreachableError, ZeroDivisionError]
    unreachable, bug = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert (unreachable.exc_info, unreachable.run) == (None, "ns/a")  # type: ignore[attr-defined]
    assert bug.exc_info is not None


def test_a_pass_may_ask_for_the_next(started: Callable[..., WorkQueue]) -> None:
    passes, third = [], threading.Event()

    def work(key: RunKey) -> float | None:
        passes.append(key)
        if len(passes) == 3:
            third.set()
            return None
        return 0.01

    queue = started(work)
    queue.resume([A])
    assert third.wait(PATIENCE)


def test_a_paused_queue_begins_nothing(started: Callable[..., WorkQueue]) -> None:
    began, go_on = threading.Event(), threading.Event()
    seen: list[RunKey] = []

    def work(key: RunKey) -> None:
        seen.append(key)
        began.set()
        go_on.wait(PATIENCE)

    queue = started(work, workers=1)
    queue.resume([A])
    assert began.wait(PATIENCE)
    queue.pause()
    queue.nudge(B)
    go_on.set()
    queue.stop(PATIENCE)
    assert seen == [A]


LONG = 3600.0
"""An interval that no test waits for."""


def test_the_first_news_after_a_quiet_time_starts_a_pass_at_once(started: Callable[..., WorkQueue]) -> None:
    """No run of the test is at work, and no interval is over in its time."""
    begun = threading.Event()

    def work(key: RunKey) -> None:
        begun.set()

    working = started(work, interval=LONG)
    working.resume([])
    working.nudge(A)
    assert begun.wait(PATIENCE)


def test_the_interval_holds_what_is_not_decisive_and_lets_through_what_is(started: Callable[..., WorkQueue]) -> None:
    """Were the plain nudges to start passes, there would be more than the two that are counted at the end."""
    begun: list[RunKey] = []
    first, second, other = threading.Event(), threading.Event(), threading.Event()

    def work(key: RunKey) -> float | None:
        if key == B:
            other.set()
            return None
        begun.append(key)
        (second if first.is_set() else first).set()
        return LONG

    working = started(work, workers=1, interval=LONG)
    working.resume([A])
    assert first.wait(PATIENCE)
    for _ in range(20):
        working.nudge(A)
    working.nudge(A, decisive=True)
    assert second.wait(PATIENCE)
    for _ in range(20):
        working.nudge(A)
    # The one worker takes what is ready in order: B's turn comes after any that A could have.
    working.nudge(B)
    assert other.wait(PATIENCE)
    working.stop(PATIENCE)
    assert begun == [A, A]


def test_decisive_news_during_a_pass_starts_the_next_one_right_after_it(started: Callable[..., WorkQueue]) -> None:
    began, go_on, twice = threading.Event(), threading.Event(), threading.Event()

    def work(key: RunKey) -> float:
        if began.is_set():
            twice.set()
        began.set()
        go_on.wait(PATIENCE)
        return LONG

    working = started(work, workers=1, interval=LONG)
    working.resume([A])
    assert began.wait(PATIENCE)
    working.nudge(A, decisive=True)
    go_on.set()
    assert twice.wait(PATIENCE)


def test_decisive_news_does_not_shorten_the_pause_after_an_error(
    started: Callable[..., WorkQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF", LONG)
    monkeypatch.setattr(workqueue, "LAST_BACKOFF", LONG)
    tries: list[RunKey] = []
    failed, other = threading.Event(), threading.Event()

    def work(key: RunKey) -> None:
        if key == B:
            other.set()
            return
        tries.append(key)
        failed.set()
        raise UnreachableError("no API server")

    working = started(work, workers=1)
    working.resume([A])
    assert failed.wait(PATIENCE)
    working.nudge(A, decisive=True)
    working.nudge(B)
    assert other.wait(PATIENCE)
    working.stop(PATIENCE)
    assert tries == [A]
