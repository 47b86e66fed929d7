"""Finds a run's base model, checks that it is complete, and pins it. Only safetensors; no code of a model is run.

A model in a Python package or in S3 is copied into the storage. A model in a directory, on a volume or on the hub is
only referenced, because it may be large and every stage can read it there.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from ..contract.locations import BaseModelSource, Storage
from ..contract.volumes import mounted_path
from ..store.base import file_sha256
from ..store.data_sources import blamed_on, local_path, open_bucket
from .architectures import language_model_types
from .gguf import convert_gguf
from .hub import explained, pin

FIELD = "baseModel"
DIGESTS = "digests.json"
"""The only stored file of a referenced model: name, sha256 and bytes of each of its files."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".gguf", ".py")
"""Files that are never read: weights other than safetensors (some are pickles, which run code when read), and code."""


@dataclass(frozen=True)
class Resolved:
    """A base model that every stage can load."""

    files: Path | None
    """A directory to store: the model itself, or the digests of a referenced model. None if a commit pins it."""
    reference: str | None = None
    """The reference to a model that is not copied."""


def resolve(source: BaseModelSource, storage: Storage, directory: Path) -> Resolved:
    """Find the model, check that it is complete, and pin it; new files are written below `directory`.

    Raises PermanentError (`ModelMissing`, `ModelIncomplete`, `ModelMalformed`, `ModelUnsupported`, those of the store
    and the hub), which says what is missing and what to do, or TransientError.
    """
    match source.uri.partition("://")[0]:
        case "package":
            return Resolved(_packaged(source.uri, directory / "model"))
        case "hf":
            return _on_hub(source)
        case "s3":
            return Resolved(_downloaded(source.uri, storage, directory / "model"))
        case "pvc":
            return _referred(_mounted(source.uri), source.uri, directory)
        case _:
            path = local_path(source.uri, FIELD)
            if storage.uri.startswith("file://"):
                return _referred(path, path.absolute().as_uri(), directory)
            return Resolved(_linked(path, source.uri, directory / "model"))


def require_complete(names: Collection[str], read: Callable[[str], Mapping[str, Any]], uri: str) -> None:
    """Raise PermanentError `ModelIncomplete` or `ModelUnsupported` unless these files are a model that can be trained.

    `read` returns one of its JSON files; it is called only with names that exist.
    """
    faults = []
    if "config.json" not in names:
        faults.append("no config.json: name a directory in the Hugging Face layout")
    if not set(TOKENIZERS) & set(names):
        faults.append(f"no tokenizer ({', '.join(TOKENIZERS)}): save it beside the model with save_pretrained")
    tokenizer = read("tokenizer_config.json") if "tokenizer_config.json" in names else {}
    if not set(TEMPLATES) & set(names) and not tokenizer.get("chat_template"):
        faults.append("no chat template: take an instruction-tuned model, or add chat_template.jinja")
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        kind = f"only pickled ones ({min(pickled)}), which are never read" if pickled else "none"
        faults.append(f"weights: {kind}; convert with save_pretrained, which writes safetensors")
    if "model.safetensors.index.json" in names:
        shards = set(read("model.safetensors.index.json").get("weight_map", {}).values())
        if absent := sorted(shards - set(names)):
            faults.append(f"{len(absent)} of {len(shards)} weight files are missing, first {absent[0]}: fetch it again")
    if faults:
        raise PermanentError("ModelIncomplete", f"{FIELD}.uri: {uri}: {'; '.join(faults)}")
    _require_known(read("config.json"), uri)


def _require_known(config: Mapping[str, Any], uri: str) -> None:
    kind = config.get("model_type")
    if kind not in language_model_types():
        hint = "it brings code of its own, which is never run" if config.get("auto_map") else "update transformers"
        raise PermanentError(
            "ModelUnsupported", f"{FIELD}.uri: {uri}: transformers has no language model of type {kind!r}: {hint}"
        )


def _on_hub(source: BaseModelSource) -> Resolved:
    import huggingface_hub

    # baseModel.tokenSecret is HF_TOKEN in every stage, because every stage loads this model.
    pinned = pin(source.uri, source.revision, "model", None, FIELD)
    fetch = {"repo_id": pinned.name, "revision": pinned.commit}
    with explained(f"{FIELD}.uri: {source.uri}"):
        if huggingface_hub.is_offline_mode():
            root = Path(huggingface_hub.snapshot_download(**fetch, local_files_only=True))
            names = [path.name for path in root.iterdir()]
        else:
            names = huggingface_hub.HfApi().list_repo_files(**fetch)
            root = Path(huggingface_hub.snapshot_download(**fetch, allow_patterns=["*.json"]))
    require_complete(names, _reader(root), source.uri)
    return Resolved(None, pinned.uri)


