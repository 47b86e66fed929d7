"""A model's chats, read from its files alone: no torch, no transformers, no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from .chats import Chats, chosen_template

NAMED = "additional_chat_templates"
"""Directory of a model's further templates, `<name>.jinja`."""


def read_chats(directory: Path) -> Chats | None:
    """The chats of a model directory, or None without a tokenizer.json, which only transformers can make from other files.

    Raises PermanentError (`ModelMalformed`) if a file cannot be read, and as `Chats` does.
    """
    from tokenizers import AddedToken, Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_str(path.read_text("utf-8"))
    except Exception as error:  # tokenizers raises bare Exception
        raise PermanentError("ModelMalformed", "tokenizer.json is not a tokenizer of the library tokenizers") from error
    config = _json(directory / "tokenizer_config.json")
    # As transformers does: tokens that only this file has are added.
    for token in config.get("added_tokens_decoder", {}).values():
        if tokenizer.token_to_id(token["content"]) is None:
            added = AddedToken(token["content"], special=token.get("special", False), normalized=False)
            (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
    special = {**_json(directory / "special_tokens_map.json"), **config}
    names = {name: _content(value) for name, value in special.items() if name.endswith("_token") and _content(value)}
    for content in names.values():
        if tokenizer.token_to_id(content) is not None:
            tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    return Chats(chosen_template(_template(directory, config)), names, tokenizer)


def _template(directory: Path, config: Mapping[str, Any]) -> str | Mapping[str, str] | None:
    files = {path.stem: path for path in sorted(directory.glob(f"{NAMED}/*.jinja"))}
    if (own := directory / "chat_template.jinja").is_file():
        files["default"] = own
    if files:
        return {name: path.read_text("utf-8") for name, path in files.items()}
    template = config.get("chat_template")
    if isinstance(template, list):
        return {str(each.get("name")): str(each.get("template")) for each in template if isinstance(each, dict)}
    return template if isinstance(template, str | dict) else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PermanentError("ModelMalformed", f"{path.name} cannot be read as JSON") from error
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> str:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else ""
