"""A reply as plain words, so that case, white space and most punctuation do not change what the rules find in it. English only."""

from __future__ import annotations

import re
import unicodedata

_SHORT = (
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\b(?:can't|cant)\b"), "can not"),
    (re.compile(r"\b(?:won't|wont)\b"), "will not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"\b(do|does|did|is|are|was|were|has|have|had|could|would|should|must|need)n'?t\b"), r"\1 not"),
    (re.compile(r"\bi'?m\b"), "i am"),
    (re.compile(r"\b(?:youre|you're)\b"), "you are"),
    (re.compile(r"\b(we|they)'re\b"), r"\1 are"),
    (re.compile(r"\b(?:its|it's)\b"), "it is"),
    (re.compile(r"\b(?:thats|that's)\b"), "that is"),
    (re.compile(r"\b(he|she|there|here|what|who|this)'s\b"), r"\1 is"),
    (re.compile(r"\b(i|you|he|she|it|we|they|that|there|this)'ll\b"), r"\1 will"),
    (re.compile(r"\byoull\b"), "you will"),
    (re.compile(r"\b(i|you|we|they)'ve\b"), r"\1 have"),
    (re.compile(r"\b(i|you|he|she|it|we|they)'d\b"), r"\1 would"),
)
"""Short forms and what they stand for. "its" is read as "it is", because replies often lack the apostrophe."""


END = "."
"""Stands between sentences. It is no word, so no phrase and no excuse reaches across it."""

# "..." is a pause, not an end, and a dot within "13.11.14" is neither. A blank line ends a heading or an item.
_ENDS = re.compile(r"(?:(?<!\.)\.|[!?])+(?!\.)(?=[\W_]*?(?:\s|$))|\n\s*\n")


def plain(text: str) -> str:
    """The words of a text in lower case with one space between them: short forms written out, no punctuation but `END`."""
    words = unicodedata.normalize("NFKC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for short, full in _SHORT:
        words = short.sub(full, words)
    sentences = (re.sub(r"[\W_]+", " ", sentence).split() for sentence in _ENDS.split(words.replace("'", "")))
    return f" {END} ".join(" ".join(sentence) for sentence in sentences if sentence)
