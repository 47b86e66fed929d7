"""The planner makes the same plans from a history of Jobs and Pods as from the same history of attempts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import RunStatus
from evolution_operator.controller.seen.attempts import observe
from evolution_operator.controller.seen.views import job_view, pod_view
from evolution_operator.planner.actions import Plan, Resume, Start, Stop, Suspend
from evolution_operator.planner.observed import Attempt, Failure, Observed, Run
from evolution_operator.planner.plan import plan

from tests.support.cluster.objects import ENDED, OWNER, STARTED, job_object, pod_object, with_pods
from tests.support.run_document import minimal_spec

DOCUMENT = minimal_spec(iterations=1, generation={"shards": 2}, retry={"maxAttempts": 3, "backoffSeconds": 10})
CONTENTS = {name: name * 4 for name in ("model", "train", "validation", "contexts", "test")}
BEGAN, OVER = datetime.fromisoformat(STARTED), datetime.fromisoformat(ENDED)


def report_of(stage: str) -> dict[str, Any]:
    report: dict[str, Any] = {"reason": "Completed", "seconds": 9.0, "digest": "d" * 64}
    if stage == "prepare":
        report["contents"] = CONTENTS
    if stage.startswith("evaluate"):
        report["metrics"] = {"distinct2": 0.5}
    return report


@dataclass
class Entry:
    """An attempt and its state."""

    start: Start
    state: str = "running"
    report: dict[str, Any] = field(default_factory=dict)
    code: int = 0


class Cluster:
    """Observes attempts through Jobs and Pods, as the controller does."""

    def observed(self, spec: EvolutionRunSpec, entries: list[Entry]) -> tuple[Attempt, ...]:
        jobs, pods = [], []
        for entry in entries:
            start, ended = entry.start, {"succeeded": ("Complete",), "failed": ("Failed",)}.get(entry.state, ())
            done = start.shards if entry.state == "succeeded" else 0
            job = job_object(spec, start, *ended, succeeded=done, suspend=entry.state == "suspended")
            jobs.append(job_view(job))
            for shard in range(start.shards):
                settings: dict[str, Any] = {"name": f"pod-{shard}"}
                if entry.state == "succeeded":
                    last = shard == start.shards - 1
                    report = entry.report if last else {"reason": "ShardCompleted"}
                    settings |= {"phase": "Succeeded", "code": 0, "message": report}
                elif entry.state == "failed":
                    settings |= {"phase": "Failed", "code": entry.code, "message": entry.report}
                elif entry.state == "queued":
                    settings |= {"phase": "Pending", "unschedulable": "0/1 nodes"}
                elif entry.state == "suspended":
                    settings |= {"phase": "Failed", "code": 143}
                pods.append(pod_view(pod_object(job, **settings)))
        return observe(OWNER, [with_pods(job, pods) for job in jobs], {}, {}, {})


class Driver:
    """Observes attempts directly, as the local driver does."""

    KINDS = {65: "permanent", 75: "transient", 143: "disruption"}

    def observed(self, spec: EvolutionRunSpec, entries: list[Entry]) -> tuple[Attempt, ...]:
        return tuple(self._attempt(spec, entry) for entry in entries)

    def _attempt(self, spec: EvolutionRunSpec, entry: Entry) -> Attempt:
        start = entry.start
        shards = start.shards
        failure = None
        if entry.state == "failed":
            failure = Failure(self.KINDS[entry.code], entry.report["reason"], entry.report["message"])  # type: ignore[arg-type]
        return Attempt(
            stage=start.spec.stage,
            number=start.number,
            key=start.spec.key,
            state=entry.state,  # type: ignore[arg-type]
            name=job_object(spec, start)["metadata"]["name"],
            started_at=BEGAN,
            finished_at=OVER if entry.state in ("succeeded", "failed") else None,
            failure=failure,
            report=Report.model_validate_json(json.dumps(entry.report)) if entry.state == "succeeded" else None,
            shards=shards,
            shards_done=shards if entry.state == "succeeded" else 0,
            note=("Unschedulable", f"{shards} of {shards} Pods find no node: 0/1 nodes")
            if entry.state == "queued"
            else None,
        )


HISTORY: list[dict[str, Any]] = [
    {},
    {"prepare": ("succeeded", 0)},
    {"sft": ("failed", 75)},
    {"wait": 11},
    {"sft": ("failed", 143)},
    {"sft": ("queued", 0)},
    {"sft": ("running", 0)},
    {"suspend": True},
    {"sft": ("suspended", 0)},
    {"suspend": False},
    {"sft": ("succeeded", 0)},
    {"generate-1": ("queued", 0)},
    {"evaluate-0": ("suspended", 0)},
    {"generate-1": ("succeeded", 0)},
    {"reflect-1": ("failed", 65)},
    {"retry": "again"},
    {"reflect-1": ("succeeded", 0)},
    {"dpo-1": ("vanished", 0)},
    {"dpo-1": ("succeeded", 0)},
    {"evaluate-0": ("running", 0)},
    {"evaluate-0": ("succeeded", 0)},
    {"evaluate-1": ("succeeded", 0)},
    {"iterations": 2},
]


def plans_of(executor: Cluster | Driver) -> list[Plan]:
    """The plans of one executor over the whole history."""
    document, retry, now = dict(DOCUMENT), None, datetime(2026, 1, 1, tzinfo=UTC)
    entries: list[Entry] = []
    previous: RunStatus | None = None
    plans = []
    for moment in HISTORY:
        now += timedelta(seconds=1 + moment.get("wait", 0))
        document |= {name: moment[name] for name in ("suspend", "iterations") if name in moment}
        retry = moment.get("retry", retry)
        for name, value in moment.items():
            if not isinstance(value, tuple):
                continue
            state, code = value
            (entry,) = [entry for entry in entries if entry.start.spec.stage == name and entry.state not in ("failed",)]
            if state == "vanished":
                entries.remove(entry)
                continue
            entry.state, entry.code = state, code
            entry.report = (
                report_of(name) if state == "succeeded" else {"reason": "Reported", "message": f"a message of {name}"}
            )
        spec = EvolutionRunSpec.model_validate(document)
        run = Run(RunRef(namespace=OWNER.namespace, name=OWNER.name, uid=OWNER.uid), spec, 1, OWNER.uid, {}, retry)
        for _ in range(10):
            decided = plan(run, Observed(executor.observed(spec, entries), previous=previous), now)
            plans.append(decided)
            previous = decided.status
            for action in decided.actions:
                carry_out(action, entries)
            if not decided.actions:
                break
    return plans


def carry_out(action: object, entries: list[Entry]) -> None:
    """Carry out an action at once, as both executors do."""
    if isinstance(action, Start):
        entries.append(Entry(action))
        return
    assert isinstance(action, Stop | Suspend | Resume)
    for entry in list(entries):
        if (entry.start.spec.stage, entry.start.number) == (action.stage, action.number):
            if isinstance(action, Stop):
                entries.remove(entry)
            else:
                entry.state = "suspended" if isinstance(action, Suspend) else "running"


def test_both_executors_get_the_same_plans() -> None:
    cluster, driver = plans_of(Cluster()), plans_of(Driver())
    for here, there in zip(cluster, driver, strict=True):
        assert here == there
    final = cluster[-1]
    assert {kind for p in cluster for kind in map(type, p.actions)} >= {Start, Suspend, Resume}
    assert final.status.progress == "7/11"
    assert {event.reason for p in cluster for event in p.events} >= {"StageRetrying", "Failed", "Complete", "Suspended"}
