"""Run one stage: fetch its inputs, call its code, upload, publish the manifest last, say how it went.

    python -m evolution_jobs sft --spec stage.json

A stage that is published already is not run again. Nothing is visible to anyone before the manifest, and the manifest
is put on condition that there is none, so a process killed at any moment leaves nothing half done, and two processes
at one key leave one result.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping

from .attempt.claim import claimed
from .attempt.failures import failure_report
from .attempt.inputs import check_key, digests, fetch_inputs, read_input_manifests, references
from .attempt.publication import clear_leftovers, publish_result
from .attempt.report import write_termination_message
from .attempt.scratch import scratch_directory
from .attempt.stop import StopRequest, stop_on_signals
from .attempt.workspace import StoredWorkspace, say_waiting
from .contract.environment import storage_patience
from .contract.errors import PermanentError
from .contract.keys import manifest_path, resolve_keys
from .contract.manifest import Manifest, Report
from .contract.stage import SHARDED, Shard, StageSpec
from .contract.workspace import Result, Workspace
from .store.base import Store
from .store.manifests import copied_models, missing_files, published, read_manifest, retract, sound_manifest
from .store.open import open_store
from .store.patient import PatientStore
from .store.record import record_graph, record_model, record_stage

log = logging.getLogger(__name__)

Stage = Callable[[Workspace], Result | None]
"""A stage's code."""

ATTEMPT_LENGTH = 54
"""Characters of the spec's attempt that are kept: with nine more it is still a DNS label."""


def installed_stage(kind: str) -> Stage:
    """The stage's code in this package. Raises PermanentError where a library that it needs is not installed."""
    try:
        run: Stage = importlib.import_module(f"evolution_jobs.stages.{kind}").run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("evolution_jobs"):
            raise
        raise PermanentError(
            "DependencyMissing", f"stage {kind} needs {error.name}: pip install 'evolution-operator[train]'"
        ) from error
    return run


def run_stage(spec: StageSpec, stages: Callable[[str], Stage] = installed_stage) -> int:
    """Run a stage and return the exit code for its process (see contract.errors).

    Writes progress and, last, the report as one JSON line each to stdout, and the report to the termination log. An
    error that the user can mend is one line on stderr; only an unexpected one comes with its traceback. Never raises.
    """
    try:
        with stop_on_signals() as stop:
            report, code = _run(_on_this_shard(spec), stages, stop), 0
    except BaseException as error:  # noqa: BLE001 -- the process's edge: whatever it was, it is reported
        report, code = failure_report(spec, error)
    report_end(report)
    return code


