"""Invariants of every history of a run, whichever executor carries out the plans."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from evolution_jobs.contract.stage import StageSpec
from evolution_operator.api.status import RunStatus
from evolution_operator.planner.actions import Event
from evolution_operator.planner.events import events_between
from hypothesis import HealthCheck, settings


def histories(examples: int, steps: int = 30) -> settings:
    """The number of histories, and of steps in each. `N` in the environment sets another number of histories."""
    return settings(
        max_examples=int(os.environ.get("N", examples)),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def edits(deadline: int) -> tuple[dict[str, Any], ...]:
    """What a user may change in the spec of a run on a cluster; `deadline` is in seconds."""
    return (
        # Twice as often as the others.
        {"suspend": True},
        {"suspend": True},
        {"suspend": False},
        {"iterations": 2},
        {"generation": {"shards": 3}},
        {"activeDeadlineSeconds": deadline},
        {"activeDeadlineSeconds": None},
        {"pod": {"terminationGracePeriodSeconds": 60}},
        {"pod": {"terminationGracePeriodSeconds": 90}},
        {"deletionPolicy": "Retain"},
        {"deletionPolicy": "Delete"},
    )


class RunHistory:
    """The statuses of one run in the order in which they were written, and the events recorded about them.

    `recorded` maps the events between two statuses to those that are recorded: the controller joins some of them.
    """

    def __init__(self, recorded: Callable[[Iterable[Event]], Iterable[Event]] = tuple) -> None:
        self._recorded = recorded
        self.status: RunStatus | None = None
        self._failures: set[tuple[str, str | None, int]] = set()
        self._expected: Counter[tuple[str, str]] = Counter()

    def write(self, status: RunStatus) -> None:
        """A status is written: numbers of attempts only grow, and no failure is counted twice."""
        before = self.status.stage_by_id() if self.status else {}
        for stage in status.stages:
            old = before.get(stage.id)
            if old is not None:
                assert stage.settled >= old.settled, f"{stage.id} forgets attempts that ended"
                assert stage.attempts >= old.attempts, f"{stage.id} forgets attempts that it started"
                ended = stage.settled > old.settled
                assert ended or stage.failures <= old.failures, f"a failure of {stage.id} is counted twice"
        for event in self._recorded(events_between(self.status, status)):
            self._expected[event.reason, event.message] += 1
            if event.reason in ("StageRetrying", "StageFailed"):
                stage = status.stage_by_id()[event.message.partition(":")[0].partition(" ")[0]]
                failure = (stage.id, stage.key, stage.settled)
                assert failure not in self._failures, f"a failure of {stage.id} is counted twice"
                self._failures.add(failure)
        self.status = status

    def record(self, event: Event) -> None:
        """An event is recorded: once for each change between two statuses."""
        self._expected[event.reason, event.message] -= 1
        assert self._expected[event.reason, event.message] >= 0, f"recorded twice or without a cause: {event}"

    def start(self, spec: StageSpec, number: int) -> None:
        """An attempt is created: its number is not one that has been settled."""
        stage = self.status.stage_by_id().get(spec.stage) if self.status else None
        assert stage is None or number > stage.settled, f"attempt {number} at {spec.stage} was over and is used again"


def check_inputs(spec: StageSpec, published: Iterable[str], what: str) -> None:
    """No stage starts before its inputs: their keys are among the published ones."""
    missing = {source.stage for source in spec.inputs.values() if source.key not in set(published)}
    assert not missing, f"{what} starts before {missing} is published"


def check_rivals(could_publish: Iterable[tuple[str, str, str]]) -> None:
    """Never two live attempts that could both publish: (stage, key, attempt) of all that may still write."""
    attempts: dict[tuple[str, str], set[str]] = {}
    for stage, key, attempt in could_publish:
        attempts.setdefault((stage, key), set()).add(attempt)
    rivals = {stage: living for (stage, _), living in attempts.items() if len(living) > 1}
    assert not rivals, f"two live attempts: {rivals}"
