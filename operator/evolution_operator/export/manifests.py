"""Manifests that serve the base model and all adapters of a run, as YAML with comments. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from .kserve_manifest import kserve_objects
from .serving import Object, Serving
from .vllm_manifest import vllm_objects

NOT_RUN = (
    "# Written by evolution export. It was checked against the schemas; it was not run on a GPU when it was written."
)


def manifests(serving: Serving, kinds: Sequence[str]) -> dict[str, str]:
    """File name to YAML, for `vllm` and `kserve`."""
    made = {"vllm": vllm_objects, "kserve": kserve_objects}
    return {f"{kind}.yaml": _yaml(made[kind](serving), _comments(serving, kind)) for kind in kinds}


def _comments(serving: Serving, kind: str) -> list[str]:
    lines = [
        NOT_RUN,
        f"# Models: base, {', '.join(serving.adapters)}. Clients must send the system prompt of the model card.",
    ]
    secret, endpoint = serving.storage.credentials_secret, serving.storage.endpoint
    if serving.storage.uri.startswith("file://"):
        names = " ".join(serving.fetched)
        lines += [
            "# The run's storage is a directory, which a cluster does not reach. Copy the models out of it,",
            f"#   evolution get RUN-FILE {names} -o models{'' if len(serving.fetched) > 1 else f'/{names}'}",
            "# make a claim of this name, and put what is in models at its root:",
            f"# PersistentVolumeClaim: {serving.claim}",
        ]
    elif kind == "kserve" and secret:
        host = (endpoint or "s3.amazonaws.com").partition("://")[2] or "s3.amazonaws.com"
        https = "0" if (endpoint or "").startswith("http://") else "1"
        lines += [
            "# KServe reads the S3 service's address from annotations of the Secret with its credentials:",
            f"# kubectl annotate secret {secret} -n {serving.namespace} serving.kserve.io/s3-endpoint={host} "
            f"serving.kserve.io/s3-usehttps={https}",
        ]
    return lines


class _Plain(yaml.SafeDumper):
    """No anchors, and texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out, each where it belongs."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _text)


def _yaml(documents: Sequence[Object], comments: Sequence[str]) -> str:
    text = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120, explicit_start=True)
    return "\n".join(comments) + "\n" + text
