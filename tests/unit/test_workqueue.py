"""One pass over a run at a time, one for a burst, and growing pauses after failures. No test waits for time to pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import RunKey
from evolution_operator.controller.process import workqueue
from evolution_operator.controller.process.workqueue import Pass, WorkQueue
from hypothesis import given
from hypothesis import strategies as st

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


def test_no_pass_begins_before_the_queue_is_resumed(started: Callable[..., WorkQueue]) -> None:
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


def test_a_run_has_one_pass_at_a_time_and_one_more_if_nudged_meanwhile(
    started: Callable[..., WorkQueue],
) -> None:
    began, proceed, twice = threading.Event(), threading.Event(), threading.Event()
    at_work = [0]
    most = [0]
    passes: list[RunKey] = []

    def work(key: RunKey) -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        began.set()
        proceed.wait(PATIENCE)
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
    proceed.set()
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


def test_a_failed_pass_is_counted_and_retried(
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
    began, proceed = threading.Event(), threading.Event()
    seen: list[RunKey] = []

    def work(key: RunKey) -> None:
        seen.append(key)
        began.set()
        proceed.wait(PATIENCE)

    queue = started(work, workers=1)
    queue.resume([A])
    assert began.wait(PATIENCE)
    queue.pause()
    queue.nudge(B)
    proceed.set()
    queue.stop(PATIENCE)
    assert seen == [A]


LONG = 3600.0
"""An interval that no test waits for."""


def test_the_first_nudge_after_a_quiet_time_starts_a_pass_at_once(started: Callable[..., WorkQueue]) -> None:
    """No pass is running, and no interval ends during the test."""
    begun = threading.Event()

    def work(key: RunKey) -> None:
        begun.set()

    working = started(work, interval=LONG)
    working.resume([])
    working.nudge(A)
    assert begun.wait(PATIENCE)


def test_the_interval_delays_plain_nudges_and_not_decisive_ones(started: Callable[..., WorkQueue]) -> None:
    """If plain nudges started passes, there would be more than the two that are counted at the end."""
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
    # The only worker takes runs in the order in which they are ready: B comes after any turn of A.
    working.nudge(B)
    assert other.wait(PATIENCE)
    working.stop(PATIENCE)
    assert begun == [A, A]


def test_a_decisive_nudge_during_a_pass_starts_the_next_one_right_after_it(started: Callable[..., WorkQueue]) -> None:
    began, proceed, twice = threading.Event(), threading.Event(), threading.Event()

    def work(key: RunKey) -> float:
        if began.is_set():
            twice.set()
        began.set()
        proceed.wait(PATIENCE)
        return LONG

    working = started(work, workers=1, interval=LONG)
    working.resume([A])
    assert began.wait(PATIENCE)
    working.nudge(A, decisive=True)
    proceed.set()
    assert twice.wait(PATIENCE)


def test_a_decisive_nudge_does_not_shorten_the_pause_after_an_error(
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


class Lookups(dict[RunKey, float]):
    """Counts lookups, and refuses to be iterated."""

    count = 0

    def __contains__(self, key: object) -> bool:
        Lookups.count += 1
        return super().__contains__(key)

    def __iter__(self) -> Iterator[RunKey]:
        raise AssertionError("a pass over one run looked at all runs")


def test_a_pass_does_not_cost_more_if_more_runs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 runs wait for their resync. A pass over one of them looks at that one and a few others."""
    queue = WorkQueue(lambda key: None, 1, 0.0, lambda error: None)
    keys = [RunKey("ns", f"run-{number}") for number in range(10_000)]
    queue.resume([])
    for key in keys:
        queue.nudge(key, after=300.0)
    queue._due = Lookups(queue._due)
    Lookups.count = 0
    for key in keys[:50]:
        queue.nudge(key)
        assert queue._next() == key
        queue._done(key, 300.0, 0)
    assert Lookups.count < 50 * 10


def test_outdated_entries_do_not_pile_up() -> None:
    queue = WorkQueue(lambda key: None, 1, 0.0, lambda error: None)
    queue.resume([])
    for _ in range(1000):
        for key in (A, B):
            queue.nudge(key)
            assert queue._next() == key
            queue._done(key, 300.0, 0)
    assert len(queue._heap) <= 2 * 2 + workqueue.OUTDATED_ENTRIES + 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["nudge", "decisive", "wait", "next", "done", "fail"]), st.integers(0, 4)),
        max_size=60,
    )
)
def test_the_order_is_that_of_a_queue_that_looks_at_every_run(steps: list[tuple[str, int]]) -> None:
    """Against the simplest rule: of all runs that wait and are not at work, the one that is ready first."""
    now = [0.0]
    with patch.object(workqueue.time, "monotonic", lambda: now[0]):
        queue = WorkQueue(lambda key: None, 1, 1.0, lambda error: None)
        queue.resume([])
        at_work: list[RunKey] = []
        for what, number in steps:
            key = RunKey("ns", str(number))
            if what == "nudge":
                queue.nudge(key, after=float(number))
            elif what == "decisive":
                queue.nudge(key, decisive=True)
            elif what == "wait":
                now[0] += number / 2
            elif what == "next":
                ready = {key: queue._ready_at(key) for key in queue._due if key not in queue._since}
                first = queue._first()
                assert (first and first[0]) == min(ready.values(), default=None)
                if first is not None and first[0] <= now[0]:
                    found = queue._next()
                    assert found is not None
                    at_work.append(found)
            elif at_work:
                queue._done(at_work.pop(0), [None, 0.0, 2.0, 30.0, 300.0][number], int(what == "fail"))
