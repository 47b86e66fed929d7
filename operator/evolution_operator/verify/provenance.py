"""The provenance of a stage's result, as an in-toto Statement with SLSA's provenance predicate. Pure.

It follows from manifests alone, so it can be made again at any time, with the same bytes.
Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evolution_jobs.contract.keys import MANIFEST, manifest_path
from evolution_jobs.contract.manifest import Manifest, Output

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://evolution.run/stage/v1"
"""What the parameters mean: those of a stage."""
UNSIGNED = "provenance.json"
"""Name of the file with the statement, beside a copied adapter."""
BUILDER = "https://evolution.run/evolution-operator"
CONTENT_DIGEST = "evolutionContentSha256"
"""Digest of a set of files: SHA-256 of the sorted list of (path, sha256) as JSON (`contract.manifest.content_digest`)."""


def statement(manifest: Manifest, manifest_digest: str, upstream: Mapping[str, Manifest]) -> bytes:
    """The statement about a finished stage, as JSON.

    Args:
        manifest: the stage's.
        manifest_digest: SHA-256 of the manifest as it is stored.
        upstream: manifests of the run by stage id; inputs are looked up in them by content.
    """
    document = {
        "_type": STATEMENT,
        "subject": [
            {"name": MANIFEST, "digest": {"sha256": manifest_digest}},
            *(
                {"name": f"{name}/{file.path}", "digest": {"sha256": file.sha256}}
                for name, output in manifest.outputs.items()
                for file in output.files
            ),
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"stage": manifest.kind, "settings": manifest.settings, "seed": manifest.seed},
                "internalParameters": {"key": manifest.key, "stageVersion": manifest.code.get("stage", "")},
                "resolvedDependencies": list(_dependencies(manifest, upstream)),
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {name: version for name, version in manifest.code.items() if name != "stage"},
                },
                "metadata": {"invocationId": f"{manifest.run.namespace}/{manifest.run.name}/{manifest.attempt}"},
                "byproducts": [{"name": "manifest", "uri": manifest_path(manifest.key)}],
            },
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _dependencies(manifest: Manifest, upstream: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    """Each input with its content's digest, then the files that it has if their manifest is known."""
    for name, digest in sorted(manifest.inputs.items()):
        made_by, output = next(
            (
                (each, output)
                for each in upstream.values()
                for output in each.outputs.values()
                if output.digest == digest and each.key != manifest.key
            ),
            (None, Output(digest=digest, files=[])),
        )
        uri = output.reference or (manifest_path(made_by.key) if made_by else None)
        yield {"name": name, **({"uri": uri} if uri else {}), "digest": {CONTENT_DIGEST: digest}}
        for file in output.files:
            yield {"name": f"{name}/{file.path}", "uri": file.location, "digest": {"sha256": file.sha256}}
