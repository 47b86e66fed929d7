"""Finds a run's base model, checks that it is complete, and pins it. Only safetensors; no code of a model is run.

A model in a Python package or in S3 is copied into the storage. A model in a directory, on a volume or on the hub is
only referenced, because it may be large and every stage can read it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..chat.chats import Chats
from ..chat.files import read_chats
from ..chat.trial import try_chats
from ..contract.errors import PermanentError
from ..contract.locations import BaseModelSource, Storage
from ..contract.settings import ModelUse
from ..store.base import file_sha256
from .files import FIELD, BucketFiles, ModelFiles
from .find import Found, find
from .marked import mark
from .usable import require_usable

DIGESTS = "digests.json"
"""The only stored file of a referenced model: name, sha256 and bytes of each of its files."""


@dataclass(frozen=True)
class Resolved:
    """A base model that every stage can load."""

    files: Path | None
    """A directory to store: the model itself, or the digests of a referenced model. None if a commit pins it."""
    chats: Chats
    """The model's chats, as every stage has them."""
    notes: list[str]
    """What a user should know of them, one sentence each."""
    reference: str | None = None
    """The reference to a model that is not copied."""


@dataclass(frozen=True)
class ResolvedOther:
    """Another model that a stage can load."""

    files: Path | None
    """As in `Resolved`."""
    reference: str | None


def resolve(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> Resolved:
    """Find the model, check that it is complete and fits `use`, and pin it; new files are written below `directory`.

    Raises PermanentError (`ModelMissing`, those of `require_usable`, of the store and of the hub), which says what is
    wrong and what to do, or TransientError.
    """
    target = directory / "model"
    found = find(source, storage, target, FIELD)
    chats, notes = _usable(found, use, directory)
    files, reference = pinned(found, storage, target)
    if source.quantization is not None:
        files = mark(target, source.quantization, reference)
    return Resolved(files, chats, notes, reference)


def pinned(found: Found, storage: Storage, target: Path) -> tuple[Path | None, str | None]:
    """The directory to store and the reference, as `Resolved` has them. New files are written at `target`."""
    uri = found.files.uri
    if found.commit:
        return None, found.commit
    if found.directory is None or found.directory == target:
        target.mkdir(parents=True, exist_ok=True)
        return _fetched(found, target), None
    if uri.startswith("pvc://"):
        return _digests(found, target), uri
    if uri.startswith("file://") and storage.uri.startswith("file://"):
        return _digests(found, target), found.directory.absolute().as_uri()
    return _linked(found.files.read, found.directory, target), None


def examine(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> tuple[Chats, list[str]]:
    """The model's chats and what a user should know of them, once it is checked as `resolve` does. Only a model in GGUF is
    copied, because it is converted.
    """
    return _usable(find(source, storage, directory / "model", FIELD), use, directory)


def _usable(found: Found, use: ModelUse, directory: Path) -> tuple[Chats, list[str]]:
    """The chats of a model that the run can train, and what a user should know of them.

    Raises as `require_usable` does, and PermanentError (`ChatTemplate`) if its template does not write the chats that the
    stages have.
    """
    require_usable(found.files, use)
    try:
        chats = chats_of(found, directory)
        return chats, try_chats(chats)
    except PermanentError as error:
        raise found.files.fault(error.reason, str(error)) from error


def chats_of(found: Found, directory: Path) -> Chats:
    """The chats of a model that is complete. Raises as `read_chats` and `load_tokenizer` do."""
    if (chats := read_chats(found.files.text)) is not None:
        return chats
    # Without tokenizer.json, transformers makes one from the other files. That takes torch, and seconds.
    from .load import load_tokenizer

    return Chats.of(load_tokenizer(found.commit or found.directory or _small_files(found.files, directory)))


def _fetched(found: Found, target: Path) -> Path:
    """The directory with the files that stages read: copied from a bucket, or converted there already."""
    if isinstance(found.files, BucketFiles):
        for name in found.files.read:
            found.files.fetch(name, target)
    return target


def _small_files(files: ModelFiles, directory: Path) -> Path:
    """A directory with a bucket's files other than weights."""
    target = directory / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    assert isinstance(files, BucketFiles), "other models lie in a directory or on the hub"
    for name in files.read:
        if not name.endswith(".safetensors"):
            files.fetch(name, target)
    return target


def _digests(found: Found, target: Path) -> Path:
    """A directory with the digests of a model that is not copied. They pin it."""
    assert found.directory is not None
    paths = {name: found.directory / name for name in found.files.read}
    digests = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in paths.items()}
    target.mkdir(parents=True)
    (target / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", "utf-8")
    return target


def _linked(names: Iterable[str], source: Path, target: Path) -> Path:
    """A directory of links to the files that stages read."""
    target.mkdir(parents=True)
    for name in names:
        (target / name).symlink_to((source / name).resolve())
    return target
