"""Slips below `pod` that the API server, or a stage, would find only when the stage's Job is created."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evolution_operator.api.quantities import amount, no_quantity
from evolution_operator.api.validation import RunFileError, faults, load_run

from tests.support.run_document import minimal_spec, run_document


def found(pod: dict[str, Any], **spec: Any) -> list[str]:
    return [str(fault).removeprefix("spec.") for fault in faults(run_document(minimal_spec(pod=pod, **spec)))]


VOLUMES: list[dict[str, Any]] = [{"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}]


@pytest.mark.parametrize(
    "pod",
    [
        {"imagePullSecrets": ["one", {"name": "two"}]},
        {"resources": {"requests": {"cpu": "500m", "memory": "1e9"}, "limits": {"memory": "2Gi", "nvidia.com/gpu": 1}}},
        {"resources": {"limits": {"nvidia.com/gpu.shared": "1"}, "requests": {"nvidia.com/gpu.shared": 1}}},
        {"resources": {"limits": {"hugepages-2Mi": "4Mi", "ephemeral-storage": "20G", "memory": 2147483648}}},
        {"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]},
        {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]},
        {"env": [{"name": "A"}, {"name": "B", "value": ""}]},
        {"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
        {"env": [{"name": "N", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": 1}}}]},
        {
            "volumes": VOLUMES,
            "volumeMounts": [{"name": "cache", "mountPath": "/cache", "subPath": "a", "readOnly": True}],
        },
        {"volumes": VOLUMES, "volumeMounts": [{"name": "cache", "mountPath": "/scratch"}]},
        {"volumes": VOLUMES, "volumeMounts": [{"name": "evolution-scratch", "mountPath": "/cache", "subPath": "hub"}]},
        {"volumeMounts": [{"name": "of-the-chart", "mountPath": "/cache"}]},
        {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}]},
        {"volumes": [{"name": "new", "image": {"reference": "quay.io/models/llama:3"}}]},
        {"annotations": {"prometheus.io/scrape": "true", "note": "free text, with any words"}},
        {"labels": {"app.kubernetes.io/part-of": "study", "empty": ""}},
        {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]},
    ],
)
def test_what_kubernetes_takes_is_right(pod: dict[str, Any]) -> None:
    assert found(pod) == []


@pytest.mark.parametrize(
    ("pod", "fault"),
    [
        (
            {"imagePullSecrets": [{"secret": "a"}]},
            "pod.imagePullSecrets[0]: must be a name or {name: NAME}, not a mapping",
        ),
        ({"nodeSelector": {"gpu": True}}, "pod.nodeSelector.gpu: must be text: put true in quotes"),
        ({"labels": {"a b": "c"}}, 'pod.labels["a b"]: the key must be a name such as gpu or example.com/gpu'),
        # quantities
        (
            {"resources": {"requests": {"memory": "8GB"}}},
            "pod.resources.requests.memory: is not a Kubernetes quantity: write 8Gi or 8G, not '8GB'",
        ),
        (
            {"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}},
            "pod.resources.limits.memory: the request of 4Gi is above the limit of 2Gi: lower it, or raise the limit",
        ),
        (
            {"resources": {"limits": {"gpu": 1}}},
            "pod.resources.limits.gpu: is no resource of Kubernetes: write nvidia.com/gpu",
        ),
        (
            {"resources": {"requests": {"nvidia.com/gpu": 1}}},
            "pod.resources.requests[\"nvidia.com/gpu\"]: needs an equal limit: set limits['nvidia.com/gpu'] to the same number",
        ),
        (
            {"resources": {"limits": {"nvidia.com/gpu": "500m"}}},
            "pod.resources.limits[\"nvidia.com/gpu\"]: must be a whole number, not '500m'",
        ),
        (
            {"resources": {"limits": {"memory": "512m"}}},
            "pod.resources.limits.memory: is 0.512 bytes: write 512Mi or Gi",
        ),
        # environment
        ({"env": [{"name": "A", "value": 1}]}, "pod.env[0].value: must be text: put 1 in quotes"),
        ({"env": [{"value": "a"}]}, "pod.env[0].name: is required"),
        (
            {"env": [{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
            "pod.env[0].valueFrom: excludes value: remove one of them",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {}}]},
            "pod.env[0].valueFrom: needs exactly one of secretKeyRef, configMapKeyRef, fieldRef, resourceFieldRef, fileKeyRef",
        ),
        # tolerations
        (
            {"tolerations": [{"key": "a", "operator": "Exist"}]},
            "pod.tolerations[0].operator: must be 'Exists' or 'Equal', not 'Exist'",
        ),
        (
            {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
            "pod.tolerations[0].value: applies to operator Equal only; remove it",
        ),
        (
            {"tolerations": [{"effect": "NoSchedule"}]},
            "pod.tolerations[0].key: is required, except with operator: Exists, which then tolerates every taint",
        ),
        # volumes
        (
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "b", "readonly": True}}]},
            "pod.volumes[0].persistentVolumeClaim.readonly: unknown field; did you mean readOnly?",
        ),
        ({"volumes": [{"name": "a", "hostPath": "/data"}]}, "pod.volumes[0].hostPath: must be a mapping"),
        ({"volumes": [{"name": "a"}]}, "pod.volumes[0]: needs exactly one source, such as emptyDir: {}"),
        ({"volumes": VOLUMES * 2}, "pod.volumes[1].name: is also the name of volume 0: choose another"),
        (
            {"volumes": [{"name": "a", "emptyDir": {"sizeLimit": "5 GiB"}}]},
            "pod.volumes[0].emptyDir.sizeLimit: is not a Kubernetes quantity: write 5Gi, not '5 GiB'",
        ),
        # mounts
        (
            {"volumes": VOLUMES, "volumeMounts": [{"name": "cash", "mountPath": "/cache"}]},
            "pod.volumeMounts[0].name: no volume has the name cash (known: cache)",
        ),
        (
            {"volumes": VOLUMES, "volumeMounts": [{"name": "cache", "mountPath": "cache"}]},
            "pod.volumeMounts[0].mountPath: must be an absolute path without a colon, not 'cache'",
        ),
        (
            {"volumes": VOLUMES, "volumeMounts": [{"name": "cache", "mountPath": "/scratch/", "readOnly": True}]},
            "pod.volumeMounts[0].readOnly: the stage must be able to write at /scratch: remove it",
        ),
        (
            {
                "volumes": VOLUMES,
                "volumeMounts": [{"name": "cache", "mountPath": "/a"}, {"name": "cache", "mountPath": "/a/"}],
            },
            "pod.volumeMounts[1].mountPath: is also that of mount 0: a path takes one volume",
        ),
        # Kubernetes' own objects
        ({"affinity": {"nodeAfinity": {}}}, "pod.affinity.nodeAfinity: unknown field; did you mean nodeAffinity?"),
        (
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "Never"}]},
            "pod.topologySpreadConstraints[0].whenUnsatisfiable: must be DoNotSchedule or ScheduleAnyway, not 'Never'",
        ),
    ],
)
def test_each_slip_is_named(pod: dict[str, Any], fault: str) -> None:
    assert found(pod) == [fault]


@pytest.mark.parametrize("place", ["/", "/etc", "/etc/evolution", "/etc/evolution/more", "/dev", "/proc/1", "/sys"])
def test_a_volume_may_not_hide_what_the_stage_needs(place: str) -> None:
    (fault,) = found({"volumes": VOLUMES, "volumeMounts": [{"name": "cache", "mountPath": place}]})
    assert fault.startswith("pod.volumeMounts[0].mountPath: would hide /") or "the image" in fault


def test_a_stages_mounts_are_compared_with_the_volumes_that_it_gets() -> None:
    mounts = {"pod": {"volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}}
    assert found({"volumes": VOLUMES}, dpo=mounts) == []
    own = {"pod": {**mounts["pod"], "volumes": [{"name": "other", "emptyDir": {}}]}}
    assert found({"volumes": VOLUMES}, dpo=own) == [
        "dpo.pod.volumeMounts[0].name: no volume has the name cache (known: other)"
    ]


def test_a_scalar_is_shown_as_the_file_has_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "apiVersion: evolution.run/v1alpha1\nkind: EvolutionRun\nmetadata: {name: a}\nspec:\n"
        "  baseModel: {uri: hf://a/b, revision: 31415e2}\n"
        "  storage: {uri: 's3://b/r', credentialsSecret: 271e3}\n"
        "  data: {seed: [{uri: file:///x, format: esconv}]}\n"
        "  pod:\n    env: [{name: A, value: on}, {name: B, value: 0x1F}]\n    labels: {version: 1.10}\n"
        "    volumes: [{name: a, csi: {driver: d, volumeAttributes: {mode: 0755}}}]\n"
    )
    with pytest.raises(RunFileError) as error:
        load_run(path)
    assert {str(fault) for fault in error.value.faults} == {
        "spec.baseModel.revision: must be text: put 31415e2 in quotes",
        "spec.storage.credentialsSecret: must be text: put it in quotes",
        "spec.pod.env[0].value: must be text: put on in quotes",
        "spec.pod.env[1].value: must be text: put 0x1F in quotes",
        "spec.pod.labels.version: must be text: put 1.10 in quotes",
        "spec.pod.volumes[0].csi.volumeAttributes.mode: must be text: put 0755 in quotes",
    }


def test_a_number_that_was_not_read_from_a_file_is_not_shown_changed() -> None:
    assert found({}, baseModel={"uri": "hf://a/b", "revision": 7222500.0}) == [
        "baseModel.revision: must be text: put it in quotes"
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4),
        (4, 4),
        ("500m", 0.5),
        ("1.5", 1.5),
        ("2Ki", 2048),
        ("1e3", 1000),
        ("3M", 3_000_000),
        ("x", None),
        ("-1", None),
    ],
)
def test_quantities_are_numbers(text: str | int, number: float | None) -> None:
    found_number = amount(text)
    assert (None if found_number is None else float(found_number)) == number


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("32GB", "32Gi or 32G"),
        ("32gb", "32Gi or 32G"),
        ("32 Gi", "32Gi"),
        ("32GiB", "32Gi"),
        ("512 mb", "512Mi or 512M"),
        ("10KB", "10Ki or 10k"),
        ("4 cores", "4"),
        ("1,5", "1.5"),
        ("lots", "a number, with a unit where there is one: 4, 500m, 32Gi"),
    ],
)
def test_what_was_probably_meant_is_proposed(text: str, meant: str) -> None:
    assert no_quantity(text) == f"is not a Kubernetes quantity: write {meant}, not {text!r}"


def test_the_table_of_fields_is_that_of_the_kubernetes_client() -> None:
    command = [sys.executable, "-m", "hack.kubernetes_fields", "--check"]
    check = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (check.returncode, check.stderr) == (0, "")
