"""Random histories of the planner: Jobs that fail, vanish and appear late, lost writes, and a user who edits the spec."""

import copy
import dataclasses
import os
from datetime import UTC, datetime, timedelta

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import Report, canonical_digest
from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.planner.actions import Resume, Start, Stop, Suspend
from evolution_operator.planner.graph import build_graph, critical
from evolution_operator.planner.observed import Attempt, Failure, Observed, Published, Run
from evolution_operator.planner.plan import plan
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.run_document import minimal_spec

JUDGE = {"url": "http://judge:8000/v1", "model": "large"}
ACTIVE = ("queued", "running", "suspended")
SPEC = minimal_spec(seed_uri="file:///data/esconv.jsonl", iterations=1, retry={"maxAttempts": 2, "backoffSeconds": 10})


@dataclasses.dataclass
class Job:
    """An attempt, and whether the planner sees it."""

    attempt: Attempt
    start: Start
    visible: bool = False
    """False while the list that the planner is given lags behind."""
    stopping: bool = False
    """Asked to stop, and not yet gone."""


ENDS = {None: 3, 1.5: 1, 2.5: 2}
"""Last round that a length ratio allows: M1 has twice the words of M0, M2 three times as many."""


def figures_of(stage):
    """Answers get longer with each round, and no better. A judge is of two minds."""
    if stage.startswith("judge"):
        return {"judge_tie_rate": 50.0}
    if not stage.startswith("evaluate"):
        return {}
    return {"distinct2": 1.0, "length_words": 10.0 * (1 + int(stage.rpartition("-")[2]))}


class World:
    """Jobs and a store. It carries out actions and checks each against the real state."""

    def __init__(self, restarts, now):
        self.restarts = restarts
        """Whether a restart loses everything but the store (the local driver), or keeps the status (the controller)."""
        self.now = now
        self.spec = copy.deepcopy(SPEC)
        self.generation = 1
        self.retry = None
        self.life = 0
        self.jobs: list[Job] = []
        self.store: dict[str, Published] = {}
        self.contents: dict[str, dict[str, str]] = {}
        """Contents in prepare's manifests in the store, by key."""
        self.ended: set[tuple[str, str, str]] = set()
        """Attempts that have failed, or were stopped in a saved status. None of them may start again."""
        self.previous = None

    def run(self):
        return Run(
            ref=RunRef(namespace="default", name="first", uid="uid"),
            spec=EvolutionRunSpec.model_validate(self.spec),
            generation=self.generation,
            attempt_prefix=f"life{self.life}",
            retry=self.retry,
        )

    def observed(self):
        attempts = tuple(job.attempt for job in self.jobs if job.visible)
        if not self.restarts:
            return Observed(attempts=attempts, previous=self.previous)
        prepare = resolve_keys(build_graph(self.run().spec, {}), None)["prepare"]
        contents = self.contents.get(prepare) if prepare in self.store else None
        return Observed(attempts=attempts, published=dict(self.store), contents=contents, previous=self.previous)

    def apply(self, action):
        match action:
            case Start(spec=spec, number=number):
                for job in self.jobs:
                    if (job.attempt.stage, job.attempt.number, job.attempt.key) == (spec.stage, number, spec.key):
                        return
                assert (spec.stage, spec.key, spec.attempt) not in self.ended, "an attempt starts again"
                attempt = Attempt(spec.stage, number, spec.key, "queued", name=f"{spec.stage}-{number}")
                self.jobs.append(Job(attempt, action))
            case Stop(stage=stage, number=number):
                for job in self.named(stage, number):
                    job.stopping = True
            case Suspend(stage=stage, number=number):
                for job in self.named(stage, number):
                    job.attempt = dataclasses.replace(job.attempt, state="suspended")
            case Resume(stage=stage, number=number):
                for job in self.named(stage, number):
                    job.attempt = dataclasses.replace(job.attempt, state="queued")

    def save_status(self, status):
        self.previous = status
        # A stop that no saved status records leaves an attempt that has vanished: it starts again under its old number.
        settled = {stage.id: stage.settled for stage in status.stages}
        self.ended |= {
            (job.attempt.stage, job.attempt.key, job.start.spec.attempt)
            for job in self.jobs
            if job.stopping and job.attempt.number <= settled.get(job.attempt.stage, 0)
        }

    def named(self, stage, number):
        return [
            job
            for job in self.jobs
            if (job.attempt.stage, job.attempt.number) == (stage, number) and job.attempt.state in ACTIVE
        ]

    def succeed(self, job, with_report=True):
        spec = job.start.spec
        missing = [source.stage for source in spec.inputs.values() if source.key not in self.store]
        if missing:
            return self.fail(job, Failure("transient", "InputCorrupt", "no such manifest", corrupt=missing[0]))
        cached = spec.key in self.store
        figures = figures_of(spec.stage)
        report = Report(reason="Cached" if cached else "Completed", key=spec.key, metrics=figures, seconds=5)
        self.store.setdefault(spec.key, Published(metrics=figures))
        if spec.kind == "prepare":
            turns = spec.settings.min_history_turns
            names = ("model", "train", "validation", "contexts", "test")
            # The training data does not depend on what is edited, so some keys survive and some do not.
            contents = {name: canonical_digest([name, turns if name in ("contexts", "test") else 0]) for name in names}
            self.contents[spec.key] = contents
            keys = resolve_keys(spec.graph, contents)
            published = [stage for stage, key in keys.items() if key in self.store]
            known = {stage: figures for stage in published if (figures := figures_of(stage))}
            report = report.model_copy(update={"contents": contents, "published": published, "figures": known})
        job.attempt = dataclasses.replace(
            job.attempt, state="succeeded", finished_at=self.now, report=report if with_report else None, gpu_seconds=2
        )
        return None

    def fail(self, job, failure):
        if failure.corrupt:
            for source in job.start.spec.inputs.values():
                if source.stage == failure.corrupt:
                    self.store.pop(source.key, None)
        self.ended.add((job.attempt.stage, job.attempt.key, job.start.spec.attempt))
        job.attempt = dataclasses.replace(job.attempt, state="failed", failure=failure, finished_at=self.now)

    def unseen_corruption(self, stage):
        """Whether the stage's result was withdrawn by an attempt that the planner does not see yet."""
        return any(
            not job.visible and job.attempt.failure and job.attempt.failure.corrupt == stage for job in self.jobs
        )

    def wanted_keys(self):
        graph = build_graph(self.run().spec, {})
        return resolve_keys(graph, self.contents.get(resolve_keys(graph, None)["prepare"]))


