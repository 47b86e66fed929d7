"""Walks a run's results: every manifest, every file by its digest, every pointer, every signature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evolution_jobs.contract.keys import manifest_path, recorded_prefix, stage_prefix
from evolution_jobs.contract.manifest import File, Manifest
from evolution_jobs.contract.names import REPORT, Pointer, named, pointed_artifact, pointers_prefix
from evolution_jobs.store.base import Store, Watch, unwatched
from pydantic import ValidationError

from ..planner.graph import build_graph
from ..results.results import Results
from .findings import (
    PROVENANCE,
    Finding,
    Kind,
    Sources,
    Verification,
    judge_digests,
    judge_inputs,
    judge_objects,
    prefixes_of,
    verified_stage,
)
from .provenance import statement
from .signing import OTHER_KEY, signature_fault

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey


def bytes_to_read(results: Results) -> int:
    """Bytes of all files that a verification reads."""
    return sum(file.size for file in _files(results).values())


def verify(results: Results, key: SSlibKey | None = None, watch: Watch = unwatched) -> Verification:
    """Look at everything that a run has in its storage.

    With a public key, each stage must have a valid signature of its manifest by that key. Files are read as streams.
    `watch` is called with the number of bytes that were read. Raises what the store raises.
    """
    found = verify_files(results, watch)
    for stage, manifest in results.manifests.items():
        location = provenance_path(manifest.key)
        envelope = results.store.read(location)
        if envelope is not None:
            found.signed.append(stage)
        digest = "" if envelope is None else manifest_digest(results.store, manifest.key)
        if fault := signature_fault(envelope, digest, key):
            kind = Kind.unsigned if envelope is None or fault == OTHER_KEY else Kind.changed
            found.findings.append(Finding(kind, stage, f"{location} {fault}"))
    return found


def verify_files(results: Results, watch: Watch = unwatched) -> Verification:
    """As `verify`, without the signatures."""
    found = Verification()
    sources = _sources(results)
    read: dict[str, str | None] = {}
    for stage, fault in results.faults.items():
        found.findings.append(Finding(Kind.changed, stage, fault))
    for stage, manifest in results.manifests.items():
        found.findings += judge_inputs(stage, manifest, results.manifests, sources.get(stage))
        sizes = {location: size for prefix in prefixes_of(manifest) for location, size in results.store.list(prefix)}
        found.findings += judge_objects(stage, manifest, sizes)
        for file in manifest.files:
            if sizes.get(file.location) == file.size and file.location not in read:
                read[file.location] = results.store.sha256(file.location, watch)
        found.findings += judge_digests(stage, manifest, read)
        found.stages.append(verified_stage(stage, manifest))
    found.findings += _judge_place(results)
    return found


def provenance_path(key: str) -> str:
    """Location of a stage's signed provenance. It goes with the stage."""
    return f"{stage_prefix(key)}{PROVENANCE}"


def manifest_digest(store: Store, key: str) -> str:
    """SHA-256 of a manifest as it is stored."""
    return hashlib.sha256(store.read(manifest_path(key)) or b"").hexdigest()


def provenance_of(results: Results, manifest: Manifest) -> tuple[bytes, bytes | None]:
    """Where a stage's result comes from, and the signed form of that if there is one."""
    unsigned = statement(manifest, manifest_digest(results.store, manifest.key), results.manifests)
    return unsigned, results.store.read(provenance_path(manifest.key))


def _sources(results: Results) -> dict[str, Sources]:
    """By stage id: where each input comes from. Nothing if the spec is not known."""
    if results.spec is None:
        return {}
    return {node.id: node.inputs for node in build_graph(results.spec, {})}


def _files(results: Results) -> dict[str, File]:
    return {file.location: file for manifest in results.manifests.values() for file in manifest.files}


def _judge_place(results: Results) -> Iterator[Finding]:
    """What lies below `runs/<namespace>/<name>/`, and stages that the status has and the storage has not."""
    prefix = pointers_prefix(results.namespace, results.name)
    pointed: set[str] = set()
    gone: set[str] = set()
    for location in sorted(location for location, _ in results.store.list(prefix)):
        name = pointed_artifact(location)
        if name == REPORT or recorded_prefix(location) is not None or location.endswith("/"):
            continue
        if name is None:
            yield Finding(Kind.foreign, "", f"{location} is neither a record nor a pointer")
            continue
        pointed.add(name)
        for finding in _judge_pointer(results, name, location):
            # All pointers to a lost stage are one fault.
            if finding.kind is not Kind.missing or finding.stage not in gone:
                yield finding
            gone |= {finding.stage} if finding.kind is Kind.missing else set()
    if without := [name for name in results.artifacts if name not in pointed]:
        names = ", ".join(without) if pointed else "any artifact"
        yield Finding(Kind.note, "", f"no pointer to {names}; the next call of the run writes them")
    for stage in results.status.stages if results.status else ():
        known = stage.id in results.manifests or stage.id in results.faults or stage.id in gone
        if stage.state == "Succeeded" and stage.key and not known:
            yield Finding(Kind.missing, stage.id, f"{manifest_path(stage.key)} is missing")


def _judge_pointer(results: Results, name: str, location: str) -> Iterator[Finding]:
    place = named(name)
    assert place is not None, "a pointer's location has an artifact's name"
    try:
        pointer = Pointer.stored(results.store.read(location) or b"")
    except ValidationError:
        yield Finding(Kind.changed, place.stage, f"{location} is no pointer")
        return
    if (pointer.artifact, pointer.stage, pointer.output) != (name, *place):
        yield Finding(Kind.changed, place.stage, f"{location} names {pointer.output} of {pointer.stage}")
        return
    manifest = results.manifests.get(place.stage)
    if manifest is None or manifest.key != pointer.key:
        if results.store.read(manifest_path(pointer.key)) is None:
            yield Finding(Kind.missing, place.stage, f"{manifest_path(pointer.key)} is missing; {location} names it")
        elif place.stage not in results.faults and (manifest is not None or results.status is not None):
            yield Finding(Kind.note, place.stage, f"{location} names a result of other settings")
        return
    output = manifest.outputs.get(place.output)
    if output is None or (output.digest, output.files) != (pointer.digest, pointer.files):
        yield Finding(Kind.changed, place.stage, f"{location} names other files than the manifest")
