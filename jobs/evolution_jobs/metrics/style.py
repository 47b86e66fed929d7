"""Figures of answers without a reference: diversity, length, stock phrases, repetition.

They show the signs of failing self-evolution that arXiv 2505.16610 names: stock phrases, verbosity, and answers that
become alike. Distinct-n depends on the length: with the same vocabulary, longer answers have a lower Distinct-n.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Words = Sequence[str]

_SENTENCE_END = re.compile(r"[.!?…。！？]+")
_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)

REPEAT_ORDER = 4
"""n-gram length of `self_repeat`."""


def ngrams(words: Words, order: int, dropped: int = 0) -> list[tuple[str, ...]]:
    """The n-grams of an answer, without the last `dropped` ones.

    The reference implementation of Distinct-n drops one: its loop ends one position early, so an answer of exactly n words
    is not counted at all, and a closing period never counts in Distinct-1. Published ESConv figures have this error.
    """
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1 - dropped)]


def self_repeat(words: Words) -> float:
    """Share of an answer's 4-grams that repeat an earlier one of it (seq-rep-4, Welleck et al., ICLR 2020), in per cent."""
    found = ngrams(words, REPEAT_ORDER)
    return 100 * (1 - len(set(found)) / len(found)) if found else 0.0


def shape(text: str) -> str:
    """How an answer is built: the marks that end its sentences, `..?` for two statements and a question."""
    marks = [match[0][0] for match in _SENTENCE_END.finditer(text)]
    return "".join("?" if mark in "?？" else "." for mark in marks) or "."


def asks(text: str) -> bool:
    """Whether an answer asks something."""
    return "?" in shape(text)


def holds_list(text: str) -> bool:
    """Whether an answer has two or more lines that begin with a bullet or a number."""
    return len(_LIST_LINE.findall(text)) > 1


def normalised(text: str) -> str:
    """The text without differences of case and white space: two answers are duplicates if this is equal."""
    return " ".join(text.lower().split())
