"""Progress from logs and reasons from events, at a bounded rate whatever the number of Pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evolution_jobs.contract.stage import RunRef, StageSpec
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller.apiserver import UnreachableError
from evolution_operator.controller.cache import RunKey
from evolution_operator.controller.inquiry import Inquiry, last_progress
from evolution_operator.controller.views import JobView, PodView, job_view, pod_view
from evolution_operator.planner.actions import Start

from tests.kubernetes_objects import OWNER, job_object, pod_object

KEY = RunKey(OWNER.namespace, OWNER.name)
SPEC = EvolutionRunSpec.model_validate(
    {
        "baseModel": {"uri": "hf://owner/model"},
        "storage": {"uri": "s3://bucket/runs"},
        "data": {"seed": [{"uri": "hf://owner/esconv", "format": "esconv"}]},
    }
)


def line(done: int, total: int) -> str:
    return json.dumps({"progress": {"stage": "s", "shard": 0, "done": done, "total": total, "unit": "rows"}})


class Cluster:
    """Logs and events, and the calls made for them."""

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def read_log(self, key: RunKey, pod: str, container: str, lines: int) -> str:
        self.calls.append(pod)
        if pod not in self.logs:
            raise UnreachableError("no kubelet")
        return self.logs[pod]

    def list_warnings(self, key: RunKey, uid: str) -> tuple[dict[str, Any], ...]:
        self.calls.append("events")
        return tuple(self.events)


class Watch:
    def __init__(self) -> None:
        self.cluster, self.now = Cluster(), 0.0
        self.inquiry = Inquiry(self.cluster, 15.0, clock=lambda: self.now)  # type: ignore[arg-type]

    def ask(self, job: JobView, *pods: PodView, after: float = 0.0) -> float | None:
        self.now += after
        return self.inquiry.ask(KEY, [job], pods)

    def progress(self, job: JobView) -> tuple[int, int, int | None] | None:
        found = self.inquiry.progress(KEY, [job]).get(job.meta.uid)
        return (found.done, found.total, found.eta_seconds) if found else None


@pytest.fixture
def watch() -> Watch:
    return Watch()


def attempt(shards: int = 1, **settings: Any) -> dict[str, Any]:
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
    return job_object(SPEC, Start(spec, 1, shards, True), **settings)


def test_progress_comes_with_an_estimate_from_the_second_reading_on(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    watch.cluster.logs["p"] = f"loading\n{line(10, 100)}\nnoise\n"
    assert watch.ask(job, pod) == 15.0
    assert watch.progress(job) == (10, 100, None)
    watch.cluster.logs["p"] = line(40, 100)
    watch.ask(job, pod, after=15)
    assert watch.progress(job) == (40, 100, 30)


def test_one_log_a_run_is_read_in_an_interval(watch: Watch) -> None:
    body = attempt(shards=4)
    job = job_view(body)
    pods = [pod_view(pod_object(body, name=f"p{n}")) for n in range(4)]
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
    assert watch.progress(job) == (10, 100, None)
    watch.ask(job, *pods, after=15)
    assert watch.progress(job) == (30, 90, None)


def test_a_shard_that_has_ended_counts_in_full(watch: Watch) -> None:
    """`1/2 shards, 0/8 rows` was shown for half a minute after a shard had ended."""
    body = attempt(shards=2, succeeded=1)
    pods = [pod_view(pod_object(body, phase, name=f"p{n}")) for n, phase in enumerate(("Succeeded", "Running"))]
    watch.cluster.logs["p1"] = line(0, 4)
    watch.ask(job_view(body), *pods)
    assert watch.progress(job_view(body)) == (4, 8, None)


def test_a_pod_that_is_gone_does_not_count(watch: Watch) -> None:
    body = attempt()
    first, second = (pod_view(pod_object(body, name=f"p{n}")) for n in range(2))
    watch.cluster.logs |= {"p0": line(3, 9), "p1": line(2, 9)}
    watch.ask(job_view(body), first)
    watch.ask(job_view(body), second, after=15)
    assert watch.progress(job_view(body)) == (2, 9, None)


def test_a_log_that_cannot_be_read_hurts_nothing(watch: Watch) -> None:
    body = attempt()
    job, pod = job_view(body), pod_view(pod_object(body, name="p"))
    assert watch.ask(job, pod) == 15.0
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


def test_why_a_job_has_no_pods_is_asked_after_a_moment(watch: Watch) -> None:
    job = job_view(attempt())
    refused = 'Error creating: pods "x-{}" is forbidden: exceeded quota: tight, requested: pods=1'
    watch.cluster.events = [
        {"reason": "FailedCreate", "message": refused.format(n), "metadata": {"resourceVersion": str(n)}}
        for n in (9, 10)
    ]
    again = watch.ask(job)
    assert again is not None
    assert watch.cluster.calls == []
    watch.ask(job, after=again)
    assert watch.inquiry.notes(KEY)[job.meta.uid] == (
        "QuotaExceeded",
        "exceeded quota: tight, requested: pods=1: raise the quota or lower the stage's pod.resources",
    )
    watch.ask(job, pod_view(pod_object(attempt(), name="p")), after=20)
    assert watch.inquiry.notes(KEY) == {}


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
    assert last_progress(text, 0.0) is None
    reading = last_progress(f"{line(3, 4)}\n{text}", 0.0)
    assert reading is not None
    assert (reading.done, reading.total) == (3, 4)
