"""Keys of stages (Merkle digests of everything that decides a result), and locations in the store.

stages/<key>/manifest.json                    the finished stage
stages/<key>/attempts/<attempt>/<output>/...  files, each attempt under its own prefix
stages/<key>/rows/<sha256>.jsonl              finished rows of a sharded stage, addressed by content
stages/<key>/checkpoints/<step>-<attempt>/... training state, its index.json written last
stages/<key>/claims/<number>.json             the run that computes it now
models/<digest>/...                           a base model that was copied, addressed by content
runs/<namespace>/<name>/<uid>/stages/<stage>/<key>.json  record: the run uses this stage
runs/<namespace>/<name>/<uid>/models/<digest>.json       record: the run uses this model
runs/<namespace>/<name>/<artifact>            pointer to an artifact by its readable name (contract.names)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .manifest import canonical_digest
from .settings import Settings, deciding
from .stage import Node, RunRef

CODE_VERSIONS: dict[str, int] = {
    "prepare": 4,
    "sft": 3,
    "generate": 2,
    "reflect": 3,
    "dpo": 2,
    "evaluate": 5,
    "prewarm": 1,
    "judge": 2,
}
"""Raise a stage's number if a code change changes its result. Otherwise cached results of the old code are reused."""


def stage_key(kind: str, settings: Settings, seed: int, inputs: Mapping[str, str]) -> str:
    """The key of a stage.

    `inputs` maps each input's name to the digest of its content (outputs of prepare), or to `<key>/<output>` of the
    stage that makes it. The number of shards, the attempt and the run's name are not part of a key.
    """
    return canonical_digest(
        {
            "kind": kind,
            "code": CODE_VERSIONS[kind],
            "settings": deciding(settings),
            "seed": seed,
            "inputs": dict(inputs),
        }
    )


def resolve_keys(graph: Iterable[Node], contents: Mapping[str, str] | None) -> dict[str, str]:
    """The key of every stage whose inputs are known, by stage id. The graph is in topological order.

    `contents` maps prepare's output names to content digests. Before prepare has run it is None, and only prepare's key
    is known. A stage that reads an output which is not in `contents` has no key.
    """
    keys: dict[str, str] = {}
    for node in graph:
        inputs: dict[str, str] = {}
        for name, source in node.inputs.items():
            stage, _, output = source.partition("/")
            if stage == "prepare":
                if contents is None or output not in contents:
                    break
                inputs[name] = contents[output]
            else:
                if stage not in keys:
                    break
                inputs[name] = f"{keys[stage]}/{output}"
        else:
            keys[node.id] = stage_key(node.kind, node.settings, node.seed, inputs)
    return keys


MANIFEST = "manifest.json"
"""Name of a finished stage's manifest below its prefix."""


def stage_prefix(key: str) -> str:
    """Prefix of everything of a stage, with a trailing slash."""
    return f"stages/{key}/"


def manifest_path(key: str) -> str:
    """Location of a finished stage's manifest."""
    return f"{stage_prefix(key)}{MANIFEST}"


def attempt_prefix(key: str, attempt: str) -> str:
    """Prefix under which one attempt writes, with a trailing slash."""
    return f"stages/{key}/attempts/{attempt}/"


def rows_prefix(key: str) -> str:
    """Prefix of finished rows of a sharded stage, with a trailing slash."""
    return f"stages/{key}/rows/"


def checkpoints_prefix(key: str) -> str:
    """Prefix of training state, with a trailing slash."""
    return f"stages/{key}/checkpoints/"


def claims_prefix(key: str) -> str:
    """Prefix of the claims of a stage, with a trailing slash."""
    return f"stages/{key}/claims/"


def claim_path(key: str, number: int) -> str:
    """Location of one claim. The highest number counts."""
    return f"{claims_prefix(key)}{number:08d}.json"


MODELS_PREFIX = "models/"
"""Prefix of all copied base models."""


def model_prefix(digest: str) -> str:
    """Prefix of a copied base model, with a trailing slash. `digest` is that of its output."""
    return f"{MODELS_PREFIX}{digest}/"


RUNS_PREFIX = "runs/"
"""Prefix of the records and pointers of all runs."""

RECORD = re.compile(
    r"runs/[^/]+/[^/]+/[^/]+/(?:stages/[^/]+/(?P<key>[0-9a-f]{64})|models/(?P<model>[0-9a-f]{64}))\.json"
)


def run_prefix(run: RunRef) -> str:
    """Prefix of one run's records, with a trailing slash. A later run of the same name has another uid."""
    uid = re.sub(r"[^A-Za-z0-9_-]", "-", run.uid)
    return f"{RUNS_PREFIX}{run.namespace}/{run.name}/{uid}/"


def stage_record_path(run: RunRef, stage: str, key: str) -> str:
    """Location of the record that a run uses the stage at a key."""
    return f"{run_prefix(run)}stages/{stage}/{key}.json"


def model_record_path(run: RunRef, digest: str) -> str:
    """Location of the record that a run uses a copied model."""
    return f"{run_prefix(run)}models/{digest}.json"


def recorded_prefix(location: str) -> str | None:
    """The prefix of the stage or model that a record stands for, or None if the location is not a record's.

    Only the location matters, so a record with unreadable content still counts.
    """
    found = RECORD.fullmatch(location)
    if found is None:
        return None
    return stage_prefix(found["key"]) if found["key"] else model_prefix(found["model"])
