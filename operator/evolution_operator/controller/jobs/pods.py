"""Builds Pod templates from the run's spec and the operator's settings. Pure; golden files test it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from evolution_jobs.contract.credentials import credential_prefix
from evolution_jobs.contract.endpoints import API_KEY, Endpoint
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.settings import SamplingSettings
from evolution_jobs.contract.stage import BLOCKS, OBSERVING, RankLayout
from evolution_jobs.contract.variables import (
    GPUS_VARIABLE,
    HUB_CACHE_VARIABLE,
    MODEL_CACHE_VARIABLE,
    NODE_VARIABLE,
)
from evolution_jobs.contract.volumes import MODEL_CACHE, PVC_ROOT
from kubernetes.utils.quantity import parse_quantity

from ...api.pod import SCRATCH, SHARED_MEMORY, SPEC_DIRECTORY, TMP, PodSettings, Resources
from ...api.spec import EvolutionRunSpec
from ...planner.graph import ranks
from .. import labels
from ..settings import Settings

USER = 65532
GRACE_SECONDS = 120

GPU = re.compile(r"(^|[./])v?gpu(\.[\w.-]+|-number)?$|^nvidia\.com/mig-|^gpu\.intel\.com/(i915|xe)$")
"""Extended resources that are GPUs: `nvidia.com/gpu`, `amd.com/gpu`, `gpu.intel.com/i915`, slices and shares of one."""

Object = dict[str, Any]

OUR_USER: Object = {
    "runAsUser": USER,
    "runAsGroup": USER,
    # Makes the user's own volumes (a model cache, file:// storage) writable, without walking unchanged ones.
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
}
"""User and groups of a Pod, unless the cluster chooses them."""


def pod_template(spec: EvolutionRunSpec, kind: str, settings: Settings) -> Object:
    """The Pod template of a kind of stage, as the run's spec gives it now, without the StageSpec of a single stage."""
    pod = merged(settings.stage_pod, *_given(spec, kind))
    if kind in ("prewarm", "judge"):
        pod = _without_gpus(pod)
    if kind == "prewarm":
        pod = _spread(spec, pod)
    return {
        "metadata": {"labels": pod.labels or {}, "annotations": pod.annotations or {}},
        "spec": _pod_spec(spec, kind, pod, settings),
    }


def _given(spec: EvolutionRunSpec, kind: str) -> list[PodSettings]:
    """The run's own settings of a kind's Pods, from the most general."""
    own: PodSettings = spec.block(kind).pod
    if kind != "prewarm":
        return [spec.pod, own]
    # It runs where the stages run that read the cache.
    return [spec.pod, spec.sft.pod, own]


def _without_gpus(pod: PodSettings) -> PodSettings:
    """The settings with the GPUs left out of the resources."""
    if pod.resources is None:
        return pod
    left = {
        field: {name: amount for name, amount in getattr(pod.resources, field).items() if not GPU.search(name)}
        for field in ("requests", "limits")
    }
    return pod.model_copy(update={"resources": Resources(**left)})


def _spread(spec: EvolutionRunSpec, pod: PodSettings) -> PodSettings:
    """The settings with the Pods spread over the nodes, where each is to fill a node's cache."""
    if spec.model_cache is None or spec.model_cache.nodes == 1:
        return pod
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        # A tainted node that takes none of the Pods would otherwise keep all others from a second one.
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {labels.STAGE: "prewarm"}},
        "matchLabelKeys": ["batch.kubernetes.io/job-name"],
    }
    constraints = [*(pod.topology_spread_constraints or []), apart]
    return pod.model_copy(update={"topology_spread_constraints": constraints})


