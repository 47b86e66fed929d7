"""Passes of the reconciler while its cache lags behind the cluster, or responses are lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from evolution_jobs.contract.stage import RankLayout
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller import labels
from evolution_operator.controller.executor import Executor
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import KubeClient
from evolution_operator.controller.seen.cache import Cache

from tests.support.cluster.fake_api_server import ApiServer, WatchEvent
from tests.support.cluster.fake_controllers import World, deleting, stage, work
from tests.support.cluster.objects import OWNER, SETTINGS, stage_start
from tests.support.cluster.operator_in_process import KEY, RUNS, Operator
from tests.support.run_document import minimal_spec, run_document

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = "2026-01-01T00:00:00Z"


class Scenario:
    """A run, its operator and a cluster. The operator gets watch events only when a test delivers them."""

    def __init__(self, **spec: Any) -> None:
        self.events: list[WatchEvent] = []
        self.server = ApiServer(lambda: STAMP, self.events.append)
        self.world = World(self.server, lambda: STAMP)
        document = run_document(minimal_spec(**spec), name=KEY.name, namespace=KEY.namespace)
        self.server.create(RUNS, KEY.namespace, document)
        self.operator = Operator(self.server, lambda: NOW)

    def deliver(self, kind: str) -> None:
        """Deliver all watch events of one kind to the operator."""
        for event in self.events:
            if event.kind == kind:
                self.operator.apply(event)

    def reconcile(self) -> None:
        self.operator.reconciler.reconcile(KEY)

    def lose_response(self, method: str, kind: str) -> None:
        """The next such call takes effect, but its response is lost."""

        def fail() -> None:
            self.server.before = lambda *_: lambda: None
            raise UnreachableError("the connection is gone")

        self.server.before = lambda *call: fail if call[:2] == (method, kind) else lambda: None

    def controllers_work(self) -> None:
        for job in self.world.jobs():
            self.world.control(job)


def test_a_deleted_job_is_not_created_again_while_an_unreported_pod_of_it_is_alive() -> None:
    scenario = Scenario()
    scenario.reconcile()
    scenario.controllers_work()
    (job,) = scenario.world.jobs()
    scenario.world.delete_job(job, "Background")
    scenario.deliver("jobs")
    scenario.reconcile()
    assert scenario.world.jobs() == []
    (pod,) = scenario.world.pods()
    scenario.world.delete_pod(pod)
    scenario.deliver("pods")
    scenario.reconcile()
    assert [stage(job) for job in scenario.world.jobs()] == ["prepare"]


def test_nodes_that_train_together_get_the_runs_service() -> None:
    server = ApiServer(lambda: STAMP)
    executor = Executor(KubeClient(server), Cache(), SETTINGS)  # type: ignore[arg-type]
    spec = EvolutionRunSpec.model_validate(minimal_spec())
    starts = [stage_start(kind, 1, ranks=RankLayout(nodes=2)) for kind in ("sft", "dpo")]
    outcome = executor.execute(OWNER, spec, [stage_start("prepare"), *starts])
    assert [attempt.stage for attempt in outcome.begun] == ["prepare", "sft", "dpo-1"]
    assert outcome.held == ()
    (service,) = server.all("services")
    hosts = {job["spec"]["template"]["spec"].get("subdomain") for job in server.all("jobs")}
    assert hosts == {None, service["metadata"]["name"]}


@pytest.mark.parametrize("pods", ["pods", "nothing"])
def test_an_edited_job_that_is_deleted_before_its_repair_is_not_created_again_beside_its_pod(pods: str) -> None:
    scenario = Scenario()
    scenario.reconcile()
    scenario.controllers_work()
    (job,) = scenario.world.jobs()
    scenario.server.patch(
        "jobs", KEY.namespace, job["metadata"]["name"], {"metadata": {"labels": {labels.ATTEMPT: None}}}
    )
    scenario.deliver("jobs")
    scenario.deliver(pods)
    scenario.world.delete_job(job, "Background")
    scenario.reconcile()
    assert scenario.world.jobs() == []


def test_a_job_is_not_created_again_beside_its_pod_if_the_response_was_lost() -> None:
    scenario = Scenario()
    scenario.lose_response("POST", "jobs")
    with pytest.raises(UnreachableError):
        scenario.reconcile()
    scenario.controllers_work()
    (job,) = scenario.world.jobs()
    scenario.world.delete_job(job, "Background")
    scenario.reconcile()
    assert scenario.world.jobs() == []


def test_no_artifact_is_deleted_while_an_unreported_job_is_alive() -> None:
    """The call that created the Job took effect, but its response was lost."""
    scenario = Scenario(deletionPolicy="Delete")
    scenario.lose_response("POST", "jobs")
    with pytest.raises(UnreachableError):
        scenario.reconcile()
    scenario.server.delete(RUNS, *KEY, "Background")
    scenario.deliver(RUNS)
    scenario.reconcile()
    (job,) = scenario.world.jobs()
    assert (stage(job), deleting(job)) == ("prepare", True)
    scenario.world.collect_garbage()
    scenario.deliver("jobs")
    scenario.reconcile()
    assert [stage(job) for job in scenario.world.jobs()] == ["cleanup"]


def _cleanup_that_ends(scenario: Scenario, code: int, report: object) -> None:
    """The run is deleted, and the Pod of its cleanup ends like this."""
    scenario.server.delete(RUNS, *KEY, "Background")
    scenario.deliver(RUNS)
    scenario.reconcile()
    scenario.controllers_work()
    (pod,) = scenario.world.pods()
    scenario.world.run_pod(pod)
    scenario.world.end(pod, code, report)
    scenario.deliver("jobs")
    scenario.deliver("pods")
    scenario.reconcile()


@pytest.mark.parametrize(
    ("code", "report", "cause"),
    [
        (
            65,
            {"reason": "StorageDenied", "message": "s3://bucket/runs: the credentials are refused"},
            "StorageDenied: s3://bucket/runs: the credentials are refused",
        ),
        (65, None, "Error: Pod {pod} ended (exit code 65): it left no message; see its log"),
    ],
)
def test_the_event_about_a_failed_cleanup_has_the_cleanups_own_message(code: int, report: object, cause: str) -> None:
    scenario = Scenario(deletionPolicy="Delete", suspend=True)
    scenario.reconcile()
    scenario.deliver(RUNS)
    _cleanup_that_ends(scenario, code, report)
    (event,) = [event for event in scenario.server.all("events") if event["reason"] == "CleanupFailed"]
    (job,) = scenario.world.jobs()
    name = job["metadata"]["name"]
    assert event["message"] == (
        f"artifacts in s3://bucket/runs could not be deleted: {cause.format(pod=f'{name}-0-0')} (Job {name}). "
        "The operator tries again; to keep them and delete only the run, set spec.deletionPolicy to Retain"
    )


def test_a_cleanup_that_kept_everything_says_why_and_the_run_is_removed() -> None:
    scenario = Scenario(deletionPolicy="Delete", suspend=True)
    scenario.reconcile()
    scenario.deliver(RUNS)
    _cleanup_that_ends(scenario, 0, {"reason": "RecordsUnknown", "message": "runs/team/other/v2 may be a record"})
    scenario.controllers_work()
    scenario.deliver("jobs")
    scenario.reconcile()
    (event,) = [event for event in scenario.server.all("events") if event["reason"] == "ArtifactsKept"]
    assert (event["type"], event["message"]) == ("Warning", "runs/team/other/v2 may be a record")
    assert list(scenario.server.all(RUNS)) == []


def test_a_failed_cleanup_is_reported_before_its_job_retries() -> None:
    scenario = Scenario(deletionPolicy="Delete", suspend=True)
    scenario.reconcile()
    scenario.deliver(RUNS)
    _cleanup_that_ends(scenario, 75, {"reason": "StorageUnreachable", "message": "no answer"})
    (event,) = [event for event in scenario.server.all("events") if event["reason"] == "CleanupFailed"]
    assert "StorageUnreachable: no answer" in event["message"]


@pytest.mark.parametrize("noticed", ["by its watch", "by a conflict"])
def test_events_are_recorded_once_if_the_response_to_the_status_write_was_lost(noticed: str) -> None:
    scenario = Scenario()
    scenario.lose_response("PATCH", RUNS)
    with pytest.raises(UnreachableError):
        scenario.reconcile()
    assert list(scenario.server.all("events")) == []
    if noticed == "by its watch":
        scenario.deliver(RUNS)
    for _ in range(3):
        scenario.reconcile()
    assert [event["message"] for event in scenario.server.all("events")] == ["11 stages; started: prepare"]


def test_events_of_a_status_that_was_not_written_are_recorded_with_the_next_one() -> None:
    scenario = Scenario()

    def fail(*call: Any) -> Callable[[], None]:
        if call[:2] == ("PATCH", RUNS):
            scenario.server.before = lambda *_: lambda: None
            raise UnreachableError("the connection is gone")
        return lambda: None

    scenario.server.before = fail
    with pytest.raises(UnreachableError):
        scenario.reconcile()
    for _ in range(3):
        scenario.reconcile()
    assert [event["message"] for event in scenario.server.all("events")] == ["11 stages; started: prepare"]


EVICTED = "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. "


def running_pod(scenario: Scenario) -> dict[str, Any]:
    """The only Pod that may run, which runs now."""
    scenario.controllers_work()
    (pod,) = scenario.world.pods("Pending")
    scenario.world.run_pod(pod)
    return next(each for each in scenario.world.pods("Running") if each["metadata"]["uid"] == pod["metadata"]["uid"])


def test_a_run_goes_on_if_a_sidecar_keeps_the_pod_of_a_stage_that_has_ended() -> None:
    scenario = Scenario(iterations=0)
    scenario.reconcile()
    pod = running_pod(scenario)
    code, report = work(scenario.world.results, pod)
    proxy = {"name": "proxy", "state": {"running": {"startedAt": STAMP}}}
    ended = {"exitCode": code, "message": json.dumps(report), "startedAt": STAMP, "finishedAt": STAMP}
    states = [{"name": "stage", "state": {"terminated": ended}}, proxy]
    scenario.server.patch("pods", KEY.namespace, pod["metadata"]["name"], {"status": {"containerStatuses": states}})
    for kind in ("jobs", "pods", RUNS):
        scenario.deliver(kind)
    scenario.reconcile()
    assert {stage(job): deleting(job) for job in scenario.world.jobs()} == {"prepare": True, "sft": False}
    (run,) = scenario.server.all(RUNS)
    (prepare,) = [each for each in run["status"]["stages"] if each["id"] == "prepare"]
    assert (prepare["state"], "container proxy kept its Pod" in prepare["message"]) == ("Succeeded", True)


@pytest.mark.parametrize("code", [137, 143])
def test_a_stage_that_exceeds_its_own_limit_each_time_fails_in_the_end(code: int) -> None:
    """With code 143 the Job controller would replace its Pod for ever."""
    scenario = Scenario(retry={"maxAttempts": 3, "backoffSeconds": 0})
    scenario.reconcile()
    for _ in range(3):
        pod = running_pod(scenario)
        evicted = {"reason": "Evicted", "message": EVICTED}
        scenario.server.patch("pods", KEY.namespace, pod["metadata"]["name"], {"status": evicted})
        scenario.world.end(next(iter(scenario.world.pods("Running"))), code, {})
        for _ in range(3):
            for kind in ("jobs", "pods", RUNS):
                scenario.deliver(kind)
            scenario.events.clear()
            scenario.reconcile()
            scenario.world.collect_garbage()
    (run,) = scenario.server.all(RUNS)
    assert run["status"]["phase"] == "Failed"
    (failed,) = [each for each in run["status"]["conditions"] if each["type"] == "Failed"]
    assert failed["reason"] == "RetriesExhausted"
    assert 'limits["ephemeral-storage"]' in failed["message"]


def suspends_jobs(scenario: Scenario) -> None:
    """An admission webhook suspends each Job that is created or changed."""

    def mutate(method: str, kind: str, _name: str, body: Any) -> Callable[[], None]:
        if kind == "jobs" and method in ("POST", "PATCH"):
            body["spec"] = {**body.get("spec", {}), "suspend": True}
        return lambda: None

    scenario.server.before = mutate


def test_a_job_that_something_else_suspends_is_left_alone_until_that_resumes_it() -> None:
    scenario = Scenario(iterations=0)
    suspends_jobs(scenario)

    def passes() -> dict[str, Any]:
        for _ in range(5):
            for kind in ("jobs", "pods", RUNS):
                scenario.deliver(kind)
            scenario.events.clear()
            scenario.reconcile()
        (run,) = scenario.server.all(RUNS)
        return dict(run["status"]["stages"][0])

    assert [passes()[field] for field in ("state", "reason", "attempts")] == ["Queued", "JobSuspended", 1]
    writes = scenario.server.writes
    assert passes()["state"] == "Queued"
    assert scenario.server.writes == writes, "nothing is written while it waits"
    # A user suspends the run and resumes it.
    for suspend in (True, False):
        scenario.server.patch(RUNS, KEY.namespace, KEY.name, {"spec": {"suspend": suspend}})
        passes()
    assert passes()["reason"] == "JobSuspended", "it was resumed once"
    (job,) = scenario.world.jobs()
    scenario.server.patch("jobs", KEY.namespace, job["metadata"]["name"], {"spec": {"suspend": False}})
    scenario.controllers_work()
    assert (passes()["state"], len(scenario.world.jobs())) == ("Running", 1)


def test_labels_that_something_else_removes_are_put_back_once_in_a_while() -> None:
    scenario = Scenario(iterations=0)

    def strip(method: str, kind: str, _name: str, body: Any) -> Callable[[], None]:
        if kind == "jobs" and method in ("POST", "PATCH"):
            body["metadata"]["labels"] = {**body["metadata"]["labels"], labels.ATTEMPT: "0"}
        return lambda: None

    scenario.server.before = strip
    for _ in range(4):
        scenario.reconcile()
        scenario.deliver("jobs")
        scenario.deliver(RUNS)
    (run,) = scenario.server.all(RUNS)
    assert run["status"]["stages"][0]["reason"] == "JobEdited"
    assert len(scenario.world.jobs()) == 1


class RecordedCalls:
    """Records the calls of the operator, in order."""

    def __init__(self, scenario: Scenario) -> None:
        self.calls: list[tuple[str, str]] = []
        scenario.server.before = self._record

    def _record(self, method: str, kind: str, name: str, body: Any) -> Callable[[], None]:
        self.calls.append((method, kind))
        return lambda: None


def advance(scenario: Scenario) -> None:
    """Pods start and finish, all watch events are delivered, and the operator makes a pass after each step."""
    for phase, act in (("Pending", scenario.world.run_pod), ("Running", scenario.world.finish)):
        scenario.controllers_work()
        for pod in scenario.world.pods(phase):
            act(pod)
        for kind in ("jobs", "pods", RUNS):
            scenario.deliver(kind)
        scenario.events.clear()
        scenario.reconcile()


def test_the_end_of_a_stage_and_the_start_of_the_next_one_are_one_write() -> None:
    scenario = Scenario()
    scenario.reconcile()
    recorded = RecordedCalls(scenario)
    advance(scenario)
    # First the Job, because its Pod takes longest; then the status; then the event about what was written.
    assert recorded.calls == [("POST", "jobs"), ("PATCH", RUNS), ("POST", "events")]
    (run,) = scenario.server.all(RUNS)
    states = {stage["id"]: stage["state"] for stage in run["status"]["stages"]}
    assert (states["prepare"], states["sft"]) == ("Succeeded", "Running")
    last = list(scenario.server.all("events"))[-1]
    assert (last["reason"], last["message"]) == ("StageSucceeded", "prepare finished in 5 s; started: sft")


def test_a_stage_costs_four_calls_at_most() -> None:
    """Over a whole run, with every watch event delivered."""
    scenario = Scenario(iterations=1)
    recorded = RecordedCalls(scenario)
    scenario.reconcile()
    while next(scenario.server.all(RUNS))["status"]["phase"] != "Complete":
        advance(scenario)
    stages = len(next(scenario.server.all(RUNS))["status"]["stages"])
    assert len(recorded.calls) <= 4 * stages, recorded.calls
    assert Counter(recorded.calls)["POST", "jobs"] == stages
