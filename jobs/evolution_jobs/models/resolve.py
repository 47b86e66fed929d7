"""Finds a run's base model, checks that it is complete, and pins it. Only safetensors; no code of a model is run.

A model in a Python package or in S3 is copied into the storage. A model in a directory, on a volume or on the hub is
only referenced, because it may be large and every stage can read it there.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..chat.chats import Chats
from ..chat.files import read_chats
from ..chat.trial import try_chats
from ..contract.errors import PermanentError
from ..contract.locations import BaseModelSource, Storage
from ..contract.settings import ModelUse
from ..contract.volumes import mounted_path
from ..store.base import file_sha256
from ..store.data_sources import blamed_on, local_path, open_bucket
from .files import FIELD, BucketFiles, DirectoryFiles, ModelFiles, hub_files
from .gguf import convert_gguf
from .hub import pin
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
class _Found:
    """Where a model lies."""

    files: ModelFiles
    directory: Path | None = None
    """Its directory on this machine."""
    commit: str | None = None
    """The pinned URI of a model on the hub."""


def resolve(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> Resolved:
    """Find the model, check that it is complete and fits `use`, and pin it; new files are written below `directory`.

    Raises PermanentError (`ModelMissing`, those of `require_usable`, of the store and of the hub), which says what is
    wrong and what to do, or TransientError.
    """
    resolved = _resolved(source, storage, directory, use)
    if source.quantization is None:
        return resolved
    return replace(resolved, files=mark(directory / "model", source.quantization, resolved.reference))


def _resolved(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> Resolved:
    found = _find(source, storage, directory)
    tried = _usable(found, use, directory)
    target = directory / "model"
    if found.commit:
        return Resolved(None, *tried, found.commit)
    if found.directory is None or found.directory == target:
        target.mkdir(parents=True, exist_ok=True)
        return Resolved(_fetched(found, target), *tried)
    if source.uri.startswith("pvc://"):
        return Resolved(_digests(found, target), *tried, source.uri)
    if source.uri.startswith("file://") and storage.uri.startswith("file://"):
        return Resolved(_digests(found, target), *tried, found.directory.absolute().as_uri())
    return Resolved(_linked(found.files.read, found.directory, target), *tried)


def examine(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> tuple[Chats, list[str]]:
    """The model's chats and what a user should know of them, once it is checked as `resolve` does. Only a model in GGUF is
    copied, because it is converted.
    """
    return _usable(_find(source, storage, directory), use, directory)


def _usable(found: _Found, use: ModelUse, directory: Path) -> tuple[Chats, list[str]]:
    """The chats of a model that the run can train, and what a user should know of them. Raises as `require_usable` does, and PermanentError (`ChatTemplate`) if
    its template does not write the chats that the stages have.
    """
    require_usable(found.files, use)
    try:
        if (chats := read_chats(found.files.text)) is None:
            # Without tokenizer.json, transformers makes one from the other files. That takes torch, and seconds.
            from .load import load_tokenizer

            chats = Chats.of(load_tokenizer(found.commit or found.directory or _small_files(found.files, directory)))
        return chats, try_chats(chats)
    except PermanentError as error:
        raise PermanentError(error.reason, f"{FIELD}.uri: {found.files.uri}: {error}") from error


def _find(source: BaseModelSource, storage: Storage, directory: Path) -> _Found:
    match source.uri.partition("://")[0]:
        case "package":
            return _packaged(source.uri, directory / "model")
        case "hf":
            return _on_hub(source)
        case "s3":
            return _in_bucket(source.uri, storage)
        case "pvc":
            return _in_directory(_mounted(source.uri), source.uri)
        case _:
            return _in_directory(local_path(source.uri, FIELD), source.uri)


def _on_hub(source: BaseModelSource) -> _Found:
    # baseModel.tokenSecret is HF_TOKEN in every stage, because every stage loads this model.
    pinned = pin(source.uri, source.revision, "model", None, FIELD)
    return _Found(hub_files(source.uri, pinned), commit=pinned.uri)


def _in_bucket(uri: str, storage: Storage) -> _Found:
    with blamed_on(FIELD, own_fields=False):
        bucket, prefix = open_bucket(uri, storage, None, None)
    files = BucketFiles(uri, bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/")
    if not files.sizes:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: there are no files below {uri.rstrip('/')}/")
    return _Found(files)


def _in_directory(path: Path, uri: str) -> _Found:
    if not path.is_dir():
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri}: {path} is no directory")
    return _Found(DirectoryFiles(uri, path), path)


def _mounted(uri: str) -> Path:
    if (path := mounted_path(uri)) is None:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri} points outside its volume: remove the '..'")
    return path


def _packaged(uri: str, target: Path) -> _Found:
    """The model in an installed package: a directory, or one GGUF file, converted. The package is not imported."""
    name = uri.removeprefix("package://")
    found = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
    if not roots:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: no package {name} is installed here: pip install it")
    models = sorted(path.parent for root in roots for path in root.rglob("config.json"))
    if len(models) == 1:
        return _in_directory(models[0], uri)
    ggufs = sorted(path for root in roots for path in root.rglob("*.gguf"))
    if len(models) or len(ggufs) != 1:
        raise PermanentError(
            "ModelMissing",
            f"{FIELD}.uri: {uri} holds {len(models)} model directories and {len(ggufs)} GGUF files; it must hold one",
        )
    convert_gguf(ggufs[0], target, f"{FIELD}.uri: {uri}")
    return _in_directory(target, uri)


def _fetched(found: _Found, target: Path) -> Path:
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


def _digests(found: _Found, target: Path) -> Path:
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