def template_digest(template: Object, layout: RankLayout) -> str:
    """Digest of a Pod template and of how many processes train in such Pods. A Job carries it, so a change is noticed."""
    content = template if layout.count == 1 else {**template, "ranks": layout.wire()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def template_digests(spec: EvolutionRunSpec, settings: Settings) -> dict[str, str]:
    """The digest of each kind's template, as the run's spec gives it now."""
    return {
        kind: template_digest(pod_template(spec, kind, settings), ranks(spec, kind))
        for kind in BLOCKS
        if spec.block(kind)
    }


def merged(*settings: PodSettings) -> PodSettings:
    """Pod settings merged from the most general to a stage's own: a field that is set replaces the earlier value."""
    given = {name: getattr(layer, name) for layer in settings for name in layer.model_fields_set}
    return PodSettings().model_copy(update=given)


def _pod_spec(spec: EvolutionRunSpec, kind: str, pod: PodSettings, settings: Settings) -> Object:
    ours = [
        spec_volume("stage.json"),
        *_model_volumes(spec, kind),
        *_cache_volume(spec, kind),
        *_shared_memory(ranks(spec, kind)),
    ]
    volumes, mounts = volumes_and_mounts(ours, pod)
    # With rules that may end the run, the rounds wait for the evaluations.
    yields = kind in OBSERVING and not (kind == "evaluate" and spec.stopping)
    usual = settings.evaluation_priority_class if yields else settings.critical_priority_class
    priority = pod.priority_class_name or usual
    container = {
        **container_basics(pod, settings),
        "image": pod.image or _stage_image(spec, kind, settings),
        "command": ["python", "-m", "evolution_jobs", kind, "--spec", f"{SPEC_DIRECTORY}/stage.json"],
        "env": variables(
            [
                *credentials_env(spec.storage, spec.base_model.token_secret if _reads_model(kind) else None),
                *_endpoint_env(spec, kind),
                *_devices_env(pod),
                *_cache_env(spec, kind),
            ],
            pod,
        ),
        "envFrom": _source_credentials(spec) if kind == "prepare" else [],
        "volumeMounts": mounts,
    }
    return {
        **pod_basics(pod, settings),
        **present({"priorityClassName": priority}),
        "containers": [present(container)],
        "volumes": volumes,
    }


def _stage_image(spec: EvolutionRunSpec, kind: str, settings: Settings) -> str:
    """The image of a kind of stage whose run sets none."""
    block = spec.block(kind)
    # vLLM does not run a model that is quantised as it is loaded.
    unquantised = spec.base_model.quantization is None
    samples = isinstance(block, SamplingSettings) and block.engine != "transformers" and unquantised
    return settings.vllm_image if samples and settings.vllm_image else settings.stage_image


def pod_basics(pod: PodSettings, settings: Settings) -> Object:
    """The Pod's rights and placement: no Kubernetes API, no root, no capability."""
    grace = pod.termination_grace_period_seconds
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS if grace is None else grace,
        "securityContext": {
            "runAsNonRoot": True,
            **({} if settings.openshift else OUR_USER),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **present(
            {
                "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets or []],
                "nodeSelector": pod.node_selector,
                "tolerations": [toleration.wire() for toleration in pod.tolerations or []],
                "affinity": pod.affinity,
                "topologySpreadConstraints": pod.topology_spread_constraints,
                "runtimeClassName": pod.runtime_class_name,
                "schedulerName": pod.scheduler_name,
                "serviceAccountName": pod.service_account_name,
            }
        ),
    }


def container_basics(pod: PodSettings, settings: Settings) -> Object:
    """Image, resources and rights of the stage's container."""
    return {
        "name": labels.CONTAINER,
        "image": pod.image or settings.stage_image,
        **present({"imagePullPolicy": pod.image_pull_policy}),
        "resources": present(pod.resources.wire()) if pod.resources else None,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def credentials_env(storage: Storage, token_secret: str | None) -> list[Object]:
    """Credentials as references to a Secret's keys. The operator neither reads nor copies them."""
    env: list[Object] = []
    if storage.credentials_secret:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            env.append(_from_secret(name, storage.credentials_secret))
        env.append(_from_secret("AWS_SESSION_TOKEN", storage.credentials_secret, optional=True))
    if token_secret:
        env.append(_from_secret("HF_TOKEN", token_secret))
    return env


def _endpoint_env(spec: EvolutionRunSpec, kind: str) -> list[Object]:
    """The API keys of the endpoints that the stage asks, and of no others."""
    ranking = spec.reward.judge if spec.reward else None
    asked: dict[str, list[Endpoint | None]] = {"reflect": [spec.teacher, ranking], "judge": [spec.judge]}
    return [
        _from_secret(endpoint.key_variable, endpoint.api_key_secret, key=API_KEY)
        for endpoint in asked.get(kind, [])
        if endpoint and endpoint.key_variable and endpoint.api_key_secret
    ]


def _reads_model(kind: str) -> bool:
    """Whether the stage may read the base model. The judge compares texts, by a model behind an endpoint."""
    return kind != "judge"


def _devices_env(pod: PodSettings) -> list[Object]:
    """How many GPUs and threads the stage has: without a working driver it then fails instead of computing on the CPU.

    A process with one thread per core of the node would slow itself and its neighbours down severalfold.
    """
    resources = pod.resources.wire() if pod.resources else {}
    given = {GPUS_VARIABLE: gpus_of(resources), "OMP_NUM_THREADS": cores_of(resources)}
    return [{"name": name, "value": str(amount)} for name, amount in given.items() if amount]


def cores_of(resources: Mapping[str, Any]) -> int:
    """Cores of a container's limit, or else of its request, rounded up; 0 if it has neither."""
    try:
        cores: int = math.ceil(parse_quantity(_amounts(resources).get("cpu", 0)))
    except ValueError:  # the API server's message is better
        return 0
    return cores


def gpus_of(resources: Mapping[str, Any]) -> int:
    """Number of GPUs, or slices of one, in a container's resources."""
    amounts = _amounts(resources).items()
    return sum(int(amount) for name, amount in amounts if GPU.search(name) and str(amount).isdecimal())


def _amounts(resources: Mapping[str, Any]) -> Object:
    """Each resource's limit, or else its request."""
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _from_secret(name: str, secret: str, optional: bool = False, key: str | None = None) -> Object:
    reference = {"name": secret, "key": key or name} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _source_credentials(spec: EvolutionRunSpec) -> list[Object]:
    """The data sources' Secrets, each under a prefix of its own (evolution_jobs.contract.credentials)."""
    secrets = dict.fromkeys(each.credentials_secret for each in spec.data.data_sets if each.credentials_secret)
    return [{"prefix": credential_prefix(name), "secretRef": {"name": name}} for name in secrets]


def variables(ours: Iterable[Object], pod: PodSettings) -> list[Object]:
    """Our variables. A user's variable replaces ours of the same name."""
    writable: list[Object] = [
        {"name": "HOME", "value": TMP},
        {"name": "TMPDIR", "value": SCRATCH},
        {"name": "HF_HOME", "value": f"{SCRATCH}/huggingface"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]
    given = [variable.wire() for variable in pod.env or []]
    by_name = {variable["name"]: variable for variable in [*writable, *ours, *given]}
    return list(by_name.values())


Mounted = tuple[str, Object, bool]
"""Mount path, volume, and whether it is read-only."""


def spec_volume(file: str) -> Mounted:
    """The Pod's own annotation as a file."""
    path = f"metadata.annotations['{labels.SPEC}']"
    items = [{"path": file, "fieldRef": {"fieldPath": path}}]
    return SPEC_DIRECTORY, {"name": "evolution-spec", "downwardAPI": {"items": items}}, True


def _model_volumes(spec: EvolutionRunSpec, kind: str) -> list[Mounted]:
    """The claims of `pvc://claim/path` models: of the base model, and of the others where they are read."""
    models = [("evolution-model", spec.base_model.uri)] if _reads_model(kind) else []
    if spec.reward and spec.reward.model and kind in ("prepare", "reflect"):
        models.append(("evolution-reward-model", spec.reward.model.uri))
    if spec.evaluation.sentence_model and kind in ("prepare", "evaluate"):
        models.append(("evolution-sentence-model", spec.evaluation.sentence_model.uri))
    claims: dict[str, str] = {}
    for volume, uri in models:
        if uri.startswith("pvc://"):  # a claim that holds several models is mounted once
            claims.setdefault(uri.removeprefix("pvc://").partition("/")[0], volume)
    return [
        (f"{PVC_ROOT}/{claim}", {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}, True)
        for claim, volume in claims.items()
    ]


def _cache_volume(spec: EvolutionRunSpec, kind: str) -> list[Mounted]:
    """The model cache, for every stage that loads the base model. prepare reads only its small files."""
    cache = spec.model_cache
    if cache is None or kind == "prepare" or not _reads_model(kind):
        return []
    if cache.claim:
        source: Object = {"persistentVolumeClaim": {"claimName": cache.claim}}
    else:
        source = {"hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
    return [(str(MODEL_CACHE), {"name": "evolution-model-cache", **source}, False)]


def _cache_env(spec: EvolutionRunSpec, kind: str) -> list[Object]:
    if not _cache_volume(spec, kind):
        return []
    given: list[Object] = [
        {"name": MODEL_CACHE_VARIABLE, "value": str(MODEL_CACHE)},
        {"name": HUB_CACHE_VARIABLE, "value": f"{MODEL_CACHE}/hub"},
    ]
    if kind == "prewarm":
        given.append({"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
    return given


def _shared_memory(layout: RankLayout) -> list[Mounted]:
    """Memory by which NCCL joins the processes of a Pod. A container runtime gives 64 MB, which are too few."""
    volume = {"name": "evolution-shm", "emptyDir": {"medium": "Memory"}}
    return [(SHARED_MEMORY, volume, False)] if layout.processes > 1 else []


def volumes_and_mounts(ours: Iterable[Mounted], pod: PodSettings) -> tuple[list[Object], list[Object]]:
    """Volumes and mounts: ours, writable directories, and the user's own."""
    writable = [
        (TMP, {"name": "evolution-tmp", "emptyDir": {}}, False),
        (SCRATCH, {"name": "evolution-scratch", "emptyDir": {}}, False),
    ]
    given = [mount.wire() for mount in pod.volume_mounts or []]
    # A user's volume replaces ours at the same path. A mount over the spec is left for the API server to refuse.
    taken = {mount["mountPath"].rstrip("/") for mount in given} - {SPEC_DIRECTORY}
    kept = [mounted for mounted in [*ours, *writable] if mounted[0] not in taken]
    mounts = [
        {"name": volume["name"], "mountPath": place} | ({"readOnly": True} if read_only else {})
        for place, volume, read_only in kept
    ]
    return [*(volume for _, volume, _ in kept), *(pod.volumes or [])], [*mounts, *given]


def present(values: Object) -> Object:
    """The fields that are set: an empty value would override the cluster's default."""
    return {name: value for name, value in values.items() if value not in (None, "", {}, [])}