def check(world, observed, answer):
    """Invariants of every answer of the planner."""
    status, actions = answer.status, answer.actions
    starts = [action for action in actions if isinstance(action, Start)]
    for start in starts:
        assert start.spec.key not in observed.published, "a published stage starts again"
        assert status.phase == "Running"
        stages = status.stage_by_id()
        for source in start.spec.inputs.values():
            assert source.key in world.store or world.unseen_corruption(source.stage), (
                f"{start.spec.stage} starts before {source.stage} is published"
            )
            assert stages[source.stage].state == "Succeeded"
    named = [(action.stage, action.number) for action in actions if not isinstance(action, Start)]
    named += [(start.spec.stage, start.number) for start in starts]
    assert len(named) == len(set(named)), "two actions on one attempt"
    check_evaluation_yields(world, observed, answer)
    times = [stage.next_attempt_at for stage in status.stages if stage.state == "Backoff"]
    assert all(time > world.now for time in times)
    if times:
        assert answer.wake_at is not None
        assert answer.wake_at <= min(times)
    assert answer.wake_at is None or answer.wake_at > world.now
    before = {condition.type: condition for condition in observed.previous.conditions} if observed.previous else {}
    for condition in status.conditions:
        old = before.get(condition.type)
        same = old is not None and old.status == condition.status
        assert condition.last_transition_time == (old.last_transition_time if same else world.now)
    assert [condition.type for condition in status.conditions] == [
        "Accepted",
        "Progressing",
        "Suspended",
        "Complete",
        "Failed",
        *(["StoppedEarly"] if "stopping" in world.spec else []),
    ]


def check_evaluation_yields(world, observed, answer):
    stages = answer.status.stage_by_id()
    awaited = critical(build_graph(world.run().spec, {}))
    waiting = [a for a in observed.attempts if a.stage in awaited and a.state == "queued"]
    if not any(stages[a.stage].state == "Queued" for a in waiting if a.stage in stages):
        return
    yielding = {(action.stage, action.number) for action in answer.actions if isinstance(action, Suspend | Stop)}
    assert not any(isinstance(a, Resume) and a.stage not in awaited for a in answer.actions)
    for attempt in observed.attempts:
        if attempt.stage not in awaited and attempt.state in ("queued", "running"):
            assert (attempt.stage, attempt.number) in yielding, "a critical stage waits behind an evaluation"


