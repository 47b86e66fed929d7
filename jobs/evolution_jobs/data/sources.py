"""Sources of records: a file, a folder, an S3 object or a data set of the hub, each pinned by digest or commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import PermanentError, StageError
from ..contract.locations import Source, Storage
from ..contract.manifest import canonical_digest
from ..models.hub import pin
from ..store.base import MissingObjectError, disk_error, file_sha256
from ..store.data_sources import blamed_on, local_path, open_bucket, secret_credential
from .folders import folder_records, part_names
from .hub_sets import data_set_records
from .readers import turns_key
from .record import Record
from .records import read_records

if TYPE_CHECKING:
    from ..store.s3_bucket import Bucket


@dataclass(frozen=True)
class Fetched:
    """A source that is ready to be read, and its pin."""

    name: str
    """The source's name in rows: its URI, or only a file's name, so that rows do not change when the file is moved."""
    records: Callable[[], Iterator[Record]]
    pin: dict[str, Any]
    """`sha256` and `bytes` of a file, also `files` of a folder, `commit` of a data set."""


def fetch(source: Source, field: str, storage: Storage, directory: Path) -> Fetched:
    """Make a source readable. S3 objects are downloaded to `directory`, unless they are there already.

    `field` names the source in messages: `data.seed[0]`. Raises PermanentError (`DataMissing`, `DataUnreadable`,
    `ChecksumMismatch`, those of the store and the hub) or TransientError.
    """
    scheme = source.uri.partition("://")[0]
    if scheme == "hf":
        return _data_set(source, field)
    if scheme == "s3":
        if source.uri.endswith("/"):
            return _folder(source, field, _downloaded_parts(source, field, storage, directory), source.uri)
        return _file(source, field, _download(source, field, storage, directory), source.uri)
    path = local_path(source.uri, field)
    if path.is_dir():
        names = (part.relative_to(path).as_posix() for part in path.rglob("*") if part.is_file())
        return _folder(source, field, [(name, path / name) for name in part_names(names)], path.name)
    return _file(source, field, path, path.name)


def _file(source: Source, field: str, path: Path, name: str) -> Fetched:
    digest = _digest(path, field)
    if source.sha256 is not None and digest != source.sha256:
        raise PermanentError(
            "ChecksumMismatch", f"{field}.sha256: {source.uri} has {digest}, not {source.sha256}: it is another file"
        )
    root, turns = _root(source), turns_key(source)
    return Fetched(
        name,
        lambda: read_records(path, f"{field}: {source.uri}", root, turns, name),
        {"sha256": digest, "bytes": path.stat().st_size},
    )


def _folder(source: Source, field: str, parts: list[tuple[str, Path]], name: str) -> Fetched:
    if source.sha256 is not None:
        raise PermanentError("DataInvalid", f"{field}.sha256: pins one file, and {source.uri} is a folder: remove it")
    if not parts:
        raise PermanentError("DataMissing", f"{field}.uri: {source.uri} is a folder without data files")
    digests = [(title, _digest(path, field)) for title, path in parts]
    root, turns = _root(source), turns_key(source)
    return Fetched(
        name,
        lambda: folder_records(parts, f"{field}: {source.uri.rstrip('/')}/", root, turns),
        {
            "sha256": canonical_digest(digests),
            "bytes": sum(path.stat().st_size for _, path in parts),
            "files": len(parts),
        },
    )


def _root(source: Source) -> str | None:
    return source.mapping.records if source.mapping else None


def _digest(path: Path, field: str) -> str:
    """A file's digest. Raises if it cannot be read."""
    if not path.exists():
        raise PermanentError("DataMissing", f"{field}.uri: {path} does not exist")
    if not path.is_file():
        raise PermanentError("DataMissing", f"{field}.uri: {path} is neither a file nor a folder")
    try:
        return file_sha256(path)
    except PermissionError as error:
        raise PermanentError("DataUnreadable", f"{field}.uri: {path} may not be read by this user") from error
    except OSError as error:
        raise disk_error(error, path) from error


def _download(source: Source, field: str, storage: Storage, directory: Path) -> Path:
    path = directory / f"{_place(source)}.data"
    if not path.exists():
        with blamed_on(field):
            bucket, key = open_bucket(source.uri, storage, source.endpoint, source.credentials_secret)
            if not key or key == "/":
                raise PermanentError("DataInvalid", f"{source.uri} has no object key: write s3://bucket/key")
            try:
                bucket.download(key, path)
            except MissingObjectError:
                if _is_prefix(bucket, f"{key}/"):
                    raise PermanentError(
                        "DataMissing", f"{source.uri} is a folder, not an object: write {source.uri}/"
                    ) from None
                raise
    return path


def _is_prefix(bucket: Bucket, prefix: str) -> bool:
    with suppress(StageError):
        return any(bucket.list(prefix))
    return False


def _downloaded_parts(source: Source, field: str, storage: Storage, directory: Path) -> list[tuple[str, Path]]:
    """The parts below `s3://bucket/folder/`, by their names in the folder."""
    target = directory / _place(source)
    with blamed_on(field):
        bucket, prefix = open_bucket(source.uri, storage, source.endpoint, source.credentials_secret)
        found = [name.removeprefix(prefix) for name, _ in bucket.list(prefix) if not name.endswith("/")]
        # Numbered, because a key may be no file name.
        parts = [(name, target / f"{number:06d}.data") for number, name in enumerate(part_names(found))]
        target.mkdir(exist_ok=True)
        for name, path in parts:
            if not path.exists():
                bucket.download(prefix + name, path)
    return parts


def _place(source: Source) -> str:
    return canonical_digest([source.uri, source.endpoint, source.credentials_secret])[:16]


def _data_set(source: Source, field: str) -> Fetched:
    if source.mapping and source.mapping.records:
        raise PermanentError(
            "DataMalformed", f"{field}.mapping.records: a data set of the hub is a list of rows already: remove it"
        )
    token = secret_credential(source.credentials_secret, "HF_TOKEN")
    pinned = pin(source.uri, source.revision, "dataset", token, field)
    if Path(pinned.name).exists():
        # datasets would read that directory instead, without a warning.
        raise PermanentError(
            "HubInvalid", f"{field}.uri: a local directory {pinned.name} hides {source.uri}: run from another directory"
        )
    part = f"{source.config}/" if source.config else ""
    return Fetched(
        f"{pinned.uri}/{part}{source.split or 'train'}",
        lambda: data_set_records(pinned, source, token, field, turns_key(source)),
        {"commit": pinned.commit},
    )
