"""KServe's own resource for a base model with adapters. Pure."""

from __future__ import annotations

import json

from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Output

from .serving import Object, Serving, base_claim


def in_storage(storage: Storage, output: Output) -> str:
    """The address of the directory that holds an output's files."""
    file = output.files[0]
    return f"{storage.uri.rstrip('/')}/{file.location.removesuffix(file.path).rstrip('/')}"


def kserve_objects(serving: Serving) -> list[Object]:
    """An LLMInferenceService, and the ServiceAccount with which KServe fetches its files."""
    hub, claim = serving.base.hub, base_claim(serving.base)
    remote = serving.storage.uri.startswith("s3://")

    def place(name: str, output: Output) -> str:
        return in_storage(serving.storage, output) if remote else f"pvc://{serving.claim}/{name}"

    if hub:
        base = f"hf://{hub[0]}:{hub[1]}"
    else:
        base = f"pvc://{claim[0]}/{claim[1]}" if claim else place("base", serving.base.output)
    gpus = {"nvidia.com/gpu": str(serving.gpus)}
    meta = {"name": serving.name, "namespace": serving.namespace}
    secrets = list(dict.fromkeys(filter(None, (serving.storage.credentials_secret, serving.token_secret))))
    account: Object = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta,
        "secrets": [{"name": name} for name in secrets],
    }
    service: Object = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": meta,
        "spec": {
            "model": {
                "uri": base,
                "name": "base",
                "lora": {
                    "adapters": [{"name": name, "uri": place(name, each)} for name, each in serving.adapters.items()],
                    "maxRank": serving.max_lora_rank,
                    "maxAdapters": len(serving.adapters),
                },
            },
            "replicas": 1,
            "router": {"route": {}, "gateway": {}},
            "template": {
                **({"serviceAccountName": serving.name} if secrets else {}),
                "containers": [
                    {
                        "name": "main",
                        "env": [
                            {
                                "name": "VLLM_ADDITIONAL_ARGS",
                                "value": f"--max-model-len={serving.length} --generation-config=vllm "
                                # KServe's template hands this to a shell.
                                f"--override-generation-config='{json.dumps(serving.sampling, separators=(',', ':'))}'",
                            }
                        ],
                        "resources": {
                            "requests": {"cpu": "2", "memory": serving.memory, **gpus},
                            "limits": {"memory": serving.memory, **gpus},
                        },
                    }
                ],
            },
        },
    }
    return [*([account] if secrets else []), service]
