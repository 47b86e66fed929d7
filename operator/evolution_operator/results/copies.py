"""Copies artifacts out of the storage: each file checked by its digest, and nothing of the user's overwritten unasked."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.names import named
from evolution_jobs.store.base import Watch, file_sha256, inside, unwatched

from .outputs import output_error
from .results import Artifact, Results

PARTIAL = ".evolution-"
"""How the name of a directory of unfinished copies begins. It lies on the file system that the copies go to."""


@dataclass(frozen=True)
class Copy:
    """An artifact, and where it goes."""

    artifact: Artifact
    path: Path
    """The directory of a model, or one file."""
    files: Mapping[str, Path]
    """Where each file goes, by its path in the artifact."""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """By name: what goes into a model's directory beside its files."""


def is_directory(artifact: Artifact) -> bool:
    """Whether the copy is a directory: a model always, any other artifact if it has several files."""
    place, files = named(artifact.name), artifact.output.files
    # The base model is the only one without a pointer.
    return place is None or place.output == "adapter" or len(files) != 1 or "/" in files[0].path


def planned(run: str, artifacts: Sequence[Artifact], directory: Path | None) -> list[Copy]:
    """Where each artifact goes. Pure.

    Without a directory: `./<run>-M2/`, `./<run>-pairs-1.jsonl`. Into a directory: `M2/`, `pairs-1.jsonl`; but if only a
    model is copied, its files go right into it.
    """
    copies = []
    for artifact in artifacts:
        files = artifact.output.files
        if not is_directory(artifact):
            name = f"{artifact.name}{PurePosixPath(files[0].path).suffix}"
            path = directory / name if directory is not None else Path(f"{run}-{name}")
            copies.append(Copy(artifact, path, {files[0].path: path}))
            continue
        if directory is None:
            path = Path(f"{run}-{artifact.name}")
        else:
            path = directory if len(artifacts) == 1 else directory / artifact.name
        copies.append(Copy(artifact, path, {file.path: inside(path, file.path) for file in files}))
    return copies


def missing(copy: Copy, force: bool = False) -> list[str]:
    """Paths of the artifact's files and documents that are not there yet, or differ and may be replaced (`force`).

    Raises PermanentError `OutputExists` for a file that differs, unless `force`, and for a file in a directory's place or
    the other way round.
    """
    expected = {file.path: (file.size, file.sha256) for file in copy.artifact.output.files}
    expected |= {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in copy.documents.items()}
    wanted = []
    for name, (size, sha256) in expected.items():
        path = copy.files.get(name, copy.path / name)
        try:
            there = next(place for place in (path, *path.parents) if place.exists())
            if there != path and not there.is_dir():
                raise PermanentError("OutputExists", f"{there} is a file; name another place with -o")
            if path.is_dir():
                raise PermanentError("OutputExists", f"{path} is a directory; name another place with -o")
            if there == path and path.stat().st_size == size and file_sha256(path) == sha256:
                continue
        except OSError as error:
            raise output_error(error, path) from error
        if there == path and not force:
            raise PermanentError(
                "OutputExists",
                f"{path} exists and is not that of {copy.artifact.name}; name another place with -o, or replace it with --force",
            )
        wanted.append(name)
    return wanted


def fetch(results: Results, copy: Copy, wanted: Sequence[str], watch: Watch = unwatched) -> None:
    """Copy the wanted files, and write the wanted documents. They appear once all of them are there.

    Each file is checked by its digest. Other files stay. Raises what the store raises, and StageError for the disk.
    """
    try:
        # A directory that is there may be a file system of its own, so the partial copies lie inside it.
        home = copy.path if copy.path.is_dir() else copy.path.parent
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=home) as scratch:
            partial = Path(scratch) / "files"
            partial.mkdir()
            for file in copy.artifact.output.files:
                if file.path in wanted:
                    path = inside(partial, file.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    results.store.get_file(file.location, path, file.sha256, watch)
            for name in copy.documents.keys() & set(wanted):
                (partial / name).write_bytes(copy.documents[name])
            _publish(copy, wanted, partial)
    except OSError as error:
        raise output_error(error, copy.path) from error


def _publish(copy: Copy, names: Sequence[str], partial: Path) -> None:
    """Move complete files to their places; a new directory appears as a whole."""
    if is_directory(copy.artifact) and not copy.path.exists():
        partial.rename(copy.path)
        return
    for path in names:
        target = copy.files.get(path, copy.path / path)
        target.parent.mkdir(parents=True, exist_ok=True)
        inside(partial, path).replace(target)
