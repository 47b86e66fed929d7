"""Progress from logs and reasons from events, at a bounded rate whatever the number of Pods."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import pytest
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import RunKey
from evolution_operator.controller.seen.probe import EVENTS_SPACING, Probe
from evolution_operator.controller.seen.views import JobView, PodView, job_view, pod_view
from evolution_operator.planner.progress import Reading, last_line

from tests.support.cluster.objects import OWNER, job_object, pod_object, stage_start, with_pods
from tests.support.run_document import minimal_spec

KEY = RunKey(OWNER.namespace, OWNER.name)
SPEC = EvolutionRunSpec.model_validate(minimal_spec())


def line(done: int, total: int) -> str:
    return json.dumps({"progress": {"stage": "s", "shard": 0, "done": done, "total": total, "unit": "rows"}})


class KubeClient:
    """Fake logs and events. Records the calls that read them."""

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.unreachable = False

    def read_log(self, key: RunKey, pod: str, container: str, lines: int) -> str:
        self.calls.append(pod)
        if pod not in self.logs:
            raise UnreachableError("no kubelet")
        return self.logs[pod]

    def list_warnings(self, key: RunKey, uid: str, reason: str) -> tuple[dict[str, Any], ...]:
        self.calls.append("events")
        if self.unreachable:
            raise UnreachableError("no API server")
        return tuple(event for event in self.events if event["reason"] == reason)


class Scenario:
    def __init__(self) -> None:
        self.client, self.now = KubeClient(), 0.0
        self.probe = Probe(self.client, 15.0, clock=lambda: self.now)  # type: ignore[arg-type]

    def ask(self, job: JobView, *pods: PodView, after: float = 0.0, key: RunKey = KEY) -> float | None:
        self.now += after
        return self.probe.ask(key, [with_pods(job, pods)])

    def progress(self, job: JobView, *pods: PodView) -> tuple[int, int, int | None] | None:
        """Progress as a pass reads it, after asking."""
        if pods:
            self.ask(job, *pods)
        found = self.probe.progress(KEY, [job]).get(job.meta.uid)
        return (found.done, found.total, found.eta_seconds) if found else None


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


def attempt(*conditions: str, shards: int = 1, **settings: Any) -> dict[str, Any]:
    return job_object(SPEC, stage_start("generate", 1, shards), *conditions, **settings)


def test_a_stage_that_is_over_within_the_interval_costs_no_call(scenario: Scenario) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    scenario.client.logs["p"] = line(10, 100)
    assert scenario.ask(job, pod) == 15.0
    assert scenario.ask(job, pod, after=2) == 13.0
    assert scenario.ask(job_view(attempt("Complete")), after=1) is None
    assert scenario.client.calls == []


def test_progress_comes_with_an_estimate_from_the_second_reading_on(scenario: Scenario) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    scenario.client.logs["p"] = f"loading\n{line(10, 100)}\nnoise\n"
    assert scenario.ask(job, pod) == 15.0
    assert scenario.ask(job, pod, after=15) == 0.0, "a pass that writes the new progress follows"
    assert scenario.progress(job) == (10, 100, None)
    scenario.client.logs["p"] = line(40, 100)
    scenario.ask(job, pod, after=15)
    assert scenario.progress(job) == (40, 100, 30)


def test_rows_of_an_earlier_attempt_set_no_pace(scenario: Scenario) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    scenario.client.logs["p"] = line(90, 100)
    scenario.ask(job, pod)
    scenario.ask(job, pod, after=15)
    assert scenario.progress(job) == (90, 100, None)
    scenario.ask(job, pod, after=15)
    assert scenario.progress(job) == (90, 100, None), "no row was finished in this time"
    scenario.client.logs["p"] = line(92, 100)
    scenario.ask(job, pod, after=15)
    assert scenario.progress(job) == (92, 100, 120)


def test_one_log_per_run_is_read_in_an_interval(scenario: Scenario) -> None:
    body = attempt(shards=4)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(4)]
    scenario.ask(job, *pods)
    for _ in range(60):
        scenario.ask(job, *pods, after=1)
    assert len(scenario.client.calls) == 4
    assert set(scenario.client.calls) == {"p0", "p1", "p2", "p3"}


def test_progress_adds_up_shards_and_estimates_those_not_read_yet(scenario: Scenario) -> None:
    body = attempt(shards=2)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(2)]
    scenario.client.logs |= {"p0": line(10, 50), "p1": line(20, 40)}
    scenario.ask(job, *pods)
    scenario.ask(job, *pods, after=15)
    assert scenario.progress(job, *pods) == (10, 100, None)
    scenario.ask(job, *pods, after=15)
    assert scenario.progress(job, *pods) == (30, 90, None)


@pytest.mark.parametrize("read", [True, False])
def test_all_rows_of_an_ended_shard_are_done(scenario: Scenario, read: bool) -> None:
    """Even if its log was never read. The last line may be as old as the interval."""
    body = attempt(shards=2)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(2)]
    scenario.client.logs |= {"p0": line(0, 4)} if read else {}
    scenario.client.logs |= {"p1": line(1, 4)}
    scenario.ask(job, *pods)
    for _ in range(2):
        scenario.ask(job, *pods, after=15)
    assert scenario.progress(job, *pods) == (1, 8, None)
    ended = pod_view(pod_object(body, "Succeeded", name="p0", code=0))
    assert scenario.progress(job, ended, pods[1]) == (5, 8, None)


def test_a_shard_that_has_ended_counts_in_full(scenario: Scenario) -> None:
    """`1/2 shards, 0/8 rows` was shown for half a minute after a shard had ended."""
    body = attempt(shards=2, succeeded=1)
    pods = [pod_view(pod_object(body, phase, name=f"p{n}")) for n, phase in enumerate(("Succeeded", "Running"))]
    scenario.client.logs["p1"] = line(0, 4)
    scenario.ask(job_view(body), *pods)
    scenario.ask(job_view(body), *pods, after=15)
    assert scenario.progress(job_view(body)) == (4, 8, None)


def test_a_pod_that_is_gone_does_not_count(scenario: Scenario) -> None:
    body = attempt()
    first, second = (pod_view(pod_object(body, name=f"p{n}")) for n in range(2))
    scenario.client.logs |= {"p0": line(3, 9), "p1": line(2, 9)}
    scenario.ask(job_view(body), first)
    scenario.ask(job_view(body), first, after=15)
    assert scenario.progress(job_view(body)) == (3, 9, None)
    scenario.ask(job_view(body), second, after=15)
    assert scenario.progress(job_view(body)) == (2, 9, None)


def test_a_pod_that_waits_for_another_run_says_so_until_it_computes(scenario: Scenario) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    scenario.client.logs["p"] = "loading\n" + json.dumps({"waiting": {"stage": "s", "shard": 0, "run": "team/first"}})
    scenario.ask(job, pod)
    assert scenario.ask(job, pod, after=15) == 0.0
    reason, message = scenario.probe.notes(KEY)[job.meta.uid]
    assert (reason, scenario.progress(job)) == ("ComputedElsewhere", None)
    assert "team/first" in message
    scenario.client.logs["p"] += "\n" + json.dumps({"waiting": {"stage": "s", "shard": 0, "run": None}})
    scenario.ask(job, pod, after=15)
    assert scenario.probe.notes(KEY) == {}, "it has taken over, and loads its inputs"
    scenario.client.logs["p"] += f"\n{line(1, 9)}"
    scenario.ask(job, pod, after=15)
    assert (scenario.probe.notes(KEY), scenario.progress(job)) == ({}, (1, 9, None))


def test_a_log_that_cannot_be_read_is_ignored(scenario: Scenario) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    scenario.ask(job, pod)
    assert scenario.ask(job, pod, after=15) == 15.0
    assert scenario.client.calls == ["p"]
    assert scenario.progress(job) is None


def test_logs_of_pods_that_cannot_have_one_are_not_read(scenario: Scenario) -> None:
    body = attempt()
    job = job_view(body)
    for pod in (
        pod_object(body, "Pending", unschedulable="0/1"),
        pod_object(body, "Pending"),
        pod_object(body, "Failed", code=1),
    ):
        scenario.ask(job, pod_view(pod), after=20)
    assert "pod" not in scenario.client.calls


def test_no_call_is_made_if_nothing_runs(scenario: Scenario) -> None:
    assert scenario.ask(job_view(attempt(suspend=True))) is None
    assert scenario.ask(job_view(attempt(deleting=True)), after=20) is None
    assert scenario.client.calls == []


REFUSED = 'Error creating: pods "x-{}" is forbidden: exceeded quota: tight, requested: pods=1'


def refusals(*versions: int) -> list[dict[str, Any]]:
    return [
        {"reason": "FailedCreate", "message": REFUSED.format(n), "metadata": {"resourceVersion": str(n)}}
        for n in versions
    ]


def test_events_of_a_job_without_pods_are_read_after_a_moment(scenario: Scenario) -> None:
    job = job_view(attempt())
    scenario.client.events = refusals(9, 10)
    again = scenario.ask(job)
    assert again is not None
    assert scenario.client.calls == []
    assert scenario.ask(job, after=again) == 0.0
    assert scenario.probe.notes(KEY)[job.meta.uid] == (
        "QuotaExceeded",
        "exceeded quota: tight, requested: pods=1: raise the quota or lower the stage's pod.resources",
    )
    scenario.ask(job, pod_view(pod_object(attempt(), name="p")), after=20)
    assert scenario.probe.notes(KEY) == {}


def test_no_events_are_read_for_a_job_if_all_its_pods_have_succeeded(scenario: Scenario) -> None:
    """The Job controller may take a while to report it."""
    body = attempt()
    ended = pod_view(pod_object(body, "Succeeded", name="p", code=0))
    for _ in range(60):
        scenario.ask(job_view(body), ended, after=1)
    assert scenario.client.calls == []


def test_events_of_a_job_without_pods_are_read_with_growing_pauses(scenario: Scenario) -> None:
    job = job_view(attempt())
    scenario.client.events = refusals(9)
    asked: list[float] = []
    for _ in range(3600):
        before = len(scenario.client.calls)
        scenario.ask(job, after=1)
        asked += [scenario.now] * (len(scenario.client.calls) - before)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses == [5, 10, 20, 40, 80, 160] + [300] * 10


def test_a_failed_call_does_not_lengthen_the_pause(scenario: Scenario) -> None:
    job = job_view(attempt())
    scenario.client.unreachable = True
    scenario.ask(job)
    assert scenario.ask(job, after=5) == 5.0
    assert scenario.probe.notes(KEY) == {}


def test_many_runs_without_pods_share_one_small_budget_and_each_has_its_turn(scenario: Scenario) -> None:
    job = job_view(attempt())
    scenario.client.events = refusals(9)
    jobs = {
        RunKey("team", f"run-{n}"): dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}"))
        for n in range(50)
    }
    seconds = 120
    for _ in range(seconds):
        scenario.now += 1
        for key, stuck in jobs.items():
            scenario.ask(stuck, key=key)
    assert len(scenario.client.calls) <= seconds / EVENTS_SPACING
    assert all(scenario.probe.notes(key) for key in jobs)


def test_deleted_runs_take_no_turn(scenario: Scenario) -> None:
    job = job_view(attempt())
    named = [
        (RunKey("team", f"run-{n}"), dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}")))
        for n in range(61)
    ]
    for key, stuck in named:
        scenario.ask(stuck, key=key)
    for key, stuck in named:
        scenario.ask(stuck, key=key, after=5 if key == named[0][0] else 0)
    # All but the last are deleted, and the probe is not notified.
    key, stuck = named[-1]
    asked = len(scenario.client.calls)
    for _ in range(90):
        scenario.ask(stuck, key=key, after=1)
    assert len(scenario.client.calls) > asked


def test_the_wait_of_a_run_is_the_time_until_its_turn(scenario: Scenario) -> None:
    job = job_view(attempt())
    jobs = {
        RunKey("team", f"run-{n}"): dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}"))
        for n in range(4)
    }
    for key, stuck in jobs.items():
        scenario.ask(stuck, key=key)
    scenario.now += 5
    waits = [scenario.ask(stuck, key=key) for key, stuck in jobs.items()]
    assert waits == [5.0, EVENTS_SPACING, 2 * EVENTS_SPACING, 3 * EVENTS_SPACING]
    second, third = list(jobs)[1:3]
    scenario.probe.forget(second)
    assert scenario.ask(jobs[third], key=third) == EVENTS_SPACING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no progress here",
        '{"progress": 3}',
        '{"progress": {"done": 1}}',
        '{"progress": {"done": "x", "total": 2, "unit": "rows"}}',
        '{"progress": {"done": 1, "total": 2',
        '{"progress": null}',
    ],
)
def test_lines_that_are_not_progress_are_skipped(text: str) -> None:
    assert last_line(text, 0.0) is None
    reading = last_line(f"{line(3, 4)}\n{text}", 0.0)
    assert isinstance(reading, Reading)
    assert (reading.done, reading.total) == (3, 4)
