"""Finds where a model lies: in a directory, a package, a bucket, on a volume or on the hub. Nothing large is fetched."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.locations import ModelSource, Storage
from ..contract.volumes import mounted_path
from ..store.data_sources import blamed_on, local_path, open_bucket
from .files import BucketFiles, DirectoryFiles, ModelFiles, hub_files
from .gguf import convert_gguf
from .hub import pin


@dataclass(frozen=True)
class Found:
    """Where a model lies."""

    files: ModelFiles
    directory: Path | None = None
    """Its directory on this machine."""
    commit: str | None = None
    """The pinned URI of a model on the hub."""


def find(source: ModelSource, storage: Storage, target: Path, field: str) -> Found:
    """The model at a source; `field` is the source's path below `spec`, for messages. One in GGUF is converted at `target`.

    Raises PermanentError (`ModelMissing`, those of the store and of the hub) or TransientError.
    """
    match source.uri.partition("://")[0]:
        case "package":
            return _packaged(source.uri, target, field)
        case "hf":
            return _on_hub(source, field)
        case "s3":
            return _in_bucket(source.uri, storage, field)
        case "pvc":
            return _in_directory(_mounted(source.uri, field), source.uri, field)
        case _:
            return _in_directory(local_path(source.uri, field), source.uri, field)


def _on_hub(source: ModelSource, field: str) -> Found:
    # baseModel.tokenSecret is HF_TOKEN in every stage, because every stage loads the base model.
    pinned = pin(source.uri, source.revision, "model", None, field)
    return Found(hub_files(source.uri, pinned, field), commit=pinned.uri)


def _in_bucket(uri: str, storage: Storage, field: str) -> Found:
    with blamed_on(field, own_fields=False):
        bucket, prefix = open_bucket(uri, storage, None, None)
    files = BucketFiles(uri, bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/", field)
    if not files.sizes:
        raise PermanentError("ModelMissing", f"{field}.uri: there are no files below {uri.rstrip('/')}/")
    return Found(files)


def _in_directory(path: Path, uri: str, field: str) -> Found:
    if not path.is_dir():
        raise PermanentError("ModelMissing", f"{field}.uri: {uri}: {path} is no directory")
    return Found(DirectoryFiles(uri, path, field), path)


def _mounted(uri: str, field: str) -> Path:
    if (path := mounted_path(uri)) is None:
        raise PermanentError("ModelMissing", f"{field}.uri: {uri} points outside its volume: remove the '..'")
    return path


def _packaged(uri: str, target: Path, field: str) -> Found:
    """The model in an installed package: a directory, or one GGUF file, converted. The package is not imported."""
    name = uri.removeprefix("package://")
    found = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
    if not roots:
        raise PermanentError("ModelMissing", f"{field}.uri: no package {name} is installed here: pip install it")
    directories = {path.parent for root in roots for path in root.rglob("config.json")}
    # A sentence model has one more config.json in a directory of its own, for its pooling.
    models = sorted(each for each in directories if directories.isdisjoint(each.parents))
    if len(models) == 1:
        return _in_directory(models[0], uri, field)
    ggufs = sorted(path for root in roots for path in root.rglob("*.gguf"))
    if len(models) or len(ggufs) != 1:
        raise PermanentError(
            "ModelMissing",
            f"{field}.uri: {uri} holds {len(models)} model directories and {len(ggufs)} GGUF files; it must hold one",
        )
    convert_gguf(ggufs[0], target, f"{field}.uri: {uri}")
    return _in_directory(target, uri, field)
