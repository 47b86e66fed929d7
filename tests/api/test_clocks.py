"""Replicas on machines with wrong clocks: the API server's time counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from hack.cluster.control_plane import ControlPlane
from tests.api.harness import STAYS, OperatorProcess, Outcome, Runs, Script, condition, end, stage, wait_for

HOUR = 3600.0
FAILS = Outcome(75, {"reason": "StorageUnreachable", "message": "no answer"})


@pytest.fixture
def fast(installed: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """A replica with a clock that is an hour ahead, not yet started."""
    operator = OperatorProcess(installed, tmp_path, namespaces=(namespace,), name="fast", ahead=HOUR)
    yield operator
    operator.stop()


@pytest.fixture
def slow(installed: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """A replica with a clock that is an hour behind, not yet started."""
    operator = OperatorProcess(installed, tmp_path, namespaces=(namespace,), name="slow", ahead=-HOUR)
    yield operator
    operator.stop()


def times(value: Any) -> Iterator[datetime]:
    """All times in a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.endswith(("At", "Time")) and isinstance(inner, str):
                yield datetime.fromisoformat(inner)
            else:
                yield from times(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from times(inner)


@pytest.mark.parametrize("which", ["fast", "slow"])
def test_the_times_of_a_run_are_right(
    which: str, request: pytest.FixtureRequest, kube: client.ApiClient, namespace: str, script: Script
) -> None:
    operator: OperatorProcess = request.getfixturevalue(which)
    runs = Runs(kube, namespace)
    script.will(namespace, "prepare", FAILS)
    before = datetime.now(UTC) - timedelta(seconds=6)
    runs.create("timed", activeDeadlineSeconds=600)
    operator.start()
    run = runs.wait_phase("timed", "Complete")
    after = datetime.now(UTC) + timedelta(seconds=6)
    found = [*times(run["status"])]
    assert len(found) > 5
    assert [time for time in found if not before <= time <= after] == []
    events = runs.events("timed", "Complete")
    assert [event.reason for event in events if not before <= event.last_timestamp <= after] == []
    (ahead,) = re.findall(r"^evolution_clock_ahead_seconds (\S+)$", operator.get("/metrics"), re.MULTILINE)
    assert abs(float(ahead) - {"fast": HOUR, "slow": -HOUR}[which]) <= 6
    assert [line for line in operator.lines() if "ahead of the API server's clock" in line["message"]], (
        "the log says so"
    )

    runs.patch("timed", {"spec": {"ttlSecondsAfterFinished": 1}})
    runs.wait_gone("timed")


def test_a_leader_with_another_clock_keeps_the_same_deadlines(
    kube: client.ApiClient, namespace: str, fast: OperatorProcess, slow: OperatorProcess, script: Script
) -> None:
    runs = Runs(kube, namespace)
    script.will(namespace, "prepare", FAILS, STAYS)
    fast.start()
    retry = {"backoffSeconds": 10, "maxBackoffSeconds": 10, "maxAttempts": 3}
    runs.create("shared", activeDeadlineSeconds=600, ttlSecondsAfterFinished=900, retry=retry)
    runs.wait("shared", lambda run: stage(run, "prepare").get("state") == "Backoff", "it waits to retry")
    fast.kill()
    slow.start()
    pod = runs.pod("prepare", attempt=2)
    slow.kill()
    end(runs.core, namespace, pod.metadata.name, "prepare", Outcome())
    fast.start()
    run = runs.wait_phase("shared", "Complete")
    assert condition(run, "Failed")["status"] == "False", "its deadline is in ten minutes, not an hour ago"
    assert stage(run, "prepare")["failures"] == 1
    wait_for(lambda: fast.get("/metrics"), lambda text: "evolution_leader 1.0" in text, "it leads")
    assert runs.get("shared")["metadata"].get("deletionTimestamp") is None, "it is kept for its time to live"
