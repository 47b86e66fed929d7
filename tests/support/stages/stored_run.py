"""Finished stages in a storage, with pointers to their artifacts, made without running a stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.manifest import File, Manifest, Output, canonical_digest, content_digest
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.base import file_sha256
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.pointers import point

RUN = RunRef(namespace="lab", name="first", uid="u")


class Published:
    """Stages of the run lab/first in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = FileStore(directory)

    def stage(
        self,
        stage: str,
        outputs: Mapping[str, Path | None],
        *,
        settings: Mapping[str, Any] | None = None,
        references: Mapping[str, str] | None = None,
        **others: Any,
    ) -> Manifest:
        """Store a stage's files (directories or single files) and its manifest, and point to what it has made."""
        kind, _, number = stage.partition("-")
        iteration = int(number) if number else (0 if kind == "sft" else None)
        key = canonical_digest(stage)
        stored = {
            name: self._output(f"stages/{key}/attempts/a/{name}", path, (references or {}).get(name))
            for name, path in outputs.items()
        }
        manifest = Manifest(
            key=key,
            kind=kind,
            stage=stage,
            iteration=iteration,
            run=RUN,
            attempt="a",
            outputs=stored,
            settings=dict(settings or {}),
            seed=7,
            code={"evolution-operator": "0.1.0"},
            seconds=1,
            **others,
        )
        self.store.put_bytes(manifest.model_dump_json(by_alias=True).encode(), manifest_path(key))
        point(self.store, RUN, [manifest])
        return manifest

    def _output(self, prefix: str, path: Path | None, reference: str | None) -> Output:
        if path is None:
            return Output(digest=canonical_digest(reference), files=[], reference=reference)
        paths = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        files = []
        for each in paths:
            name = each.relative_to(path).as_posix() if path.is_dir() else each.name
            self.store.put_file(each, f"{prefix}/{name}")
            digest, size = file_sha256(each), each.stat().st_size
            files.append(File(path=name, location=f"{prefix}/{name}", sha256=digest, size=size))
        return Output(
            digest=content_digest((each.path, each.sha256) for each in files), files=files, reference=reference
        )
