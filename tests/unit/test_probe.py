"""Progress from logs and reasons from events, at a bounded rate whatever the number of Pods."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import pytest
from evolution_jobs.contract.stage import RunRef, StageSpec
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import RunKey
from evolution_operator.controller.seen.probe import EVENTS_SPACING, Probe
from evolution_operator.controller.seen.views import JobView, PodView, job_view, pod_view
from evolution_operator.planner.actions import Start
from evolution_operator.planner.progress import Reading, last_line

from tests.support.cluster.objects import OWNER, job_object, pod_object
from tests.support.run_document import minimal_spec

KEY = RunKey(OWNER.namespace, OWNER.name)
SPEC = EvolutionRunSpec.model_validate(minimal_spec())


def line(done: int, total: int) -> str:
    return json.dumps({"progress": {"stage": "s", "shard": 0, "done": done, "total": total, "unit": "rows"}})


class KubeClient:
    """Logs and events, and the calls made for them."""

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.away = False

    def read_log(self, key: RunKey, pod: str, container: str, lines: int) -> str:
        self.calls.append(pod)
        if pod not in self.logs:
            raise UnreachableError("no kubelet")
        return self.logs[pod]

    def list_warnings(self, key: RunKey, uid: str, reason: str) -> tuple[dict[str, Any], ...]:
        self.calls.append("events")
        if self.away:
            raise UnreachableError("no API server")
        return tuple(event for event in self.events if event["reason"] == reason)


class Watch:
    def __init__(self) -> None:
        self.cluster, self.now = KubeClient(), 0.0
        self.probe = Probe(self.cluster, 15.0, clock=lambda: self.now)  # type: ignore[arg-type]

    def ask(self, job: JobView, *pods: PodView, after: float = 0.0, key: RunKey = KEY) -> float | None:
        self.now += after
        return self.probe.ask(key, [job.with_pods(pods)])

    def progress(self, job: JobView, *pods: PodView) -> tuple[int, int, int | None] | None:
        """As a pass finds it: it asks first."""
        if pods:
            self.ask(job, *pods)
        found = self.probe.progress(KEY, [job]).get(job.meta.uid)
        return (found.done, found.total, found.eta_seconds) if found else None


@pytest.fixture
def watch() -> Watch:
    return Watch()


def attempt(*conditions: str, shards: int = 1, **settings: Any) -> dict[str, Any]:
    spec = StageSpec(
        run=RunRef(namespace=OWNER.namespace, name=OWNER.name, uid=OWNER.uid),
        stage="generate-1",
        kind="generate",
        iteration=1,
        key="ab" * 32,
        attempt="a-1",
        settings={},
        seed=0,
        storage=SPEC.storage,
    )
    return job_object(SPEC, Start(spec, 1, shards, True), *conditions, **settings)


def test_a_stage_that_is_over_within_the_interval_costs_no_call(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.cluster.logs["p"] = line(10, 100)
    assert watch.ask(job, pod) == 15.0
    assert watch.ask(job, pod, after=2) == 13.0
    assert watch.ask(job_view(attempt("Complete")), after=1) is None
    assert watch.cluster.calls == []


def test_progress_comes_with_an_estimate_from_the_second_reading_on(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.cluster.logs["p"] = f"loading\n{line(10, 100)}\nnoise\n"
    assert watch.ask(job, pod) == 15.0
    assert watch.ask(job, pod, after=15) == 0.0, "what is new is written by a pass that follows"
    assert watch.progress(job) == (10, 100, None)
    watch.cluster.logs["p"] = line(40, 100)
    watch.ask(job, pod, after=15)
    assert watch.progress(job) == (40, 100, 30)


def test_rows_that_an_earlier_attempt_had_done_promise_no_pace(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.cluster.logs["p"] = line(90, 100)
    watch.ask(job, pod)
    watch.ask(job, pod, after=15)
    assert watch.progress(job) == (90, 100, None)
    watch.ask(job, pod, after=15)
    assert watch.progress(job) == (90, 100, None), "nothing was done that cost anything"
    watch.cluster.logs["p"] = line(92, 100)
    watch.ask(job, pod, after=15)
    assert watch.progress(job) == (92, 100, 120)


def test_one_log_a_run_is_read_in_an_interval(watch: Watch) -> None:
    body = attempt(shards=4)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(4)]
    watch.ask(job, *pods)
    for _ in range(60):
        watch.ask(job, *pods, after=1)
    assert len(watch.cluster.calls) == 4
    assert set(watch.cluster.calls) == {"p0", "p1", "p2", "p3"}


def test_shards_are_added_up_and_those_not_heard_of_are_allowed_for(watch: Watch) -> None:
    body = attempt(shards=2)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(2)]
    watch.cluster.logs |= {"p0": line(10, 50), "p1": line(20, 40)}
    watch.ask(job, *pods)
    watch.ask(job, *pods, after=15)
    assert watch.progress(job, *pods) == (10, 100, None)
    watch.ask(job, *pods, after=15)
    assert watch.progress(job, *pods) == (30, 90, None)


@pytest.mark.parametrize("read", [True, False])
def test_a_shard_that_has_ended_has_done_its_part(watch: Watch, read: bool) -> None:
    """Whether or not its log was read before it ended; its last line may be as old as the interval."""
    body = attempt(shards=2)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(2)]
    watch.cluster.logs |= {"p0": line(0, 4)} if read else {}
    watch.cluster.logs |= {"p1": line(1, 4)}
    watch.ask(job, *pods)
    for _ in range(2):
        watch.ask(job, *pods, after=15)
    assert watch.progress(job, *pods) == (1, 8, None)
    ended = pod_view(pod_object(body, "Succeeded", name="p0", code=0))
    assert watch.progress(job, ended, pods[1]) == (5, 8, None)


def test_a_shard_that_has_ended_counts_in_full(watch: Watch) -> None:
    """`1/2 shards, 0/8 rows` was shown for half a minute after a shard had ended."""
    body = attempt(shards=2, succeeded=1)
    pods = [pod_view(pod_object(body, phase, name=f"p{n}")) for n, phase in enumerate(("Succeeded", "Running"))]
    watch.cluster.logs["p1"] = line(0, 4)
    watch.ask(job_view(body), *pods)
    watch.ask(job_view(body), *pods, after=15)
    assert watch.progress(job_view(body)) == (4, 8, None)


def test_a_pod_that_is_gone_does_not_count(watch: Watch) -> None:
    body = attempt()
    first, second = (pod_view(pod_object(body, name=f"p{n}")) for n in range(2))
    watch.cluster.logs |= {"p0": line(3, 9), "p1": line(2, 9)}
    watch.ask(job_view(body), first)
    watch.ask(job_view(body), first, after=15)
    assert watch.progress(job_view(body)) == (3, 9, None)
    watch.ask(job_view(body), second, after=15)
    assert watch.progress(job_view(body)) == (2, 9, None)


def test_a_pod_that_waits_for_another_run_says_so_until_it_computes(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.cluster.logs["p"] = "loading\n" + json.dumps({"waiting": {"stage": "s", "shard": 0, "run": "team/first"}})
    watch.ask(job, pod)
    assert watch.ask(job, pod, after=15) == 0.0
    reason, message = watch.probe.notes(KEY)[job.meta.uid]
    assert (reason, watch.progress(job)) == ("ComputedElsewhere", None)
    assert "team/first" in message
    watch.cluster.logs["p"] += "\n" + json.dumps({"waiting": {"stage": "s", "shard": 0, "run": None}})
    watch.ask(job, pod, after=15)
    assert watch.probe.notes(KEY) == {}, "taken over, and its inputs are on their way"
    watch.cluster.logs["p"] += f"\n{line(1, 9)}"
    watch.ask(job, pod, after=15)
    assert (watch.probe.notes(KEY), watch.progress(job)) == ({}, (1, 9, None))


def test_a_log_that_cannot_be_read_hurts_nothing(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.ask(job, pod)
    assert watch.ask(job, pod, after=15) == 15.0
    assert watch.cluster.calls == ["p"]
    assert watch.progress(job) is None


def test_pods_that_cannot_have_a_log_are_not_asked(watch: Watch) -> None:
    body = attempt()
    job = job_view(body)
    for pod in (
        pod_object(body, "Pending", unschedulable="0/1"),
        pod_object(body, "Pending"),
        pod_object(body, "Failed", code=1),
    ):
        watch.ask(job, pod_view(pod), after=20)
    assert "pod" not in watch.cluster.calls


def test_nothing_is_asked_where_nothing_runs(watch: Watch) -> None:
    assert watch.ask(job_view(attempt(suspend=True))) is None
    assert watch.ask(job_view(attempt(deleting=True)), after=20) is None
    assert watch.cluster.calls == []


REFUSED = 'Error creating: pods "x-{}" is forbidden: exceeded quota: tight, requested: pods=1'


def refusals(*versions: int) -> list[dict[str, Any]]:
    return [
        {"reason": "FailedCreate", "message": REFUSED.format(n), "metadata": {"resourceVersion": str(n)}}
        for n in versions
    ]


def test_why_a_job_has_no_pods_is_asked_after_a_moment(watch: Watch) -> None:
    job = job_view(attempt())
    watch.cluster.events = refusals(9, 10)
    again = watch.ask(job)
    assert again is not None
    assert watch.cluster.calls == []
    assert watch.ask(job, after=again) == 0.0
    assert watch.probe.notes(KEY)[job.meta.uid] == (
        "QuotaExceeded",
        "exceeded quota: tight, requested: pods=1: raise the quota or lower the stage's pod.resources",
    )
    watch.ask(job, pod_view(pod_object(attempt(), name="p")), after=20)
    assert watch.probe.notes(KEY) == {}


def test_a_job_whose_pods_have_all_succeeded_lacks_none(watch: Watch) -> None:
    """The Job controller may be a while in saying so."""
    body = attempt()
    ended = pod_view(pod_object(body, "Succeeded", name="p", code=0))
    for _ in range(60):
        watch.ask(job_view(body), ended, after=1)
    assert watch.cluster.calls == []


def test_why_a_job_has_no_pods_is_asked_with_growing_pauses(watch: Watch) -> None:
    job = job_view(attempt())
    watch.cluster.events = refusals(9)
    asked: list[float] = []
    for _ in range(3600):
        before = len(watch.cluster.calls)
        watch.ask(job, after=1)
        asked += [watch.now] * (len(watch.cluster.calls) - before)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses == [5, 10, 20, 40, 80, 160] + [300] * 10


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_any_other(watch: Watch) -> None:
    job = job_view(attempt())
    watch.cluster.away = True
    watch.ask(job)
    assert watch.ask(job, after=5) == 5.0
    assert watch.probe.notes(KEY) == {}


def test_many_runs_without_pods_share_one_small_budget_and_each_has_its_turn(watch: Watch) -> None:
    job = job_view(attempt())
    watch.cluster.events = refusals(9)
    jobs = {
        RunKey("team", f"run-{n}"): dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}"))
        for n in range(50)
    }
    seconds = 120
    for _ in range(seconds):
        watch.now += 1
        for key, stuck in jobs.items():
            watch.ask(stuck, key=key)
    assert len(watch.cluster.calls) <= seconds / EVENTS_SPACING
    assert all(watch.probe.notes(key) for key in jobs)


def test_runs_that_are_gone_hold_no_turn(watch: Watch) -> None:
    job = job_view(attempt())
    named = [
        (RunKey("team", f"run-{n}"), dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}")))
        for n in range(61)
    ]
    for key, stuck in named:
        watch.ask(stuck, key=key)
    for key, stuck in named:
        watch.ask(stuck, key=key, after=5 if key == named[0][0] else 0)
    # All but the last are deleted, and nobody says so.
    key, stuck = named[-1]
    asked = len(watch.cluster.calls)
    for _ in range(90):
        watch.ask(stuck, key=key, after=1)
    assert len(watch.cluster.calls) > asked


def test_a_run_comes_back_when_it_is_its_turn(watch: Watch) -> None:
    job = job_view(attempt())
    jobs = {
        RunKey("team", f"run-{n}"): dataclasses.replace(job, meta=dataclasses.replace(job.meta, uid=f"uid-{n}"))
        for n in range(4)
    }
    for key, stuck in jobs.items():
        watch.ask(stuck, key=key)
    watch.now += 5
    waits = [watch.ask(stuck, key=key) for key, stuck in jobs.items()]
    assert waits == [5.0, EVENTS_SPACING, 2 * EVENTS_SPACING, 3 * EVENTS_SPACING]
    second, third = list(jobs)[1:3]
    watch.probe.forget(second)
    assert watch.ask(jobs[third], key=third) == EVENTS_SPACING


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
def test_what_is_no_progress_line_is_passed_over(text: str) -> None:
    assert last_line(text, 0.0) is None
    reading = last_line(f"{line(3, 4)}\n{text}", 0.0)
    assert isinstance(reading, Reading)
    assert (reading.done, reading.total) == (3, 4)
