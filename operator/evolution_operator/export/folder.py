"""Writes the folder: everything into a temporary directory beside it, which is renamed once it is whole."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.redaction import words_of
from yaml import YAMLError

from ..results.outputs import output_error
from ..verify.provenance import UNSIGNED
from .card import evaluations, metadata, page
from .facts import Facts
from .licences import UNKNOWN
from .public import shown_uri
from .usage import ways

TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""Files of a tokenizer and of its chat template."""
RECIPE = "serve/GGUF.md"
EXPORTED = (UNSIGNED, RECIPE)
"""Files that every export writes; nothing else has both."""


def written(target: Path, fill: Callable[[Path], None], *, force: bool, storage: Path | None = None) -> None:
    """Let `fill` write a new directory, and put it at `target` once it is whole.

    `storage` is the run's storage if it is a directory. Raises PermanentError `ExportInput` if the target is not empty, unless
    `force` replaces what an export has written, or if it lies above or in the storage, and what the disk refuses.
    """
    target = target.resolve()
    _require_replaceable(target, force=force, storage=storage.resolve() if storage else None)
    mark = secrets.token_hex(4)
    partial, old = (target.with_name(f".{target.name}.{mark}.{kind}") for kind in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        try:
            fill(partial)
            if target.exists():
                target.rename(old)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        # Only what lies in or beside the folder is the user's output. Libraries raise an OSError for what they cannot read, too.
        if error.errno is None or not Path(str(error.filename or target)).is_relative_to(target.parent):
            raise PermanentError("ExportInput", f"what is exported cannot be read: {words_of(error)}") from error
        raise output_error(error, target) from error


def is_export(directory: Path) -> bool:
    """Whether an export has written this directory."""
    return all((directory / name).is_file() for name in EXPORTED)


def _require_replaceable(target: Path, *, force: bool, storage: Path | None) -> None:
    words = ""
    if storage and (target.is_relative_to(storage) or storage.is_relative_to(target)):
        words = f"the run's storage {storage} is there: name another directory with -o"
    elif target.exists() and not target.is_dir():
        words = "it exists: name another directory with -o"
    elif target.exists() and any(target.iterdir()):
        if not is_export(target):
            words = "it is not empty, and no export has written it: name another directory with -o"
        elif not force:
            words = "it exists: name another directory with -o, or replace it with --force"
    if words:
        raise PermanentError("ExportInput", f"{target}: {words}")


def write_adapter(adapter: Path, directory: Path, facts: Facts) -> None:
    """Copy an adapter; its config names the base model on the hub, not a path of this machine."""
    shutil.copyfile(adapter / "adapter_model.safetensors", directory / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config |= {"base_model_name_or_path": facts.base_name or shown_uri(facts.base.uri), "revision": facts.base_revision}
    _write_json(directory / "adapter_config.json", config)


def write_tokenizer(base: Path, directory: Path) -> None:
    """Copy the base model's tokenizer and chat template, byte by byte."""
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)


def write_generation_config(tokens: Mapping[str, Any], directory: Path, facts: Facts) -> None:
    """Write how the run samples, with the base model's own special tokens."""
    _write_json(directory / "generation_config.json", {**tokens, **ways(facts.sampling)})


def write_card(directory: Path, facts: Facts, *, merged: bool, rounding: str | None) -> None:
    """Write README.md."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    fields = {name: value for name, value in metadata(facts, merged=merged).items() if value is not None}
    results = [EvalResult(**each) for each in evaluations(facts)]
    data = ModelCardData(
        **fields, **({"eval_results": results, "model_name": f"{facts.run}-{facts.model}"} if results else {})
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{page(facts, merged=merged, rounding=rounding)}")
    card.save(directory / "README.md")


def licence_of_card(directory: Path) -> str:
    """The licence that README.md states. Raises PermanentError `ExportInput` if it has no readable front matter."""
    from huggingface_hub import ModelCard

    path = directory / "README.md"
    try:
        fields = ModelCard(path.read_text("utf-8")).data.to_dict()
    except (OSError, ValueError, YAMLError) as error:
        raise PermanentError(
            "ExportInput", f"{path}: its front matter cannot be read: mend it, or write the folder anew with --force"
        ) from error
    return str(fields.get("license_name") or fields.get("license") or UNKNOWN)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
