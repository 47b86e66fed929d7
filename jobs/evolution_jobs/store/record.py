"""`runs/<namespace>/<name>/run.json`: which stages a run has, and what is known of those that are published.

For people and tools that look at a bucket. Nothing is decided by it: the manifests alone say what is finished.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from ..contract.errors import TransientError
from ..contract.keys import run_record_path
from ..contract.manifest import Manifest, RunRecord, StageRecord
from ..contract.stage import Node, RunRef, StageSpec
from .base import Store

log = logging.getLogger(__name__)

TRIES = 30
"""A run's stages end seldom at one moment; each failed try means that another one's succeeded."""


def record_graph(
    store: Store, run: RunRef, graph: list[Node], keys: Mapping[str, str], found: Mapping[str, Manifest]
) -> None:
    """Write a run's record with every stage whose key is known; `found` maps published keys to manifests."""

    def change(record: RunRecord | None) -> RunRecord:
        before = record.stages if record is not None and record.run == run else {}
        stages = {}
        for node in graph:
            if node.id not in keys:
                continue
            key = keys[node.id]
            known = before.get(node.id)
            if known is not None and known.key == key and known.state == "Published" and key in found:
                stages[node.id] = known
            elif key in found:
                stages[node.id] = _published(found[key], node.iteration, cached=found[key].run != run)
            else:
                stages[node.id] = StageRecord(key=key, kind=node.kind, iteration=node.iteration, state="Planned")
        return RunRecord(run=run, stages=stages)

    _update(store, run, change)


def record_stage(store: Store, spec: StageSpec, manifest: Manifest) -> None:
    """Note a published stage in its run's record."""

    def change(record: RunRecord | None) -> RunRecord | None:
        if record is not None and record.run != spec.run:
            log.warning("%s belongs to a newer run of that name: not updated", run_record_path(spec.run))
            return None
        stages = dict(record.stages) if record is not None else {}
        stages[spec.stage] = _published(manifest, spec.iteration, cached=manifest.run != spec.run)
        return RunRecord(run=spec.run, stages=stages)

    _update(store, spec.run, change)


def _published(manifest: Manifest, iteration: int | None, cached: bool) -> StageRecord:
    return StageRecord(
        key=manifest.key,
        kind=manifest.kind,
        iteration=iteration,
        state="Published",
        cached=cached,
        seconds=manifest.seconds,
        metrics=manifest.metrics,
        counts=manifest.counts,
    )


def _update(store: Store, run: RunRef, change: Callable[[RunRecord | None], RunRecord | None]) -> None:
    """Read, change and write back only what nobody else has changed meanwhile."""
    location = run_record_path(run)
    for _ in range(TRIES):
        stored = store.read(location)
        record = change(_parsed(stored.data, location) if stored else None)
        if record is None:
            return
        data = json.dumps(record.wire(), ensure_ascii=False, indent=1).encode()
        if store.put_if_match(data, location, stored.tag) if stored else store.put_if_absent(data, location):
            return
        time.sleep(random.uniform(0, 0.2))  # noqa: S311
    raise TransientError("StorageConflict", f"{store.uri}/{location}: others keep writing it")


def _parsed(data: bytes, location: str) -> RunRecord | None:
    try:
        return RunRecord.model_validate_json(data)
    except ValidationError:
        log.warning("%s cannot be read: written anew", location)
        return None
