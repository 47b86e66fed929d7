"""Moments at which the operator knows less than there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from evolution_operator.controller import labels
from evolution_operator.controller.kube.apiserver import UnreachableError

from tests.support.cluster.fake_api_server import ApiServer, News
from tests.support.cluster.fake_controllers import World, deleting, stage
from tests.support.cluster.operator_in_process import KEY, RUNS, Operator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = "2026-01-01T00:00:00Z"


class Scene:
    """A run, its operator and a cluster; the operator is told nothing of itself."""

    def __init__(self, **spec: Any) -> None:
        self.news: list[News] = []
        self.server = ApiServer(lambda: STAMP, self.news.append)
        self.world = World(self.server, lambda: STAMP)
        least = {
            "baseModel": {"uri": "hf://owner/model"},
            "storage": {"uri": "s3://bucket/runs"},
            "data": {"seed": [{"uri": "hf://owner/esconv", "format": "esconv"}]},
        }
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        api = {"apiVersion": "evolution.run/v1alpha1", "kind": "EvolutionRun"}
        self.server.create(RUNS, KEY.namespace, {**api, "metadata": metadata, "spec": {**least, **spec}})
        self.operator = Operator(self.server, lambda: NOW)

    def tell(self, kind: str) -> None:
        """Tell the operator all news of one kind."""
        for news in self.news:
            if news.kind == kind:
                self.operator.take_in(news)

    def reconcile(self) -> None:
        self.operator.reconciler.reconcile(KEY)

    def lose_the_answer(self, method: str, kind: str) -> None:
        """The next such call takes effect, and nobody hears of it."""

        def fail() -> None:
            self.server.before = lambda *_: lambda: None
            raise UnreachableError("the connection is gone")

        self.server.before = lambda *call: fail if call[:2] == (method, kind) else lambda: None

    def controllers_work(self) -> None:
        for job in self.world.jobs():
            self.world.control(job)


def test_a_job_deleted_by_hand_is_not_made_again_while_a_pod_of_it_lives_that_was_not_told_of() -> None:
    scene = Scene()
    scene.reconcile()
    scene.controllers_work()
    (job,) = scene.world.jobs()
    scene.world.delete_job(job, "Background")
    scene.tell("jobs")
    scene.reconcile()
    assert scene.world.jobs() == []
    (pod,) = scene.world.pods()
    scene.world.delete_pod(pod)
    scene.tell("pods")
    scene.reconcile()
    assert [stage(job) for job in scene.world.jobs()] == ["prepare"]


@pytest.mark.parametrize("pods", ["pods", "nothing"])
def test_an_edited_job_that_is_deleted_before_it_is_healed_is_not_made_again_beside_its_pod(pods: str) -> None:
    scene = Scene()
    scene.reconcile()
    scene.controllers_work()
    (job,) = scene.world.jobs()
    scene.server.patch("jobs", KEY.namespace, job["metadata"]["name"], {"metadata": {"labels": {labels.ATTEMPT: None}}})
    scene.tell("jobs")
    scene.tell(pods)
    scene.world.delete_job(job, "Background")
    scene.reconcile()
    assert scene.world.jobs() == []


def test_a_job_whose_creation_was_not_answered_is_not_made_again_beside_its_pod() -> None:
    scene = Scene()
    scene.lose_the_answer("POST", "jobs")
    with pytest.raises(UnreachableError):
        scene.reconcile()
    scene.controllers_work()
    (job,) = scene.world.jobs()
    scene.world.delete_job(job, "Background")
    scene.reconcile()
    assert scene.world.jobs() == []


def test_no_artifact_is_deleted_while_a_job_lives_that_was_not_told_of() -> None:
    """The call that made the Job took effect, and its answer was lost."""
    scene = Scene(deletionPolicy="Delete")
    scene.lose_the_answer("POST", "jobs")
    with pytest.raises(UnreachableError):
        scene.reconcile()
    scene.server.delete(RUNS, *KEY, "Background")
    scene.tell(RUNS)
    scene.reconcile()
    (job,) = scene.world.jobs()
    assert (stage(job), deleting(job)) == ("prepare", True)
    scene.world.collect_garbage()
    scene.tell("jobs")
    scene.reconcile()
    assert [stage(job) for job in scene.world.jobs()] == ["cleanup"]


def _cleanup_that_ends(scene: Scene, code: int, words: object) -> None:
    """The run is deleted, and the Pod of its cleanup ends like this."""
    scene.server.delete(RUNS, *KEY, "Background")
    scene.tell(RUNS)
    scene.reconcile()
    scene.controllers_work()
    (pod,) = scene.world.pods()
    scene.world.run_pod(pod)
    scene.world.end(pod, code, words)
    scene.tell("jobs")
    scene.tell("pods")
    scene.reconcile()


@pytest.mark.parametrize(
    ("code", "words", "cause"),
    [
        (
            65,
            {"reason": "StorageDenied", "message": "s3://bucket/runs: the credentials are refused"},
            "StorageDenied: s3://bucket/runs: the credentials are refused",
        ),
        (65, None, "Error: Pod {pod} ended (exit code 65): it left no message; see its log"),
    ],
)
def test_why_artifacts_could_not_be_deleted_is_told_in_the_cleanups_own_words(
    code: int, words: object, cause: str
) -> None:
    scene = Scene(deletionPolicy="Delete", suspend=True)
    scene.reconcile()
    scene.tell(RUNS)
    _cleanup_that_ends(scene, code, words)
    (event,) = [event for event in scene.server.all("events") if event["reason"] == "CleanupFailed"]
    (job,) = scene.world.jobs()
    name = job["metadata"]["name"]
    assert event["message"] == (
        f"artifacts in s3://bucket/runs could not be deleted: {cause.format(pod=f'{name}-0-0')} (Job {name}). "
        "The operator tries again; to keep them and let the run go, set spec.deletionPolicy to Retain"
    )


def test_a_cleanup_that_kept_everything_says_why_and_lets_the_run_go() -> None:
    scene = Scene(deletionPolicy="Delete", suspend=True)
    scene.reconcile()
    scene.tell(RUNS)
    _cleanup_that_ends(scene, 0, {"reason": "RecordsUnknown", "message": "runs/team/other/v2 may be a record"})
    scene.controllers_work()
    scene.tell("jobs")
    scene.reconcile()
    (event,) = [event for event in scene.server.all("events") if event["reason"] == "ArtifactsKept"]
    assert (event["type"], event["message"]) == ("Warning", "runs/team/other/v2 may be a record")
    assert list(scene.server.all(RUNS)) == []


def test_a_cleanup_that_fails_and_is_tried_by_its_job_again_is_told_at_once() -> None:
    scene = Scene(deletionPolicy="Delete", suspend=True)
    scene.reconcile()
    scene.tell(RUNS)
    _cleanup_that_ends(scene, 75, {"reason": "StorageUnreachable", "message": "no answer"})
    (event,) = [event for event in scene.server.all("events") if event["reason"] == "CleanupFailed"]
    assert "StorageUnreachable: no answer" in event["message"]


@pytest.mark.parametrize("told", ["by its watch", "by a conflict"])
def test_events_of_a_status_whose_writing_was_not_answered_are_told_once(told: str) -> None:
    scene = Scene()
    scene.lose_the_answer("PATCH", RUNS)
    with pytest.raises(UnreachableError):
        scene.reconcile()
    assert list(scene.server.all("events")) == []
    if told == "by its watch":
        scene.tell(RUNS)
    for _ in range(3):
        scene.reconcile()
    assert [event["message"] for event in scene.server.all("events")] == ["11 stages; started: prepare"]


def test_events_of_a_status_that_was_not_written_are_told_with_the_one_that_is() -> None:
    scene = Scene()

    def fail(*call: Any) -> Callable[[], None]:
        if call[:2] == ("PATCH", RUNS):
            scene.server.before = lambda *_: lambda: None
            raise UnreachableError("the connection is gone")
        return lambda: None

    scene.server.before = fail
    with pytest.raises(UnreachableError):
        scene.reconcile()
    for _ in range(3):
        scene.reconcile()
    assert [event["message"] for event in scene.server.all("events")] == ["11 stages; started: prepare"]


class Counted:
    """The calls that the operator makes, in order."""

    def __init__(self, scene: Scene) -> None:
        self.calls: list[tuple[str, str]] = []
        scene.server.before = self._note

    def _note(self, method: str, kind: str, name: str, body: Any) -> Callable[[], None]:
        self.calls.append((method, kind))
        return lambda: None


def go_on(scene: Scene) -> None:
    """Everything happens that can, and all watches tell of it; the operator makes a pass after each step."""
    for phase, act in (("Pending", scene.world.run_pod), ("Running", scene.world.finish)):
        scene.controllers_work()
        for pod in scene.world.pods(phase):
            act(pod)
        for kind in ("jobs", "pods", RUNS):
            scene.tell(kind)
        scene.news.clear()
        scene.reconcile()


def test_the_end_of_a_stage_and_the_start_of_the_next_one_are_one_write() -> None:
    scene = Scene()
    scene.reconcile()
    counted = Counted(scene)
    go_on(scene)
    # First the Job, whose Pod takes longest; then the status; then the news about what was written.
    assert counted.calls == [("POST", "jobs"), ("PATCH", RUNS), ("POST", "events")]
    (run,) = scene.server.all(RUNS)
    states = {stage["id"]: stage["state"] for stage in run["status"]["stages"]}
    assert (states["prepare"], states["sft"]) == ("Succeeded", "Running")
    last = list(scene.server.all("events"))[-1]
    assert (last["reason"], last["message"]) == ("StageSucceeded", "prepare finished in 5 s; started: sft")


def test_a_stage_costs_four_calls_at_most() -> None:
    """Of a whole run, whatever was told in between."""
    scene = Scene(iterations=1)
    counted = Counted(scene)
    scene.reconcile()
    while next(scene.server.all(RUNS))["status"]["phase"] != "Complete":
        go_on(scene)
    stages = len(next(scene.server.all(RUNS))["status"]["stages"])
    assert len(counted.calls) <= 4 * stages, counted.calls
    assert Counter(counted.calls)["POST", "jobs"] == stages
