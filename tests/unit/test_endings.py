"""How an attempt ended, from the stage's container alone: whoever killed it, and whatever else is in its Pod."""

from __future__ import annotations

from typing import Any

import pytest
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller.seen.attempts import alive_stages, observe
from evolution_operator.controller.seen.views import job_view, pod_view
from evolution_operator.planner.observed import Attempt

from tests.support.cluster.objects import OWNER, job_object, pod_object, stage_start, with_pods
from tests.support.run_document import minimal_spec

DONE = {"reason": "Completed", "seconds": 90.0, "contents": {"model": "m"}}
PROXY = {"mesh-proxy": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
STORAGE = "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. "
CONTAINER = 'Container stage exceeded its local ephemeral storage limit "2Gi". '
VOLUME = 'Usage of EmptyDir volume "big" exceeds the limit "5Gi". '
NODE = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 900Mi. "
SPEC = EvolutionRunSpec.model_validate(minimal_spec())


def limited(**limits: Any) -> EvolutionRunSpec:
    return EvolutionRunSpec.model_validate(minimal_spec(pod={"resources": {"limits": limits}}))


def look(job: dict[str, Any], *pods: dict[str, Any]) -> Attempt:
    (attempt,) = observe(OWNER, [with_pods(job_view(job), map(pod_view, pods))], {}, {}, {})
    return attempt


# ---- evicted


@pytest.mark.parametrize(
    ("message", "spec", "remedy"),
    [
        (STORAGE, limited(**{"ephemeral-storage": "2Gi"}), 'raise spec.sft.pod.resources.limits["ephemeral-storage"]'),
        (STORAGE, SPEC, 'set spec.sft.pod.resources.limits["ephemeral-storage"], or mount a larger volume at /scratch'),
        (CONTAINER, SPEC, 'set spec.sft.pod.resources.limits["ephemeral-storage"]'),
        (VOLUME, SPEC, "raise emptyDir.sizeLimit of volume big in spec.sft.pod.volumes or spec.pod.volumes"),
    ],
)
@pytest.mark.parametrize("code", [None, 0, 1, 75, 137, 143])
def test_a_pod_evicted_for_a_limit_of_its_own_has_failed(
    message: str, spec: EvolutionRunSpec, remedy: str, code: int | None
) -> None:
    job = job_object(spec, stage_start(), "Failed", reason="BackoffLimitExceeded")
    failure = look(job, pod_object(job, "Failed", code=code, pod_reason="Evicted", pod_message=message)).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("transient", "Evicted")
    assert failure.message.startswith(f"Pod pod was evicted: {message.strip()[:-1]}: {remedy}")


@pytest.mark.parametrize(
    "pod", [{"pod_message": NODE}, {"pod_message": STORAGE, "disrupted": True}, {"pod_message": ""}]
)
@pytest.mark.parametrize("code", [None, 137, 143])
def test_a_pod_evicted_because_of_its_node_is_disrupted(pod: dict[str, Any], code: int | None) -> None:
    job = job_object(SPEC, stage_start(), "Failed")
    failure = look(job, pod_object(job, "Failed", code=code, pod_reason="Evicted", **pod)).failure
    assert failure is not None
    assert failure.kind == "disruption"


def test_a_job_that_replaces_a_pod_evicted_for_its_own_limit_is_ended() -> None:
    """The stage obeyed SIGTERM. The Job's policy ignores that exit code, so it would go on for ever."""
    job = job_object(SPEC, stage_start())
    evicted = pod_object(job, "Failed", name="a", code=143, pod_reason="Evicted", pod_message=STORAGE)
    attempt = look(job, evicted, pod_object(job, "Running", name="b"))
    assert (attempt.state, attempt.lingering) == ("failed", True)
    assert attempt.failure is not None
    assert attempt.failure.reason == "Evicted"


@pytest.mark.parametrize(("message", "state"), [("", "failed"), (DONE, "succeeded")])
@pytest.mark.parametrize(("phase", "condition"), [("Failed", "Failed"), ("Succeeded", "Complete")])
def test_exit_code_0_of_an_evicted_pod_counts_if_its_report_says_so(
    message: Any, state: str, phase: str, condition: str
) -> None:
    job = job_object(SPEC, stage_start(), condition, succeeded=int(condition == "Complete"))
    pod = pod_object(job, phase, code=0, message=message, pod_reason="Evicted", pod_message=STORAGE)
    attempt = look(job, pod)
    assert (attempt.state, attempt.lingering) == (state, False)
    assert (attempt.failure.reason if attempt.failure else None) == ("Evicted" if state == "failed" else None)


# ---- another container in the Pod


@pytest.mark.parametrize(
    ("code", "message", "state", "kind"),
    [
        (0, DONE, "succeeded", None),
        (65, {"reason": "DataInvalid", "message": "row 3"}, "failed", "permanent"),
        (75, {"reason": "StorageUnreachable", "message": "away"}, "failed", "transient"),
        (143, {"reason": "Terminated", "message": "saved"}, "failed", "disruption"),
    ],
)
def test_the_stage_has_ended_although_a_sidecar_keeps_its_pod(
    code: int, message: Any, state: str, kind: str | None
) -> None:
    job = job_object(SPEC, stage_start())
    attempt = look(job, pod_object(job, "Running", code=code, message=message, beside=PROXY))
    assert (attempt.state, attempt.lingering) == (state, True)
    assert (attempt.failure.kind if attempt.failure else None) == kind
    assert attempt.finished_at is not None
    if state == "succeeded":
        assert attempt.report is not None
        assert attempt.report.contents == {"model": "m"}
        assert attempt.note is not None
        assert "mesh-proxy" in attempt.note[1]


def test_a_pod_kept_by_a_sidecar_blocks_no_later_attempt() -> None:
    job = job_object(SPEC, stage_start())
    pod = pod_view(pod_object(job, "Running", code=0, beside=PROXY))
    assert alive_stages(OWNER, [], [pod]) == {}


@pytest.mark.parametrize(
    "pod",
    [
        {"beside": PROXY},
        {"code": 0, "message": DONE, "beside": {"mesh-proxy": {"terminated": {"exitCode": 0}}}},
        {"code": 0, "message": DONE, "beside": PROXY, "deleting": True},
    ],
    ids=["stage runs", "all containers have ended", "is being deleted"],
)
def test_nothing_is_ended_that_ends_by_itself(pod: dict[str, Any]) -> None:
    job = job_object(SPEC, stage_start())
    attempt = look(job, pod_object(job, "Running", **pod))
    assert (attempt.state, attempt.lingering) == ("running", False)


def test_all_shards_must_have_ended() -> None:
    job = job_object(SPEC, stage_start("generate", 1, 2))
    first = pod_object(job, "Running", name="a", code=0, message=DONE, beside=PROXY)
    assert look(job, first, pod_object(job, "Running", name="b", beside=PROXY)).state == "running"
    second = pod_object(job, "Succeeded", name="b", code=0, message={"reason": "ShardCompleted"})
    attempt = look(job, first, second)
    assert (attempt.state, attempt.shards_done) == ("succeeded", 2)


def test_a_shard_that_has_failed_ends_the_attempt_as_it_does_without_a_sidecar() -> None:
    job = job_object(SPEC, stage_start("generate", 1, 2))
    failed = pod_object(job, "Running", name="a", code=75, beside=PROXY)
    assert look(job, failed, pod_object(job, "Running", name="b", beside=PROXY)).state == "failed"


def test_a_sidecar_that_fails_does_not_fail_a_finished_stage() -> None:
    job = job_object(SPEC, stage_start(), "Failed", reason="BackoffLimitExceeded")
    broken = {"mesh-proxy": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    attempt = look(job, pod_object(job, "Failed", code=0, message=DONE, beside=broken))
    assert (attempt.state, attempt.lingering, attempt.failure) == ("succeeded", False, None)


# ---- memory


@pytest.mark.parametrize(
    ("spec", "limits", "words", "remedy"),
    [
        (limited(memory="3Gi"), {}, "its memory limit of 3Gi", "raise spec.sft.pod.resources.limits.memory"),
        (SPEC, {"memory": "512Mi"}, "512Mi, which is not the run's but the namespace's", "set spec.sft.pod"),
        (SPEC, {}, "it has no memory limit, so its node was short", "set spec.sft.pod"),
    ],
)
def test_the_limit_that_killed_a_stage_is_named(
    spec: EvolutionRunSpec, limits: dict[str, Any], words: str, remedy: str
) -> None:
    job = job_object(spec, stage_start(), "Failed")
    failure = look(job, pod_object(job, "Failed", code=137, reason="OOMKilled", limits=limits)).failure
    assert failure is not None
    assert words in failure.message
    assert str(failure.more_memory).startswith(remedy)
