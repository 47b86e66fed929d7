"""A Deployment in which vLLM serves the base model and all adapters of a run, under the restricted Pod Security Standard. Pure."""

from __future__ import annotations

import json

from evolution_jobs.contract.locations import Storage

from .serving import Object, Serving, base_claim

MODELS = "/models"
"""Where the Pod has the models' files."""
USER = 65532


def vllm_objects(serving: Serving) -> list[Object]:
    """A Deployment, its Service, and a ConfigMap with the files that it fetches."""
    labels = {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": serving.name}
    meta = {"name": serving.name, "namespace": serving.namespace, "labels": labels}
    remote = serving.storage.uri.startswith("s3://")
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 1,
            # A second Pod would ask for a second GPU.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(serving, remote)},
        },
    }
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 8000, "targetPort": "http"}]},
    }
    return [*([_files(serving, meta)] if remote else []), deployment, service]


def _files(serving: Serving, meta: Object) -> Object:
    """The files that the Pod fetches, pinned by digest."""
    files = [
        {"path": f"{name}/{file.path}", "location": file.location, "sha256": file.sha256}
        for name, output in serving.fetched.items()
        for file in output.files
    ]
    document = {"storage": serving.storage.wire(), "files": files}
    text = json.dumps(document, indent=1, sort_keys=True)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"files.json": text}}


def _pod(serving: Serving, remote: bool) -> Object:
    models: Object = {"emptyDir": {}} if remote else {"persistentVolumeClaim": {"claimName": serving.claim}}
    volumes: list[Object] = [
        {"name": "models", **models},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ]
    if remote:
        volumes.append({"name": "files", "configMap": {"name": serving.name}})
    if claim := base_claim(serving.base):
        volumes.append({"name": "base", "persistentVolumeClaim": {"claimName": claim[0], "readOnly": True}})
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": [_fetch(serving)]} if remote else {}),
        "containers": [_server(serving)],
        "volumes": volumes,
    }


def _fetch(serving: Serving) -> Object:
    return {
        "name": "fetch",
        "image": serving.fetch_image,
        "command": ["python3", "-m", "evolution_jobs.fetch", "/etc/evolution/files.json", MODELS],
        "env": _credentials(serving.storage),
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _restricted(),
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS},
            {"name": "files", "mountPath": "/etc/evolution", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- in the Pod
        ],
    }


def _server(serving: Serving) -> Object:
    mounts: list[Object] = [
        {"name": "models", "mountPath": MODELS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- in the Pod
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 -- in the Pod
    ]
    if base_claim(serving.base):
        mounts.append({"name": "base", "mountPath": "/base", "readOnly": True})
    gpus = {"nvidia.com/gpu": str(serving.gpus)}
    # vLLM answers /health only once the models are loaded. A large base model takes many minutes to download.
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "name": "vllm",
        "image": serving.vllm_image,
        "command": ["vllm", "serve"],
        "args": vllm_arguments(serving),
        "env": [
            # A numeric user has no name and no home. vLLM and torch keep what they compile below HOME.
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 -- in the Pod
            {"name": "USER", "value": "vllm"},
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            *([_from_secret("HF_TOKEN", serving.token_secret)] if serving.token_secret else []),
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {
            "requests": {"cpu": "2", "memory": serving.memory, **gpus},
            "limits": {"memory": serving.memory, **gpus},
        },
        "startupProbe": {**health, "periodSeconds": 10, "failureThreshold": 180},
        "readinessProbe": {**health, "periodSeconds": 10},
        "livenessProbe": {**health, "periodSeconds": 20, "failureThreshold": 6},
        "securityContext": _restricted(),
        "volumeMounts": mounts,
    }


def vllm_arguments(serving: Serving) -> list[str]:
    """Arguments of `vllm serve`."""
    hub = serving.base.hub
    claim = base_claim(serving.base)
    base = hub[0] if hub else f"/base/{claim[1]}".rstrip("/") if claim else f"{MODELS}/base"
    return [
        base,
        *(["--revision", hub[1], "--tokenizer-revision", hub[1]] if hub else []),
        *("--served-model-name", "base"),
        "--enable-lora",
        *("--lora-modules", *(f"{name}={MODELS}/{name}" for name in serving.adapters)),
        *("--max-loras", str(len(serving.adapters))),
        *("--max-lora-rank", str(serving.max_lora_rank)),
        *("--max-model-len", str(serving.length)),
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps(serving.sampling)),
        *(["--tensor-parallel-size", str(serving.gpus)] if serving.gpus > 1 else []),
    ]


def _credentials(storage: Storage) -> list[Object]:
    if storage.credentials_secret is None:
        return []
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    # Keys that last for hours only come with a token.
    token = _from_secret("AWS_SESSION_TOKEN", storage.credentials_secret, optional=True)
    return [*(_from_secret(name, storage.credentials_secret) for name in keys), token]


def _from_secret(name: str, secret: str, optional: bool = False) -> Object:
    reference: Object = {"name": secret, "key": name}
    return {"name": name, "valueFrom": {"secretKeyRef": reference | ({"optional": True} if optional else {})}}


def _restricted() -> Object:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
