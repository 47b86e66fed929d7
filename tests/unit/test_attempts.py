"""What Jobs and Pods say about an attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RankLayout
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import StageProgress
from evolution_operator.controller import labels
from evolution_operator.controller.jobs.pods import template_digests
from evolution_operator.controller.seen.attempts import alive_stages, observe
from evolution_operator.controller.seen.views import job_view, pod_view
from evolution_operator.planner.observed import Attempt, Failure

from tests.support.cluster.objects import KEY, OWNER, SETTINGS, job_object, pod_object, stage_start, with_pods
from tests.support.run_document import minimal_spec

SPEC = EvolutionRunSpec.model_validate(
    minimal_spec(pod={"resources": {"limits": {"nvidia.com/gpu": 2}}}),
)
REPORT = {"reason": "Completed", "seconds": 90.0, "metrics": {"distinct2": 0.5}, "contents": {"model": "m"}}


def look(job: dict[str, Any], *pods: dict[str, Any], notes: dict[str, tuple[str, str]] | None = None) -> Attempt:
    (attempt,) = observe(OWNER, [with_pods(job_view(job), map(pod_view, pods))], {}, notes or {}, {})
    return attempt


def test_a_finished_attempt_has_its_report_and_gpu_time() -> None:
    job = job_object(SPEC, stage_start(), "SuccessCriteriaMet", "Complete", succeeded=1)
    attempt = look(job, pod_object(job, "Succeeded", code=0, message=REPORT))
    assert (attempt.stage, attempt.number, attempt.key, attempt.state) == ("sft", 1, KEY, "succeeded")
    assert attempt.report is not None
    assert (attempt.report.seconds, attempt.report.metrics) == (90.0, {"distinct2": 0.5})
    assert attempt.gpu_seconds == 2 * 100
    assert attempt.finished_at == datetime(2026, 1, 1, 0, 1, 40, tzinfo=UTC)


def test_gpu_time_of_replaced_pods_counts() -> None:
    job = job_object(SPEC, stage_start(), "Complete", succeeded=1)
    pods = [
        pod_object(job, "Failed", name="a", code=143, disrupted=True),
        pod_object(job, "Succeeded", name="b", code=0, message=REPORT),
    ]
    assert look(job, *pods).gpu_seconds == 400


def test_the_report_of_an_attempt_is_that_of_the_shard_that_published() -> None:
    job = job_object(SPEC, stage_start("generate", 1, 3), "Complete", succeeded=3)
    reasons = ["ShardCompleted", "Completed", "ShardCompleted"]
    pods = [
        pod_object(job, "Succeeded", name=f"p{n}", code=0, message={**REPORT, "reason": reason})
        for n, reason in enumerate(reasons)
    ]
    attempt = look(job, *pods)
    assert attempt.report is not None
    assert attempt.report.reason == "Completed"
    assert (attempt.shards_done, attempt.shards) == (3, 3)


TWO_NODES = stage_start(ranks=RankLayout(processes=4, nodes=2))


def test_nodes_that_train_together_are_one_attempt_without_shards() -> None:
    job = job_object(SPEC, TWO_NODES, succeeded=1)
    attempt = look(job, pod_object(job, name="p0"), pod_object(job, "Succeeded", name="p1", code=0))
    assert (attempt.state, attempt.shards_done, attempt.shards) == ("running", 0, 1)
    ended = job_object(SPEC, TWO_NODES, "Complete", succeeded=2)
    helper = {**REPORT, "reason": "NodeCompleted", "metrics": {}}
    pods = [
        pod_object(ended, "Succeeded", name=f"p{n}", code=0, message=message)
        for n, message in enumerate((REPORT, helper))
    ]
    attempt = look(ended, *pods)
    assert (attempt.state, attempt.shards_done) == ("succeeded", 1)
    assert attempt.report is not None
    assert attempt.report.metrics == REPORT["metrics"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"code": 137, "reason": "OOMKilled"}, ("out-of-memory", "OOMKilled")),
        ({"code": 65, "message": {"reason": "DataInvalid", "message": "row 3"}}, ("permanent", "DataInvalid")),
        ({"code": 143, "disrupted": True}, ("disruption", "Error")),
        ({"code": 137, "disrupted": True}, ("disruption", "Error")),
        # The Job controller has asked it to end, because the first has failed.
        ({"code": 143, "message": {"reason": "Terminated", "message": "asked"}}, ("transient", "RankLost")),
        ({"code": 75, "message": {"reason": "RankLost", "message": "lost"}}, ("transient", "RankLost")),
    ],
)
def test_a_pod_that_has_lost_another_one_is_not_the_cause(other: dict[str, Any], expected: tuple[str, str]) -> None:
    job = job_object(SPEC, TWO_NODES, "Failed", reason="BackoffLimitExceeded")
    lost = pod_object(job, "Failed", name="p0", code=75, message={"reason": "RankLost", "message": "lost"})
    failure = look(job, lost, pod_object(job, "Failed", name="p1", **other)).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == expected


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (
            {"code": 65, "message": {"reason": "DataInvalid", "message": "row 3"}},
            Failure("permanent", "DataInvalid", "row 3"),
        ),
        (
            {"code": 75, "message": {"reason": "StorageUnreachable", "message": "away"}},
            Failure("transient", "StorageUnreachable", "away"),
        ),
        (
            {"code": 75, "message": {"reason": "InputCorrupt", "message": "sha", "corrupt": "generate-1"}},
            Failure("transient", "InputCorrupt", "sha", "generate-1"),
        ),
        (
            {"code": 1, "message": "Traceback: boom"},
            Failure("transient", "Error", "Pod pod ended (exit code 1): Traceback: boom"),
        ),
        (
            {"code": 1},
            Failure("transient", "Error", "Pod pod ended (exit code 1): it left no message; see its log"),
        ),
        (
            {"code": 137, "reason": "OOMKilled"},
            Failure(
                "out-of-memory",
                "OOMKilled",
                "Pod pod was killed because memory ran out; it has no memory limit, so its node was short",
                more_memory="set spec.sft.pod.resources.limits.memory",
            ),
        ),
        (
            {"code": 137},
            Failure(
                "transient",
                "Killed",
                "Pod pod was killed (SIGKILL), and its node gives no reason",
                more_memory="set spec.sft.pod.resources.limits.memory",
            ),
        ),
        (
            {"code": 137, "message": {"reason": "StorageUnreachable", "message": "away"}},
            Failure("transient", "StorageUnreachable", "away"),
        ),
        ({"code": 137, "deleting": True}, "disruption"),
        ({"code": 143}, "disruption"),
        ({"code": 143, "disrupted": True}, "disruption"),
        ({"code": 1, "disrupted": True}, "disruption"),
        ({"pod_reason": "Evicted"}, "disruption"),
        ({"pod_reason": "OutOfmemory"}, "disruption"),
        ({}, "transient"),
    ],
)
def test_a_failed_attempt_says_why(pod: dict[str, Any], expected: Failure | str) -> None:
    job = job_object(SPEC, stage_start(), "FailureTarget", "Failed", reason="BackoffLimitExceeded")
    failure = look(job, pod_object(job, "Failed", **pod)).failure
    assert failure is not None
    assert failure == expected if isinstance(expected, Failure) else failure.kind == expected


def test_of_several_failures_the_most_serious_is_reported() -> None:
    job = job_object(SPEC, stage_start("generate", 1, 3), "Failed")
    pods = [
        pod_object(job, "Failed", name="a", code=143),
        pod_object(job, "Failed", name="b", code=65, message={"reason": "DataInvalid", "message": "row 3"}),
        pod_object(job, "Failed", name="c", code=75, message={"reason": "StorageUnreachable", "message": "away"}),
    ]
    failure = look(job, *pods).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("permanent", "DataInvalid")


@pytest.mark.parametrize(
    ("reason", "kind"), [("PodFailurePolicy", "permanent"), ("BackoffLimitExceeded", "transient"), ("", "transient")]
)
def test_a_failure_without_its_pod_is_classified_by_the_job(reason: str, kind: str) -> None:
    job = job_object(SPEC, stage_start(), "Failed", reason=reason, message="the Job's message")
    failure = look(job).failure
    assert failure is not None
    assert failure.kind == kind
    assert failure.message == "the Job's message; its Pod and its termination message are gone"


def test_without_its_pods_a_complete_job_reports_nothing() -> None:
    attempt = look(job_object(SPEC, stage_start("dpo", 1), "Complete"))
    assert (attempt.state, attempt.report) == ("succeeded", None)


@pytest.mark.parametrize("words", ["not json", {"message": "without a reason"}])
def test_a_report_that_cannot_be_read_says_only_that_its_pod_has_ended(words: Any) -> None:
    job = job_object(SPEC, stage_start("evaluate", 0), "Complete")
    attempt = look(job, pod_object(job, "Succeeded", code=0, message=words))
    assert (attempt.state, attempt.report) == ("succeeded", Report(reason="Completed"))


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_an_attempt_is_running_while_a_pod_may_write(condition: str) -> None:
    job = job_object(SPEC, stage_start(), condition)
    assert look(job, pod_object(job, "Running")).state == "running"


@pytest.mark.parametrize(
    ("pods", "state", "reason", "text"),
    [
        ([{"phase": "Running"}], "running", None, ""),
        ([], "running", None, ""),
        (
            [{"phase": "Pending", "unschedulable": "0/3 nodes"}],
            "queued",
            "Unschedulable",
            "1 of 1 Pods find no node: 0/3",
        ),
        (
            [{"phase": "Running"}, {"phase": "Pending", "unschedulable": "0/3 nodes"}],
            "running",
            "Unschedulable",
            "1 of 2 Pods find no node: 0/3 nodes",
        ),
        (
            [{"phase": "Pending", "waiting": ("ErrImagePull", "x")}],
            "running",
            "ImagePullBackOff",
            "image train:1 cannot",
        ),
        ([{"phase": "Pending", "waiting": ("ImagePullBackOff", "y")}], "running", "ImagePullBackOff", "image train:1"),
        (
            [{"phase": "Pending", "waiting": ("CreateContainerConfigError", 'secret "s3" not found')}],
            "running",
            "CreateContainerConfigError",
            'secret "s3" not found: create it',
        ),
        ([{"phase": "Pending", "waiting": ("ContainerCreating", "")}], "running", None, ""),
    ],
)
def test_the_note_says_what_holds_an_attempt_up(
    pods: list[dict[str, Any]], state: str, reason: str | None, text: str
) -> None:
    job = job_object(SPEC, stage_start("generate", 1, 2))
    attempt = look(job, *(pod_object(job, name=f"p{n}", **pod) for n, pod in enumerate(pods)))
    assert attempt.state == state
    assert (attempt.note[0] if attempt.note else None) == reason
    assert attempt.note is None or attempt.note[1].startswith(text)


def test_a_job_without_pods_has_the_note_from_events() -> None:
    job = job_object(SPEC, stage_start())
    note = ("QuotaExceeded", "exceeded quota")
    attempt = look(job, notes={job["metadata"]["uid"]: note})
    assert (attempt.state, attempt.note) == ("queued", note)


def test_a_suspended_job_is_suspended_once_its_pods_are_gone() -> None:
    job = job_object(SPEC, stage_start(), suspend=True)
    assert look(job, pod_object(job, "Running", deleting=True)).state == "running"
    assert look(job, pod_object(job, "Failed", code=143)).state == "suspended"
    assert look(job).state == "suspended"


def test_an_attempt_that_something_else_suspends_waits_for_it() -> None:
    attempt = look(job_object(SPEC, stage_start(), suspend=True, by_us=False))
    assert (attempt.state, attempt.note is not None and attempt.note[0]) == ("queued", "JobSuspended")


def test_an_attempt_that_kueue_suspends_is_queued() -> None:
    queued = SPEC.model_copy(update={"queue_name": "gpus"})
    attempt = look(job_object(queued, stage_start()))
    assert (attempt.state, attempt.note) == (
        "queued",
        ("AwaitingAdmission", "waits for Kueue's queue gpus to admit it"),
    )


@pytest.mark.parametrize(
    ("pods", "today", "outdated"),
    [
        ([], "other", True),
        ([{"phase": "Pending", "waiting": ("ImagePullBackOff", "no such image")}], "other", True),
        ([{"phase": "Pending", "unschedulable": "0/1 nodes"}], "other", True),
        ([{"phase": "Failed", "code": 143}, {"phase": "Pending"}], "other", True),
        ([{"phase": "Running"}], "other", False),
        ([{"phase": "Succeeded", "code": 0}], "other", False),
        ([{"phase": "Failed", "code": 143}], "other", False),
        ([{"phase": "Running", "deleting": True}], "other", False),
        ([{"phase": "Pending", "unschedulable": "0/1 nodes"}, {"phase": "Running"}], "other", False),
        ([], None, False),
        ([], "the same", False),
    ],
)
def test_an_attempt_is_outdated_if_its_template_has_changed_and_no_pod_runs(
    pods: list[dict[str, Any]], today: str | None, outdated: bool
) -> None:
    job = job_object(SPEC, stage_start())
    digests = {"sft": today} if today != "the same" else template_digests(SPEC, SETTINGS)
    views = [pod_view(pod_object(job, name=str(number), **pod)) for number, pod in enumerate(pods)]
    (attempt,) = observe(OWNER, [with_pods(job_view(job), views)], {}, {}, {k: v for k, v in digests.items() if v})
    assert attempt.outdated == outdated


def test_a_suspended_attempt_is_outdated_once_its_pods_have_ended() -> None:
    job = job_object(SPEC, stage_start(), suspend=True)
    for phase, code, outdated in (("Running", None, False), ("Failed", 143, True)):
        pods = [pod_view(pod_object(job, phase, code=code, deleting=code is None))]
        (attempt,) = observe(OWNER, [with_pods(job_view(job), pods)], {}, {}, {"sft": "other"})
        assert attempt.outdated == outdated


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_an_attempt_that_has_ended_is_never_outdated(condition: str) -> None:
    """Its Pods may be gone, and each outdated attempt costs two lists."""
    job = job_object(SPEC, stage_start(), condition, succeeded=1)
    (attempt,) = observe(OWNER, [job_view(job)], {}, {}, {"sft": "other"})
    assert not attempt.outdated


def test_a_job_without_a_template_digest_is_not_outdated() -> None:
    job = job_object(SPEC, stage_start())
    del job["metadata"]["annotations"][labels.TEMPLATE]
    (attempt,) = observe(OWNER, [job_view(job)], {}, {}, {"sft": "other"})
    assert not attempt.outdated


def test_progress_is_that_of_the_job() -> None:
    job = job_object(SPEC, stage_start())
    progress = StageProgress(done=1, total=2, unit="steps")
    uid = job["metadata"]["uid"]
    (attempt,) = observe(OWNER, [job_view(job)], {uid: progress}, {}, {})
    assert attempt.progress == progress
    (ended,) = observe(OWNER, [job_view(job_object(SPEC, stage_start(), "Failed"))], {uid: progress}, {}, {})
    assert ended.progress is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {labels.ATTEMPT: "2"}},
        {"labels": {labels.STAGE: "dpo-1"}},
        {"labels": {labels.ATTEMPT: "none"}},
        {"annotations": {labels.KEY: "cd" * 32}},
        {"ownerReferences": [{"uid": "another-run", "controller": True}]},
        {"ownerReferences": []},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"name": "support-0-sft-deadbeef"},
    ],
)
def test_jobs_that_are_no_attempts_of_this_run_are_ignored(change: dict[str, Any]) -> None:
    job = job_object(SPEC, stage_start())
    for name, value in change.items():
        known = job["metadata"].get(name)
        job["metadata"][name] = {**known, **value} if isinstance(known, dict) else value
    assert observe(OWNER, [job_view(job)], {}, {}, {}) == ()


def test_common_labels_are_for_people_and_may_be_changed() -> None:
    """An admission policy of the cluster may set them, so nothing is decided by them."""
    job = job_object(SPEC, stage_start())
    job["metadata"]["labels"] = {
        name: "changed" if name.startswith("app.kubernetes.io/") else value
        for name, value in job["metadata"]["labels"].items()
    }
    (attempt,) = observe(OWNER, [job_view(job)], {}, {}, {})
    assert attempt.stage == "sft"


def test_stages_that_may_still_write_without_an_attempt() -> None:
    job = job_object(SPEC, stage_start())
    running, over = pod_object(job, "Running"), pod_object(job, "Failed", code=143)
    jobs, pods = [job_view(job)], [pod_view(running)]
    assert alive_stages(OWNER, jobs, pods) == {}
    assert alive_stages(OWNER, [], pods) == {"sft": "Pod pod"}
    assert alive_stages(OWNER, [], [pod_view(over)]) == {}
    ending = job_view(job_object(SPEC, stage_start(), deleting=True))
    assert alive_stages(OWNER, [ending], []) == {"sft": f"Job {ending.meta.name}"}
    assert alive_stages(OWNER, [ending], pods) == {"sft": "Pod pod"}


def test_an_ended_job_without_all_its_pods_is_looked_up() -> None:
    done = job_object(SPEC, stage_start("generate", 1, 2), "Complete")
    one = pod_view(pod_object(done, "Succeeded", name="a", code=0))
    two = pod_view(pod_object(done, "Succeeded", name="b", code=0))
    assert with_pods(job_view(done), [one]).ended_unseen
    assert not with_pods(job_view(done), [one, two]).ended_unseen
    assert not with_pods(job_view(done), [one, pod_view(pod_object(done, "Running", name="b"))]).ended_unseen
    failed = job_object(SPEC, stage_start(), "Failed")
    assert job_view(failed).ended_unseen
    assert not with_pods(job_view(failed), [pod_view(pod_object(failed, "Failed", code=1))]).ended_unseen
    assert not job_view(job_object(SPEC, stage_start())).ended_unseen


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ({"nvidia.com/gpu": 4}, 4),
        ({"nvidia.com/gpu": "2"}, 2),
        ({"amd.com/gpu": 1}, 1),
        ({"nvidia.com/mig-1g.5gb": 3}, 3),
        ({"cpu": 4, "memory": "1Gi"}, 0),
        ({"example.com/gpu-memory": 7}, 0),
    ],
)
def test_gpus_of_every_vendor_are_counted(limits: dict[str, Any], gpus: int) -> None:
    job = job_object(SPEC, stage_start())
    pod = pod_object(job)
    pod["spec"]["containers"][0]["resources"] = {"limits": limits}
    assert pod_view(pod).gpus == gpus


CREATED, RESUMED = "2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z"


@pytest.mark.parametrize(
    ("suspend", "conditions", "started"),
    [
        (False, [], CREATED),
        (True, [{"type": "Suspended", "status": "True"}], None),
        (False, [{"type": "Suspended", "status": "False"}], RESUMED),
    ],
)
def test_a_stage_starts_when_its_job_is_created_or_resumed(
    suspend: bool, conditions: list[dict[str, str]], started: str | None
) -> None:
    """The Job controller's startTime comes a moment later, and would change the status for nothing."""
    job = job_object(SPEC, stage_start(), suspend=suspend)
    job["metadata"]["creationTimestamp"] = CREATED
    job["status"] = {"conditions": conditions} | ({} if suspend else {"startTime": RESUMED})
    seen = job_view(job).started_at
    assert seen == (datetime.fromisoformat(started) if started else None)
