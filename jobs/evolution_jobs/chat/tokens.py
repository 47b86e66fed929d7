"""Text as token ids: only a chat template writes control tokens. Words that spell one stay words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_MARKUP = re.compile(r"<\|[^|\s]+\|>|<｜[^｜]+｜>|\[/?[A-Z_]+\]")
"""Added tokens that structure text although they are not marked as special, such as `<|file_sep|>`."""


class TextTokens:
    """A tokenizer, and the tokens that structure its chats.

    A control token is a special token, or another added token that the chat template writes (such as `<think>`) or that
    looks like one.
    """

    def __init__(self, tokenizer: Tokenizer, template_text: str) -> None:
        """`template_text` is text that the chat template itself writes."""
        # A tokenizer.json may keep the limits of its training, which would cut or pad every piece in silence.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        control = {
            id_: token.content
            for id_, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
            or (token.content in template_text and not token.content.isspace())
            or _MARKUP.fullmatch(token.content)
        }
        self.control_ids = frozenset(control)
        names = "|".join(map(re.escape, sorted(control.values(), key=len, reverse=True)))
        self._control = re.compile(names or "(?!)")
        # A look-ahead finds tokens that overlap. Only where a token can begin are all of them tried: there may be
        # thousands. A token of one character cannot be told from the character.
        firsts = "".join(sorted({re.escape(content[0]) for content in control.values()}))
        self._spelled = re.compile(f"(?=[{firsts}])(?=(?:{names})).(?=.)" if names else "(?!)", re.DOTALL)
        self._newline = self._ids("\n")
        self._adds_a_space = self._ids("a") != self._after_newline("a")

    def spelled(self, text: str) -> int:
        """How many control tokens the words of a text spell."""
        return sum(1 for _ in self._control.finditer(text))

    def first_control(self, text: str) -> str:
        """The beginning of a template's text up to its first control token, this included; empty if there is none."""
        found = self._control.search(text)
        return text[: found.end()] if found else ""

    def as_words(self, text: str) -> list[str]:
        """The text in pieces of which none spells a control token: one piece, unless it spells some."""
        pieces, start = [], 0
        for match in self._spelled.finditer(text):
            pieces.append(text[start : match.start() + 1])
            start = match.start() + 1
        return [*pieces, text[start:]]

    def encode(self, pieces: Sequence[str]) -> list[list[int]]:
        """Token ids of each piece of one text. No token crosses from one piece into the next."""
        return [
            self._after_newline(piece) if place and self._adds_a_space else self._ids(piece)
            for place, piece in enumerate(pieces)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _after_newline(self, text: str) -> list[int]:
        """Ids of a text that another one precedes: SentencePiece writes a space before the first one only."""
        ids = self._ids("\n" + text)
        length = len(self._newline)
        return ids[length:] if ids[:length] == self._newline else self._ids(text)
