"""Finds a run's base model, checks that it is complete, and pins it. Only safetensors; no code of a model is run.

A model in a Python package or in S3 is copied into the storage. A model in a directory, on a volume or on the hub is
only referenced, because it may be large and every stage can read it there.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.locations import BaseModelSource, Storage
from ..contract.settings import ModelUse
from ..contract.volumes import mounted_path
from ..store.base import file_sha256
from ..store.data_sources import blamed_on, local_path, open_bucket
from .architectures import language_models
from .files import FIELD, INDEX, SINGLE, BucketFiles, DirectoryFiles, HubFiles, ModelFiles
from .fitness import KINDS, Model, require_fit
from .gguf import convert_gguf
from .hub import explained, pin
from .vocabulary import TEMPLATES, read_vocabulary

DIGESTS = "digests.json"
"""The only stored file of a referenced model: name, sha256 and bytes of each of its files."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Resolved:
    """A base model that every stage can load."""

    files: Path | None
    """A directory to store: the model itself, or the digests of a referenced model. None if a commit pins it."""
    reference: str | None = None
    """The reference to a model that is not copied."""


def resolve(source: BaseModelSource, storage: Storage, directory: Path, use: ModelUse) -> Resolved:
    """Find the model, check that it is complete and fits `use`, and pin it; new files are written below `directory`.

    Raises PermanentError (`ModelMissing`, those of `require_usable`, of the store and of the hub), which says what is
    wrong and what to do, or TransientError.
    """
    match source.uri.partition("://")[0]:
        case "package":
            return Resolved(_packaged(source.uri, use, directory / "model"))
        case "hf":
            return _on_hub(source, use)
        case "s3":
            return Resolved(_downloaded(source.uri, storage, use, directory / "model"))
        case "pvc":
            return _referred(_mounted(source.uri), source.uri, use, directory)
        case _:
            path = local_path(source.uri, FIELD)
            if storage.uri.startswith("file://"):
                return _referred(path, path.absolute().as_uri(), use, directory)
            return Resolved(_linked(path, source.uri, use, directory / "model"))


def require_usable(files: ModelFiles, use: ModelUse) -> None:
    """Raise PermanentError unless these files are a model that the run can train. Reads no weights, only their headers.

    `ModelIncomplete`: a file or tensor is missing. `ModelMalformed`: a file holds something else. `ModelUnsupported`:
    the model is of a kind that cannot be trained, or its parts do not fit together. `LoraSettings`, `LengthSettings`: the
    run's settings do not fit the model.
    """
    _refuse_adapter(files)
    config = files.optional("config.json")
    if "config.json" in files.sizes:
        # A message about the kind of model comes before one about a file that this kind does not have.
        require_fit(Model(config, _language_model(config, files.uri)), use, files.uri, KINDS)
    _require_complete(files)
    files.require_fetched()
    model = Model(
        config,
        _language_model(config, files.uri),
        tensors=files.tensors(),
        indexed=frozenset(files.weight_map),
        generation=files.optional("generation_config.json"),
        vocabulary=read_vocabulary(files),
    )
    require_fit(model, use, files.uri)


def _refuse_adapter(files: ModelFiles) -> None:
    """With an adapter in the directory, transformers loads it and the base model that it names, not the model beside it."""
    if ADAPTER not in files.sizes:
        return
    base = str(files.document(ADAPTER).get("base_model_name_or_path") or "its base model")
    if "config.json" in files.sizes:
        advice = f"it would be loaded on {base}: merge it (merge_and_unload), or move {ADAPTER} away"
        fault = f"{ADAPTER} lies beside the model, and {advice}"
    else:
        fault = f"this is an adapter and no model: name {base}, or merge it first (merge_and_unload)"
    raise PermanentError("ModelUnsupported", f"{FIELD}.uri: {files.uri}: {fault}")


def _require_complete(files: ModelFiles) -> None:
    names, faults = files.sizes.keys(), []
    if "config.json" not in names:
        faults.append("no config.json: name a directory in the Hugging Face layout")
    if not names & set(TOKENIZERS):
        faults.append(f"no tokenizer ({', '.join(TOKENIZERS)}): save it beside the model with save_pretrained")
    if not names & set(TEMPLATES) and not files.optional("tokenizer_config.json").get("chat_template"):
        faults.append("no chat template: take an instruction-tuned model, or add chat_template.jinja")
    faults += _faults_of_weights(files)
    if faults:
        raise PermanentError("ModelIncomplete", f"{FIELD}.uri: {files.uri}: {'; '.join(faults)}")