def _downloaded(uri: str, storage: Storage, directory: Path) -> Path:
    directory.mkdir(parents=True)
    with blamed_on(FIELD):
        store, prefix = open_bucket(uri, storage, None, None)
        below = f"{prefix}/" if prefix else ""
        names = [name.removeprefix(below) for name, _ in store.list(below)]
    if not names:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: there are no files below {uri}/")
    for small in (True, False):
        for name in _read_files(names):
            if name.endswith(".safetensors") is not small:
                with blamed_on(FIELD):
                    store.get_file(below + name, directory / name)
        # Checked before gigabytes of weights are downloaded.
        require_complete(names, _reader(directory), uri)
    _require_sound(directory, uri)
    return directory


def _mounted(uri: str) -> Path:
    if (path := mounted_path(uri)) is None:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri} points outside its volume: remove the '..'")
    return path


def _referred(path: Path, reference: str, directory: Path) -> Resolved:
    """A model that is not copied. Its digests are stored instead and pin it."""
    names = _checked(path, reference)
    digests = {name: {"sha256": file_sha256(path / name), "bytes": (path / name).stat().st_size} for name in names}
    target = directory / "model"
    target.mkdir(parents=True)
    (target / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", "utf-8")
    return Resolved(target, reference)


def _linked(path: Path, uri: str, directory: Path) -> Path:
    """A directory of links to the files that stages read."""
    directory.mkdir(parents=True)
    for name in _checked(path, uri):
        (directory / name).symlink_to((path / name).resolve())
    return directory


def _packaged(uri: str, directory: Path) -> Path:
    """The model in an installed package: a directory, or one GGUF file, converted. The package is not imported."""
    name = uri.removeprefix("package://")
    found = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
    if not roots:
        raise PermanentError("ModelMissing", f"{FIELD}.uri: no package {name} is installed here: pip install it")
    models = sorted(path.parent for root in roots for path in root.rglob("config.json"))
    if len(models) == 1:
        return _linked(models[0], uri, directory)
    ggufs = sorted(path for root in roots for path in root.rglob("*.gguf"))
    if len(models) or len(ggufs) != 1:
        raise PermanentError(
            "ModelMissing",
            f"{FIELD}.uri: {uri} holds {len(models)} model directories and {len(ggufs)} GGUF files; it must hold one",
        )
    convert_gguf(ggufs[0], directory, f"{FIELD}.uri: {uri}")
    _require_sound(directory, uri)
    return directory


def _checked(path: Path, uri: str) -> list[str]:
    """The names of the files that stages read. Raises if the model directory is not complete and sound."""
    if not path.is_dir():
        raise PermanentError("ModelMissing", f"{FIELD}.uri: {uri}: {path} is no directory")
    names = sorted(each.name for each in path.iterdir() if each.is_file())
    require_complete(names, _reader(path), uri)
    _require_sound(path, uri)
    return _read_files(names)


def _read_files(names: Collection[str]) -> list[str]:
    return sorted(name for name in names if "/" not in name and name[0] != "." and not name.endswith(UNREAD))


def _reader(root: Path) -> Callable[[str], Mapping[str, Any]]:
    def read(name: str) -> Mapping[str, Any]:
        try:
            value = json.loads((root / name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PermanentError("ModelMalformed", f"{FIELD}.uri: {root / name} cannot be read as JSON") from error
        if not isinstance(value, dict):
            raise PermanentError("ModelMalformed", f"{FIELD}.uri: {root / name} is no JSON object")
        return value

    return read


def _require_sound(path: Path, uri: str) -> None:
    """Raise PermanentError `ModelMalformed` if a weight file's header does not match its length: it was cut off."""
    from safetensors import SafetensorError, safe_open

    for weights in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(weights, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise PermanentError(
                "ModelMalformed", f"{FIELD}.uri: {uri}: {weights.name} is cut off or is not a safetensors file: {error}"
            ) from error
