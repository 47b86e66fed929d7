"""Think blocks, in which a reasoning model writes before it answers: they are no part of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMES = ("think", "thinking", "thought", "reasoning", "seed:think")
TAGS = (*((f"<{name}>", f"</{name}>") for name in NAMES), ("[THINK]", "[/THINK]"))
"""Beginning and end of a think block, as models of several families write them (Qwen3, DeepSeek-R1, Seed, Magistral)."""

_OPENED = re.compile("|".join(rf"\A\s*{re.escape(begin)}(?:.*{re.escape(end)}|.*)" for begin, end in TAGS), re.DOTALL)
_WHOLE = re.compile("|".join(rf"\s*{re.escape(begin)}.*?{re.escape(end)}" for begin, end in TAGS), re.DOTALL)
# Without its beginning, only the tags that models have as tokens count: a person may write of others.
_CLOSED = re.compile(r"\A.*(?:</think>|</seed:think>|\[/THINK\])", re.DOTALL)


class Said(NamedTuple):
    """An answer in two parts."""

    rest: str
    """The answer's words, without a think block."""
    thought: bool
    """Whether a think block was left out."""


def without_thoughts(text: str) -> Said:
    """An answer without the think block before it. A block that was cut off leaves nothing.

    The beginning may be missing: some chat templates write it into the prompt.
    """
    for pattern in (_CLOSED, _OPENED):
        if match := pattern.match(text):
            return Said(text[match.end() :].lstrip(), True)
    return Said(text, False)


def without_blocks(text: str) -> str:
    """A person's or data set's answer without complete think blocks before it. A lone tag stays: it is a word there."""
    while match := _WHOLE.match(text):
        text = text[match.end() :].lstrip()
    return text


class Thoughts:
    """Think blocks whose tags are tokens of their own, which a decoder may leave out while it keeps the thoughts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tags = [
            (begin, end)
            for names in TAGS
            if None not in (pair := tuple(map(tokenizer.token_to_id, names)))
            for begin, end in [pair]
        ]

    def left_out(self, sampled: Sequence[int]) -> list[int]:
        """The sampled tokens after a think block; none if the block does not end."""
        kept = list(sampled)
        for begin, end in self._tags:
            if end in kept:
                kept = kept[len(kept) - kept[::-1].index(end) :]
            elif begin in kept[:2]:
                return []
        return kept