def _faults_of_weights(files: ModelFiles) -> list[str]:
    names, shards = files.sizes.keys(), set(files.weight_map.values())
    if SINGLE in names and shards - {SINGLE} and not shards - names:
        return [f"weights: both {SINGLE} and the {len(shards)} files of {INDEX}: remove the set that is not the model"]
    if absent := sorted(shards - names):
        return [f"{len(absent)} of {len(shards)} weight files are missing, first {absent[0]}: fetch it again"]
    if files.weights:
        return []
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    if others:
        kind = f"{others[0]} is not read, only {SINGLE} or the files of {INDEX}"
    elif pickled:
        kind = f"only pickled ones ({pickled[0]}), which are never read"
    else:
        kind = "none"
    return [f"weights: {kind}; convert with save_pretrained, which writes safetensors"]


def _language_model(config: Mapping[str, object], uri: str) -> str:
    """The class of the model. Raises PermanentError `ModelUnsupported` if transformers has none."""
    kind = config.get("model_type")
    if isinstance(kind, str) and (found := language_models().get(kind)):
        return found
    hint = "it brings code of its own, which is never run" if config.get("auto_map") else "update transformers"
    raise PermanentError(
        "ModelUnsupported", f"{FIELD}.uri: {uri}: transformers has no language model of type {kind!r}: {hint}"
    )


def _on_hub(source: BaseModelSource, use: ModelUse) -> Resolved:
    import huggingface_hub

    # baseModel.tokenSecret is HF_TOKEN in every stage, because every stage loads this model.
    pinned = pin(source.uri, source.revision, "model", None, FIELD)
    if huggingface_hub.is_offline_mode():
        with explained(f"{FIELD}.uri: {source.uri}"):
            root = huggingface_hub.snapshot_download(pinned.name, revision=pinned.commit, local_files_only=True)
        require_usable(DirectoryFiles(source.uri, Path(root)), use)
    else:
        require_usable(HubFiles(source.uri, pinned), use)
    return Resolved(None, pinned.uri)


def _downloaded(uri: str, storage: Storage, use: ModelUse, directory: Path) -> Path:
    with blamed_on(FIELD, own_fields=False):
        bucket, prefix = open_bucket(uri, storage, None, None)
    files = BucketFiles(uri, bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/")
    if not files.sizes:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: there are no files below {uri}/")
    require_usable(files, use)
    directory.mkdir(parents=True)
    for name in files.read:
        files.fetch(name, directory)
    return directory


def _mounted(uri: str) -> Path:
    if (path := mounted_path(uri)) is None:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri} points outside its volume: remove the '..'")
    return path


def _referred(path: Path, reference: str, use: ModelUse, directory: Path) -> Resolved:
    """A model that is not copied. Its digests are stored instead and pin it."""
    names = _checked(path, reference, use)
    digests = {name: {"sha256": file_sha256(path / name), "bytes": (path / name).stat().st_size} for name in names}
    target = directory / "model"
    target.mkdir(parents=True)
    (target / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", "utf-8")
    return Resolved(target, reference)


def _linked(path: Path, uri: str, use: ModelUse, directory: Path) -> Path:
    """A directory of links to the files that stages read."""
    directory.mkdir(parents=True)
    for name in _checked(path, uri, use):
        (directory / name).symlink_to((path / name).resolve())
    return directory


def _packaged(uri: str, use: ModelUse, directory: Path) -> Path:
    """The model in an installed package: a directory, or one GGUF file, converted. The package is not imported."""
    name = uri.removeprefix("package://")
    found = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
    if not roots:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: no package {name} is installed here: pip install it")
    models = sorted(path.parent for root in roots for path in root.rglob("config.json"))
    if len(models) == 1:
        return _linked(models[0], uri, use, directory)
    ggufs = sorted(path for root in roots for path in root.rglob("*.gguf"))
    if len(models) or len(ggufs) != 1:
        raise PermanentError(
            "ModelMissing",
            f"{FIELD}.uri: {uri} holds {len(models)} model directories and {len(ggufs)} GGUF files; it must hold one",
        )
    convert_gguf(ggufs[0], directory, f"{FIELD}.uri: {uri}")
    _checked(directory, uri, use)
    return directory


def _checked(path: Path, uri: str, use: ModelUse) -> list[str]:
    """The names of the files that stages read. Raises if the directory is not a model that the run can train."""
    if not path.is_dir():
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri}: {path} is no directory")
    files = DirectoryFiles(uri, path)
    require_usable(files, use)
    return files.read
