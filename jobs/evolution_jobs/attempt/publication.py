"""From a stage's result to a published manifest: digests, upload, one conditional put."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..contract.keys import CODE_VERSIONS, attempt_prefix, model_prefix
from ..contract.manifest import File, Manifest, Output, canonical_digest, content_digest
from ..contract.stage import StageSpec
from ..contract.workspace import Result
from ..store.base import Store, check_location, file_sha256
from ..store.manifests import publish
from ..store.record import record_model
from .phases import Phases
from .spent import Spent, visible_gpus

DECIDING_PACKAGES = ("evolution-operator", "torch", "transformers", "trl", "peft", "bitsandbytes")
"""Packages whose version a manifest names."""


def publish_result(
    store: Store,
    spec: StageSpec,
    attempt: str,
    result: Result,
    inputs: Mapping[str, str],
    spent: Spent,
    phases: Phases,
    extra_counts: Mapping[str, int],
) -> Manifest:
    """Upload a result's files under this attempt and publish its manifest.

    `spent` counts from when the inputs were there. The work of `phases` ends with the upload. Returns the manifest in
    force. If another attempt was first, it is that one's; `conclusion.clear_leftovers` then removes this attempt's files.
    """
    names = [*result.outputs, *(name for name in result.references if name not in result.outputs)]
    outputs = {name: _upload(store, spec, attempt, name, result) for name in names}
    metrics = {name: float(value) for name, value in result.metrics.items() if math.isfinite(value)}
    counts = {**result.counts, **{name: count for name, count in extra_counts.items() if count}}
    if lost := len(result.metrics) - len(metrics):
        counts["metrics.notFinite"] = lost
    phases.end("work")
    seconds, alone = spent.seconds(), spec.ranks.nodes == 1 and spec.shard.count == 1
    mine = Manifest(
        key=spec.key,
        kind=spec.kind,
        stage=spec.stage,
        iteration=spec.iteration,
        run=spec.run,
        attempt=attempt,
        outputs=outputs,
        inputs=dict(inputs),
        settings=spec.settings.wire(),
        seed=spec.seed,
        code=code_versions(spec.kind),
        counts=counts,
        metrics=metrics,
        intervals={name: interval for name, interval in result.intervals.items() if name in metrics},
        details={name: _finite(value) for name, value in result.details.items()},
        notes=list(result.notes),
        seconds=round(seconds, 3),
        phases=phases.seconds,
        tokens=result.tokens,
        gpus=visible_gpus() * spec.ranks.nodes,
        gpu_joules=spent.joules() if alone else None,
    )
    return publish(store, mine)


def code_versions(kind: str) -> dict[str, str]:
    """Versions of Python, this project, its stage code and the libraries that are installed."""
    versions = {"python": platform.python_version(), "stage": str(CODE_VERSIONS[kind])}
    for package in DECIDING_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _upload(store: Store, spec: StageSpec, attempt: str, name: str, result: Result) -> Output:
    root = result.outputs.get(name)
    reference = result.references.get(name)
    files = _digested(root) if root is not None else []
    if not files and reference is None:
        raise RuntimeError(f"output {name} has no files")
    digest = content_digest((path, sha256) for path, _, sha256 in files) if files else canonical_digest(reference)
    if name in result.copied_models:
        prefix = model_prefix(digest)
        record_model(store, spec.run, spec.stage, digest)
        there = dict(store.list(prefix))
    else:
        prefix, there = f"{attempt_prefix(spec.key, attempt)}{name}/", {}
    stored = []
    for path, local, sha256 in files:
        file = File(path=path, location=check_location(f"{prefix}{path}"), sha256=sha256, size=local.stat().st_size)
        if there.get(file.location) != file.size:
            store.put_file(local, file.location)
        stored.append(file)
    return Output(digest=digest, files=stored, reference=reference)


def _digested(root: Path) -> list[tuple[str, Path, str]]:
    """Each file of an output: its path in the output, its local path, its sha256."""
    names = {path: path.name if path == root else path.relative_to(root).as_posix() for path in _files(root)}
    return [(name, path, file_sha256(path)) for path, name in names.items()]


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())


def _finite(value: Any) -> Any:
    """The value with None for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
