"""Writes the folder: everything into a temporary directory beside it, which is renamed once it is whole."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.store.base import disk_error

from .card import evaluations, metadata, page
from .facts import Facts

TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""Files of a tokenizer and of its chat template."""


def written(target: Path, fill: Callable[[Path], None], *, force: bool) -> None:
    """Let `fill` write a new directory, and put it at `target` once it is whole.

    Raises PermanentError `ExportInput` if the target is there and not empty, unless `force` replaces it, and what the disk
    refuses.
    """
    if target.exists() and not (target.is_dir() and (force or not any(target.iterdir()))):
        raise PermanentError(
            "ExportInput",
            f"{target} exists: name another directory with -o"
            + (", or replace it with --force" if target.is_dir() else ""),
        )
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
        raise disk_error(error, target) from error


def write_adapter(adapter: Path, directory: Path, facts: Facts) -> None:
    """Copy an adapter; its config names the base model on the hub, not a path of this machine."""
    shutil.copyfile(adapter / "adapter_model.safetensors", directory / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config |= {"base_model_name_or_path": facts.base_name or facts.base.uri, "revision": facts.base_revision}
    _write_json(directory / "adapter_config.json", config)


def write_tokenizer(base: Path, directory: Path) -> None:
    """Copy the base model's tokenizer and chat template, byte by byte."""
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)


def write_generation_config(tokens: Mapping[str, Any], directory: Path, facts: Facts) -> None:
    """Write how the run samples, with the base model's own special tokens."""
    sampling = facts.sampling
    ways: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        ways |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    ways |= {"repetition_penalty": sampling.repetition_penalty, "max_new_tokens": sampling.max_new_tokens}
    _write_json(directory / "generation_config.json", {**tokens, **ways})


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


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