def report_end(report: Report) -> None:
    """Say how it went, to whoever started this process."""
    write_termination_message(report)
    try:
        sys.stdout.write(json.dumps(report.wire(), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads it, and the interpreter would try once more when it ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _run(spec: StageSpec, stages: Callable[[str], Stage], stop: StopRequest) -> Report:
    bare = open_store(spec.storage)
    store = _patient(bare, spec, stop)
    upstream = read_input_manifests(store, spec)
    check_key(spec, upstream)
    record_stage(store, spec)
    began = time.monotonic()

    def withdraw(fault: str) -> None:
        log.warning("%s is withdrawn and the stage runs again: %s", manifest_path(spec.key), fault)
        retract(store, spec.key, fault)

    def sound() -> Manifest | None:
        return sound_manifest(store, spec.key, missing_files, withdraw)

    earlier = sound()
    if earlier is not None:
        return _cached(store, spec, earlier, f"{manifest_path(spec.key)} is published already", began)
    attempt = f"{spec.attempt[:ATTEMPT_LENGTH]}-{secrets.token_hex(4)}"
    with claimed(store, bare, spec, sound, lambda run: say_waiting(spec, run, stop), stop.pause) as theirs:
        if theirs is None:
            with scratch_directory() as directory:
                workspace = StoredWorkspace(spec, store, attempt, directory, stop)
                manifest = _computed(spec, stages(spec.kind), workspace, store, upstream)
    if theirs is not None:
        run = f"{theirs.run.namespace}/{theirs.run.name}"
        return _cached(store, spec, theirs, f"ComputedElsewhere: run {run} has published it meanwhile", began)
    if manifest is None:
        return _unfinished(store, spec, workspace, began)
    if manifest.attempt != attempt:
        return _cached(store, spec, manifest, f"attempt {manifest.attempt} published first", began)
    return _settle(store, spec, manifest, "Completed", "", manifest.seconds)


def _computed(
    spec: StageSpec, stage: Stage, workspace: StoredWorkspace, store: Store, upstream: Mapping[str, Manifest]
) -> Manifest | None:
    """The manifest in force once the stage has run; None where other shards' rows are missing."""
    fetch_inputs(store, spec, upstream, workspace.inputs, workspace.check_stop)
    workspace.references = references(spec, upstream)
    started = time.monotonic()
    result = stage(workspace)
    if result is None:
        return None
    return publish_result(
        store,
        spec,
        workspace.attempt,
        result,
        inputs=digests(spec, upstream),
        seconds=lambda: time.monotonic() - started,
        extra_counts={
            "rows.corruptChunks": workspace.rows.corrupt_chunks,
            "checkpoints.corrupt": workspace.checkpoints.corrupt,
        },
    )


def _patient(store: Store, spec: StageSpec, stop: StopRequest) -> Store:
    if not spec.storage.uri.startswith("s3://"):
        # A directory is not away: it is the wrong one, or broken.
        return store
    # A stage with inputs is told of a storage that other stages have used already.
    return PatientStore(store, storage_patience(), proven=bool(spec.inputs), pause=stop.pause)


def _cached(store: Store, spec: StageSpec, manifest: Manifest, message: str, began: float) -> Report:
    """The report where the result is another attempt's: the seconds are this one's own."""
    return _settle(store, spec, manifest, "Cached", message, round(time.monotonic() - began, 3))


def _settle(store: Store, spec: StageSpec, manifest: Manifest, reason: str, message: str, seconds: float) -> Report:
    """What follows publication, whoever published: leftovers go, and prepare records what the run has from now on."""
    clear_leftovers(store, manifest)
    report = Report(
        reason=reason,
        message=message,
        key=manifest.key,
        metrics=manifest.metrics,
        counts=manifest.counts,
        seconds=seconds,
        digest=next((output.digest for output in manifest.outputs.values()), None),
    )
    if spec.kind != "prepare":
        return report
    for output in copied_models(manifest):
        record_model(store, spec.run, spec.stage, output.digest)
    contents = {name: output.digest for name, output in manifest.outputs.items()}
    keys = resolve_keys(spec.graph, contents)
    # Recorded first: what is found then is known to be shared.
    record_graph(store, spec.run, spec.graph, keys)
    found = published(store, keys.values())
    kinds = {node.id: node.kind for node in spec.graph}
    return report.model_copy(
        update={
            "contents": contents,
            "published": [stage for stage, key in keys.items() if key in found],
            "figures": {
                stage: found[key].metrics for stage, key in keys.items() if key in found and kinds[stage] == "evaluate"
            },
        }
    )


def _unfinished(store: Store, spec: StageSpec, workspace: StoredWorkspace, began: float) -> Report:
    """This shard's rows are done and other shards' are missing."""
    if spec.kind not in SHARDED or spec.shard.count == 1:
        raise RuntimeError(f"stage {spec.stage} returned nothing, although all rows are its own")
    manifest = read_manifest(store, spec.key)
    if manifest is not None:
        return _cached(store, spec, manifest, f"attempt {manifest.attempt} published first", began)
    return Report(
        reason="ShardCompleted",
        message=f"shard {spec.shard.index} of {spec.shard.count} is done; the last one to end publishes",
        key=spec.key,
        counts={"rows.appended": workspace.rows.appended},
    )


def _on_this_shard(spec: StageSpec) -> StageSpec:
    """The spec with the shard that an Indexed Job's Pod is told by its environment."""
    named = os.environ.get("JOB_COMPLETION_INDEX")
    if named is None or spec.shard.count == 1:
        index = spec.shard.index
    elif named.isdecimal():
        index = int(named)
    else:
        raise PermanentError("SpecInvalid", f"JOB_COMPLETION_INDEX: {named!r} is not a number")
    if index >= spec.shard.count:
        raise PermanentError("SpecInvalid", f"shard.index: {index} is not below shard.count, {spec.shard.count}")
    return spec.model_copy(update={"shard": Shard(index=index, count=spec.shard.count)})
