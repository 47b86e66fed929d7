"""The token ids that a tokenizer can make, from its files alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .files import ModelFiles

NAMED = ("bos_token", "eos_token", "pad_token")
"""Tokens that tokenizer_config.json names and code puts in."""
TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Vocabulary:
    """Every token with its id, and which of them a run uses."""

    ids: dict[str, int] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    """Control tokens. Text never becomes one: only the template and the code put them in."""
    named: frozenset[str] = frozenset()
    """Those that the tokenizer's configuration names."""
    template: str = ""
    """The text of the chat template."""

    def beyond(self, rows: int) -> dict[str, int]:
        """The tokens that a run can meet and an embedding of `rows` rows does not have, by id.

        Control tokens that neither the template nor the configuration names do not count: some published models have
        them, such as an image token in a model without vision.
        """
        ids = dict(self.ids)
        for token in sorted(self.named - ids.keys()):
            # transformers adds a token that the tokenizer lacks.
            ids[token] = max(ids.values(), default=-1) + 1
        met = {
            token: id_ for token, id_ in ids.items() if id_ >= rows and (self._met(token) or token not in self.special)
        }
        return dict(sorted(met.items(), key=lambda item: item[1]))

    def _met(self, token: str) -> bool:
        return token in self.named or token in self.template


def read_vocabulary(files: ModelFiles) -> Vocabulary:
    """The vocabulary; without ids if there is no tokenizer.json. Raises PermanentError `ModelMalformed`."""
    config = files.optional("tokenizer_config.json")
    tokenizer = files.optional("tokenizer.json")
    template = " ".join([str(config.get("chat_template") or ""), *map(files.text, TEMPLATES)])
    try:
        ids = _pieces(tokenizer.get("model") or {})
        added = list(tokenizer.get("added_tokens") or [])
        ids |= {each["content"]: int(each["id"]) for each in added}
        declared = config.get("added_tokens_decoder") or {}
        if ids:
            ids |= {each["content"]: int(id_) for id_, each in declared.items() if each["content"] not in ids}
        special = {each["content"] for each in [*added, *declared.values()] if each.get("special")}
        named = {_content(config.get(name)) for name in NAMED} - {""}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise files.malformed("tokenizer.json", "it is not a tokenizer: save it again with save_pretrained") from error
    return Vocabulary(ids, frozenset(special), frozenset(named) if ids else frozenset(), template)


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, dict):
        return {str(token): int(id_) for token, id_ in vocabulary.items()}
    return {str(token): id_ for id_, (token, _score) in enumerate(vocabulary)}


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
