"""The time left is estimated from rows that were observed to take time. Without them there is no estimate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evolution_operator.planner.progress import EVIDENCE, Pace, Reading, attempt_progress, read_line
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.floats(0.01, 1000, allow_nan=False)


def pace(*seen: tuple[float, int], total: int = 14, unit: str = "rows") -> Pace:
    first, *others = (Reading(at, done, total, unit) for at, done in seen)
    found = Pace.since(first)
    for reading in others:
        found = found.after(reading)
    return found


def test_a_row_done_before_the_start_sets_no_pace() -> None:
    """`reflect-1: 1/14 rows, 0 s left` was shown for a minute: the row had been dropped before the model was asked."""
    assert [pace((0, 1)).seconds_left(now) for now in range(60)] == [None] * 60


def test_rows_of_an_earlier_attempt_set_no_pace() -> None:
    assert pace((0, 90), (20, 92), total=100).seconds_left(20) == 80


def test_the_time_left_counts_down_and_is_dropped_when_it_has_run_out() -> None:
    seen = pace((0, 0), (10, 10))
    assert [seen.seconds_left(10 + now) for now in (0, 1, 3.5, 4, 60)] == [4, 3, 1, None, None]


def test_parts_that_take_unequal_time_set_no_pace() -> None:
    assert pace((0, 1), (1, 3), total=6, unit="parts").seconds_left(1) is None


@given(st.lists(st.tuples(SECONDS, st.integers(0, 5)), max_size=20), st.integers(0, 30), SECONDS)
def test_an_estimate_is_never_zero_and_never_without_evidence(
    moves: list[tuple[float, int]], there: int, wait: float
) -> None:
    at, done, seen = 0.0, there, [(0.0, there)]
    for seconds, rows in moves:
        at, done = at + seconds, done + rows
        seen.append((at, done))
    left = pace(*seen, total=100).seconds_left(at + wait)
    if done - there < EVIDENCE or done >= 100:
        assert left is None
    elif left is not None:
        assert left >= 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(EVIDENCE, 20), SECONDS)
def test_rows_done_before_the_start_change_only_the_count(there: int, others: int, rows: int, seconds: float) -> None:
    """Two attempts with the same work left and the same pace have the same estimate, whatever was done before."""
    first = pace((0, there), (seconds, there + rows), total=there + rows + 10)
    second = pace((0, others), (seconds, others + rows), total=others + rows + 10)
    assert first.seconds_left(seconds) == second.seconds_left(seconds)


@given(st.integers(EVIDENCE, 50), st.integers(1, 50), st.integers(1, 100))
def test_an_even_pace_gives_the_exact_time_left(done: int, remaining: int, seconds: int) -> None:
    seen = pace(*((float(n * seconds), n) for n in range(done + 1)), total=done + remaining)
    assert seen.seconds_left(done * seconds) == pytest.approx(remaining * seconds, abs=1)


def test_a_shard_that_restarts_sets_a_new_pace() -> None:
    assert pace((0, 0), (10, 8), (20, 6)).seconds_left(20) is None
    assert pace((0, 0), (10, 8), (20, 6), (24, 8)).seconds_left(24) == 12


def test_the_slowest_shard_decides() -> None:
    both = [pace((0, 0), (10, 10)), pace((0, 0), (10, 2))]
    found = attempt_progress(both, 2, 0, 10)
    assert found is not None
    assert (found.done, found.total, found.eta_seconds) == (12, 28, 60)


def test_shards_without_a_reading_count_as_much_as_the_others_and_leave_the_time_unknown() -> None:
    found = attempt_progress([pace((0, 0), (10, 10))], 2, 0, 10)
    assert found is not None
    assert (found.done, found.total, found.eta_seconds) == (10, 28, None)


def test_all_rows_of_an_ended_shard_are_done_whatever_its_last_reading() -> None:
    found = attempt_progress([pace((0, 0), (5, 1), total=4)], 2, 1, 10)
    assert found is not None
    assert (found.done, found.total) == (5, 8)
    assert attempt_progress([pace((0, 0)).ended()], 1, 0, 0) == attempt_progress([pace((0, 14))], 1, 0, 0)


def test_there_is_no_progress_before_the_first_reading() -> None:
    assert attempt_progress([], 2, 0, 0) is None


@pytest.mark.parametrize("line", [{}, {"done": 1}, {"done": "x", "total": 2, "unit": "rows"}, {"done": None}])
def test_an_invalid_reading_is_none(line: dict[str, Any]) -> None:
    assert read_line(json.dumps({"progress": line}), 0) is None
