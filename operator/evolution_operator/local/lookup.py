"""Finds the stages of a run that the store has already, and checks every file."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.stage import Node, RunRef
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import corrupt_files, retract, sound_manifest
from evolution_jobs.store.pointers import point
from evolution_jobs.store.record import record_run

from ..planner.observed import Published


@dataclass(frozen=True)
class Finished:
    """Finished stages by key, and prepare's content digests if prepare is one of them."""

    manifests: dict[str, Manifest]
    contents: dict[str, str] | None

    def published(self, run: RunRef) -> dict[str, Published]:
        """As the planner sees them. What this run's own earlier calls took counts for its budgets."""
        return {key: _published(manifest, run) for key, manifest in self.manifests.items()}

    def without(self, keys: Set[str | None]) -> Finished:
        """The finished stages except these keys, which were withdrawn in the meantime."""
        return replace(self, manifests={key: found for key, found in self.manifests.items() if key not in keys})


def _published(manifest: Manifest, run: RunRef) -> Published:
    own = manifest.run == run
    return Published(
        metrics=manifest.metrics,
        intervals=manifest.intervals,
        digest=manifest.main_digest,
        tokens=manifest.tokens if own else 0,
        gpu_seconds=round(manifest.seconds * manifest.gpus, 1) if own else 0,
    )


def look_up(store: Store, graph: list[Node], tell: Callable[[str], None], withdraw: bool = True) -> Finished:
    """Find the run's finished stages. Every file is read and its digest compared.

    A stage with a missing or corrupt file is not finished: `tell` is called with what is wrong and, if `withdraw`, its
    manifest is withdrawn.
    """

    def finished(stage: str, key: str) -> Manifest | None:
        def report(fault: str) -> None:
            tell(f"stage {stage}: {fault}; it runs again")
            if withdraw:
                retract(store, key, fault)

        return sound_manifest(store, key, corrupt_files, report)

    manifests: dict[str, Manifest] = {}
    first = resolve_keys(graph, None)["prepare"]
    contents: dict[str, str] | None = None
    prepare = finished("prepare", first)
    if prepare is not None:
        manifests[first] = prepare
        contents = prepare.contents
        for stage, key in resolve_keys(graph, contents).items():
            if stage != "prepare" and (manifest := finished(stage, key)) is not None:
                manifests[key] = manifest
    return Finished(manifests, contents)


def record(store: Store, run: RunRef, graph: list[Node], finished: Finished) -> None:
    """Record what the run found finished, before it builds on it, and write its pointers.

    Stages that are finished already get no process in this call that would do it.
    """
    prepare = finished.manifests.get(resolve_keys(graph, None)["prepare"])
    if prepare is not None:
        record_run(store, run, graph, prepare)
        point(store, run, finished.manifests.values())
