"""Messages of the API server about Jobs and Pods, in the words of a run."""

from __future__ import annotations

from typing import Any

import pytest
from evolution_operator.controller.seen.refusals import invalid_job, refused_job, refused_pods

PODS = 'Error creating: pods "support-0-sft-1b2c3d4e-{}" is forbidden: '
INVALID = 'Error creating: Pod "support-0-sft-1b2c3d4e-{}" is invalid: '


@pytest.mark.parametrize(
    ("message", "reason", "remedy"),
    [
        (PODS + "exceeded quota: tight, requested: pods=1", "QuotaExceeded", "lower the stage's pod.resources"),
        (
            INVALID + 'spec.containers[0].resources.requests: Invalid value: "2Gi": '
            "must be less than or equal to memory limit of 1Gi",
            "PodsRefused",
            "set pod.resources.limits, or see the namespace's LimitRange",
        ),
        (PODS + "maximum memory usage per Container is 1Gi, but limit is 2Gi", "PodsRefused", "change pod.resources"),
        (PODS + "minimum cpu usage per Pod is 1, but request is 100m", "PodsRefused", "change pod.resources"),
        (PODS + "failed quota: all: must specify limits.memory for: stage", "PodsRefused", "what is missing"),
        (PODS + "unable to validate against any security context constraint: ...", "PodsRefused", "openshift: true"),
        (PODS + 'violates PodSecurity "restricted:latest": hostPath volumes', "PodsRefused", "pod.volumes"),
        (
            PODS + 'error looking up service account team/x: serviceaccount "x" not found',
            "PodsRefused",
            "create the ser",
        ),
        (PODS + "no PriorityClass with name high was found", "PodsRefused", "pod.priorityClassName"),
        (PODS + 'pod rejected: RuntimeClass "nvidia" not found', "PodsRefused", "pod.runtimeClassName"),
        (PODS + "something new", "PodsRefused", "something new"),
        ('Error creating: admission webhook "x" denied the request: no', "PodsRefused", "denied the request: no"),
    ],
)
def test_refused_pods_say_what_to_do_in_the_same_words_each_time(message: str, reason: str, remedy: str) -> None:
    first, second = refused_pods(message.format("aaaaa")), refused_pods(message.format("bbbbb"))
    assert first == second
    assert first[0] == reason
    assert remedy in first[1]
    assert not first[1].startswith("Error creating")


@pytest.mark.parametrize(
    ("message", "terminating", "reason"),
    [
        ("exceeded quota: tight", False, "QuotaExceeded"),
        ("is being terminated", True, "NamespaceTerminating"),
        ("no rights", False, "JobRefused"),
    ],
)
def test_a_refused_job_has_a_reason(message: str, terminating: bool, reason: str) -> None:
    assert refused_job(message, terminating)[0] == reason


JOB: dict[str, Any] = {
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {"env": [{"name": "HOME"}, {"value": "x"}], "volumeMounts": [{"name": "tmp"}, {"name": "cahce"}]}
                ],
                "volumes": [{"name": "tmp"}, {"name": "cache"}],
                "tolerations": [{"key": "gpu"}],
            }
        }
    }
}
HEAD = 'Job.batch "support-0-sft-1b2c3d4e" is invalid: '
PLACE = "spec.template.spec."


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            f'{HEAD}{PLACE}containers[0].volumeMounts[1].name: Not found: "cahce"',
            'spec.pod.volumeMounts["cahce"].name: Not found: "cahce"',
        ),
        (f"{HEAD}{PLACE}containers[0].env[1].name: Required value", "spec.pod.env.name: Required value"),
        (
            f"{HEAD}[{PLACE}volumes[1].persistentVolumeClaim.claimName: Required value, {PLACE}tolerations[0].operator: x]",
            '[spec.pod.volumes["cache"].persistentVolumeClaim.claimName: Required value, '
            'spec.pod.tolerations["gpu"].operator: x]',
        ),
        (
            f'{HEAD}{PLACE}containers[0].resources.requests: Invalid value: "2Gi"',
            'spec.pod.resources.requests: Invalid value: "2Gi"',
        ),
        (f"{HEAD}spec.template.labels: Invalid value", "spec.pod.labels: Invalid value"),
        (
            'Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field '
            f'"{PLACE}volumes[1].persistentVolumeClaim.claimname"',
            'unknown field "spec.pod.volumes["cache"].persistentVolumeClaim.claimname"',
        ),
        (
            f"json: cannot unmarshal number into Go struct field EnvVar.{PLACE}containers.env.value of type string",
            "EnvVar.spec.pod.env.value of type string",
        ),
        (f"{HEAD}{PLACE}volumes[9].name: Duplicate value", "spec.pod.volumes.name: Duplicate value"),
    ],
)
def test_a_malformed_job_is_explained_by_fields_of_the_run(message: str, field: str) -> None:
    found = invalid_job(message, JOB)
    assert found.startswith("the API server refuses the Job; correct spec.pod or the stage's own pod: ")
    assert found.endswith(field)
