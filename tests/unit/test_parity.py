"""One history, told by Jobs and Pods and told by attempts: the planner decides the same of both."""

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

from tests.support.cluster.objects import ENDED, OWNER, STARTED, job_object, pod_object
from tests.support.run_document import minimal_spec

DOCUMENT = minimal_spec(iterations=1, generation={"shards": 2}, retry={"maxAttempts": 3, "backoffSeconds": 10})
CONTENTS = {name: name * 4 for name in ("model", "train", "validation", "contexts", "test")}
BEGAN, OVER = datetime.fromisoformat(STARTED), datetime.fromisoformat(ENDED)


def report(stage: str) -> dict[str, Any]:
    words: dict[str, Any] = {"reason": "Completed", "seconds": 9.0, "digest": "d" * 64}
    if stage == "prepare":
        words["contents"] = CONTENTS
    if stage.startswith("evaluate"):
        words["metrics"] = {"distinct2": 0.5}
    return words


@dataclass
class Told:
    """An attempt and what has become of it."""

    start: Start
    what: str = "running"
    words: dict[str, Any] = field(default_factory=dict)
    code: int = 0


class Cluster:
    """Tells of attempts by Jobs and Pods."""

    def observed(self, spec: EvolutionRunSpec, told: list[Told]) -> tuple[Attempt, ...]:
        jobs, pods = [], []
        for entry in told:
            start, ended = entry.start, {"succeeded": ("Complete",), "failed": ("Failed",)}.get(entry.what, ())
            done = start.shards if entry.what == "succeeded" else 0
            job = job_object(spec, start, *ended, succeeded=done, suspend=entry.what == "suspended")
            jobs.append(job_view(job))
            for shard in range(start.shards):
                settings: dict[str, Any] = {"name": f"pod-{shard}"}
                if entry.what == "succeeded":
                    last = shard == start.shards - 1
                    words = entry.words if last else {"reason": "ShardCompleted"}
                    settings |= {"phase": "Succeeded", "code": 0, "message": words}
                elif entry.what == "failed":
                    settings |= {"phase": "Failed", "code": entry.code, "message": entry.words}
                elif entry.what == "queued":
                    settings |= {"phase": "Pending", "unschedulable": "0/1 nodes"}
                elif entry.what == "suspended":
                    settings |= {"phase": "Failed", "code": 143}
                pods.append(pod_view(pod_object(job, **settings)))
        return observe(OWNER, [job.with_pods(pods) for job in jobs], {}, {}, {})


class Driver:
    """Tells of attempts as a hand does that runs them itself."""

    KINDS = {65: "permanent", 75: "transient", 143: "disruption"}

    def observed(self, spec: EvolutionRunSpec, told: list[Told]) -> tuple[Attempt, ...]:
        return tuple(self._attempt(spec, entry) for entry in told)

    def _attempt(self, spec: EvolutionRunSpec, entry: Told) -> Attempt:
        start = entry.start
        shards = start.shards
        failure = None
        if entry.what == "failed":
            failure = Failure(self.KINDS[entry.code], entry.words["reason"], entry.words["message"])  # type: ignore[arg-type]
        return Attempt(
            stage=start.spec.stage,
            number=start.number,
            key=start.spec.key,
            state=entry.what,  # type: ignore[arg-type]
            name=job_object(spec, start)["metadata"]["name"],
            started_at=BEGAN,
            finished_at=OVER if entry.what in ("succeeded", "failed") else None,
            failure=failure,
            report=Report.model_validate_json(json.dumps(entry.words)) if entry.what == "succeeded" else None,
            shards=shards,
            shards_done=shards if entry.what == "succeeded" else 0,
            note=("Unschedulable", f"{shards} of {shards} Pods find no node: 0/1 nodes")
            if entry.what == "queued"
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
    {"evaluate-0": ("succeeded", 0), "evaluate-1": ("succeeded", 0)},
    {"iterations": 2},
]


def live(hand: Cluster | Driver) -> list[Plan]:
    """The plans of one hand over the whole history."""
    document, retry, now = dict(DOCUMENT), None, datetime(2026, 1, 1, tzinfo=UTC)
    told: list[Told] = []
    previous: RunStatus | None = None
    plans = []
    for moment in HISTORY:
        now += timedelta(seconds=1 + moment.get("wait", 0))
        document |= {name: moment[name] for name in ("suspend", "iterations") if name in moment}
        retry = moment.get("retry", retry)
        for name, value in moment.items():
            if not isinstance(value, tuple):
                continue
            what, code = value
            (entry,) = [entry for entry in told if entry.start.spec.stage == name and entry.what not in ("failed",)]
            if what == "vanished":
                told.remove(entry)
                continue
            entry.what, entry.code = what, code
            entry.words = report(name) if what == "succeeded" else {"reason": "Told", "message": f"{name} said so"}
        spec = EvolutionRunSpec.model_validate(document)
        run = Run(RunRef(namespace=OWNER.namespace, name=OWNER.name, uid=OWNER.uid), spec, 1, OWNER.uid, {}, retry)
        for _ in range(10):
            decided = plan(run, Observed(hand.observed(spec, told), previous=previous), now)
            plans.append(decided)
            previous = decided.status
            for action in decided.actions:
                carry_out(action, told)
            if not decided.actions:
                break
    return plans


def carry_out(action: object, told: list[Told]) -> None:
    """As both hands do, at once."""
    if isinstance(action, Start):
        told.append(Told(action))
        return
    assert isinstance(action, Stop | Suspend | Resume)
    for entry in list(told):
        if (entry.start.spec.stage, entry.start.number) == (action.stage, action.number):
            if isinstance(action, Stop):
                told.remove(entry)
            else:
                entry.what = "suspended" if isinstance(action, Suspend) else "running"


def test_both_hands_get_the_same_plans() -> None:
    cluster, driver = live(Cluster()), live(Driver())
    for here, there in zip(cluster, driver, strict=True):
        assert here == there
    final = cluster[-1]
    assert {kind for p in cluster for kind in map(type, p.actions)} >= {Start, Suspend, Resume}
    assert final.status.progress == "7/11"
    assert {event.reason for p in cluster for event in p.events} >= {"StageRetrying", "Failed", "Complete", "Suspended"}
