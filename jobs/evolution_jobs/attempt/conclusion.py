"""What happens after a stage's manifest is published, by this attempt or by another."""

from __future__ import annotations

import logging

from ..contract.errors import StageError
from ..contract.figures import figures_of
from ..contract.keys import attempt_prefix, checkpoints_prefix, claims_prefix, rows_prefix
from ..contract.manifest import Manifest, Report
from ..contract.stage import StageSpec
from ..store.base import Store
from ..store.manifests import published
from ..store.pointers import point
from ..store.record import record_run

log = logging.getLogger(__name__)


def conclude(
    store: Store, bare: Store, spec: StageSpec, manifest: Manifest, reason: str, message: str, seconds: float
) -> Report:
    """Write the run's pointers, delete what is no longer needed, and return the report.

    prepare also records the stages that its run uses, and writes the pointers of those that are published already.
    `bare` is the store without patience: nobody should wait for a deletion. Raises StageError, but never because
    something cannot be deleted. The stage is published all the same: its next attempt is `Cached` and comes here again.
    """
    point(store, spec.run, [manifest])
    kept = clear_leftovers(bare, manifest)
    report = Report(
        reason=reason,
        message=message,
        notes=[*manifest.notes, *([kept] if kept else [])],
        key=manifest.key,
        metrics=manifest.metrics,
        intervals=manifest.intervals,
        tokens=0 if reason == "Cached" else manifest.tokens,
        counts={**manifest.counts, **({"cleanup.failed": 1} if kept else {})},
        seconds=seconds,
        digest=manifest.main_digest,
    )
    return _with_the_runs_stages(store, spec, manifest, report) if spec.kind == "prepare" else report


def clear_leftovers(store: Store, manifest: Manifest) -> str | None:
    """Remove a finished stage's rows, checkpoints, claims, and the files of other attempts.

    Returns why something stays, or None. The stage is finished all the same: the next attempt at its key tries again,
    and so does the cleanup of its run.
    """
    prefixes = (claims_prefix(manifest.key), rows_prefix(manifest.key), checkpoints_prefix(manifest.key))
    try:
        for prefix in prefixes:
            store.delete(prefix)
        kept = attempt_prefix(manifest.key, manifest.attempt)
        everyone = kept.removesuffix(f"{manifest.attempt}/")
        others = {location[len(everyone) :].partition("/")[0] for location, _ in store.list(everyone)}
        for attempt in others - {manifest.attempt}:
            store.delete(f"{everyone}{attempt}/")
    except StageError as error:
        message = (
            f"cleanup: some rows, checkpoints or files of other attempts stay in the storage: {error.reason}: {error}"
        )
        log.warning("%s", message)
        return message
    return None


def _with_the_runs_stages(store: Store, spec: StageSpec, prepare: Manifest, report: Report) -> Report:
    """Prepare's report with its digests, from which every key follows, and the stages that are published already."""
    # Recorded before it is looked up: what is found then is known to be shared, and no cleanup deletes it.
    keys = record_run(store, spec.run, spec.graph, prepare)
    found = published(store, keys.values())
    point(store, spec.run, (manifest for key, manifest in found.items() if key != prepare.key))
    manifests = [(node, found[keys[node.id]]) for node in spec.graph if keys.get(node.id) in found]
    figures = {node.id: figures_of(node.kind, manifest.metrics) for node, manifest in manifests}
    intervals = {node.id: figures_of(node.kind, manifest.intervals) for node, manifest in manifests}
    return report.model_copy(
        update={
            "contents": prepare.contents,
            "published": [stage for stage, key in keys.items() if key in found],
            "figures": {stage: values for stage, values in figures.items() if values},
            "figure_intervals": {stage: values for stage, values in intervals.items() if values},
        }
    )
