"""Sources of records: a file, an S3 object or a data set of the hub, each pinned by digest or commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from ..contract.locations import Source, Storage
from ..contract.manifest import canonical_digest
from ..models.hub import Pinned, explained, pin
from ..store.base import disk_error, file_sha256
from ..store.data_sources import blamed_on, credential, local_path, open_bucket
from .readers import turns_key
from .record import Record
from .records import read_records


@dataclass(frozen=True)
class Fetched:
    """A source that is ready to be read, and its pin."""

    name: str
    """The source's name in rows: its URI, or only a file's name, so that rows do not change when the file is moved."""
    records: Callable[[], Iterator[Record]]
    pin: dict[str, Any]
    """`sha256` and `bytes` of a file, `commit` of a data set."""


def fetch(source: Source, field: str, storage: Storage, directory: Path) -> Fetched:
    """Make a source readable. An S3 object is downloaded to `directory`, unless it is there already.

    `field` names the source in messages: `data.seed[0]`. Raises PermanentError (`DataMissing`, `DataUnreadable`,
    `ChecksumMismatch`, those of the store and the hub) or TransientError.
    """
    scheme = source.uri.partition("://")[0]
    if scheme == "hf":
        return _data_set(source, field)
    if scheme == "s3":
        path, name = _download(source, field, storage, directory), source.uri
    else:
        path = local_path(source.uri, field)
        name = path.name
    digest = _checked(path, source, field)
    root = source.mapping.records if source.mapping else None
    where = f"{field}: {source.uri}"
    turns = turns_key(source)
    return Fetched(
        name, lambda: read_records(path, where, root, turns, name), {"sha256": digest, "bytes": path.stat().st_size}
    )


def _checked(path: Path, source: Source, field: str) -> str:
    """The file's digest. Raises if the file cannot be read or does not have the digest that the source pins."""
    if not path.exists():
        raise PermanentError("DataMissing", f"{field}.uri: {path} does not exist")
    if not path.is_file():
        raise PermanentError("DataMissing", f"{field}.uri: {path} is not a file: give one JSON or JSON Lines file")
    try:
        found = file_sha256(path)
    except PermissionError as error:
        raise PermanentError("DataUnreadable", f"{field}.uri: {path} may not be read by this user") from error
    except OSError as error:
        raise disk_error(error, path) from error
    if source.sha256 is not None and found != source.sha256:
        raise PermanentError(
            "ChecksumMismatch", f"{field}.sha256: {source.uri} has {found}, not {source.sha256}: it is another file"
        )
    return found


def _download(source: Source, field: str, storage: Storage, directory: Path) -> Path:
    place = [source.uri, source.endpoint, source.credentials_secret]
    path = directory / f"{canonical_digest(place)[:16]}.data"
    if not path.exists():
        with blamed_on(field):
            store, key = open_bucket(source.uri, storage, source.endpoint, source.credentials_secret)
            if not key:
                raise PermanentError("DataInvalid", f"{source.uri} has no object key: write s3://bucket/key")
            store.get_file(key, path)
    return path


def _data_set(source: Source, field: str) -> Fetched:
    if source.mapping and source.mapping.records:
        raise PermanentError(
            "DataMalformed", f"{field}.mapping.records: a data set of the hub is a list of rows already: remove it"
        )
    token = credential(source.credentials_secret, "HF_TOKEN")
    pinned = pin(source.uri, source.revision, "dataset", token, field)
    if Path(pinned.name).exists():
        # datasets would read that directory instead, without a warning.
        raise PermanentError(
            "HubInvalid", f"{field}.uri: a local directory {pinned.name} hides {source.uri}: run from another directory"
        )
    split = source.split or "train"
    return Fetched(
        f"{pinned.uri}/{split}", lambda: data_set_records(pinned, split, token, field), {"commit": pinned.commit}
    )


def data_set_records(pinned: Pinned, split: str, token: str | None, field: str) -> Iterator[Record]:
    """Rows of one split. No code of the data set is run: `datasets` reads only data files.

    Raises PermanentError (`DataMissing`, `DataMalformed`, those of the hub) or TransientError.
    """
    import datasets

    where = f"{field}.uri: {pinned.uri}"
    try:
        with explained(where):
            rows = datasets.load_dataset(pinned.name, revision=pinned.commit, split=split, token=token)
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        words = " ".join(str(error).split())[:300]
        if "split" in words.lower():
            raise PermanentError("DataMissing", f"{field}.split: {pinned.uri}: {words}") from error
        raise PermanentError("DataMalformed", f"{where} cannot be read as data files: {words}") from error
    for number, row in enumerate(rows, start=1):
        yield Record(f"row {number}", row)
