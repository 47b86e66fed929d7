"""How a stage's result is named: a Merkle digest of all that decides it, and where things lie in the store.

stages/<key>/manifest.json                    the finished stage
stages/<key>/attempts/<attempt>/<output>/...  files, each attempt under its own prefix
stages/<key>/rows/<sha256>.jsonl              finished rows of a sharded stage, addressed by content
stages/<key>/checkpoints/<step>-<attempt>/... training state, its index.json written last
stages/<key>/claims/<number>.json             which run computes it now
models/<digest>/...                           a base model that was copied, addressed by content
runs/<namespace>/<name>/<uid>/stages/<stage>/<key>.json  that a run has this stage
runs/<namespace>/<name>/<uid>/models/<digest>.json       that a run has this model
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .manifest import canonical_digest
from .settings import Settings, deciding
from .stage import Node, RunRef

CODE_VERSIONS: dict[str, int] = {"prepare": 2, "sft": 2, "generate": 1, "reflect": 2, "dpo": 1, "evaluate": 1}
"""Raised by hand when a change to a stage's code changes its result: old results then no longer match."""


def stage_key(kind: str, settings: Settings, seed: int, inputs: Mapping[str, str]) -> str:
    """The key of a stage.

    `inputs` maps each input's name to the digest of its content (prepare's outputs) or to the key and output name of
    the stage that makes it. The number of shards, the attempt and the run's name are not part of a key.
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
    """The key of every stage whose inputs are known, by stage id.

    `contents` maps prepare's output names to content digests; None before prepare has run, when only prepare's own key
    is known. An output that prepare does not list (no replay data, say) leaves the stages that read it without a key.
    The graph is in topological order.
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
    """Where everything of a stage lies, with a trailing slash."""
    return f"stages/{key}/"


def manifest_path(key: str) -> str:
    """Where a finished stage's manifest lies."""
    return f"{stage_prefix(key)}{MANIFEST}"


def attempt_prefix(key: str, attempt: str) -> str:
    """Where one attempt writes, with a trailing slash."""
    return f"stages/{key}/attempts/{attempt}/"


def rows_prefix(key: str) -> str:
    """Where finished rows of a sharded stage lie, with a trailing slash."""
    return f"stages/{key}/rows/"


def checkpoints_prefix(key: str) -> str:
    """Where training state lies, with a trailing slash."""
    return f"stages/{key}/checkpoints/"


def claims_prefix(key: str) -> str:
    """Where runs claim a stage while they compute it, with a trailing slash."""
    return f"stages/{key}/claims/"


def claim_path(key: str, number: int) -> str:
    """Where one claim lies. The highest number counts."""
    return f"{claims_prefix(key)}{number:08d}.json"


def model_prefix(digest: str) -> str:
    """Where a copied base model lies, with a trailing slash. `digest` is that of its output: its files' names and bytes."""
    return f"models/{digest}/"


RUNS_PREFIX = "runs/"
"""Where the records of all runs lie."""

RECORD = re.compile(
    r"runs/[^/]+/[^/]+/[^/]+/(?:stages/[^/]+/(?P<key>[0-9a-f]{64})|models/(?P<model>[0-9a-f]{64}))\.json"
)


def run_prefix(run: RunRef) -> str:
    """Where the records of one run lie, with a trailing slash. A later run of the same name has another uid."""
    uid = re.sub(r"[^A-Za-z0-9_-]", "-", run.uid)
    return f"{RUNS_PREFIX}{run.namespace}/{run.name}/{uid}/"


def stage_record_path(run: RunRef, stage: str, key: str) -> str:
    """Where it is recorded that a run has a stage at a key."""
    return f"{run_prefix(run)}stages/{stage}/{key}.json"


def model_record_path(run: RunRef, digest: str) -> str:
    """Where it is recorded that a run has a copied model."""
    return f"{run_prefix(run)}models/{digest}.json"


def recorded_prefix(location: str) -> str | None:
    """What a record says its run has: the prefix of a stage or of a model. None where the location is no record's.

    The name says it all, so a record whose content cannot be read still counts.
    """
    found = RECORD.fullmatch(location)
    if found is None:
        return None
    return stage_prefix(found["key"]) if found["key"] else model_prefix(found["model"])