def check_fixed_point(world, observed, answer):
    """Planning again on the same observation records nothing new. Once started attempts are visible, nothing new starts."""
    again = plan(world.run(), dataclasses.replace(observed, previous=answer.status), world.now)
    assert again.status == answer.status
    assert again.events == ()
    started = [action for action in answer.actions if isinstance(action, Start)]
    new = tuple(Attempt(s.spec.stage, s.number, s.spec.key, "queued") for s in started)
    seen = dataclasses.replace(observed, previous=answer.status, attempts=observed.attempts + new)
    assert not [action for action in plan(world.run(), seen, world.now).actions if isinstance(action, Start)]


class Planning(RuleBasedStateMachine):
    @initialize(restarts=st.booleans())
    def begin(self, restarts):
        self.world = World(restarts, datetime(2026, 1, 1, tzinfo=UTC))
        self.unsaved = False
        self.reported = set()

    def pick(self, index, *states):
        jobs = [job for job in self.world.jobs if job.attempt.state in states]
        return jobs[index % len(jobs)] if jobs else None

    # ---- the executor

    def answer(self):
        world = self.world
        run, observed = world.run(), world.observed()
        before = copy.deepcopy((run, observed))
        answer = plan(run, observed, world.now)
        assert (run, observed) == before, "the input is mutated"
        assert answer == plan(*before, world.now), "the answer depends on more than the input"
        check(world, observed, answer)
        check_fixed_point(world, observed, answer)
        return answer

    @rule()
    def reconcile(self):
        if self.unsaved:
            self.see()
        self.carry_out(self.answer())

    def carry_out(self, answer):
        for action in answer.actions:
            self.world.apply(action)
        # An attempt that is not visible cannot be stopped. All others live once.
        live = [j.attempt.stage for j in self.world.jobs if j.attempt.state in ACTIVE and j.visible and not j.stopping]
        assert len(live) == len(set(live)), "two live attempts at one stage"
        self.save(answer)

    def save(self, answer):
        """Write the status, and record its events."""
        stages = answer.status.stage_by_id()
        for event in answer.events:
            if event.reason in ("StageRetrying", "StageFailed"):
                stage = stages[event.message.partition(":")[0].partition(" ")[0]]
                failure = (self.world.life, stage.id, stage.key, stage.settled)
                assert failure not in self.reported, "a failure is reported twice"
                self.reported.add(failure)
        self.world.save_status(answer.status)
        self.unsaved = False

    @rule(count=st.integers(0, 3))
    def reconcile_and_crash_during_the_actions(self, count):
        """The status is written first here. The remaining actions must follow later."""
        if self.unsaved:
            self.see()
        answer = self.answer()
        for action in answer.actions[:count]:
            self.world.apply(action)
        self.save(answer)

    @rule()
    def reconcile_and_lose_the_status(self):
        """The actions are carried out first here. The write of the status fails."""
        if self.unsaved:
            self.see()
        for action in self.answer().actions:
            self.world.apply(action)
        self.unsaved = True

    @rule()
    def see(self):
        for job in self.world.jobs:
            job.visible = True

    @precondition(lambda self: self.world.restarts)
    @rule()
    def restart(self):
        self.world.jobs.clear()
        self.world.previous = None
        self.world.life += 1
        self.unsaved = False

    @rule()
    def work(self):
        """No faults for a while, so that the run makes progress."""
        self.see()
        self.reconcile()
        self.see()
        self.succeed_all()

    # ---- Jobs

    @rule(index=st.integers(0, 9))
    def admit(self, index):
        if job := self.pick(index, "queued"):
            job.attempt = dataclasses.replace(job.attempt, state="running", started_at=self.world.now)

    @rule(index=st.integers(0, 9), with_report=st.booleans())
    def succeed(self, index, with_report):
        if job := self.pick(index, "running"):
            self.world.succeed(job, with_report)

    @rule()
    def succeed_all(self):
        for job in self.world.jobs:
            if job.attempt.state in ("queued", "running") and not job.stopping:
                self.world.succeed(job)

    @rule(index=st.integers(0, 9), kind=st.sampled_from(["permanent", "transient", "disruption", "out-of-memory"]))
    def fail(self, index, kind):
        if job := self.pick(index, "running"):
            self.world.fail(job, Failure(kind, "Reason", "message"))

    @rule(index=st.integers(0, 9), which=st.integers(0, 3))
    def find_corrupt_input(self, index, which):
        if job := self.pick(index, "running"):
            sources = sorted({source.stage for source in job.start.spec.inputs.values()})
            if sources:
                corrupt = sources[which % len(sources)]
                self.world.fail(job, Failure("transient", "InputCorrupt", "digest", corrupt=corrupt))

    @precondition(lambda self: not self.unsaved)
    @rule(index=st.integers(0, 9))
    def vanish(self, index):
        if job := self.pick(index, "queued", "running", "suspended", "succeeded"):
            self.world.jobs.remove(job)

    @precondition(lambda self: not self.unsaved)
    @rule()
    def stopped_jobs_end(self):
        self.world.jobs = [job for job in self.world.jobs if not job.stopping]

    # ---- the user and the clock

    def edit(self, change):
        change(self.world.spec)
        self.world.generation += 1

    @rule(suspend=st.booleans())
    def suspend(self, suspend):
        self.edit(lambda spec: spec.update(suspend=suspend))

    @rule()
    def raise_iterations(self):
        self.edit(lambda spec: spec.update(iterations=min(spec["iterations"] + 1, 3)))

    @rule(beta=st.sampled_from([0.1, 0.2]))
    def edit_beta(self, beta):
        self.edit(lambda spec: spec.update(dpo={"beta": beta}))

    @rule(judge=st.sampled_from([None, JUDGE, {**JUDGE, "model": "larger"}]))
    def edit_judge(self, judge):
        self.edit(lambda spec: spec.update(judge=judge))

    @rule(turns=st.sampled_from([3, 4]))
    def edit_data(self, turns):
        self.edit(lambda spec: spec["data"].update(minHistoryTurns=turns))

    @rule(ratio=st.sampled_from(sorted(ENDS, key=str)))
    def edit_stopping(self, ratio):
        self.edit(lambda spec: spec.pop("stopping", None))
        if ratio is not None:
            self.edit(lambda spec: spec.update(stopping={"lengthRatio": ratio}))

    @rule(seconds=st.sampled_from([None, 1, 100]))
    def edit_deadline(self, seconds):
        self.edit(lambda spec: spec.update(activeDeadlineSeconds=seconds))

    @rule()
    def ask_for_retry(self):
        self.world.retry = str(int(self.world.retry or 0) + 1)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    def wait(self, seconds):
        self.world.now += timedelta(seconds=seconds)

    # ---- the end

    def teardown(self):
        """Without further faults, the run ends Complete from any state, and stays so."""
        if not hasattr(self, "world"):
            return
        world = self.world
        self.edit(lambda spec: spec.update(suspend=False, activeDeadlineSeconds=None))
        for _ in range(60):
            self.see()
            self.carry_out(plan(world.run(), world.observed(), world.now))
            if world.previous.phase == "Complete":
                break
            if world.previous.phase == "Failed":
                self.ask_for_retry()
            self.succeed_all()
            self.stopped_jobs_end()
            answer = plan(world.run(), world.observed(), world.now)
            world.now = max(world.now + timedelta(seconds=1), answer.wake_at or world.now)
        assert world.previous.phase == "Complete"
        ratio = world.spec.get("stopping", {}).get("lengthRatio")
        last = min(world.spec["iterations"], ENDS[ratio])
        wanted = {key for stage, key in world.wanted_keys().items() if int(stage.partition("-")[2] or 0) <= last}
        assert wanted <= world.store.keys()
        self.see()
        self.reconcile()
        self.stopped_jobs_end()
        end = plan(world.run(), world.observed(), world.now)
        assert (end.actions, end.events, end.status) == ((), (), world.previous)
        assert [entry.iteration for entry in end.status.metrics] == list(range(last + 1))
        assert end.status.champion == 0


TestPlanning = Planning.TestCase
TestPlanning.settings = settings(
    max_examples=int(os.environ.get("N", "60")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
