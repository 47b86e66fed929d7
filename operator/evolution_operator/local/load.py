"""From a manifest on disk to a run that this machine can drive."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from evolution_jobs.contract.stage import RunRef

from ..api.spec import EvolutionRun, EvolutionRunSpec
from ..api.validation import load_run, resolve_paths
from ..planner.observed import Run
from .driver import attempt_prefix


def local_run(path: Path, storage: str | None = None) -> Run:
    """The run of a manifest, its relative paths resolved against the manifest's directory.

    `storage` replaces `spec.storage.uri`, relative to the current directory. Raises ManifestError.
    """
    manifest = load_run(path)
    if storage is not None:
        manifest = _stored_at(manifest, storage)
    manifest = resolve_paths(manifest, path.resolve().parent)
    metadata = manifest.metadata
    return Run(
        ref=RunRef(namespace=metadata.namespace, name=metadata.name, uid=f"local:{metadata.namespace}/{metadata.name}"),
        spec=manifest.spec,
        attempt_prefix=attempt_prefix(),
        pins=pins(manifest.spec),
    )


def pins(spec: EvolutionRunSpec) -> dict[str, str]:
    """Size and time of every local source: one that changed makes prepare look again, one that did not does not."""
    sources = [*spec.data.seed, *spec.data.replay, *spec.data.contexts, *spec.data.test]
    uris = [spec.base_model.uri, *(source.uri for source in sources)]
    found = {}
    for uri in uris:
        if not uri.startswith("file://"):
            continue
        path = Path(unquote(urlsplit(uri).path))
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        try:
            stamps = [(entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files]
        except OSError:
            # prepare names a missing file better than a pin could.
            continue
        found[uri] = "-".join(f"{size}:{mtime}" for size, mtime in stamps)
    return found


def _stored_at(manifest: EvolutionRun, storage: str) -> EvolutionRun:
    uri = storage if "://" in storage else f"file://{Path(storage).resolve()}"
    if uri.startswith("file://") and not uri.startswith("file:///"):
        uri = f"file://{Path(uri.removeprefix('file://')).resolve()}"
    document = manifest.spec.storage.wire() | {"uri": uri}
    if uri.startswith("file://"):
        document = {"uri": uri}
    place = type(manifest.spec.storage).model_validate(document)
    return manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"storage": place})})
