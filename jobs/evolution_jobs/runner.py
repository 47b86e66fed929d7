"""Run one stage: fetch its inputs, call its code, upload, publish the manifest last, report.

    python -m evolution_jobs sft --spec stage.json

A published stage does not run again. Nobody sees anything of a stage before its manifest, which is put on condition
that there is none. So a process that is killed at any moment leaves nothing half done, and two processes at one key
leave one result.
"""

from __future__ import annotations

import importlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping

from .attempt.claim import claimed
from .attempt.conclusion import conclude
from .attempt.failures import failure_report
from .attempt.in_ranks import in_ranks
from .attempt.inputs import check_key, digests, fetch_inputs, read_input_manifests, references
from .attempt.model_cache import usable_cache
from .attempt.phases import Phases
from .attempt.publication import publish_result
from .attempt.report import write_report
from .attempt.rows import PublishedMeanwhile
from .attempt.scratch import scratch_directory
from .attempt.shard import node, on_this_shard
from .attempt.spent import Spent
from .attempt.stop import StopRequest, stop_on_signals
from .attempt.torchrun import first_node_waits
from .attempt.workspace import StoredWorkspace, say_waiting
from .contract.errors import PermanentError
from .contract.keys import manifest_path
from .contract.manifest import Manifest, Report
from .contract.stage import SHARDED, StageSpec
from .contract.workspace import Result, Workspace
from .libraries import install
from .store.base import Store
from .store.manifests import missing_files, read_manifest, retract, sound_manifest
from .store.open import open_store
from .store.patient import patient
from .store.record import record_stage

log = logging.getLogger(__name__)

Stage = Callable[[Workspace], Result | None]
"""A stage's code."""

ATTEMPT_LENGTH = 54
"""Characters of the spec's attempt that are kept: with nine more it is still a DNS label."""


def installed_stage(kind: str) -> Stage:
    """The code of a stage in this package. Raises PermanentError `DependencyMissing` if a library is not installed."""
    try:
        run: Stage = importlib.import_module(f"evolution_jobs.stages.{kind}").run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("evolution_jobs"):
            raise
        raise PermanentError("DependencyMissing", f"stage {kind} needs {error.name}: {install('train')}") from error
    return run


def run_stage(spec: StageSpec, stages: Callable[[str], Stage] = installed_stage, phases: Phases | None = None) -> int:
    """Run a stage and return the exit code for its process (see contract.errors). `phases` has what came before.

    Writes progress and, last, the report as one JSON line each to stdout, and the report to the termination log. An
    error that the user can correct is one line on stderr; only an unexpected one has its traceback. Never raises.
    """
    phases = phases or Phases()
    phases.end("import")
    try:
        with stop_on_signals() as stop:
            report, code = _run(on_this_shard(spec), stages, stop, phases), 0
    except BaseException as error:  # noqa: BLE001 -- the process's edge: whatever it was, it is reported
        report, code = failure_report(spec, error)
    write_report(report)
    return code


def _run(spec: StageSpec, stages: Callable[[str], Stage], stop: StopRequest, phases: Phases) -> Report:
    bare = open_store(spec.storage)
    # A stage has inputs only after other stages have used the storage.
    store = patient(bare, proven=bool(spec.inputs), pause=stop.pause)
    upstream = read_input_manifests(store, spec)
    check_key(spec, upstream)
    if node(spec) > 0:
        return _assist(spec, store, upstream, stop)
    record_stage(store, spec)
    began = time.monotonic()

    def withdraw(fault: str) -> None:
        log.warning("%s is withdrawn and the stage runs again: %s", manifest_path(spec.key), fault)
        retract(store, spec.key, fault)

    def published() -> Manifest | None:
        return sound_manifest(store, spec.key, missing_files, withdraw)

    def cached(manifest: Manifest, message: str) -> Report:
        return conclude(store, bare, spec, manifest, "Cached", message, round(time.monotonic() - began, 3))

    if (earlier := published()) is not None:
        return cached(earlier, f"{manifest_path(spec.key)} is published already")
    attempt = f"{spec.attempt[:ATTEMPT_LENGTH]}-{secrets.token_hex(4)}"
    with claimed(store, bare, spec, published, lambda run: say_waiting(spec, run, stop), stop.pause) as theirs:
        mine = None if theirs is not None else _computed(spec, stages, store, upstream, attempt, stop, phases)
    if theirs is not None:
        return cached(
            theirs, f"ComputedElsewhere: run {theirs.run.namespace}/{theirs.run.name} has published this stage"
        )
    assert mine is not None, "what no other run has published is computed here"
    if isinstance(mine, Report):
        return mine
    log.info("%s took: %s", spec.stage, phases)
    if mine.attempt != attempt:
        return cached(mine, f"attempt {mine.attempt} published first")
    return conclude(store, bare, spec, mine, "Completed", "", mine.seconds)


def _computed(
    spec: StageSpec,
    stages: Callable[[str], Stage],
    store: Store,
    upstream: Mapping[str, Manifest],
    attempt: str,
    stop: StopRequest,
    phases: Phases,
) -> Manifest | Report:
    """The manifest in force once the stage has run, or this shard's report while rows of other shards are missing."""
    with scratch_directory() as directory:
        workspace = StoredWorkspace(spec, store, attempt, directory, stop)
        cache, uncached = usable_cache(spec.kind)
        phases.end("fetch")
        stage = stages(spec.kind) if spec.ranks.count == 1 else in_ranks
        phases.end("import")
        fetch_inputs(store, spec, upstream, workspace.inputs, workspace.check_stop, cache)
        workspace.references, workspace.digests = references(spec, upstream), digests(spec, upstream)
        phases.end("fetch")
        spent = Spent()
        try:
            result = stage(workspace)
        except PublishedMeanwhile:
            result = None
        for phase, moment in workspace.moments.items():
            phases.end(phase, moment)
        if result is None:
            return read_manifest(store, spec.key) or _shard_report(spec, workspace)
        return publish_result(
            store,
            spec,
            attempt,
            result,
            inputs=workspace.digests,
            spent=spent,
            phases=phases,
            extra_counts={
                "rows.corruptChunks": workspace.corrupt_chunks,
                "checkpoints.corrupt": workspace.checkpoints.corrupt,
                "modelCache.unwritable": uncached,
            },
        )


def _assist(spec: StageSpec, store: Store, upstream: Mapping[str, Manifest], stop: StopRequest) -> Report:
    """Train on a node that is not the first. That one claims the stage and publishes; this one only computes."""
    attempt = f"{spec.attempt[:ATTEMPT_LENGTH]}-{secrets.token_hex(4)}"
    with scratch_directory() as directory:
        workspace = StoredWorkspace(spec, store, attempt, directory, stop)
        cache, _ = usable_cache(spec.kind)
        fetch_inputs(store, spec, upstream, workspace.inputs, workspace.check_stop, cache)
        workspace.references = references(spec, upstream)
        if first_node_waits(lambda: read_manifest(store, spec.key) is not None, stop.pause):
            in_ranks(workspace, node(spec))
    return Report(reason="NodeCompleted", message=f"node {node(spec)} is done; the first one publishes", key=spec.key)


def _shard_report(spec: StageSpec, workspace: StoredWorkspace) -> Report:
    if spec.kind not in SHARDED or spec.shard.count == 1:
        raise RuntimeError(f"stage {spec.stage} returned nothing, although it has all rows")
    return Report(
        reason="ShardCompleted",
        message=f"shard {spec.shard.index} of {spec.shard.count} is done; the last one to end publishes",
        key=spec.key,
        counts={"rows.appended": workspace.rows.appended},
    )
