"""The election with a simulated clock: two candidates never lead at once, whatever happens to their calls."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from evolution_operator.controller.kube.apiserver import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    UnreachableError,
)
from evolution_operator.controller.kube.lease import Election
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

DURATION, TIMEOUT = 10.0, 4.0


class Leases:
    """An API server that holds one Lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.calls: list[str] = []

    def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        self.calls.append(method)
        if method == "POST":
            if self.lease is not None:
                raise AlreadyExistsError("there")
        elif self.lease is None:
            raise NotFoundError("none")
        elif method == "PUT" and body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError("changed")
        if method in ("POST", "PUT"):
            self.version += 1
            self.lease = {**copy.deepcopy(body), "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return copy.deepcopy(self.lease or {})


class Connection:
    """One candidate's connection to the API server. It can fail before or after a call."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.broken = ""

    def call(self, method: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        if self.broken == "before":
            raise UnreachableError("no connection")
        answer = self.leases.call(method, *arguments, **named)
        if self.broken == "after":
            raise UnreachableError("the response was lost")
        return answer


class World:
    def __init__(self, candidates: int) -> None:
        self.now = 100.0
        self.leases = Leases()
        self.connections = [Connection(self.leases) for _ in range(candidates)]
        self.candidates = [self.candidate(connection, n) for n, connection in enumerate(self.connections)]

    def candidate(self, connection: Connection, number: int) -> Election:
        return Election(
            connection,  # type: ignore[arg-type]
            "system",
            "operator",
            f"pod-{number}",
            DURATION,
            TIMEOUT,
            lambda leads: None,
            clock=lambda: self.now,
        )

    def leaders(self) -> list[int]:
        return [number for number, candidate in enumerate(self.candidates) if candidate.leads()]


def test_the_first_leads_and_the_second_stands_by() -> None:
    world = World(2)
    for candidate in world.candidates:
        candidate.campaign()
    assert world.leaders() == [0]


def test_a_lease_that_is_not_renewed_is_taken_over_within_its_duration_and_one_campaign() -> None:
    world = World(2)
    for candidate in world.candidates:
        candidate.campaign()
    for _ in range(6):
        world.now += DURATION / 5
        world.candidates[1].campaign()
    assert world.leaders() == [1]
    assert world.leases.lease is not None
    assert world.leases.lease["spec"]["leaseTransitions"] == 1


def test_renewal_is_one_call() -> None:
    world = World(1)
    world.candidates[0].campaign()
    world.leases.calls.clear()
    world.now += 2
    world.candidates[0].campaign()
    assert world.leases.calls == ["PUT"]


def test_a_leader_that_cannot_reach_the_api_server_stops_before_another_may_lead() -> None:
    world = World(2)
    for candidate in world.candidates:
        candidate.campaign()
    world.connections[0].broken = "before"
    world.now += DURATION - TIMEOUT
    with pytest.raises(UnreachableError):
        world.candidates[0].campaign()
    assert world.leaders() == []


def test_a_restarted_process_does_not_inherit_the_lease_of_the_one_before() -> None:
    world = World(1)
    world.candidates[0].campaign()
    again = world.candidate(world.connections[0], 0)
    again.campaign()
    assert not again.leads()


class Elections(RuleBasedStateMachine):
    """Candidates that campaign, lose their connections or responses, and restart, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(3)

    @rule(number=st.integers(0, 2))
    def campaign(self, number: int) -> None:
        try:
            self.world.candidates[number].campaign()
        except UnreachableError:
            assert self.world.connections[number].broken

    @rule(number=st.integers(0, 2), how=st.sampled_from(["", "before", "after"]))
    def connection(self, number: int, how: str) -> None:
        self.world.connections[number].broken = how

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 9.5, 10.5]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(number=st.integers(0, 2))
    def restart(self, number: int) -> None:
        self.world.candidates[number] = self.world.candidate(self.world.connections[number], number)

    @invariant()
    def at_most_one_leads(self) -> None:
        assert len(self.world.leaders()) <= 1


TestElections = Elections.TestCase
TestElections.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
