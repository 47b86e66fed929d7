"""A model's chats, read from its files alone: no torch, no transformers, no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..contract.errors import PermanentError
from .chats import Chats, chosen_template

_LISTS = ("additional_special_tokens", "extra_special_tokens")


def read_chats(text: Callable[[str], str]) -> Chats | None:
    """The chats of a model, or None without a tokenizer.json, which only transformers can make from other files.

    `text` returns the text of one of its files, empty if there is none. Raises PermanentError (`ModelMalformed`) if a file cannot be read, and as `Chats` does.
    """
    from tokenizers import AddedToken, Tokenizer

    if not (content := text("tokenizer.json")):
        return None
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise PermanentError("ModelMalformed", "tokenizer.json is not a tokenizer of the library tokenizers") from error
    config = _json("tokenizer_config.json", text)
    # As transformers does: tokens that only this file has are added.
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in config.get("added_tokens_decoder", {}).values():
        if token["content"] not in known:
            added = AddedToken(token["content"], special=token.get("special", False), normalized=False)
            (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
    special = {**_json("special_tokens_map.json", text), **config}
    names = {name: _content(value) for name, value in special.items() if name.endswith("_token") and _content(value)}
    others = [_content(each) for name in _LISTS if isinstance(special.get(name), list) for each in special[name]]
    for content in (*names.values(), *filter(None, others)):
        if tokenizer.token_to_id(content) is not None:
            tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    return Chats(chosen_template(text("chat_template.jinja") or _template(config)), names, tokenizer)


def _template(config: Mapping[str, Any]) -> str | Mapping[str, str] | None:
    template = config.get("chat_template")
    if isinstance(template, list):
        return {str(each.get("name")): str(each.get("template")) for each in template if isinstance(each, dict)}
    return template if isinstance(template, str | dict) else None


def _json(name: str, text: Callable[[str], str]) -> dict[str, Any]:
    try:
        value = json.loads(text(name) or "{}")
    except (ValueError, RecursionError) as error:
        raise PermanentError("ModelMalformed", f"{name} cannot be read as JSON") from error
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> str:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else ""
