"""What holds of every history of a run, whichever hand carries the plans out."""

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
    """How many histories of how many steps are tried; `N` in the environment asks for more of them."""
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


class Memory:
    """The statuses of one run as they were written one after the other, and the events told about them.

    `told` is how a hand tells the events of one status: the operator tells some of them in one.
    """

    def __init__(self, told: Callable[[Iterable[Event]], Iterable[Event]] = tuple) -> None:
        self._told = told
        self.status: RunStatus | None = None
        self._failures: set[tuple[str, str | None, int]] = set()
        self._owed: Counter[tuple[str, str]] = Counter()

    def write(self, status: RunStatus) -> None:
        """A status is written: numbers of attempts only grow, and no failure is remembered twice."""
        before = self.status.stage_by_id() if self.status else {}
        for stage in status.stages:
            old = before.get(stage.id)
            if old is not None:
                assert stage.settled >= old.settled, f"{stage.id} forgets attempts that ended"
                assert stage.attempts >= old.attempts, f"{stage.id} forgets attempts that it made"
                news = stage.settled > old.settled
                assert news or stage.failures <= old.failures, f"a failure of {stage.id} is counted twice"
        for event in self._told(events_between(self.status, status)):
            self._owed[event.reason, event.message] += 1
            if event.reason in ("StageRetrying", "StageFailed"):
                stage = status.stage_by_id()[event.message.partition(":")[0].partition(" ")[0]]
                failure = (stage.id, stage.key, stage.settled)
                assert failure not in self._failures, f"a failure of {stage.id} is counted twice"
                self._failures.add(failure)
        self.status = status

    def tell(self, event: Event) -> None:
        """An event is told: once for what changed between two statuses."""
        self._owed[event.reason, event.message] -= 1
        assert self._owed[event.reason, event.message] >= 0, f"told twice or without cause: {event}"

    def start(self, spec: StageSpec, number: int) -> None:
        """An attempt is created: its number is not one that has been settled."""
        stage = self.status.stage_by_id().get(spec.stage) if self.status else None
        assert stage is None or number > stage.settled, f"attempt {number} at {spec.stage} was over and is used again"


def check_inputs(spec: StageSpec, there: Iterable[str], what: str) -> None:
    """No stage before its inputs: their keys are among those that are there."""
    missing = {source.stage for source in spec.inputs.values() if source.key not in set(there)}
    assert not missing, f"{what} starts before {missing} is published"


def check_rivals(could_publish: Iterable[tuple[str, str, str]]) -> None:
    """Never two live attempts that could both publish: (stage, key, attempt) of all that may still write."""
    attempts: dict[tuple[str, str], set[str]] = {}
    for stage, key, attempt in could_publish:
        attempts.setdefault((stage, key), set()).add(attempt)
    rivals = {stage: living for (stage, _), living in attempts.items() if len(living) > 1}
    assert not rivals, f"two live attempts: {rivals}"
