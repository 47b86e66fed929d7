"""Records of a run's stages and models: one small object each, written once and never changed.

Cleanup decides by the names of the records what other runs share (`contract.keys.recorded_prefix`). So a run records a
stage before it uses the result, and several processes of one run do not need to coordinate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..contract.keys import model_record_path, resolve_keys, stage_record_path
from ..contract.manifest import Manifest, Record
from ..contract.stage import Node, RunRef, StageSpec
from .base import Store
from .manifests import copied_models


def record_stage(store: Store, spec: StageSpec) -> None:
    """Record the spec's stage for its run, and the stage whose rows it makes ahead. Raises StageError."""
    record = Record(run=spec.run, stage=spec.stage, kind=spec.kind, iteration=spec.iteration)
    _put(store, record, stage_record_path(spec.run, spec.stage, spec.key))
    if spec.ahead:
        reflect = Record(run=spec.run, stage=spec.ahead.stage, kind="reflect", iteration=spec.iteration)
        _put(store, reflect, stage_record_path(spec.run, spec.ahead.stage, spec.ahead.key))


def record_run(store: Store, run: RunRef, graph: Sequence[Node], prepare: Manifest) -> dict[str, str]:
    """Record what follows from a run's finished prepare stage: the models that it copied, and every stage with its key.

    Returns the keys by stage id. Raises StageError.
    """
    for output in copied_models(prepare):
        record_model(store, run, prepare.stage, output.digest)
    keys = resolve_keys(graph, prepare.contents)
    for node in graph:
        if node.id in keys:
            record = Record(run=run, stage=node.id, kind=node.kind, iteration=node.iteration)
            _put(store, record, stage_record_path(run, node.id, keys[node.id]))
    return keys


def record_model(store: Store, run: RunRef, stage: str, digest: str) -> None:
    """Record a model that the run's prepare stage (its id is `stage`) has copied. Raises StageError."""
    _put(store, Record(run=run, stage=stage, kind="prepare"), model_record_path(run, digest))


def _put(store: Store, record: Record, location: str) -> None:
    # An existing record says the same, whichever version wrote it.
    store.put_if_absent(json.dumps(record.wire(), ensure_ascii=False, indent=1).encode(), location)
